"""The affine start: candidates from headers and regions, the best refined on the coarsest level.

The affine maps fixed to moving. It is refined with the same energy and the same normal equations
as the field: the equations of all voxels are projected on the twelve affine motions (fewer for a
rigid or a translational start).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from iterreg.energy.terms import NormalEquations
from iterreg.geometry import Matrix, apply_affine
from iterreg.kernels.reference import apply_blocks
from iterreg.optimize.pyramid import Scene, index_map, whole_regions
from iterreg.optimize.solver import Problem, evaluate

BuildProblem = Callable[[Matrix | None], Problem]

REFINE_STEPS = 12
HALVINGS = 4
WORTHWHILE = 1e-4
"""A step of the refinement has to take away this share of the energy."""

BETTER = 0.98
"""A candidate replaces the identity only where it takes away 2 % of the energy: a header that is
right should be kept."""

TRIMMED = 0.25
"""Share of region pairs that may disagree with the rest when centres are aligned."""


@dataclass(frozen=True)
class Start:
    """A start and how it was found.

    Args:
        affine_lps: homogeneous, fixed to moving, LPS mm.
        energy: of the coarsest level there.
        how: in words.
    """

    affine_lps: Matrix
    energy: float
    how: str


def find_start(
    kind: str, fixed: Scene, moving: Scene, build: BuildProblem, given: Matrix | None
) -> Start:
    """The affine that the field starts from.

    Args:
        kind: ``none``, ``translation``, ``rigid`` or ``affine``: what may be estimated.
        fixed, moving: the scenes of the coarsest level.
        build: the coarsest level's energy over all that the fixed image shows (None), or over
            what both images show behind an affine.
        given: the user's initial affine, or None for the identity.

    Returns:
        The best start; the given one (or the identity) where nothing is clearly better.
    """
    rank = fixed.grid.rank
    base = np.eye(rank + 1) if given is None else given
    told = "identity" if given is None else "given initial transform"
    energies = _Energies(build(None), fixed, moving)
    first = Start(base, energies.at(base), told)
    if kind == "none":
        return first
    best = first
    for how, candidate in _candidates(fixed, moving, base):
        energy = energies.at(candidate)
        if energy < best.energy * BETTER:
            best = Start(candidate, energy, how)
    # Refined on what both images show: a view that is cut must not be stretched to fill the other.
    common = _Energies(build(best.affine_lps), fixed, moving)
    before = common.at(best.affine_lps)
    refined, energy = _refine(kind, fixed, common, best.affine_lps)
    if energy < before * BETTER:
        return Start(refined, energy, f"{best.how}, {kind} refined")
    return best


@dataclass(frozen=True)
class _Energies:
    """The coarsest level's energy as a function of the affine alone."""

    problem: Problem
    fixed: Scene
    moving: Scene

    def equations_at(self, affine_lps: Matrix) -> tuple[float, NormalEquations]:
        """Energy and normal equations of the still field behind an affine."""
        problem = replace(self.problem, mapping=index_map(self.fixed, self.moving, affine_lps))
        terms, equations = evaluate(problem, torch.zeros_like(problem.edges))
        return sum(terms), equations

    def at(self, affine_lps: Matrix) -> float:
        """The energy behind an affine."""
        return self.equations_at(affine_lps)[0]


def _candidates(fixed: Scene, moving: Scene, base: Matrix) -> list[tuple[str, Matrix]]:
    """Translations that bring centres together: of the regions, else of the images."""
    rank = fixed.grid.rank
    candidates = []
    shifts = _region_shifts(fixed, moving, base)
    if len(shifts):
        keep = max(1, int(np.ceil(len(shifts) * (1 - TRIMMED))))
        middle = np.median(shifts, axis=0)
        order = np.argsort(np.linalg.norm(shifts - middle, axis=1))
        candidates.append(("centres of the regions", shifts[order[:keep]].mean(0)))
    else:
        images = moving.grid.centre_lps_mm - apply_affine(base, fixed.grid.centre_lps_mm)
        candidates.append(("centres of the images", images))
    translations = []
    for how, shift in candidates:
        matrix = base.copy()
        matrix[:rank, rank] += shift
        translations.append((how, matrix))
    return translations


