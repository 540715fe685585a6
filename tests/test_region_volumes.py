"""Volumes of regions, and the surfaces of volumes of one slice."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from iterreg.displacement import DisplacementField, Transform
from iterreg.evaluation import measure
from iterreg.evaluation.tables import text_of
from iterreg.geometry import Grid
from iterreg.image import LabelMap
from iterreg.metrics import hd95_mm, surface_distance_by_label
from iterreg.report.words import amount

GRID = Grid((24, 24, 24), (2.0, 2.0, 2.0), (0.0,) * 3, tuple(map(tuple, np.eye(3).tolist())))


def ball(radius: float, centre: float = 11.5) -> LabelMap:
    """A ball, in voxels."""
    z, y, x = np.indices(GRID.shape_zyx) - centre
    inside = np.sqrt(z**2 + y**2 + x**2) < radius
    return LabelMap(torch.from_numpy(inside.astype(np.int32)), GRID, {1: "ball"})


def scaled(factor: float) -> Transform:
    """Fixed points move away from the middle of the grid by a factor."""
    middle = torch.tensor([11.5] * 3).view(3, 1, 1, 1)
    index = torch.stack(torch.meshgrid(*[torch.arange(24.0)] * 3, indexing="ij"))
    return Transform(np.eye(4), DisplacementField((factor - 1) * (index - middle), GRID))


def test_a_region_that_meets_its_partner_has_its_volume() -> None:
    fixed, moving = ball(5.0), ball(8.0)
    measures = measure(scaled(1.6), fixed, moving)
    region = measures.regions[0]
    assert region.volume_change == pytest.approx(1.6**3, rel=0.01)
    assert region.volume_partner == region.voxels_moving / region.voxels_fixed
    assert region.volume_change == pytest.approx(region.volume_partner, rel=0.05)
    assert region.voxels_warped == pytest.approx(region.voxels_fixed, rel=0.1)
    assert measures.notes == ()
    assert f"x {region.volume_partner:.3f}" in text_of(measures)


@pytest.mark.parametrize("factor", [0.6, 1.4])
def test_a_region_that_does_not_is_named(factor: float) -> None:
    both = ball(7.0), ball(7.0)
    (note,) = measure(scaled(factor), *both).notes
    assert note.startswith(f"ball: mapped, it has {factor**3:.2f} times its partner's volume")
    assert note in str(measure(scaled(factor), *both))


def test_a_region_that_its_image_cuts_is_not_named() -> None:
    both = ball(7.0, centre=4.0), ball(7.0, centre=4.0)
    assert measure(scaled(0.6), *both).notes == ()
    seen = torch.ones(GRID.shape_zyx, dtype=torch.bool)
    seen[:8] = False
    assert measure(scaled(0.6), ball(7.0), ball(7.0), fovs=(seen, None)).notes == ()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_one_slice_is_measured_as_a_picture(axis: int) -> None:
    square, other = torch.zeros(30, 30, dtype=torch.int32), torch.zeros(30, 30, dtype=torch.int32)
    square[5:25, 5:25] = 1
    other[5:25, 5:22] = 1
    picture = surface_distance_by_label(square, other, [1], (1.0, 1.5))[1]
    spacing = [1.0, 1.5]
    spacing.insert(axis, 4.0)
    slices = square.unsqueeze(axis), other.unsqueeze(axis)
    assert surface_distance_by_label(*slices, [1], spacing)[1] == picture
    assert hd95_mm(slices[0] > 0, slices[1] > 0, spacing) == picture.hd95_mm == 4.5


def test_small_volumes_keep_their_digits() -> None:
    assert [amount(v, "ml") for v in (0.012345, 0.5, 9.876, 98.76, 987.6, 9876.5)] == [
        "0.0123 ml",
        "0.500 ml",
        "9.88 ml",
        "98.8 ml",
        "988 ml",
        "9876 ml",
    ]
    assert amount(None, "ml") == "not measured"
