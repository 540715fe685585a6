"""Intensities of a CT or cone-beam CT as a share of the way from air (0) to soft tissue (1)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from iterreg.errors import SegmentationError
from iterreg.regions._ct_work import Bools, Floats, Work, pooled

WORK_MM = 4.5
"""Anatomy is decided on voxels up to this large; a main bronchus is 12 mm wide."""

DARK = 0.58
"""Lung and gas lie under this (-390 HU): midway between fat (-100) and the lung's mean (-700)."""

SOLID = 0.62
"""The body lies over this (-345 HU): skin and fat do, foam and carbon fibre of a table do not."""

HALF = 0.5
"""The skin: halfway between air and tissue, where a blurred edge keeps its place."""

BONE_OVER = 1.12
"""Bone lies over this (180 HU): over muscle and unenhanced organs, under cortical bone."""

GAS = 0.10
"""Outside air and bowel gas lie under this (-895 HU); a lung's median is 0.15 to 0.5."""

NOISY = 0.04
"""Noise over this (40 HU) hides bone, which lies only three times as far from soft tissue."""

SMOOTHING_VOX = 0.7
"""Gaussian for noisy images: noise falls to a quarter, a rib of three voxels stays a rib."""

SMOOTHING_MM = 1.6
"""But never wider than this, or a rib (8 mm) on coarse voxels would go."""

VERY_NOISY = 0.12
"""Noise over this (120 HU) hides the lung's boundary, which lies three times as far from both."""

CUPPING_GAIN = 0.03
"""Cupping is corrected where that sharpens the soft-tissue histogram by this entropy (nats). In
a CT without cupping the fit would follow fat and blur the peaks instead."""

SAME_TISSUE = 0.2
"""Half width of the band of soft-tissue intensity, as a share of its distance from air."""

SMALLEST_TISSUE_SHARE = 0.6
"""Of what is brighter than air in a CT, this share lies in that band (0.9 measured; MR 0.45)."""


def reduce_to_work(
    data: torch.Tensor, seen: torch.Tensor, spacing_mm: tuple[float, ...], name: str
) -> tuple[Work, float, float]:
    """Average blocks of measured voxels to working resolution and find the two levels."""
    factor = tuple(
        min(max(1, int(WORK_MM / s)), n) for s, n in zip(spacing_mm, data.shape, strict=True)
    )
    if bool(seen.all()):
        mean, part = pooled(data, factor), None
    else:
        part = pooled(seen.float(), factor)
        mean = pooled(torch.where(seen, data, 0.0), factor) / part.clamp(min=1e-6)
    inside = np.ones(mean.shape, bool) if part is None else (part >= 0.5).numpy()
    values = mean.numpy()
    air, soft = _levels(values[inside], name)
    share = (values - air) / (soft - air)
    share[~inside] = 0.0
    factor3 = (factor[0], factor[1], factor[2])
    coarse = tuple(s * f for s, f in zip(spacing_mm, factor, strict=True))
    coarse3 = (coarse[0], coarse[1], coarse[2])
    return Work(share.astype(np.float32), inside, factor3, coarse3, name), air, soft


def _levels(values: Floats, name: str) -> tuple[float, float]:
    """Intensities of air and of soft tissue.

    Otsu's threshold parts dark from bright. Air is the dark end of the dark part, soft tissue
    the highest-valued large peak of the bright part (muscle and organs; the peak before is fat).

    Raises:
        SegmentationError: the bright part is not narrow, as soft tissue in CT is.
    """
    if values.size < 1000 or float(values.min()) == float(values.max()):
        raise SegmentationError(f"{name}: expected a thorax CT, found an image without contrast")
    # Metal and the fill of a scanner would stretch the histogram and hide the tissue in one bin.
    low, high = np.percentile(values, [0.1, 99.5])
    values = np.clip(values, low, high)
    threshold = _otsu(values)
    bright, dark = values[values > threshold], values[values <= threshold]
    air = float(np.percentile(dark, 5))
    soft = _highest_peak(bright)
    band = SAME_TISSUE * (soft - air)
    same = float(np.mean(np.abs(bright - soft) < band))
    if same < SMALLEST_TISSUE_SHARE:
        raise SegmentationError(
            f"{name}: expected a thorax CT, with over {SMALLEST_TISSUE_SHARE:.0%} of its bright "
            f"voxels at one soft-tissue level, found {same:.0%}"
        )
    return air, soft


