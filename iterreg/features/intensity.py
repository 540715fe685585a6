"""Intensities, scaled so that two images can be compared."""

from __future__ import annotations

import torch
from torch import Tensor

PERCENTILES = (1.0, 99.0)
"""Intensities beyond these are clipped if no range is given: metal, air, reconstruction noise."""


def intensity_range(volume: Tensor, limits: tuple[float, ...]) -> tuple[float, float]:
    """The range to clip to: the given one, or else the 1st and 99th percentile.

    Args:
        volume: any shape.
        limits: (low, high), or empty.
    """
    if limits:
        return limits[0], limits[1]
    sample = volume.flatten()[:: max(1, volume.numel() // 1_000_000)]
    low, high = (float(torch.quantile(sample, p / 100)) for p in PERCENTILES)
    if high <= low:
        low, high = float(volume.min()), float(volume.max())
    return low, max(high, low + 1e-6)


def normalise_intensities(volume: Tensor, limits: tuple[float, ...] = ()) -> Tensor:
    """Clip to a range and scale it to 0 ... 1.

    Args:
        volume: (*shape).
        limits: (low, high) in intensity units; empty takes the volume's own percentiles.

    Example:
        >>> normalise_intensities(torch.tensor([-2000.0, -250.0, 800.0]), (-1000.0, 500.0))
        tensor([0.0000, 0.5000, 1.0000])
    """
    low, high = intensity_range(volume, limits)
    return (volume.clamp(low, high) - low) / (high - low)
