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
from iterreg.errors import DeviceError, ExitCode, GeometryError

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


def misled() -> tuple[Pair, dict[str, object]]:
    """Coarse structure that moves and fine structure that does not: the last level is misled."""
    pair = Pair.of(World(slide_mm=0.0))
    sides = {}
    for side, shift in (("fixed", 0.0), ("moving", 5.0)):
        image = pair.images[side]
        x = ((places_lps(image.grid) - CENTRE_MM[3]) @ AXES)[..., 0]
        coarse = np.cos((x - shift) / 6.0) + np.cos((x - shift) / 9.0)
        data = torch.from_numpy(coarse + 3.0 * np.cos(2 * np.pi * x / 4.0))
        sides[side] = replace(image, data=100 * data.float().unsqueeze(0))
    levels = {"levels.spacing_mm": [4.0, 1.0], "levels.steps": [20, 1]}
    return replace(pair, **sides), INTENSITIES | levels


def crossing() -> tuple[Pair, dict[str, object], dict[str, Points]]:
    """Two landmarks that want to change places: what lies between them folds."""
    pair = Pair.of(World(slide_mm=0.0))
    points = CENTRE_MM[3] + np.stack((2.0 * AXES[:, 0], -2.0 * AXES[:, 0]))
    settings = LOCAL | ONE_LEVEL | {"similarity.weight": 0.0, "landmarks.weight": 100.0}
    landmarks = {"fixed_landmarks": Points(points), "moving_landmarks": Points(points[::-1])}
    return pair, settings | {"landmarks.radius_mm": 1.0}, landmarks


def kinds(found: Registration) -> set[str]:
    """What the verdict complains of."""
    return {reason.kind.value for reason in found.verdict.reasons}


def test_folds_inside_a_region_are_repaired_or_told(monkeypatch):
    pair, settings, landmarks = crossing()
    assert "folds" not in kinds(run(pair, settings, **landmarks))
    monkeypatch.setattr("iterreg.optimize.repair.ROUNDS", 0)
    found = run(pair, settings, **landmarks)
    assert "folds" in kinds(found) and not found.status.is_ok


def test_what_is_worse_than_its_start_says_so():
    pair, settings = misled()
    found = run(pair, settings)
    assert "start" in kinds(found) and not found.status.is_ok
    longer = run(pair, settings | {"levels.spacing_mm": [1.0, 1.0]})
    assert "start" not in kinds(longer), "at full resolution alone nothing misleads"


def command(folder: Path, pair: Pair, settings: dict[str, object], *more: object) -> str:
    """Register by command; what it printed."""
    paths = save(folder, **pair.images)
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    images = [part for side, path in paths.items() for part in (f"--{side}", path)]
    out = ("--out", folder / "out", "--device", "cpu")
    given = ["register", "--preset", "general", *images, *out, *sets, *more]
    result = CliRunner().invoke(iterreg, [str(part) for part in given])
    assert result.exit_code in (ExitCode.DOUBTFUL, ExitCode.FAILED), result.output
    return result.stdout


def test_the_command_tells_that_a_result_is_worse_than_its_start(tmp_path):
    printed = command(tmp_path, *misled())
    verdict = json.loads((tmp_path / "out" / "run.json").read_text())["verdict"]
    assert verdict["status"] in printed.splitlines()[0]
    (reason,) = [r for r in verdict["reasons"] if r["kind"] == "start"]
    assert reason["message"] in printed and reason["advice"] in printed


def test_the_command_tells_that_folds_remain(tmp_path, monkeypatch):
    monkeypatch.setattr("iterreg.optimize.repair.ROUNDS", 0)
    pair, settings, landmarks = crossing()
    given = []
    for name, points in landmarks.items():
        path = tmp_path / f"{name}.csv"
        rows = [",".join(map(repr, row)) for row in points.lps.tolist()]
        path.write_text("\n".join(["x,y,z", *rows]) + "\n")
        given += [f"--{name.replace('_', '-')}", path]
    printed = command(tmp_path, pair, settings, *given)
    written = json.loads((tmp_path / "out" / "run.json").read_text())
    assert written["measures"]["folding"]["interior_folds"] > 0
    (reason,) = [r for r in written["verdict"]["reasons"] if r["kind"] == "folds"]
    assert reason["message"] in printed


# What it records ------------------------------------------------------------------------------


def test_device_threads_and_seed_are_used_and_recorded(monkeypatch):
    pair = Pair.of(World(slide_mm=0.0))
    quick = INTENSITIES | ONE_LEVEL | {"levels.steps": [1]}
    before, inside = torch.get_num_threads(), []
    found = run(
        pair,
        quick,
        seed=7,
        threads=1,
        progress=lambda event: inside.append((torch.get_num_threads(), torch.initial_seed())),
    )
    assert (found.device, found.seed, found.threads) == ("cpu", 7, 1)
    assert set(inside) == {(1, 7)}
    assert torch.get_num_threads() == before, "the caller's number is put back"
    with pytest.raises(DeviceError):
        run(pair, quick, device="cuda:99")


