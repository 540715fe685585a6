"""The affine start: candidates from headers and regions, the best of them refined.

The affine maps fixed to moving. It is refined rung by rung: a translation, then a rigid motion,
then a similarity or an affine. A rung is kept if the images support it. Each is refined with the
energy and the normal equations of the field: the equations of all voxels are projected on the
motions of the rung.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from iterreg.config import Config
from iterreg.energy.terms import NormalEquations
from iterreg.geometry import Matrix
from iterreg.kernels import apply_blocks
from iterreg.optimize.centres import centred
from iterreg.optimize.mapped import Mapped
from iterreg.optimize.pair import Pair
from iterreg.optimize.problem import Problem, middle_of
from iterreg.optimize.side import Side
from iterreg.to_device import on_device

REFINE_STEPS = 12
HALVINGS = 4
LEAST_GAIN = 1e-4
"""A step of the refinement has to remove this share of the energy."""

LEAST_ADVANTAGE = 0.02
"""A candidate replaces the identity only if it removes this share of the energy: a correct header
should be kept."""

RUNGS = ("translation", "rigid", "similarity", "affine")
"""What may be estimated, each rung from the result of the one before it."""

LEAST_NMI_KEPT = 0.85
"""A rung keeps this share of the mutual information of the images, which is not what is fitted.
Some loss is right: where a chest breathes, the mean motion takes the standing wall along, and the
field brings it back. Asking for a gain made the error of two chests that slide 1.64 to 1.85 mm."""

REFINED_MM = 8.0
"""Centres that lie nearer than this to a start that the user gave do not replace it: the rungs get
there from it."""


@dataclass(frozen=True)
class AffineStart:
    """An affine and how it was found.

    Args:
        affine_lps: homogeneous, fixed to moving, LPS mm.
        energy: at that affine.
        how: in words.
    """

    affine_lps: Matrix
    energy: float
    how: str


def find_affine(config: Config, level: Pair, given: Matrix | None = None) -> AffineStart:
    """The affine that the field starts from.

    Args:
        config: ``start.affine`` says what may be estimated at most: ``none`` or one of ``RUNGS``.
        level: the pair at the resolution of the search.
        given: the user's initial affine, or None for the identity.

    Returns:
        The best start. The given affine (or the identity) stays unless another is clearly better.
    """
    base = np.eye(level.fixed.grid.rank + 1) if given is None else given
    how = "identity" if given is None else "given initial transform"
    energies = _Energies(Problem.for_affine(config, level, None), level)
    first = AffineStart(base, energies.at(base), how)
    if config.start.affine == "none":
        return first
    how, candidate = centred(level, base)
    apart_mm = float(np.linalg.norm(candidate[:-1, -1] - base[:-1, -1]))
    starts = [first]
    if given is None or apart_mm > REFINED_MM:
        starts.append(AffineStart(candidate, energies.at(candidate), how))
    if max(level.fixed.shape) == 1:
        return _better(starts)  # nothing can be told of one voxel but where it lies
    by_regions = level.interfaces.label_count > 1 or bool(level.guidance.rois)
    if by_regions:
        return _climbed(config, level, _better(starts))
    if apart_mm < level.fixed.least_spacing_mm:
        starts = [_better(starts)]
    # Far from the right place the images tell little: each start is judged where it leads.
    climbed = [_climbed(config, level, start) for start in starts]
    best = _better([replace(c, energy=energies.at(c.affine_lps)) for c in climbed])
    return _centred_on_middle(config, level, best) if config.start.middle < 1 else best


def _better(starts: Sequence[AffineStart]) -> AffineStart:
    """The first, unless the second is clearly better."""
    first, *others = starts
    for other in others:
        if other.energy < first.energy * (1 - LEAST_ADVANTAGE):
            return other
    return first


def _climbed(config: Config, level: Pair, start: AffineStart) -> AffineStart:
    """The start after every rung that the images support."""
    best, highest = start, RUNGS.index(config.start.affine)
    rungs = [r for r in RUNGS[: highest + 1] if r != "similarity" or RUNGS[highest] == r]
    common: _Energies | None = None
    for rung in rungs:
        if common is None:
            # What both images see: a truncated view must not be stretched to fill the other.
            problem = Problem.for_affine(config, level, best.affine_lps)
            common = _Energies(problem, level)
        before = common.at(best.affine_lps)
        refined, energy = _refine(rung, common, best.affine_lps)
        fits = energy < before * (1 - LEAST_ADVANTAGE)
        if fits and _is_supported(config, level, best.affine_lps, refined):
            best = AffineStart(refined, energy, f"{start.how}, {rung} refined")
            common = None
    return best


def _centred_on_middle(config: Config, level: Pair, start: AffineStart) -> AffineStart:
    """The start refined once more by the middle of the fixed image alone.

    From afar the middle would mislead: the surroundings bring it near.
    """
    problem = Problem.for_affine(config, level, start.affine_lps, config.start.middle)
    middle = _Energies(problem, level)
    refined, energy = _refine(config.start.affine, middle, start.affine_lps)
    fits = energy < middle.at(start.affine_lps) * (1 - LEAST_ADVANTAGE)
    share = config.start.middle
    if not fits or not _is_supported(config, level, start.affine_lps, refined, share):
        return start
    return AffineStart(refined, energy, f"{start.how}, {config.start.affine} refined at the middle")


def _is_supported(
    config: Config, level: Pair, before: Matrix, after: Matrix, middle: float = 1.0
) -> bool:
    """Whether an affine is plausible, and the images confirm it in what was not fitted.

    Regions, if there are any, decide without the images: their boundaries are what is fitted.
    """
    rank, limits = level.fixed.grid.rank, config.verdict
    volume, stretch, shear_deg = shape_of(after[:rank, :rank])
    plausible = (
        max(volume, 1 / max(volume, 1e-6)) <= limits.most_affine_volume
        and stretch <= limits.most_affine_stretch
        and shear_deg <= limits.most_affine_shear_deg
    )
    if not plausible or level.interfaces.label_count > 1 or level.guidance.rois:
        return plausible
    old, new = Mapped.still(level, before), Mapped.still(level, after)
    both = old.common_fov & new.common_fov
    if middle < 1:
        both = both & middle_of(both, middle)
    return new.similarity(both).nmi >= LEAST_NMI_KEPT * old.similarity(both).nmi


def shape_of(linear: Matrix) -> tuple[float, float, float]:
    """Volume, stretch (at least 1), and shear in degrees of a linear map (rank, rank)."""
    stretch = np.linalg.svd(linear, compute_uv=False)
    lengths = np.linalg.norm(linear, axis=0)
    cosines = linear.T @ linear / np.maximum(np.outer(lengths, lengths), 1e-12)
    off = np.abs(cosines[~np.eye(len(linear), dtype=bool)]).max()
    largest = max(float(stretch.max()), 1 / max(float(stretch.min()), 1e-6))
    return float(np.linalg.det(linear)), largest, float(np.degrees(np.arcsin(min(1.0, off))))


@dataclass(frozen=True)
class _Energies:
    """The energy as a function of the affine alone."""

    problem: Problem
    level: Pair

    def equations_at(self, affine_lps: Matrix) -> tuple[float, NormalEquations]:
        """Energy and normal equations of the still field behind an affine."""
        problem = replace(self.problem, mapping=self.level.index_map(affine_lps))
        terms, equations = problem.evaluate(torch.zeros_like(problem.edges))
        return sum(terms), equations

    def at(self, affine_lps: Matrix) -> float:
        """The energy behind an affine."""
        return self.equations_at(affine_lps)[0]


def _refine(kind: str, energies: _Energies, affine: Matrix) -> tuple[Matrix, float]:
    """Gauss-Newton on the affine's own parameters, halving steps that do not lower the energy."""
    fixed = energies.level.fixed
    energy, equations = energies.equations_at(affine)
    motions = _motions(kind, fixed)
    for _ in range(REFINE_STEPS):
        gradient, curvature = _projected(equations.gradient, equations.curvature, motions)
        step = torch.linalg.lstsq(curvature, -gradient.unsqueeze(-1)).solution.squeeze(-1)
        for _ in range(HALVINGS):
            # Linear algebra rounds by the memory addresses of its arguments. Without this rounding
            # the same call would not give the same bytes.
            candidate = np.round(affine @ _as_affine(kind, step, fixed), decimals=10)
            trial, there = energies.equations_at(candidate)
            if trial < energy * (1 - LEAST_GAIN):
                break
            step = step / 2
        else:
            break
        affine, energy, equations = candidate, trial, there
    return affine, energy


