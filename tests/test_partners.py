"""Region pairs that cannot be one anatomy are dissolved; those that can are kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from iterreg import Grid, Image, LabelMap, Registration, load_run, optimize_pair
from iterreg.labels import dissolve

NAMES = {1: "soft tissue", 2: "left lung", 3: "right lung", 4: "airways"}
AXES = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
VOXEL_MM = 4.0
QUICK = {"levels.spacing_mm": [8.0], "levels.steps": [2], "start.affine": "none"}


def scan(airways: slice, slices: slice = slice(0, 40)) -> tuple[Image, LabelMap]:
    """A body of two lungs with an air-filled tube between them; only some slices of it."""
    data = np.zeros((40, 24, 30), np.int32)
    data[:, 2:-2, 2:-2] = 1
    data[4:34, 6:18, 17:26] = 2
    data[4:34, 6:18, 4:13] = 3
    data[airways, 10:14, 13:17] = 4
    texture = np.random.default_rng(0).normal(0, 30, data.shape)
    hu = np.array([-1000.0, 40.0, -750.0, -750.0, -990.0])[data] + texture
    origin = (0.0, 0.0, slices.start * VOXEL_MM)
    shape = data[slices].shape
    grid = Grid(shape, (VOXEL_MM,) * 3, origin, AXES)
    image = Image(torch.from_numpy(hu[slices]).float()[None], grid)
    return image, LabelMap(torch.from_numpy(data[slices].copy()), grid, dict(NAMES))


def register(
    fixed: tuple[Image, LabelMap], moving: tuple[Image, LabelMap], **more: Any
) -> Registration:
    """A few steps at 8 mm."""
    return optimize_pair(
        fixed[0],
        moving[0],
        fixed_labels=fixed[1],
        moving_labels=moving[1],
        overrides=QUICK | more.pop("overrides", {}),
        **more,
    )


def test_two_pieces_far_apart_are_dissolved_and_judged() -> None:
    """Two pieces of a trachea, both found wrong, 100 mm apart."""
    fixed, moving = scan(slice(32, 40)), scan(slice(0, 8))
    run = register(fixed, moving)
    assert list(run.dissolved) == ["airways"] and "within reach" in run.dissolved["airways"]
    assert any("airways" in note and "merged" in note for note in run.notes)
    assert run.fixed_labels.values == run.moving_labels.values == [1, 2, 3]
    # Between the lungs it lies in soft tissue; nothing of it becomes outside air.
    was = fixed[1].data == 4
    assert bool((run.fixed_labels.data[was] > 0).all())
    assert torch.equal(run.fixed_labels.data[~was], fixed[1].data[~was])
    # The user drew it, so it counts against the result.
    assert run.verdict.evidence.region_dice["airways"] < 0.1 and not run.status.is_ok


def test_what_is_dissolved_drives_nothing() -> None:
    fixed, moving = scan(slice(32, 40)), scan(slice(0, 8))
    run = register(fixed, moving)
    plain = [
        (image, LabelMap(dissolve(labels.data, [4]), labels.grid, labels.names))
        for image, labels in (fixed, moving)
    ]
    expected = register(*plain)
    assert torch.equal(run.transform.field.vox, expected.transform.field.vox)


def test_pieces_that_the_edges_of_the_views_cut_apart() -> None:
    """Each image shows a part of the tube that the other one does not."""
    fixed = scan(slice(2, 21), slices=slice(0, 24))
    moving = scan(slice(24, 40), slices=slice(21, 40))
    run = register(fixed, moving)
    assert run.dissolved == {"airways": "the images show different pieces of it"}


@pytest.mark.parametrize("cut", [(0, 32, 8, 40), (0, 40, 20, 40), (10, 24, 0, 40)])
def test_one_tube_in_two_views_is_kept(cut: tuple[int, ...]) -> None:
    fixed = scan(slice(10, 40), slices=slice(cut[0], cut[1]))
    moving = scan(slice(10, 40), slices=slice(cut[2], cut[3]))
    assert register(fixed, moving).dissolved == {}


def test_a_region_cannot_grow_without_limit() -> None:
    fixed, moving = scan(slice(20, 40)), scan(slice(20, 40))
    small = fixed[1].data.clone()
    small[fixed[1].data == 4] = 1
    small[30, 11:13, 14:16] = 4
    run = register((fixed[0], LabelMap(small, fixed[1].grid, dict(NAMES))), moving)
    assert list(run.dissolved) == ["airways"] and "factor of 80" in run.dissolved["airways"]


def test_a_wrong_affine_dissolves_nothing() -> None:
    """Where most regions cannot correspond, the regions are not what is wrong."""
    fixed, moving = scan(slice(32, 40)), scan(slice(32, 40))
    names = {1: "a", 2: "b"}
    first, second = (torch.zeros_like(fixed[1].data) for _ in range(2))
    first[:4, 3:9], first[:4, 12:18], second[36:, 3:9], second[36:, 12:18] = 1, 2, 1, 2
    run = register(
        (fixed[0], LabelMap(first, fixed[1].grid, names)),
        (moving[0], LabelMap(second, moving[1].grid, names)),
        preset="general",
    )
    assert run.dissolved == {} and run.fixed_labels.values == [1, 2]


def test_what_is_large_is_not_found_in_the_wrong_place() -> None:
    """A lung that cannot correspond means that the images do not lie on each other."""
    fixed, moving = scan(slice(10, 40)), scan(slice(10, 40))
    data = moving[1].data.clone()
    data[data == 2] = 1
    data[:4, 2:-2, 2:-2] = 2
    assert float((fixed[1].data == 2).float().mean()) > 0.05
    run = register(fixed, (moving[0], LabelMap(data, moving[1].grid, dict(NAMES))))
    assert run.dissolved == {} and not run.status.is_ok


def test_a_rigid_region_stays() -> None:
    run = register(scan(slice(32, 40)), scan(slice(0, 8)), overrides={"rigid": ["airways"]})
    assert run.dissolved == {}


def test_it_is_written_and_read_again(tmp_path: Any) -> None:
    run = register(scan(slice(32, 40)), scan(slice(0, 8)))
    folder = run.save(tmp_path / "out", report=False)
    again = load_run(folder, fixed=run.fixed, moving=run.moving)
    assert again.dissolved == run.dissolved and again.fixed_labels.values == [1, 2, 3]
