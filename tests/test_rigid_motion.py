"""The six numbers of a couch shift: against SimpleITK, and found again by ``--rigid-first``."""

from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk

from iterreg import RigidMotion
from iterreg.errors import TransformError
from iterreg.rigid_motion import stretch

CENTRE = (12.0, -30.0, 44.0)
SHIFT, TURNS = (14.0, -6.0, 9.0), (1.5, -2.0, 6.0)


def test_it_is_the_rigid_transform_of_itk() -> None:
    turns = [math.radians(angle) for angle in TURNS]
    itk = sitk.Euler3DTransform(CENTRE, *turns, SHIFT)
    itk.SetComputeZYX(True)
    matrix = RigidMotion(SHIFT, TURNS, CENTRE).matrix_lps
    for point in ((0.0, 0.0, 0.0), CENTRE, (100.0, -50.0, 20.0)):
        assert matrix[:3] @ [*point, 1] == pytest.approx(itk.TransformPoint(point), abs=1e-9)


@pytest.mark.parametrize("centre", [CENTRE, (0.0, 0.0, 0.0)])
def test_a_matrix_gives_its_numbers_back(centre: tuple[float, ...]) -> None:
    matrix = RigidMotion(SHIFT, TURNS, CENTRE).matrix_lps
    found = RigidMotion.of(matrix, centre)
    assert found.rotation_deg == pytest.approx(TURNS)
    assert found.matrix_lps == pytest.approx(matrix)
    assert (found.translation_mm == pytest.approx(SHIFT)) == (centre == CENTRE)


def test_a_picture_has_one_turn() -> None:
    motion = RigidMotion((3.0, -1.0), (30.0,), (5.0, 6.0))
    assert motion.matrix_lps[:2] @ [5, 6, 1] == pytest.approx([8, 5])
    assert motion.matrix_lps[1, 0] == pytest.approx(0.5)
    assert RigidMotion.of(motion.matrix_lps, (5.0, 6.0)).rotation_deg == pytest.approx((30.0,))
    assert motion.words == "x +3.0, y -1.0 mm; turned z +30.0 deg about (5.0, 6.0)"


def test_what_is_not_rigid_is_refused() -> None:
    with pytest.raises(TransformError, match=r"stretches by 0\.02"):
        RigidMotion.of(np.diag([1.0, 1.02, 1.0, 1.0]), CENTRE)
    with pytest.raises(TransformError, match="expected 3 coordinates, got 2"):
        RigidMotion.of(np.eye(4), (0.0, 0.0))
    assert stretch(np.diag([1.0, 1.0, -1.0, 1.0])) >= 2
