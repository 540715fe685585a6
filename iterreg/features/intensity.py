"""Intensities, made comparable between two images."""

from __future__ import annotations

import torch
from torch import Tensor

PERCENTILES = (1.0, 99.0)
"""Intensities beyond these are clipped when no range is given: metal, air, reconstruction noise."""


def intensity_range(volume: Tensor, within: tuple[float, ...]) -> tuple[float, float]:
    """The range to clip to: the one given, else the 1st and 99th percentile.

    Args:
        volume: any shape.
        within: (low, high), or empty.
    """
    if within:
        return within[0], within[1]
    sample = volume.flatten()[:: max(1, volume.numel() // 1_000_000)]
    low, high = (float(torch.quantile(sample, p / 100)) for p in PERCENTILES)
    if high <= low:
        low, high = float(volume.min()), float(volume.max())
    return low, max(high, low + 1e-6)


def normalized_intensity(volume: Tensor, within: tuple[float, ...] = ()) -> Tensor:
    """Clip to a range and scale it to 0 ... 1.

    Args:
        volume: (*shape).
        within: (low, high) in intensity units; empty takes the volume's own percentiles.
    """
    low, high = intensity_range(volume, within)
    return (volume.clamp(low, high) - low) / (high - low)