def _otsu(values: Floats) -> float:
    """Otsu's threshold (IEEE Trans. SMC 9(1), 1979)."""
    count, edges = np.histogram(values, 256)
    centre = (edges[1:] + edges[:-1]) / 2
    weight, moment = np.cumsum(count), np.cumsum(count * centre)
    rest = np.maximum(weight[-1] - weight, 1)
    between = (moment[-1] / weight[-1] * weight - moment) ** 2 / (np.maximum(weight, 1) * rest)
    return float(centre[int(np.argmax(between[:-1]))])


def _highest_peak(values: Floats) -> float:
    """The highest value at which a smoothed histogram has a large peak."""
    count, edges = np.histogram(values, 128)
    kernel = np.exp(-0.5 * (np.arange(-6, 7) / 2.0) ** 2)
    smooth = np.convolve(count, kernel / kernel.sum(), "same")
    inner = smooth[1:-1]
    # 0.3: in an obese patient the peak of fat is about three times that of muscle.
    large = (inner >= smooth[:-2]) & (inner > smooth[2:]) & (inner > 0.3 * smooth.max())
    if not large.any():
        return float(np.median(values))
    at = int(np.flatnonzero(large)[-1]) + 1
    peak = (edges[at] + edges[at + 1]) / 2
    # The median around the peak does not jump with the bins, so both phases get one level.
    return float(np.median(values[np.abs(values - peak) <= 3 * (edges[1] - edges[0])]))


