"""Gauss-Newton on one level: init, step, terminate, over an explicit state.

Every step linearises the similarity and the overlap, adds the region-wise regulariser, and
solves for the whole field at once by conjugate gradients. All that couples voxels goes through the
edge weights, so nothing leaks across an interface that slides. A step that does not lower the
energy is taken back and halved. The one value that leaves the device per step is the energy.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from iterreg.energy.terms import NormalEquations, Term
from iterreg.kernels import (
    Contact,
    IndexMap,
    Workspace,
    add_contact,
    add_laplacian,
    conjugate_gradient,
)
from iterreg.registration import LevelHistory

CG_STEPS = 8
"""Conjugate-gradient steps per Gauss-Newton step. The coarser level has solved the smooth part, so
few are enough: 6 to 12 give the same landmark error within 0.01 mm."""

DAMPING = 1e-6
"""Added to each voxel's curvature (1 per mm^2) where there is neither evidence nor an edge."""

HALVINGS = 3
"""How often a step that does not pay is halved before the level ends."""


@dataclass(frozen=True)
class Problem:
    """The energy of a level.

    Args:
        similarity, overlap: terms of the energy.
        edges: (3, Z, Y, X), the regulariser's edge weights over squared length, times its weight.
        mapping: from fixed voxels to moving voxels.
        voxels: how many fixed voxels carry evidence: the energy is reported per such voxel.
        spans: (Z * Y, 2) int32, the part of each row that may move; the rest keeps its place.
        base: (3, Z, Y, X) mm, what the displacement is a correction of, or None.
        screening: penalty of a squared mm of it, 1/mm^2 times the regulariser's weight: with it a
            correction dies out over a length of 1 / sqrt(screening / weight).
        contact: gap and overlap at interfaces that slide, or None.
    """

    similarity: list[Term]
    overlap: list[Term]
    edges: Tensor
    mapping: IndexMap
    voxels: int
    spans: Tensor
    base: Tensor | None = None
    screening: float = 0.0
    contact: Contact | None = None
    workspace: Workspace = field(default_factory=Workspace, repr=False)


@dataclass(frozen=True)
class State:
    """Where the solver stands.

    Args:
        u_mm: (3, Z, Y, X), the best displacement so far.
        equations: the normal equations of the last evaluation, which is this displacement's unless
            a step is being halved.
        terms: similarity, overlap and smoothness there, per voxel.
        step: the last step tried, and whether it lowered the energy.
        history: the terms after every accepted step.
        halvings: how often the present step has been halved.
        gain: share of the energy that the last accepted step took away.
    """

    u_mm: Tensor
    equations: NormalEquations
    terms: tuple[float, float, float]
    step: Tensor | None
    history: tuple[tuple[float, float, float], ...]
    halvings: int = 0
    gain: float = 1.0

    @property
    def energy(self) -> float:
        """The weighted sum of the terms."""
        return sum(self.terms)


def evaluate(problem: Problem, u_mm: Tensor) -> tuple[tuple[float, float, float], NormalEquations]:
    """The terms of the energy per voxel, and the normal equations, at a displacement.

    The equations live in the problem's workspace: the next evaluation overwrites them. The solver
    needs them only for the step right after.
    """
    equations = NormalEquations(
        problem.workspace.zeros("gradient", u_mm), problem.workspace.zeros("curvature", u_mm, 6)
    )
    zero = torch.zeros((), dtype=torch.float64, device=u_mm.device)
    total = u_mm if problem.base is None else problem.base + u_mm
    similarity = sum(
        (t.accumulate(total, problem.mapping, equations) for t in problem.similarity), zero
    )
    overlap = sum((t.accumulate(total, problem.mapping, equations) for t in problem.overlap), zero)
    smoothness = add_laplacian(u_mm, problem.edges, equations.gradient)
    if problem.contact is not None:
        smoothness = smoothness + add_contact(u_mm, problem.contact, equations.gradient)
    if problem.screening:
        equations.gradient.add_(u_mm, alpha=problem.screening)
        for entry in (0, 3, 5):
            equations.curvature[entry] += problem.screening
        smoothness = smoothness + problem.screening * u_mm.square().sum(dtype=torch.float64)
    terms = torch.stack((similarity, overlap, smoothness)) / problem.voxels
    first, second, third = terms.tolist()
    return (first, second, third), equations


def init(problem: Problem, u_mm: Tensor) -> State:
    """The state before the first step."""
    terms, equations = evaluate(problem, u_mm)
    return State(u_mm, equations, terms, None, (terms,))


def step(problem: Problem, state: State) -> State:
    """One Gauss-Newton step, or half the last one where that did not pay."""
    if state.halvings == 0 or state.step is None:
        move = conjugate_gradient(
            state.equations.curvature,
            problem.edges,
            state.equations.gradient.neg_(),
            problem.spans,
            CG_STEPS,
            DAMPING,
            problem.workspace,
            problem.contact,
        )
    else:
        move = state.step * 0.5
    u_mm = state.u_mm + move
    terms, equations = evaluate(problem, u_mm)
    gain = 1 - sum(terms) / max(state.energy, 1e-30)
    if not gain > 0:
        return replace(state, step=move, halvings=state.halvings + 1)
    return State(u_mm, equations, terms, move, (*state.history, terms), gain=gain)


def terminated(state: State, tolerance: float) -> bool:
    """Whether another step is not worth taking."""
    return state.halvings > HALVINGS or state.gain < tolerance


def solve(
    problem: Problem, u_mm: Tensor, steps: int, tolerance: float
) -> tuple[Tensor, State, bool]:
    """Lower the energy of a level.

    Args:
        problem: the level's energy.
        u_mm: (3, Z, Y, X), where to start.
        steps: most steps.
        tolerance: stop when a step takes away less than this share of the energy.

    Returns:
        The displacement, the last state, and whether it converged.
    """
    state = init(problem, u_mm)
    for _ in range(steps):
        if terminated(state, tolerance):
            break
        state = step(problem, state)
    return state.u_mm, state, terminated(state, tolerance)


TRIAL_STEPS = 2


def better_start(problem: Problem, u_mm: Tensor) -> Tensor:
    """The better of a displacement and none, once both have been given a few steps.

    What a discrete search finds is rough, so its energy is told only after the solver has smoothed
    it; and it may be wrong, so it has to beat staying where the affine put everything.
    """
    if not bool(u_mm.any()):
        return u_mm
    found, found_state, _ = solve(problem, u_mm, TRIAL_STEPS, 0.0)
    still, still_state, _ = solve(problem, torch.zeros_like(u_mm), TRIAL_STEPS, 0.0)
    return found if found_state.energy < still_state.energy else still


def level_history(
    state: State, spacing_mm: tuple[float, ...], voxels: int, converged: bool
) -> LevelHistory:
    """What the solver did, for the record."""
    similarity, overlap, smoothness = zip(*state.history, strict=True)
    return LevelHistory(spacing_mm, voxels, similarity, overlap, smoothness, converged)
