"""Invert prompts: where in a moving slice to ask for the regions that a fixed slice shows.

The mask of a fixed region is laid into the moving slice by an alignment. Around that place it is
moved to where the cells inside it are more like the region's prototype than those around it. Both
places prompt the decoder, with a point deep inside the mask and with the box around it.

Source: PromptReg (arXiv 2508.01697), "inverse prompt": a prompt in one image becomes the prompts of
the corresponding region in the other. Masks as templates, and places by an alignment, are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from iterreg.geometry import Matrix
from iterreg.samreg.candidates import Candidates
from iterreg.samreg.cells import Features
from iterreg.samreg.pictures import PictureStack
from iterreg.samreg.rle import decode_mask
from iterreg.samreg.verifying import within_slices

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

RASTER_PX = 128
"""Masks and similarities are compared at this size of a picture's longer side."""

REACH = 2.0
"""A region is looked for within so many standard deviations of the prior."""

MARGIN_SHARE = 0.25
"""What surrounds a mask and should look unlike it, as a share of its extent."""

SAME_PX = 2.0
"""Prompts closer to each other than this, at the size of the raster, are one."""

LEAST_PX = 4
"""Smaller masks, at the size of the raster, ask for nothing."""

Prompt = tuple[float, ...]


@dataclass(frozen=True)
class Target:
    """A slice of the moving image.

    Args:
        stack: the moving image.
        number: of the slice.
        features: of the slice.
        affine_lps: from fixed to moving points, about right.
        spread_mm: standard deviation of the distance between partners behind it; 0 looks nowhere
            else.
    """

    stack: PictureStack
    number: int
    features: Features
    affine_lps: Matrix
    spread_mm: float

    @property
    def picture_px(self) -> tuple[int, int]:
        """Rows and columns of the slice's picture."""
        picture = self.stack.pixels[self.number]
        assert picture is not None, "blank slices are left out"
        return picture.shape[0], picture.shape[1]

    @property
    def raster_px(self) -> tuple[int, int]:
        """Rows and columns of the raster."""
        scale = min(1.0, RASTER_PX / max(self.picture_px))
        height, width = (max(1, round(n * scale)) for n in self.picture_px)
        return height, width

    @property
    def spread_px(self) -> float:
        """The standard deviation in pixels of the raster."""
        return (
            self.spread_mm
            * max(self.raster_px)
            / float(max(np.multiply(self.stack.slice_shape, self.stack.pixel_mm)))
        )


def invert_prompts(
    fixed: Candidates, regions: Sequence[int], target: Target
) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
    """The prompts that regions of the fixed image make for a slice of the moving one.

    Args:
        fixed: the regions of the fixed image.
        regions: which of them the slice may show.
        target: the slice.

    Returns:
        Points (x, y) and boxes (x, y, x2, y2) in pixels of the slice's picture.
    """
    scale = np.divide(target.picture_px, target.raster_px)[[1, 0] * 3]
    prompts: list[Floats] = []
    for k in regions:
        mask = _laid(fixed, k, target)
        if mask.sum() < LEAST_PX:
            continue
        alike = _similarity(target, fixed.prototypes[k] - fixed.mean)
        for shift in {(0, 0), _best_shift(mask, alike, target.spread_px)}:
            prompt = _prompt(mask) + np.tile(shift, 3)
            if not any(np.abs(prompt - other).max() < SAME_PX for other in prompts):
                prompts.append(prompt)
    scaled = [tuple(map(float, prompt * scale)) for prompt in prompts]
    return tuple(p[:2] for p in scaled), tuple(p[2:] for p in scaled)


def _laid(fixed: Candidates, region: int, target: Target) -> Bools:
    """The mask of a fixed region on the raster of the target, by the alignment."""
    import cv2

    mask = decode_mask(fixed.masks[region]).astype(np.float32)
    number = int(fixed.slices[region])
    to_moving = within_slices((fixed.stack, target.stack), target.affine_lps, number)
    rows, columns = np.divide(target.stack.slice_shape, target.raster_px)
    to_voxels = np.array([[columns, 0, columns / 2 - 0.5], [0, rows, rows / 2 - 0.5], [0, 0, 1.0]])
    back = (np.linalg.inv(to_moving) @ to_voxels)[:2]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    laid = cv2.warpAffine(mask, back, target.raster_px[::-1], flags=flags)
    return np.asarray(laid > 0.5, bool)


def _similarity(target: Target, prototype: torch.Tensor) -> NDArray[np.float32]:
    """On the raster, the cosine of each cell and a prototype, both without their picture's mean."""
    import cv2

    values, valid_hw = target.features
    centred = values - _mean(values, valid_hw)[:, None, None]
    cosine = torch.nn.functional.cosine_similarity(centred, prototype[:, None, None], dim=0)
    grid, raster = values.shape[1:], target.raster_px
    rows, columns = (v * n / m for v, n, m in zip(valid_hw, grid, raster, strict=True))
    to_cells = np.array([[columns, 0, columns / 2 - 0.5], [0, rows, rows / 2 - 0.5]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    border = cv2.BORDER_REPLICATE
    size = raster[::-1]
    return np.asarray(
        cv2.warpAffine(cosine.numpy(), to_cells, size, flags=flags, borderMode=border), np.float32
    )


def _mean(values: torch.Tensor, valid_hw: tuple[float, float]) -> torch.Tensor:
    rows, columns = (max(1, int(v * n)) for v, n in zip(valid_hw, values.shape[1:], strict=True))
    return values[:, :rows, :columns].flatten(1).mean(1)


def _best_shift(mask: Bools, alike: NDArray[np.float32], spread_px: float) -> tuple[int, int]:
    """The shift (x, y) of a mask to where it covers what is alike, and its surround does not."""
    import cv2

    reach = min(round(REACH * spread_px), max(mask.shape))
    (top, bottom), (left, right) = _extent(mask)
    margin = max(2, round(MARGIN_SHARE * max(bottom - top, right - left)))
    framed = np.pad(mask[top:bottom, left:right], margin).astype(np.float32)
    template = framed / framed.sum() - (1 - framed) / (1 - framed).sum()
    wide = reach + margin
    padded = np.pad(alike, wide, mode="edge")
    window = padded[top : bottom + 2 * wide, left : right + 2 * wide]
    scores = cv2.matchTemplate(window, template, cv2.TM_CCORR)
    y, x = np.indices(scores.shape) - reach
    prior = np.exp(-0.5 * (x**2 + y**2) / max(spread_px, 1e-6) ** 2)
    row, column = np.unravel_index(int((scores.clip(min=0) * prior).argmax()), scores.shape)
    return int(column) - reach, int(row) - reach


def _extent(mask: Bools) -> tuple[tuple[int, int], tuple[int, int]]:
    """First row and the one behind the last, and columns alike."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return (int(rows[0]), int(rows[-1]) + 1), (int(columns[0]), int(columns[-1]) + 1)


def _prompt(mask: Bools) -> Floats:
    """(6,) x and y of the point deepest inside, then the corners of the box around it."""
    import cv2

    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    (top, bottom), (left, right) = _extent(mask)
    return np.array([x + 0.5, y + 0.5, left, top, right, bottom])
