"""Intensities of a CT or cone-beam CT as a fraction of the way from air (0) to soft tissue (1).

The two intensities are found in the histogram, so a cone-beam CT with another offset and scale is
read like a CT in HU. Noise is reduced.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from iterreg.errors import SegmentationError
from iterreg.regions._ct_unevenness import Unevenness
from iterreg.regions._ct_volume import Bools, DownsampledCt, Floats, pooled

COARSE_MM = 4.5
"""Anatomy is decided on voxels up to this large; a main bronchus is 12 mm wide."""

LUNG_BELOW = 0.58
"""Lung and gas lie below this (-390 HU): midway between fat (-100) and the lung's mean (-700)."""

BODY_ABOVE = 0.62
"""The body lies above this (-345 HU): skin and fat do, foam and carbon fibre of a table do not."""

SKIN_AT = 0.5
"""The skin: halfway between air and tissue, where a blurred edge keeps its place."""

BONE_ABOVE = 1.12
"""Bone lies above this (180 HU): above muscle and unenhanced organs, below cortical bone."""

GAS_BELOW = 0.10
"""Outside air and bowel gas lie below this (-895 HU); a lung's median is 0.15 to 0.5."""

NOISY = 0.04
"""More noise (40 HU) hides bone, which lies only three times as far from soft tissue."""

SMOOTHING_VOX = 0.7
"""Gaussian for noisy images: noise falls to a quarter, and a rib of three voxels stays a rib."""

SMOOTHING_MM = 1.6
"""The Gaussian is never wider than this: on coarse voxels a rib (8 mm) would vanish."""

VERY_NOISY = 0.12
"""More noise (120 HU) hides the lung's boundary, which lies three times as far from both sides."""

SAME_TISSUE = 0.2
"""Half width of the band of soft-tissue intensity, as a fraction of its distance from air."""

SMALLEST_TISSUE_SHARE = 0.6
"""Of what is brighter than air in a CT, this share lies in that band (0.9 measured; MR 0.45)."""


def downsample(
    data: torch.Tensor, fov: torch.Tensor, spacing_mm: tuple[float, ...], name: str
) -> DownsampledCt:
    """Average blocks of voxels to about ``COARSE_MM``, and scale from air to soft tissue.

    Args:
        data: (*shape), canonical axes.
        fov: (*shape) bool; only voxels inside are averaged.
        spacing_mm: (z, y, x).
        name: of the image.

    Raises:
        SegmentationError: the image does not look like a CT.
    """
    factor = tuple(
        min(max(1, int(COARSE_MM / s)), n) for s, n in zip(spacing_mm, data.shape, strict=True)
    )
    if bool(fov.all()):
        mean = pooled(data, factor)
        inside = np.ones(mean.shape, bool)
    else:
        part = pooled(fov.float(), factor)
        mean = pooled(torch.where(fov, data, 0.0), factor) / part.clamp(min=1e-6)
        inside = (part >= 0.5).numpy()
    values = mean.numpy()
    air, tissue = air_and_tissue(values[inside], name)
    fraction = (values - air) / (tissue - air)
    fraction[~inside] = 0.0
    spacing = tuple(s * f for s, f in zip(spacing_mm, factor, strict=True))
    return DownsampledCt(
        fraction.astype(np.float32),
        inside,
        (factor[0], factor[1], factor[2]),
        (spacing[0], spacing[1], spacing[2]),
        air,
        tissue,
        name,
    )