def test_every_device_finds_the_same(device):
    pair = Pair.of(World())
    on_cpu, there = (run(pair, INTENSITIES, device=d) for d in ("cpu", device.type))
    assert there.device.startswith(device.type)
    assert np.abs(moved_mm(on_cpu) - moved_mm(there)).max() < 0.05


def test_the_unguided_similarity_is_for_pairs_without_regions():
    pair = Pair.of(World(slide_mm=0.0, shift_mm=(1.5, 0.0, 0.0)))
    quick = LOCAL | ONE_LEVEL | {"levels.steps": [3]}

    def cardiac(settings: dict[str, object], **labels: object) -> Registration:
        return optimize_pair(
            **pair.images, **labels, preset="cardiac", overrides=quick | settings, device="cpu"
        )

    alone, guided = cardiac({}), cardiac({}, **pair.labels)
    assert (alone.config.similarity.kind, guided.config.similarity.kind) == ("mse", "mind")
    assert alone.notes and not guided.notes
    same = cardiac({"similarity.kind": "mse", "similarity.weight": 20.0})
    other = cardiac({"similarity.kind": "mind"})
    assert np.array_equal(moved_mm(alone), moved_mm(same)) and not same.notes
    assert not np.array_equal(moved_mm(alone), moved_mm(other))


# Another order of axes ------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_the_order_and_direction_of_stored_axes_change_nothing(reorient, side):
    """The same voxels of three lengths, stored with other axes, two of them reversed."""
    pair = Pair.of(World(slide_mm=0.0, shift_mm=(1.5, -1.0, 0.8)))
    stored = replace(pair, **{side: reorient(pair.images[side], (2, 0, 1), (True, False, True))})
    quick = INTENSITIES | {"levels.spacing_mm": [2.0], "levels.steps": [4]}
    places = places_lps(FIXED)[inner(FIXED.shape_zyx)]
    first, second = (
        run(either, quick).transform.map_points(Points(places)).lps for either in (pair, stored)
    )
    assert np.linalg.norm(first - places - pair.world.motion_mm(2), axis=1).mean() < 0.5
    assert np.abs(first - second).max() < 0.01


# Pictures and single slices -------------------------------------------------------------------


def test_a_picture_slides_too():
    pair = Pair.of(World(rank=2))
    settings = INTENSITIES | {"smoothness.sliding": [["lower*", "*"]], "levels.steps": [8, 8, 8]}
    found = run(pair, settings, **pair.labels)
    assert moved_mm(found).shape == (*fixed_grid(2).shape_zyx, 2)
    assert error_mm(found, pair) < 0.6


@pytest.mark.parametrize("kind", ["none", "affine"])
def test_a_volume_of_one_slice_moves_in_its_plane(kind):
    """The slice is oblique in space; along its normal nothing moves."""
    picture = Pair.of(World(rank=2, slide_mm=0.0, shift_mm=(1.5, 1.0)))
    axes = rotation(20, -15, 10)
    sides = {}
    for side, image in picture.images.items():
        flat = image.grid
        plane = np.eye(3)
        plane[:2, :2] = flat.direction_lps
        turned_axes = axes @ plane
        grid = Grid(
            (1, *flat.shape_zyx),
            (*flat.spacing_xyz_mm, 4.0),
            tuple((axes @ [*flat.origin_lps_mm, 7.0]).tolist()),
            tuple(map(tuple, turned_axes.tolist())),
        )
        sides[side] = replace(image, data=image.data.unsqueeze(1), grid=grid)
    found = optimize_pair(
        **sides, preset="general", overrides=INTENSITIES | {"start.affine": kind}, device="cpu"
    )
    own = moved_mm(found)[0] @ axes
    assert np.abs(own[..., 2]).max() < 1e-3
    truth = picture.world.motion_mm(2)
    wrong = np.linalg.norm(own[..., :2] - truth, axis=-1)[inner(own.shape[:2])]
    assert wrong.mean() < 0.4


@pytest.mark.parametrize("kind", ["none", "affine"])
def test_a_slice_against_a_volume_does_not_leave_its_plane(kind):
    pair = Pair.of(World(slide_mm=0.0, shift_mm=(1.5, 1.0, 0.0)))
    middle = FIXED.shape_zyx[0] // 2
    origin = places_lps(FIXED)[middle, 0, 0]
    grid = replace(FIXED, shape_zyx=(1, *FIXED.shape_zyx[1:]), origin_lps_mm=tuple(origin.tolist()))
    thin = replace(pair.fixed, data=pair.fixed.data[:, middle : middle + 1], grid=grid)
    # One range for both: a slice and a volume differ in their percentiles.
    settings = INTENSITIES | {"start.affine": kind, "similarity.intensity_range": [-300.0, 1000.0]}
    found = run(replace(pair, fixed=thin), settings)
    own = moved_mm(found)[0] @ AXES
    assert np.abs(own[..., 2]).max() < 1e-3
    wrong = np.linalg.norm(own - [1.5, 1.0, 0.0], axis=-1)[inner(own.shape[:2])]
    assert wrong.mean() < 0.6
