"""One smooth course in time through the fields of all phases.

Each phase was registered by itself, so its field carries an error of its own, which the eye sees as
jitter. Near its minimum the energy of a phase is quadratic in its field, and the sum over all
phases with a penalty on bends of the course is

    E(v) = sum_t |v_t - u_t|^2 + w sum_t |v_(t-1) - 2 v_t + v_(t+1)|^2

with v = 0 at the reference. Its minimum is one linear map of the fields, the same at every voxel.

Source:
    P. Craven and G. Wahba, "Smoothing noisy data with spline functions", Numerische Mathematik 31,
    1979: the weight w by generalised cross-validation.
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
        weight: of the bends.
        jitter_before, jitter_after: root mean square of the bends, in the unit of the fields.
    """

    fields: Tensor
    weight: float
    jitter_before: float
    jitter_after: float


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
        weight: of the bends; None finds it by cross-validation. 0 leaves the fields.
        mask: (*shape) bool, the voxels that count for weight and jitter; None takes all.

    Returns:
        The course.

    Raises:
        ConfigError: no such reference, or a weight below 0.

    Example:
        >>> t = torch.arange(10.0)
        >>> noise = 0.3 * (-1) ** t
        >>> fields = (4 * torch.sin(0.2 * 3.14159 * t) + noise - noise[0]).view(10, 1, 1, 1)
        >>> course = fit_course(fields, 0, periodic=True)
        >>> course.weight > 0, course.jitter_after < course.jitter_before
        (True, True)
    """
    count = fields.shape[0]
    if not 0 <= reference < count:
        raise ConfigError(f"reference: expected 0 to {count - 1}, got {reference}")
    if weight is not None and not 0 <= weight < 1e6:
        raise ConfigError(f"smooth: expected a weight of at least 0, got {weight}")
    bends = _bends(count, periodic)
    samples = _samples(fields, mask)
    if weight is None:
        weight = _weight_of(samples, bends, reference) if count >= LEAST_PHASES else 0.0
    smoother = torch.from_numpy(_smoother(bends, weight, reference)).to(fields)
    smooth = torch.einsum("st,t...->s...", smoother, fields) if weight > 0 else fields
    after = _samples(smooth, mask)
    return Course(smooth, weight, _rms(bends, samples), _rms(bends, after))


def _bends(count: int, periodic: bool) -> Matrix:
    """(bends, phases): the second difference around each phase that has two neighbours."""
    bends = np.zeros((count, count))
    for t in range(count):
        bends[t, t] -= 2
        bends[t, (t - 1) % count] += 1
        bends[t, (t + 1) % count] += 1
    return bends if periodic else bends[1:-1]


def _smoother(bends: Matrix, weight: float, reference: int) -> Matrix:
    """(phases, phases): takes the fields to their course, zero at the reference."""
    count = bends.shape[1]
    free = np.arange(count) != reference
    normal = np.eye(count) + weight * bends.T @ bends
    smoother = np.zeros((count, count))
    smoother[np.ix_(free, free)] = np.linalg.inv(normal[np.ix_(free, free)])
    return smoother


def _weight_of(samples: Matrix, bends: Matrix, reference: int) -> float:
    """The weight with the least generalised cross-validation score."""
    free = np.arange(bends.shape[1]) != reference
    scores = []
    for weight in WEIGHTS:
        smoother = _smoother(bends, weight, reference)[np.ix_(free, free)]
        left = samples[free] - smoother @ samples[free]
        spare = 1 - np.trace(smoother) / free.sum()
        scores.append(np.square(left).mean() / spare**2 if spare > 1e-9 else np.inf)
    return float(WEIGHTS[int(np.argmin(scores))])


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