def _centred_mm(fixed: Side) -> list[Tensor]:
    """Coordinates along the fixed axes, in mm from the middle of the grid, (Z, Y, X) each."""
    device = fixed.labels.device
    axes = [
        (torch.arange(n, device=device, dtype=torch.float32) - (n - 1) / 2) * s
        for n, s in zip(fixed.shape, fixed.spacing_mm, strict=True)
    ]
    return list(torch.meshgrid(*axes, indexing="ij"))


def _generators(kind: str, fixed: Side) -> list[Tensor]:
    """Generators (3, 4) of the motions that may be estimated, on axes longer than one voxel."""
    axes = [a for a in range(3) if fixed.shape[a] > 1]
    generators = []
    for a in axes:
        shift = torch.zeros(3, 4, dtype=torch.float64)
        shift[a, 3] = 1
        generators.append(shift)
    if kind == "translation":
        return generators
    for a in axes:
        for b in axes:
            if kind != "affine" and a >= b:
                continue
            turn = torch.zeros(3, 4, dtype=torch.float64)
            turn[a, b] = 0.01
            if kind != "affine":
                turn[b, a] = -0.01
            generators.append(turn)
    if kind == "similarity":
        growth = torch.zeros(3, 4, dtype=torch.float64)
        growth[axes, axes] = 0.01
        generators.append(growth)
    return generators