def air_and_tissue(values: Floats, name: str) -> tuple[float, float]:
    """Find the intensities of air and of soft tissue.

    Otsu's threshold parts dark from bright. Air is the dark end of the dark part. Soft tissue is
    the highest-valued large peak of the bright part (muscle and organs; the peak before it is fat).

    Args:
        values: (n) intensities inside the field of view.
        name: of the image.

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
    tissue = _highest_peak(bright)
    band = SAME_TISSUE * (tissue - air)
    same = float(np.mean(np.abs(bright - tissue) < band))
    if same < SMALLEST_TISSUE_SHARE:
        raise SegmentationError(
            f"{name}: expected a thorax CT, with over {SMALLEST_TISSUE_SHARE:.0%} of its bright "
            f"voxels at one soft-tissue level, found {same:.0%}"
        )
    return air, tissue


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


def denoised(ct: DownsampledCt) -> DownsampledCt:
    """Smooth the image if block averages are still noisy, and find air and tissue again.

    Noise widens the dark part of the histogram, so that its dark end is below the level of air.
    """
    from scipy import ndimage

    some = ct.tissue_fraction[:: max(1, ct.tissue_fraction.shape[0] // 16)]
    if _noise_within(some, np.abs(some - 1.0) < SAME_TISSUE) <= NOISY / 2:
        return ct
    weight = ndimage.gaussian_filter(ct.fov.astype(np.float32), SMOOTHING_VOX)
    smooth = ndimage.gaussian_filter(ct.tissue_fraction, SMOOTHING_VOX) / np.maximum(weight, 1e-3)
    low, high = air_and_tissue(smooth[ct.fov], ct.name)
    fraction = np.where(ct.fov, (smooth - low) / (high - low), 0.0).astype(np.float32)
    scale = ct.tissue - ct.air
    return replace(
        ct, tissue_fraction=fraction, air=ct.air + low * scale, tissue=ct.air + high * scale
    )


def _noise_within(fraction: Floats, mask: Bools) -> float:
    """Standard deviation of noise, from the differences of neighbours along x in a mask."""
    change = (fraction[:, :, 1:] - fraction[:, :, :-1])[mask[:, :, 1:] & mask[:, :, :-1]]
    # 1.4826 turns a median into a normal distribution's standard deviation; a difference of two
    # values has sqrt(2) times the deviation of one.
    return float(np.median(np.abs(change))) * 1.4826 / np.sqrt(2.0) if change.size else 0.0


def tissue_fractions(
    data: torch.Tensor, ct: DownsampledCt, uneven: Unevenness | None, body: Bools
) -> tuple[Floats, Floats]:
    """Scale the full-resolution image from air to soft tissue: once for air, once for bone.

    Bone is close to soft tissue in intensity, so in a noisy image it is searched in a smoothed
    copy. Air is far from tissue and keeps its sharp boundary, unless noise is extreme.

    Args:
        data: (*shape), canonical axes.
        ct: the same image on coarse voxels.
        uneven: what to remove.
        body: of the patient, on coarse voxels.

    Returns:
        The fraction in which to find air, and that in which to find bone, each (*shape).
    """
    import SimpleITK as sitk

    fraction: Floats = ((data - ct.air) / (ct.tissue - ct.air)).numpy()
    if uneven is not None:
        fraction /= uneven.on(fraction.shape)
    noise = _noise(fraction, ct, body)
    if noise <= NOISY:
        return fraction, fraction
    spacing = [s / f for s, f in zip(ct.spacing_mm, ct.factor, strict=True)]
    sigma = [min(SMOOTHING_VOX, SMOOTHING_MM / s) for s in reversed(spacing)]
    image = sitk.SmoothingRecursiveGaussian(sitk.GetImageFromArray(fraction), sigma)
    smooth: Floats = sitk.GetArrayFromImage(image)
    return (smooth if noise > VERY_NOISY else fraction), smooth


def _noise(fraction: Floats, ct: DownsampledCt, body: Bools) -> float:
    """Standard deviation of noise in the soft tissue of some full-resolution slices."""
    step = max(1, fraction.shape[0] // 16)
    coarse = body & (np.abs(ct.tissue_fraction - 1.0) < SAME_TISSUE)
    rows = [
        np.minimum(np.arange(n) // f, m - 1)
        for n, f, m in zip(fraction.shape, ct.factor, coarse.shape, strict=True)
    ]
    tissue = coarse[rows[0][::step]][:, rows[1]][:, :, rows[2]]
    return _noise_within(fraction[::step], tissue)
