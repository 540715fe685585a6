"""The slow drift of a cone beam's intensities (cupping, scatter), estimated and removed.

Soft tissue has two levels, muscle and fat. A drift smears both; without it the histogram has two
sharp peaks. So a drift is looked for that brings every voxel close to one of the two::

    level = drift * (1 or FAT)

A smooth drift alone would rather take fat under the skin for dark muscle, so several starts are
tried, each is settled by turns (which of the two is a voxel, what drift does that leave), and the
one with the sharpest histogram counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from iterreg.regions._ct_volume import Bools, DownsampledCt, Floats

Doubles = NDArray[np.float64]

FAT = 0.86
"""Fat (-95 HU) on the way from air (0) to muscle (1, 50 HU)."""

SOFT_BETWEEN = (0.6, 1.35)
"""Levels that may be soft tissue under a drift of 400 HU."""

NEAR_A_LEVEL = 0.09
"""Voxels farther from both levels are bone, vessels with contrast, mixtures: they do not count."""

DRIFT_BETWEEN = (0.55, 1.45)

BOWLS = (0.0, 0.12, 0.25, 0.4)
"""Starts: tissue in the middle darker than at the skin by this share."""

GAIN = 0.03
"""A drift is removed if that lowers the entropy of the soft-tissue histogram by this (nats)."""

MOST_SAMPLES = 15_000
TURNS = 8

LOCAL_MM = (60.0, 35.0)
"""What the quadric leaves is averaged over Gaussians of these widths."""

LEAST_WEIGHT = 0.02
"""Where soft tissue fills less of a Gaussian than this, the drift keeps the quadric's value."""


@dataclass(frozen=True)
class Unevenness:
    """The drift of soft tissue.

    Args:
        drift: factor on the way from air, on coarse voxels; 1 on average.
    """

    drift: Floats

    def on(self, shape: tuple[int, ...]) -> Floats:
        """The drift at every voxel of a finer array that spans the image."""
        coarse = torch.from_numpy(self.drift)[None, None]
        fine = torch.nn.functional.interpolate(coarse, size=shape, mode="trilinear")
        return np.asarray(fine[0, 0].numpy(), np.float32)


def find_unevenness(ct: DownsampledCt) -> Unevenness | None:
    """Estimate the drift of the soft-tissue intensity; None if there is none."""
    soft = _inner_soft(ct)
    z, y, x = np.nonzero(soft)
    if len(z) < 500:
        return None
    step = max(1, len(z) // MOST_SAMPLES)
    shape = ct.tissue_fraction.shape
    at = [2.0 * k[::step] / max(n - 1, 1) - 1.0 for k, n in zip((z, y, x), shape, strict=True)]
    level = ct.tissue_fraction[z[::step], y[::step], x[::step]].astype(np.float64)
    design = np.stack(_terms(*at), 1)
    bowl = _bowl(at, ct)
    best, least = None, _entropy(level) - GAIN
    for depth in BOWLS:
        weights = _settled(level, design, 1.0 + depth * bowl)
        if weights is None:
            continue
        entropy = _entropy(level / np.clip(design @ weights, *DRIFT_BETWEEN))
        if entropy < least:
            best, least = weights, entropy
    return None if best is None else Unevenness(_local(ct, soft, _quadric(best, shape)))


def _inner_soft(ct: DownsampledCt) -> Bools:
    """Voxels that may be soft tissue, like all their neighbours: none is half air."""
    from scipy import ndimage

    low, high = SOFT_BETWEEN
    soft = ct.fov & (ct.tissue_fraction > low) & (ct.tissue_fraction < high)
    return np.asarray(ndimage.binary_erosion(soft))


def _bowl(at: list[Doubles], ct: DownsampledCt) -> Doubles:
    """The shape of cupping at the samples: a paraboloid about the long axis, 0 on average."""
    spans = [n * s for n, s in zip(ct.fov.shape[1:], ct.spacing_mm[1:], strict=True)]
    middle = [float(np.mean(k)) for k in at[1:]]
    square = sum(((k - m) * s) ** 2 for k, m, s in zip(at[1:], middle, spans, strict=True))
    square = np.asarray(square) / np.percentile(square, 95)
    return np.asarray(square - square.mean())


def _settled(level: Doubles, design: Doubles, drift: Doubles) -> Doubles | None:
    """The quadric that brings most samples close to muscle or fat, from a first drift."""
    weights: Doubles | None = None
    for turn in range(TURNS):
        flat = level / drift
        # At first many voxels lie between the levels; the nearer one still tells the way.
        near = NEAR_A_LEVEL * (2.0 if turn < TURNS // 2 else 1.0)
        own = np.where(flat < (1 + FAT) / 2, FAT, 1.0)
        counts = np.abs(flat - own) < near
        if np.count_nonzero(counts) < 200:
            return None
        found = np.asarray(
            np.linalg.lstsq(design[counts] * own[counts, None], level[counts], rcond=None)[0],
            np.float64,
        )
        drift = np.clip(design @ found, *DRIFT_BETWEEN)
        weights = found
    return weights


def _terms(z: Doubles, y: Doubles, x: Doubles) -> list[Doubles]:
    """Terms of a quadric over the image."""
    return [np.ones_like(z), z, z * z, y, x, y * y, x * x, x * y]


def _quadric(weights: Doubles, shape: tuple[int, ...]) -> Floats:
    """The quadric at every voxel."""
    grids = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij", sparse=True)
    full = np.broadcast_arrays(*grids)
    drift = sum(w * t for w, t in zip(weights, _terms(*full), strict=True))
    return np.asarray(np.clip(drift, *DRIFT_BETWEEN), np.float32)


def _local(ct: DownsampledCt, soft: Bools, drift: Floats) -> Floats:
    """The drift, followed to what varies over a few centimetres."""
    from scipy import ndimage

    for width_mm in LOCAL_MM:
        flat = ct.tissue_fraction / drift
        own = np.where(flat < (1 + FAT) / 2, np.float32(FAT), np.float32(1.0))
        counts = (soft & (np.abs(flat - own) < NEAR_A_LEVEL)).astype(np.float32)
        sigma = [width_mm / s / 2 for s in ct.spacing_mm]
        weight = ndimage.gaussian_filter(counts, sigma)
        excess = ndimage.gaussian_filter(counts * (flat / own - 1), sigma)
        drift = drift * (1 + excess / (weight + LEAST_WEIGHT))
    return np.asarray(np.clip(drift, *DRIFT_BETWEEN), np.float32)


def _entropy(level: Doubles) -> float:
    """Entropy of the histogram in nats: low for two sharp peaks (fat, muscle), high for a smear."""
    count = np.histogram(level, np.arange(0.5, 1.5, 0.02))[0]
    part = count[count > 0] / max(count.sum(), 1)
    return float(-(part * np.log(part)).sum())
