"""One smooth course in time through the fields of all phases.

Each phase was registered by itself, so its field carries an error of its own, which the eye sees as
jitter. Near its minimum the energy of a phase is quadratic in its field, and the sum over all
phases with a penalty on changes of the course's bend is

    E(v) = sum_t |v_t - u_t|^2 + w sum_t |v_(t+2) - 3 v_(t+1) + 3 v_t - v_(t-1)|^2

with v = 0 at the reference. Its minimum is one linear map of the fields, the same at every voxel.
Bends themselves cost nothing, so that the turn of a breath stays: with a penalty on them, hearts
and chests with a known course ended 0.004 to 0.035 mm farther from it (``benchmarks/motion.py``).

The weight follows the errors, not the course: a breath that turns sharply bends as jitter does, and
in time alone the two look the same. Motion is the same few courses at all voxels, larger here and
smaller there; errors differ from phase to phase and from voxel to voxel. So errors are what lies
along the directions of least variance of the phases' covariance, half of all, and motion fills the
others. What counts is the error at a usual voxel: at the ends of the view, where tissue comes and
goes, single phases are far off, and the course of all others must not bend for them. The weight is
the one with the least expected distance from the truth, given that variance, and no larger than
that of cross-validation, which needs no variance and takes sharp turns for errors.

Source:
    C. L. Mallows, "Some comments on C_p", Technometrics 15, 1973: the expected distance.
    P. Craven and G. Wahba, "Smoothing noisy data with spline functions", Numerische Mathematik 31,
    1979: generalised cross-validation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iterreg.errors import ConfigError

WEIGHTS = (0.0, *np.geomspace(0.003, 10.0, 22).round(4).tolist())
"""Among these the weight is chosen."""

LEAST_PHASES = 5
"""Fewer phases tell a course from its errors no more."""

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Course:
    """The fields of all phases on one course.

    Args:
        fields: (phases, rank, *shape): the displacement of each phase, zero at the reference.
        weight: of the changes of the bend.
        jitter_before, jitter_after: root mean square of the bends, in the unit of the fields.
        largest_before, largest_after: mean displacement of the phase that moves most, likewise.
    """

    fields: Tensor
    weight: float
    jitter_before: float
    jitter_after: float
    largest_before: float
    largest_after: float


def fit_course(
    fields: Tensor,
    reference: int,
    *,
    periodic: bool = False,
    weight: float | None = None,
    mask: Tensor | None = None,
) -> Course:
    """Put the fields of all phases on one course.

    Args:
        fields: (phases, rank, *shape), each phase's displacement from the reference.
        reference: number of the reference, whose displacement is zero.
        periodic: whether the first phase follows the last.
        weight: of the changes of the bend; None finds it by the errors. 0 leaves the fields.
        mask: (*shape) bool, the voxels that count for weight and jitter; None takes all.

    Returns:
        The course.

    Raises:
        ConfigError: no such reference, or a weight below 0.

    Example:
        >>> t = torch.arange(10.0).view(10, 1, 1, 1)
        >>> noise = 0.3 * torch.randn(10, 1, 20, 20, generator=torch.Generator().manual_seed(0))
        >>> fields = 4 * torch.sin(0.2 * 3.14159 * t) + noise * (t > 0)
        >>> course = fit_course(fields, 0, periodic=True)
        >>> course.weight > 0, course.jitter_after < course.jitter_before
        (True, True)
    """
    count = fields.shape[0]
    if not 0 <= reference < count:
        raise ConfigError(f"reference: expected 0 to {count - 1}, got {reference}")
    if weight is not None and not 0 <= weight < 1e6:
        raise ConfigError(f"smooth: expected a weight of at least 0, got {weight}")
    bends, changes = _differences(count, 2, periodic), _differences(count, 3, periodic)
    samples = _samples(fields, mask)
    if weight is None:
        weight = _weight_of(samples, changes, reference) if count >= LEAST_PHASES else 0.0
    smoother = torch.from_numpy(_smoother(changes, weight, reference)).to(fields)
    smooth = torch.einsum("st,t...->s...", smoother, fields) if weight > 0 else fields
    after = _samples(smooth, mask)
    jitter = _rms(bends, samples), _rms(bends, after)
    rank = fields.shape[1]
    return Course(smooth, weight, *jitter, _largest(samples, rank), _largest(after, rank))


def _differences(count: int, order: int, periodic: bool) -> Matrix:
    """(differences, phases): the differences in time of some order."""
    once = np.roll(np.eye(count), 1, axis=1) - np.eye(count)
    differences: Matrix = np.linalg.matrix_power(once, order)
    return differences if periodic else differences[: max(0, count - order)]


def _smoother(changes: Matrix, weight: float, reference: int) -> Matrix:
    """(phases, phases): takes the fields to their course, zero at the reference."""
    count = changes.shape[1]
    free = np.arange(count) != reference
    normal = np.eye(count) + weight * changes.T @ changes
    smoother = np.zeros((count, count))
    smoother[np.ix_(free, free)] = np.linalg.inv(normal[np.ix_(free, free)])
    return smoother


def _weight_of(samples: Matrix, changes: Matrix, reference: int) -> float:
    """The weight with the least expected distance from the truth, or with the least score if lower.

    The score is that of generalised cross-validation.
    """
    free = np.arange(changes.shape[1]) != reference
    own = samples[free]
    variance = _variance_of_errors(own)
    scores, distances = [], []
    for weight in WEIGHTS:
        smoother = _smoother(changes, weight, reference)[np.ix_(free, free)]
        left = own - smoother @ own
        kept = float(np.trace(smoother)) / len(own)
        scores.append(np.square(left).mean() / (1 - kept) ** 2 if kept < 1 - 1e-9 else np.inf)
        distances.append(_usual_square(left) + 2 * variance * kept)
    return float(WEIGHTS[min(int(np.argmin(scores)), int(np.argmin(distances)))])


def _variance_of_errors(samples: Matrix) -> float:
    """The usual variance of the errors, of (phases, samples) without the reference."""
    covariance = samples @ samples.T / max(1, samples.shape[1])
    directions = np.linalg.eigh(covariance)[1]  # the least variance first
    return _usual_square(directions[:, : (len(samples) + 1) // 2].T @ samples)


def _usual_square(errors: Matrix) -> float:
    """Mean square over the rows at a usual sample: a few samples far off do not count.

    The median of a chi-square over its mean is that of Wilson and Hilferty.
    """
    if not errors.size:
        return 0.0
    return float(np.median(np.square(errors).mean(0)) / (1 - 2 / (9 * len(errors))) ** 3)


def _samples(fields: Tensor, mask: Tensor | None) -> Matrix:
    """(phases, samples): the displacements that count, at most some 100,000 a phase."""
    flat = fields.reshape(*fields.shape[:2], -1)
    if mask is not None:
        flat = flat[:, :, mask.reshape(-1)]
    step = max(1, flat.shape[2] // 30_000)
    samples: Matrix = flat[:, :, ::step].reshape(flat.shape[0], -1).double().numpy()
    return samples


def _rms(bends: Matrix, samples: Matrix) -> float:
    bent = bends @ samples
    return float(np.sqrt(np.square(bent).mean())) if bent.size else 0.0


def _largest(samples: Matrix, rank: int) -> float:
    lengths = np.linalg.norm(samples.reshape(len(samples), rank, -1), axis=1)
    return float(lengths.mean(1).max()) if lengths.size else 0.0
