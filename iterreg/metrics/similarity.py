"""How alike two images on one grid are, by measures that no energy term minimises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, bincount

from iterreg.neighbourhood import box_mean

BINS = 32
"""Of each image's histogram for the mutual information."""

LEAST_VOXELS = 30
"""With fewer voxels nothing is known."""

WINDOW_RADIUS = 2
FLAT = 1e-4
"""Added to local variances of intensities scaled to 0 ... 1: 1 % of the range counts as flat."""


@dataclass(frozen=True)
class ImageSimilarity:
    """How alike two images are; 1 for identical images, 0 for unrelated ones.

    Args:
        ncc: correlation of all voxels, -1 to 1.
        lncc: mean squared correlation in local windows, 0 to 1, over the half of the windows with
            the most contrast.
        nmi: normalised mutual information (H(a) + H(b)) / H(a, b) - 1, 0 to 1.

    Example:
        >>> ImageSimilarity(ncc=0.97, lncc=0.9, nmi=0.3).ncc
        0.97
    """

    ncc: float
    lncc: float
    nmi: float


def image_similarity(fixed: Tensor, warped: Tensor, mask: Tensor) -> ImageSimilarity:
    """Compare two images inside a mask.

    Args:
        fixed, warped: (Z, Y, X) float, intensities scaled to 0 ... 1.
        mask: (Z, Y, X) bool.

    Returns:
        All zero if the mask holds fewer than 30 voxels.

    Source:
        NMI: Studholme et al., Pattern Recognition 32, 1999, 71-86, less 1.

    Example:
        >>> import torch
        >>> ramp = torch.linspace(0, 1, 1000).view(10, 10, 10)
        >>> same = image_similarity(ramp, ramp, ramp >= 0)
        >>> round(same.ncc, 3), round(same.nmi, 3)
        (1.0, 1.0)
    """
    if int(mask.sum()) < LEAST_VOXELS:
        return ImageSimilarity(0.0, 0.0, 0.0)
    a, b = fixed[mask].double(), warped[mask].double()
    return ImageSimilarity(_ncc(a, b), _lncc(fixed, warped, mask), _nmi(a, b))


def _ncc(a: Tensor, b: Tensor) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (a.norm() * b.norm()).clamp(min=1e-12))


def _lncc(fixed: Tensor, warped: Tensor, mask: Tensor) -> float:
    radius = [WINDOW_RADIUS if n > 2 * WINDOW_RADIUS else 0 for n in fixed.shape]
    inside = mask.double()
    share = box_mean(inside, radius, "zero").clamp(min=1e-6)

    def mean(volume: Tensor) -> Tensor:
        return box_mean(volume, radius, "zero") / share

    correlation, variance = local_correlation(
        fixed.double() * inside, warped.double() * inside, mean
    )
    contrast = mask & (variance >= variance[mask].median())
    return float(correlation[contrast].mean())


def local_correlation(
    fixed: Tensor, warped: Tensor, mean: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Squared correlation of two images in the window around each voxel.

    Args:
        fixed, warped: (Z, Y, X) float64, intensities scaled to 0 ... 1.
        mean: the mean over the window of each voxel.

    Returns:
        (Z, Y, X) squared correlation, 0 to 1, and the fixed image's variance in the window.

    Example:
        >>> import torch
        >>> ramp = torch.linspace(0, 1, 27).double().view(3, 3, 3)
        >>> whole = lambda volume: volume.mean().expand(volume.shape)
        >>> round(float(local_correlation(ramp, 1 - ramp, whole)[0][0, 0, 0]), 2)
        1.0
    """
    mean_f, mean_w = mean(fixed), mean(warped)
    var_f = (mean(fixed * fixed) - mean_f**2).clamp(min=0)
    var_w = (mean(warped * warped) - mean_w**2).clamp(min=0)
    covariance = mean(fixed * warped) - mean_f * mean_w
    return covariance**2 / ((var_f + FLAT) * (var_w + FLAT)), var_f


def _nmi(a: Tensor, b: Tensor) -> float:
    joint = bincount(_binned(a) * BINS + _binned(b), minlength=BINS * BINS).double()
    joint = joint.view(BINS, BINS) / len(a)
    alone = _entropy(joint.sum(0)) + _entropy(joint.sum(1))
    together = _entropy(joint.flatten())
    return alone / together - 1 if together > 0 else 0.0


def _binned(values: Tensor) -> Tensor:
    low, high = values.min(), values.max()
    return ((values - low) / (high - low).clamp(min=1e-12) * BINS).long().clamp(0, BINS - 1)


def _entropy(p: Tensor) -> float:
    p = p[p > 0]
    return float(-(p * p.log()).sum())