def _motions(kind: str, fixed: Side) -> Tensor:
    """Displacement in mm of each generator, (K, 3, Z, Y, X)."""
    place = [*_centred_mm(fixed), torch.ones(fixed.shape, device=fixed.device)]
    generators = on_device(torch.stack(_generators(kind, fixed)).float(), fixed.device)
    return torch.einsum("kij,jzyx->kizyx", generators, torch.stack(place))


def _projected(gradient: Tensor, curvature: Tensor, motions: Tensor) -> tuple[Tensor, Tensor]:
    """The normal equations of all voxels, projected on the motions (K, 3, Z, Y, X); on the CPU."""
    count = len(motions)
    bent = apply_blocks(curvature, motions.movedim(1, 0)).movedim(1, 0)
    flat = motions.flatten(1).double()
    right = torch.cat((gradient.unsqueeze(0), bent)).flatten(1).double()
    # One transfer from the device: all products at once.
    products = (flat @ right.T).cpu()
    small_curvature = 0.5 * (products[:, 1:] + products[:, 1:].T)
    ridge = 1e-6 * small_curvature.diagonal().mean()
    return products[:, 0], small_curvature + ridge * torch.eye(count, dtype=torch.float64)


def _as_affine(kind: str, step: Tensor, fixed: Side) -> Matrix:
    """The step as a homogeneous LPS matrix: the exponential of its generator."""
    generator = torch.zeros(4, 4, dtype=torch.float64)
    for weight, part in zip(step.tolist(), _generators(kind, fixed), strict=True):
        generator[:3] += weight * part
    moved = torch.linalg.matrix_exp(generator).numpy()
    rank = fixed.grid.rank
    keep = [*range(3 - rank, 3), 3]
    moved = moved[np.ix_(keep, keep)]
    to_lps = fixed.grid.index_to_lps @ np.diag([*(1 / np.array(fixed.grid.spacing_zyx_mm)), 1.0])
    middle = np.eye(rank + 1)
    middle[:rank, rank] = [
        (n - 1) / 2 * s
        for n, s in zip(fixed.grid.shape_zyx, fixed.grid.spacing_zyx_mm, strict=True)
    ]
    to_lps = to_lps @ middle
    result: Matrix = to_lps @ moved @ np.linalg.inv(to_lps)
    return result