def denoised(work: Work, air: float, soft: float) -> tuple[Work, float, float]:
    """Smooth the working image where averaging blocks left noise, and find the levels again.

    Noise widens the dark part, so that its dark end is no longer the level of air.
    """
    from scipy import ndimage

    some = work.share[:: max(1, work.share.shape[0] // 16)]
    tissue = np.abs(some - 1.0) < SAME_TISSUE
    if _deviation(some, tissue) <= NOISY / 2:
        return work, air, soft
    weight = ndimage.gaussian_filter(work.seen.astype(np.float32), SMOOTHING_VOX)
    share = ndimage.gaussian_filter(work.share, SMOOTHING_VOX) / np.maximum(weight, 1e-3)
    low, high = _levels(share[work.seen], work.name)
    share = np.where(work.seen, (share - low) / (high - low), 0.0).astype(np.float32)
    scale = soft - air
    return replace(work, share=share), air + low * scale, air + high * scale


def _deviation(share: Floats, where: Bools) -> float:
    """Standard deviation of noise among neighbours along x, both in a mask."""
    change = (share[:, :, 1:] - share[:, :, :-1])[where[:, :, 1:] & where[:, :, :-1]]
    # Median to standard deviation of a normal distribution, and of a difference to one of two.
    return float(np.median(np.abs(change))) * 1.4826 / np.sqrt(2.0) if change.size else 0.0


@dataclass(frozen=True)
class _Bias:
    """Slow drift of the soft-tissue level (cupping): a quadric over the image, 1 on average."""

    weights: NDArray[np.float64]

    def on(self, shape: tuple[int, ...]) -> Floats:
        """The level at every voxel of an array that spans the image."""
        z, y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
        plane = sum(w * t for w, t in zip(self.weights, _terms(0.0, y[:, None], x), strict=True))
        axial = self.weights[1] * z + self.weights[2] * z**2
        level = np.asarray(plane, np.float32)[None] + axial.astype(np.float32)[:, None, None]
        clipped: Floats = np.clip(level, 0.6, 1.4)
        return clipped


def _terms(z: Any, y: Any, x: Any) -> list[Any]:
    """Terms of a quadric without z x and z y, so that an axial and an in-plane part just add."""
    return [
        1.0 + 0 * (y * x),
        z + 0 * (y * x),
        z**2 + 0 * (y * x),
        y + 0 * x,
        x + 0 * y,
        y * y + 0 * x,
        x * x + 0 * y,
        x * y,
    ]


def find_cupping(work: Work) -> _Bias | None:
    """Fit the drift of the soft-tissue level, or None where there is no more than fat explains."""
    z, y, x = np.nonzero(work.seen & (np.abs(work.share - 1.0) < 0.35))
    step = max(1, len(z) // 15_000)
    at = [
        2.0 * k[::step] / max(n - 1, 1) - 1.0
        for k, n in zip((z, y, x), work.share.shape, strict=True)
    ]
    level = work.share[z[::step], y[::step], x[::step]].astype(np.float64)
    design = np.stack([np.broadcast_to(t, level.shape) for t in _terms(*at)], 1)
    trusted = np.ones(len(level), bool)
    weights = np.zeros(design.shape[1])
    for _ in range(6):
        weights = np.linalg.lstsq(design[trusted], level[trusted], rcond=None)[0]
        rest = level - design @ weights
        # Fat pulls the fit down; letting go of what lies under it finds the upper level.
        trusted = (rest > -0.06) & (rest < 0.12)
        if np.count_nonzero(trusted) < 100:
            return None
    flat = level / np.clip(design @ weights, 0.6, 1.4)
    return _Bias(weights) if _entropy(flat) < _entropy(level) - CUPPING_GAIN else None


def _entropy(level: NDArray[np.float64]) -> float:
    """Entropy in nats of the histogram: two sharp peaks (fat, muscle) are low, a smear is high."""
    count = np.histogram(level, np.arange(0.5, 1.5, 0.02))[0]
    part = count[count > 0] / max(count.sum(), 1)
    return float(-(part * np.log(part)).sum())


def calibrated(
    data: torch.Tensor, air: float, soft: float, bias: _Bias | None, work: Work, body: Bools
) -> tuple[Floats, Floats]:
    """The full-resolution image as a share from air to soft tissue: for air, and for bone.

    Bone lies near soft tissue in intensity and is searched in a smoothed copy where the image is
    noisy; air lies far off and keeps its sharp boundary, unless noise is extreme.
    """
    import SimpleITK as sitk

    share: Floats = ((data - air) / (soft - air)).numpy()
    if bias is not None:
        share /= bias.on(share.shape)
    noise = _noise(share, work, body)
    if noise <= NOISY:
        return share, share
    spacing = [s / f for s, f in zip(work.spacing_mm, work.factor, strict=True)]
    sigma = [min(SMOOTHING_VOX, SMOOTHING_MM / s) for s in reversed(spacing)]
    picture = sitk.SmoothingRecursiveGaussian(sitk.GetImageFromArray(share), sigma)
    smooth: Floats = sitk.GetArrayFromImage(picture)
    return (smooth if noise > VERY_NOISY else share), smooth


def _noise(share: Floats, work: Work, body: Bools) -> float:
    """Standard deviation of noise in soft tissue, from neighbours along x in some slices."""
    step = max(1, share.shape[0] // 16)
    some = share[::step]
    coarse = body & (np.abs(work.share - 1.0) < SAME_TISSUE)
    rows = [
        np.minimum(np.arange(n) // f, m - 1)
        for n, f, m in zip(share.shape, work.factor, coarse.shape, strict=True)
    ]
    tissue = coarse[rows[0][::step]][:, rows[1]][:, :, rows[2]]
    return _deviation(some, tissue)
