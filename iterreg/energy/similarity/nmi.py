"""NMI: normalised mutual information, for two images of different contrast.

::

    E(u) = sum_n w (1 - I(F; W) / H(F))

    I(F; W) = sum_ab p(a, b) log(p(a, b) / (p(a) p(b)))        H(F) = -sum_a p(a) log p(a)

    p(a, b) = mean_n [F(n) in bin a] B(W(n) - b)

W is the warped moving image and B the cubic B-spline, so p is a smooth function of u. I / H(F) is
the share of what the fixed image says that the warped one tells too: 0 to 1, whatever the two
contrasts. The samples n are the same for the whole level, so the normalisation need not make up
for a varying overlap, and H(F) does not depend on u.

The gradient is exact. For the curvature the histogram is held: then E is a sum over samples of
-log p(F | W), a log likelihood, and the Fisher information k(b) of W, the mean square of its slope
in bin b, takes the place of the second derivative, as in Gauss-Newton, of which it is the general
form: for Gaussian noise around a relation F = h(W), k = h'^2 / variance.

Sources: Mattes et al., "PET-CT image registration in the chest using free-form deformations", IEEE
TMI 22, 2003 (histogram, bins and gradient); Thévenaz and Unser, "Optimization of mutual information
for multiresolution image registration", IEEE TIP 9, 2000 (B-spline windows); Roche et al.,
"Unifying maximum likelihood approaches in medical image registration", IJIST 11, 2000 (mutual
information as a likelihood).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from iterreg.config import Similarity
from iterreg.energy.similarity.types import ComparedImages
from iterreg.energy.terms import NormalEquations
from iterreg.kernels import IndexMap, normal_equations, outside_equations, sample_with_slope

OUTSIDE_WEIGHT = 0.05
"""Cost of a squared voxel outside the moving image: a tenth of a typical cost."""

BINS = 32
"""Number of bins of each image's intensities. The moving image leaves one free at either end, for
the window."""

COUNT_SCALE = 2.0**36
"""Histograms are summed as integers of this scale: such a sum does not depend on its order, so the
same call gives the same bytes on every device. It overflows from 1e8 samples on."""

PSEUDO_COUNT = 0.1
"""Samples added to each pair of bins before its Fisher information is taken: next to an
empty one the slope would be infinite."""

LEAST_INFORMATION = 0.1
"""Least Fisher information of a bin, as a share of the mean over all samples."""


@dataclass(frozen=True)
class MutualInformation:
    """``weight N (1 - I(F; W) / H(F))`` over N samples of the fixed grid.

    Args:
        fixed_bins: (N,) int64, the bin of each sample.
        moving: (Z', Y', X', 1) intensities, scaled to 0 ... 1.
        voxels: (3, N) int64, the fixed voxel of each sample, none twice.
        weight: of a sample.
        outside_weight: energy per squared voxel outside ``moving``, for weight 1.
    """

    fixed_bins: Tensor
    moving: Tensor
    voxels: Tensor
    weight: float
    outside_weight: float = OUTSIDE_WEIGHT

    def accumulate(self, u_mm: Tensor, mapping: IndexMap, into: NormalEquations) -> Tensor:
        """See :class:`iterreg.energy.terms.Term`."""
        z, y, x = self.voxels
        q = mapping.apply(self.voxels.to(u_mm.dtype), u_mm[:, z, y, x])
        values, slopes, outside = sample_with_slope(self.moving, q)
        bins, shares, share_slopes = _windows(values.squeeze(-1))
        entries = self.fixed_bins * BINS + bins
        joint = _joint_histogram(entries, shares)
        likelihood = _log_likelihood(joint)
        slope = (likelihood.flatten().to(u_mm.dtype)[entries] * share_slopes).sum(0)
        entropy = torch.special.entr(joint.sum(1)).sum()
        unexplained = -(joint * likelihood).sum()
        scale = self.weight / entropy.clamp(min=1e-6)
        gradient, square = normal_equations((-scale * slope).unsqueeze(-1), slopes, mapping.from_mm)
        fisher = (scale * _fisher_information(joint, len(slope))).to(u_mm.dtype)
        nearest = torch.where(shares[2] > shares[1], bins[2], bins[1])
        outside_weight = self.weight * self.outside_weight
        outside_g, outside_h = outside_equations(outside, mapping.from_mm, outside_weight)
        into.gradient[:, z, y, x] += 0.5 * gradient + outside_g
        into.curvature[:, z, y, x] += 0.5 * fisher[nearest] * square + outside_h
        outside_cost = outside_weight * outside.square().sum(dtype=torch.float64)
        energy: Tensor = len(slope) * scale * unexplained + outside_cost
        return energy

    def without_outside_cost(self) -> MutualInformation:
        """See :class:`iterreg.energy.terms.Term`."""
        return replace(self, outside_weight=0.0)


def nmi_term(config: Similarity, images: ComparedImages) -> MutualInformation:
    """See :func:`iterreg.energy.similarity.similarity_term`."""
    bins = (images.fixed.mean(0)[images.common_fov] * BINS).long().clamp(0, BINS - 1)
    voxels = images.common_fov.nonzero().T
    return MutualInformation(
        bins, images.moving.mean(0).unsqueeze(-1).contiguous(), voxels, config.weight
    )


def _windows(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The cubic B-spline window of each value (N,), over the four bins that it falls on.

    Values beyond 0 ... 1 count as 0 or 1.

    Returns:
        The four bins (4, N) int64; their shares (4, N), which sum to 1; and the derivatives of the
        shares by the value, (4, N).
    """
    inside = values.clamp(0, 1)
    place = 1 + (BINS - 3) * inside
    low = place.floor().clamp(1, BINS - 3)
    t = place - low
    s = 1 - t
    shares = (s**3, 4 - 6 * t**2 + 3 * t**3, 4 - 6 * s**2 + 3 * s**3, t**3)
    slopes = (-(s**2), 3 * t**2 - 4 * t, 4 * s - 3 * s**2, t**2)
    bins = low.long() + torch.arange(-1, 3, device=values.device).unsqueeze(1)
    slope_scale = 0.5 * (BINS - 3) * (values == inside)
    return bins, torch.stack(shares) / 6, torch.stack(slopes) * slope_scale


def _joint_histogram(entries: Tensor, shares: Tensor) -> Tensor:
    """(fixed bins, moving bins) float64, the share of the samples in each pair of bins.

    Args:
        entries: (4, N), the flat indices of each sample's pairs of bins.
        shares: (4, N), how much of the sample each pair gets.
    """
    counts = torch.zeros(BINS * BINS, dtype=torch.int64, device=entries.device)
    for entry, share in zip(entries, shares, strict=True):
        counts.index_add_(0, entry, (share.double() * COUNT_SCALE).round().long())
    joint = counts.double().view(BINS, BINS)
    return joint / joint.sum().clamp(min=1)


def _log_likelihood(joint: Tensor) -> Tensor:
    """log(p(a, b) / p(b)), of fixed bin a given moving bin b; 0 for pairs without samples."""
    ratio = joint / joint.sum(0).clamp(min=1e-300)
    return torch.where(joint > 0, ratio, 1.0).log()


def _fisher_information(joint: Tensor, samples: int) -> Tensor:
    """(moving bins,), the mean square of the slope of the log likelihood by the moving value."""
    joint = joint + PSEUDO_COUNT / max(1, samples)
    of_moving = joint.sum(0)
    log_ratio = (joint / of_moving).log()
    slope = torch.zeros_like(joint)
    slope[:, 1:-1] = (log_ratio[:, 2:] - log_ratio[:, :-2]) * (0.5 * (BINS - 3))
    information = (joint * slope.square()).sum(0) / of_moving
    mean = (information * of_moving).sum() / of_moving.sum()
    return information.clamp(min=LEAST_INFORMATION * mean)
