"""Match the cells of the encoder's grid: each is a region of interest, its embedding the prototype.

This is the limit K = N of SAMReg's Theorem 1: as many regions as the embedding has cells. Nothing
is decoded. Cells that show nothing are left out. The embedding of a cell also carries its position
in the picture and what all cells have in common: both are removed before cells are compared.

Source: SAMReg (arXiv 2410.14083), section 3.1, theorem 1, and eq. 5-6.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iterreg.geometry import Matrix, apply_affine
from iterreg.samreg.cache import RoiCache, features_key
from iterreg.samreg.segmenter import Embedding, Segmenter

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Features = tuple[Tensor, tuple[float, float]]
"""(C, h, w) float32, and which part of them shows the picture."""

FLAT_LEVELS = 4
"""A cell without more contrast than this (of 255) shows nothing."""

RIDGE = 0.01
"""Added to the variance of every direction of the embedding, as a share of their mean."""

COMPARED_AT_ONCE = 2048
"""Cells of one image that are compared with all of the other: some tens of MB."""

POSITION_DEGREE = 2
"""Degree of the polynomial of the position that is removed from the embedding."""


@dataclass(frozen=True)
class Cells:
    """The cells of a picture that show something.

    Args:
        features: (N, C) float32, the embedding at each.
        places_lps: (N, rank), the centre of each, LPS mm.
        positions: (N, 2), the same from -1 to 1 along the encoder's input.
        size_mm: side of a cell.
    """

    features: Tensor
    places_lps: Floats
    positions: Floats
    size_mm: float

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True)
class CellMatches:
    """Cells of two pictures that are each other's most similar ones.

    Args:
        fixed_lps, moving_lps: (N, rank) their centres.
        similarity: (N,) their cosine.
    """

    fixed_lps: Floats
    moving_lps: Floats
    similarity: Floats


@dataclass(frozen=True)
class Removed:
    """What is removed from the embedding before cells are compared.

    Args:
        mean: of each picture.
        position: what a polynomial of the position explains.
        whiten: the differences in variance between the directions of the embedding.
    """

    mean: bool = True
    position: bool = True
    whiten: bool = True


def encode(picture: Tensor, segmenter: Segmenter, cache: RoiCache) -> Features:
    """The features of a picture, from the cache if they are there.

    Args:
        picture: (H, W, 3) uint8.
        segmenter: encodes it.
        cache: of features.
    """
    key = features_key(picture, segmenter.fingerprint)
    known = cache.find_features(key)
    if known is None:
        with torch.inference_mode():
            embedding = segmenter.encode([picture])[0]
        # Rounded as in the cache, so that a second run gives the same bytes.
        known = embedding.features.half().float().cpu(), embedding.valid_hw
        cache.store_features(key, *known)
    return known


def pooled(embedding: Embedding) -> Features:
    """The features of a slice at half the resolution, in half precision.

    Args:
        embedding: of the slice.
    """
    halved = torch.nn.functional.avg_pool2d(embedding.features[None].float(), 2)[0]
    return halved.half().float().cpu(), embedding.valid_hw


def pooled_key(picture: Tensor, fingerprint: str) -> str:
    """The key of a slice's pooled features.

    Args:
        picture: (H, W, 3) uint8.
        fingerprint: of the segmenter.
    """
    return features_key(picture, f"{fingerprint} pooled")


def cells_of(features: Features, picture: Tensor, inside: Bools, px_to_lps: Matrix) -> Cells:
    """Take the cells that show something.

    Args:
        features: of the picture, from :func:`encode`.
        picture: (H, W, 3) uint8, as it was encoded.
        inside: (H, W), without the surround of a round view.
        px_to_lps: from pixels (x, y) to LPS mm, homogeneous.
    """
    (values, valid_hw), (height, width) = features, inside.shape
    grid = values.shape[1:]
    shown = [max(1, math.ceil(valid * n - 1e-6)) for valid, n in zip(valid_hw, grid, strict=True)]
    sides = [
        n / (valid * count) for n, valid, count in zip((height, width), valid_hw, grid, strict=True)
    ]
    rows, columns = (
        np.asarray((np.arange(n) + 0.5) * side, np.float64)
        for n, side in zip(shown, sides, strict=True)
    )
    x, y = (a.ravel() for a in np.meshgrid(columns, rows))
    keep = _shows(picture.numpy(), inside, (rows, columns), (sides[0], sides[1])).ravel()
    keep &= (x < width) & (y < height)
    centres = np.stack([x, y], 1)[keep]
    extent = np.array(grid[::-1]) * sides[::-1]
    return Cells(
        values[:, : shown[0], : shown[1]].flatten(1).T[torch.from_numpy(keep)],
        apply_affine(px_to_lps, centres - 0.5),
        2 * centres / extent - 1,
        float(np.sqrt(abs(np.linalg.det(px_to_lps[:2, :2])) * sides[0] * sides[1])),
    )


def match_cells(fixed: Cells, moving: Cells, removed: Removed | None = None) -> CellMatches:
    """Match cells that are each other's most similar ones.

    Args:
        fixed, moving: the cells of two pictures, or of all slices of two volumes.
        removed: what the comparison should not see; None removes everything.

    Example:
        >>> places = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> cells = Cells(torch.eye(4), places, places, 1.0)
        >>> turned = Cells(torch.eye(4)[[3, 2, 1, 0]], places, places, 1.0)
        >>> match_cells(cells, turned, Removed(position=False)).moving_lps.tolist()
        [[1.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]
    """
    if not len(fixed) or not len(moving):
        nothing = np.zeros((0, fixed.places_lps.shape[1]))
        return CellMatches(nothing, nothing, np.zeros(0))
    first, second = _comparable(fixed, moving, removed or Removed())
    best = torch.cat([(part @ second.T).argmax(1) for part in first.split(COMPARED_AT_ONCE)])
    back = torch.cat([(part @ first.T).argmax(1) for part in second.split(COMPARED_AT_ONCE)])
    mutual = (back[best] == torch.arange(len(best))).nonzero().squeeze(1)
    partner = best[mutual]
    cosine = (first[mutual] * second[partner]).sum(1)
    return CellMatches(
        fixed.places_lps[mutual.numpy()],
        moving.places_lps[partner.numpy()],
        np.asarray(cosine.double().numpy(), np.float64),
    )


def _comparable(fixed: Cells, moving: Cells, removed: Removed) -> tuple[Tensor, Tensor]:
    """The features of both, (N, C) and (M, C), of unit length."""
    first, second = fixed.features.double(), moving.features.double()
    if removed.mean:
        first, second = first - first.mean(0), second - second.mean(0)
    both = torch.cat((first, second))
    if removed.position:
        terms = torch.from_numpy(
            np.concatenate([position_terms(c.positions) for c in (fixed, moving)])
        )
        both = both - terms @ explained(terms, both)
    if removed.whiten:
        variance, axes = torch.linalg.eigh(both.T @ both / len(both))
        ridge_variance = RIDGE * variance.mean().clamp(min=1e-12)
        both = both @ (axes / (variance.clamp(min=0) + ridge_variance).sqrt())
    unit = torch.nn.functional.normalize(both.float(), dim=1)
    return unit[: len(first)], unit[len(first) :]


def explained(terms: Tensor, values: Tensor) -> Tensor:
    """Slopes (P, C) of values (N, C) on terms (N, P) by least squares, with a small ridge."""
    ridge = 1e-6 * max(1, len(values)) * torch.eye(terms.shape[1], dtype=terms.dtype)
    slopes: Tensor = torch.linalg.solve(terms.T @ terms + ridge, terms.T @ values)
    return slopes


def position_terms(positions: Floats) -> Floats:
    """The powers of a position up to the degree, without the constant."""
    x, y = positions.T
    degree = POSITION_DEGREE
    powers = [(i, j) for i in range(degree + 1) for j in range(degree + 1 - i) if i + j]
    return np.stack([x**i * y**j for i, j in powers], 1)


def _shows(
    picture: NDArray[np.uint8],
    inside: Bools,
    centres: tuple[Floats, Floats],
    sides: tuple[float, float],
) -> Bools:
    """(rows, columns), which cells lie mostly inside the view and are not flat."""
    import cv2

    # A neighbourhood of an odd number of pixels, at least as large as the cell.
    size = tuple(2 * math.ceil(side / 2) + 1 for side in sides[::-1])
    kernel = np.ones(size[::-1], np.uint8)
    high, low = cv2.dilate(picture, kernel), cv2.erode(picture, kernel)
    contrast = (high.astype(np.int16) - low).max(2)
    share = cv2.boxFilter(inside.astype(np.float32), -1, size)
    rows, columns = (
        np.minimum(c.astype(int), n - 1) for c, n in zip(centres, inside.shape, strict=True)
    )
    grid = np.ix_(rows, columns)
    return np.asarray((contrast[grid] > FLAT_LEVELS) & (share[grid] > 0.5), bool)