def _region_shifts(fixed: Scene, moving: Scene, base: Matrix) -> Matrix:
    """For each region that neither image cuts, moving centroid minus mapped fixed one, LPS mm."""
    shifts = []
    ours, theirs = _centroids(fixed), _centroids(moving)
    for value in ours.keys() & theirs.keys():
        here = apply_affine(fixed.grid.index_to_lps, ours[value])
        there = apply_affine(moving.grid.index_to_lps, theirs[value])
        shifts.append(there - apply_affine(base, here))
    return np.array(shifts)


def _centroids(scene: Scene) -> dict[int, Matrix]:
    """Centroid (array order) of each region that stays inside the field of view."""
    rank = scene.grid.rank
    return {
        value: (scene.labels == value).nonzero().double().mean(0).cpu().numpy()[3 - rank :]
        for value in whole_regions(scene)
    }


def _refine(kind: str, fixed: Scene, energies: _Energies, affine: Matrix) -> tuple[Matrix, float]:
    """Gauss-Newton on the affine's own parameters, halving steps that do not pay."""
    energy, equations = energies.equations_at(affine)
    motions = _motions(kind, fixed)
    for _ in range(REFINE_STEPS):
        gradient, curvature = _projected(equations.gradient, equations.curvature, motions)
        step = torch.linalg.lstsq(curvature, -gradient.unsqueeze(-1)).solution.squeeze(-1)
        for _ in range(HALVINGS):
            # Linear algebra rounds by where its arguments lie in memory: without this the same
            # call would not give the same bytes.
            candidate = np.round(affine @ _as_affine(kind, step, fixed), decimals=10)
            trial, there = energies.equations_at(candidate)
            if trial < energy * (1 - WORTHWHILE):
                break
            step = step / 2
        else:
            break
        affine, energy, equations = candidate, trial, there
    return affine, energy


def _centred_mm(fixed: Scene) -> list[Tensor]:
    """Coordinates along the fixed axes, in mm from the middle of the grid, (Z, Y, X) each."""
    device = fixed.labels.device
    axes = [
        (torch.arange(n, device=device, dtype=torch.float32) - (n - 1) / 2) * s
        for n, s in zip(fixed.shape, fixed.spacing_mm, strict=True)
    ]
    return list(torch.meshgrid(*axes, indexing="ij"))


def _generators(kind: str, fixed: Scene) -> list[Tensor]:
    """Generators (3, 4) of the motions that a start may have, on the axes that have a length."""
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
            if kind == "rigid" and a >= b:
                continue
            turn = torch.zeros(3, 4, dtype=torch.float64)
            turn[a, b] = 0.01
            if kind == "rigid":
                turn[b, a] = -0.01
            generators.append(turn)
    return generators


def _motions(kind: str, fixed: Scene) -> list[Tensor]:
    """Displacement (3, Z, Y, X) in mm of each generator."""
    place = [*_centred_mm(fixed), torch.ones(fixed.shape, device=fixed.labels.device)]
    motions = []
    for generator in _generators(kind, fixed):
        rows = [
            sum((float(w) * place[k] for k, w in enumerate(row) if w), torch.zeros_like(place[0]))
            for row in generator
        ]
        motions.append(torch.stack(rows))
    return motions


def _projected(gradient: Tensor, curvature: Tensor, motions: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The normal equations of all voxels, seen from the motions alone."""
    count = len(motions)
    small_gradient = torch.zeros(count, dtype=torch.float64)
    small_curvature = torch.zeros(count, count, dtype=torch.float64)
    for i, motion in enumerate(motions):
        small_gradient[i] = (gradient * motion).sum(dtype=torch.float64)
        bent = apply_blocks(curvature, motion)
        for j in range(i, count):
            value = (bent * motions[j]).sum(dtype=torch.float64)
            small_curvature[i, j] = small_curvature[j, i] = value
    ridge = 1e-6 * small_curvature.diagonal().mean()
    return small_gradient, small_curvature + ridge * torch.eye(count, dtype=torch.float64)


def _as_affine(kind: str, step: Tensor, fixed: Scene) -> Matrix:
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
