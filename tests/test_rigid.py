"""A rigid region keeps its shape, its surroundings make room, and nothing folds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import iterreg
from iterreg import Points, Registration, optimize_pair, read_image, read_label_map
from iterreg.displacement import total_displacement_vox
from iterreg.errors import ConfigError
from iterreg.geometry import Grid, apply_affine
from iterreg.image import LabelMap
from iterreg.metrics import folding, folding_mask
from iterreg.optimize.field import Field
from iterreg.optimize.pair import Interfaces
from iterreg.optimize.repair import repair_folds
from iterreg.optimize.side import Side

MINI = Path(iterreg.__file__).parent / "data" / "thorax4dct_mini"
NAMES = {1: "soft tissue", 2: "lung", 3: "bone"}


def labels(side: str) -> LabelMap:
    return read_label_map(MINI / f"{side}_labels.nii.gz", NAMES)


def register(*rigid: str) -> Registration:
    return optimize_pair(
        read_image(MINI / "fixed.nii.gz"),
        read_image(MINI / "moving.nii.gz"),
        device="cpu",
        fixed_labels=labels("fixed"),
        moving_labels=labels("moving"),
        overrides={"rigid": list(rigid)},
    )


def bending_mm(run: Registration, value: int) -> float:
    """Most that a distance between two points of a region changes."""
    index = run.fixed_labels.mask(value).nonzero().double().numpy()
    before = apply_affine(run.fixed_labels.grid.index_to_lps, index)
    after = run.transform.map_points(Points(before)).lps
    a, b = np.random.default_rng(0).integers(0, len(index), (2, 2000))
    apart = [np.linalg.norm(points[a] - points[b], axis=1) for points in (before, after)]
    return float(np.abs(apart[1] - apart[0]).max())


def test_a_rigid_region_keeps_its_shape():
    run = register("bone")
    assert bending_mm(run, 3) < 1e-3
    assert bending_mm(run, 2) > 5.0
    total = total_displacement_vox(run.transform)
    assert folding(total, run.fixed_labels.data).interior_folds == 0
    moved = total[:, run.fixed_labels.mask(3)]
    assert float(moved.abs().max()) > 0.01


def test_a_name_that_no_region_has_is_refused():
    with pytest.raises(ConfigError, match=r"rigid: .*soft tissue, lung, bone.*, got femur"):
        register("femur")


def test_the_folds_around_a_rigid_region_are_repaired_with_it_in_place():
    """A cube that jumps by two voxels folds its surroundings; the repair must not move the cube."""
    shape = (20, 20, 20)
    grid = Grid(shape, (2.0, 2.0, 2.0), (0.0, 0.0, 0.0), tuple(map(tuple, np.eye(3).tolist())))
    labels = torch.zeros(shape, dtype=torch.int32)
    labels[7:13, 7:13, 7:13] = 1
    side = Side(torch.zeros(1, *shape), labels, torch.ones(shape, dtype=torch.bool), grid)
    u_mm = torch.zeros(3, *shape)
    u_mm[0, 7:13, 7:13, 7:13] = 4.0
    cube = labels == 1
    field, left = repair_folds(Field(u_mm.clone(), side), Interfaces.glued(2), cube)
    assert torch.equal(field.u_mm[:, cube], u_mm[:, cube])
    assert left == 0 and int(folding_mask(field.u_mm / 2.0).sum()) == 0
