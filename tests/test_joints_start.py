"""Where a registration starts, how it ends, and what it records about itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from synthetic import (
    CENTRE_MM,
    INTENSITIES,
    LOCAL,
    ONE_LEVEL,
    Pair,
    World,
    error_mm,
    fixed_grid,
    grid_around,
    inner,
    moved_mm,
    places_lps,
    rotation,
    save,
    turned,
)

from iterreg import DisplacementField, Grid, Points, Registration, Transform, optimize_pair
from iterreg.cli import iterreg
from iterreg.errors import DeviceError, GeometryError

FIXED = fixed_grid()
AXES = np.asarray(FIXED.direction_lps)


def run(pair: Pair, overrides: dict[str, object], **given: object) -> Registration:
    """Register from the general preset, on the CPU where nothing else is said."""
    return optimize_pair(
        **pair.images, preset="general", overrides=overrides, **{"device": "cpu"} | given
    )


def constant(grid: Grid, shift_lps: np.ndarray, affine_lps: np.ndarray | None = None) -> Transform:
    """A field that moves everything alike, behind an affine or none."""
    rank = grid.rank
    step = np.linalg.inv(grid.index_to_lps[:rank, :rank]) @ shift_lps
    vox = torch.from_numpy(step).float().view(-1, *[1] * rank).expand(rank, *grid.shape_zyx)
    affine = np.eye(rank + 1) if affine_lps is None else affine_lps
    return Transform(affine, DisplacementField(vox.contiguous(), grid))


# The start ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["none", "rigid"])
def test_the_affine_of_the_initial_transform_starts_the_search(kind):
    """Half a turn and 300 mm: no search finds that."""
    pair = Pair.of(World(slide_mm=0.0, shift_mm=(1.5, 0.0, 0.0)))
    by = np.eye(4)
    by[:3, :3] = rotation(170, 20, 0)
    by[:3, 3] = (300.0, -120.0, 80.0)
    far = replace(pair, moving=turned(pair.moving, by))
    with pytest.raises(GeometryError, match="initial transform"):
        run(far, INTENSITIES)
    given = Transform(by, DisplacementField.zero(FIXED))
    found = run(far, INTENSITIES | {"start.affine": kind}, initial_transform=given)
    assert found.start.startswith("given initial transform")
    places = places_lps(FIXED)[inner(FIXED.shape_zyx)]
    landed = found.transform.map_points(Points(places)).lps
    truth = (places + pair.world.motion_mm(2)) @ by[:3, :3].T + by[:3, 3]
    assert np.linalg.norm(landed - truth, axis=1).mean() < 0.5


def large(start_mm: tuple[float, float, float]) -> tuple[Pair, Transform]:
    """A pair that moved by 9 mm along x, and a start, given on a grid of its own."""
    pair = Pair.of(World(slide_mm=0.0, shift_mm=(9.0, 0.0, 0.0)))
    grid = grid_around(CENTRE_MM[3], (12, 16, 14), (5.0, 6.0, 7.0), rotation(5, 30, -40))
    return pair, constant(grid, AXES @ np.array(start_mm))


SHORT = INTENSITIES | ONE_LEVEL | {"levels.steps": [3]}
"""One level and three steps: too short to bridge 9 mm."""


def test_an_initial_field_replaces_the_search():
    pair, given = large((8.0, 0.0, 0.0))
    searching = SHORT | {"start.search_mm": 12.0, "start.affine": "affine"}
    found = run(pair, searching, initial_transform=given)
    assert found.start == "given initial transform"
    assert np.array_equal(found.transform.affine_lps, np.eye(4)), "no affine is looked for either"
    assert error_mm(found, pair) < 0.6
    assert error_mm(run(pair, SHORT), pair) > 5.0, "the start is needed"


def test_a_start_that_is_worse_than_none_is_left():
    _, wrong = large((8.0, 0.0, 0.0))
    pair = Pair.of(World(slide_mm=0.0))
    found = run(pair, SHORT, initial_transform=wrong)
    assert error_mm(found, pair) < 0.5


def test_the_search_bridges_what_the_solver_cannot():
    pair = Pair.of(World(slide_mm=0.0, shift_mm=(9.0, 0.0, 0.0)))
    local = {"levels.spacing_mm": [2.0], "levels.steps": [6]}
    errors = [
        error_mm(run(pair, INTENSITIES | local | {"start.search_mm": reach}), pair)
        for reach in (0.0, 16.0)
    ]
    assert errors[1] < 1.0 < 4.0 < errors[0]


# The solver -----------------------------------------------------------------------------------


def test_local_correlation_arrives_in_few_steps():
    """Gauss-Newton with the right curvature: a step more or less does it."""
    pair = Pair.of(World(slide_mm=0.0, shift_mm=(1.2, 0.0, 0.0)))
    settings = LOCAL | ONE_LEVEL | {"similarity.kind": "ncc", "similarity.weight": 20.0}
    found = run(pair, settings | {"levels.steps": [2], "similarity.radius_mm": [6.0]})
    print(error_mm(found, pair))
    assert error_mm(found, pair) < 0.6


@pytest.mark.parametrize("kind", ["mse", "ncc", "mind"])
def test_no_step_raises_the_energy(kind):
    """A field far from the truth, hardly held: many steps overshoot, and none of them is taken."""
    pair = Pair.of(World(slide_mm=0.0, shift_mm=(5.0, 0.0, 0.0)))
    settings = {"similarity.kind": kind, "similarity.weight": 100.0, "smoothness.weight": 0.002}
    levels = {"levels.spacing_mm": [4.0, 1.0], "levels.steps": [25, 25], "levels.tolerance": 0.0}
    found = run(pair, LOCAL | settings | levels)
    for level in found.history:
        energy = np.sum([level.similarity, level.overlap, level.smoothness], 0)
        assert np.all(np.diff(energy) < 0), np.diff(energy)


# How it ends ----------------------------------------------------------------------------------


def test_what_is_worse_than_its_start_says_so(tmp_path):
    pair, settings = misled()
    found = run(pair, settings)
    assert found.status.name == "WORSE_THAN_START" and not found.status.is_ok


def misled() -> tuple[Pair, dict[str, object]]:
    """Coarse structure that moves and fine structure that does not: the last level is misled."""
    pair = Pair.of(World(slide_mm=0.0))
    sides = {}
    for side, shift in (("fixed", 0.0), ("moving", 5.0)):
        image = pair.images[side]
        places = (places_lps(image.grid) - CENTRE_MM[3]) @ AXES
        coarse = np.cos((places[..., 0] - shift) / 6.0) + np.cos((places[..., 0] - shift) / 9.0)
        fine = 3.0 * np.cos(places[..., 0] * 2 * np.pi / 4.0)
        data = torch.from_numpy(100 * (coarse + fine)).float().unsqueeze(0)
        sides[side] = replace(image, data=data)
    levels = {"levels.spacing_mm": [4.0, 1.0], "levels.steps": [20, 1]}
    return replace(pair, **sides), INTENSITIES | levels
