"""The six numbers of a couch shift: against SimpleITK, and found again by ``--rigid-first``."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner

from iterreg import RigidMotion
from iterreg.cli import iterreg
from iterreg.errors import ExitCode, TransformError
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
    with pytest.raises(TransformError, match=r"expected 3 coordinates in mm, got \(0.0, 0.0\)"):
        RigidMotion.of(np.eye(4), (0.0, 0.0))
    with pytest.raises(TransformError, match="expected 3 coordinates in mm, got 'head'"):
        RigidMotion.of(np.eye(4), "head")
    with pytest.raises(TransformError, match=r"got \(0.0, nan, 0.0\)"):
        RigidMotion.of(np.eye(4), (0.0, math.nan, 0.0))
    assert stretch(np.diag([1.0, 1.0, -1.0, 1.0])) >= 2


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory, pair_folder: Path) -> tuple[Path, RigidMotion]:
    """A real chest CT with 4 mm voxels, and the same patient elsewhere on the couch."""
    folder = tmp_path_factory.mktemp("moved")
    image = sitk.ReadImage(str(pair_folder / "fixed.nii.gz"))
    sitk.WriteImage(image, str(folder / "fixed.nii.gz"))
    middle = [(n - 1) / 2 for n in image.GetSize()]
    centre = image.TransformContinuousIndexToPhysicalPoint(middle)
    true = RigidMotion((12.0, -5.0, 8.0), (2.0, -1.5, 3.0), centre)
    back = np.linalg.inv(true.matrix_lps)
    itk = sitk.AffineTransform(back[:3, :3].ravel().tolist(), back[:3, 3].tolist())
    pulled = sitk.Resample(image, image, itk, sitk.sitkLinear, -1000.0)
    sitk.WriteImage(pulled, str(folder / "moving.nii.gz"))
    return folder, true


def register(folder: Path, *options: str) -> tuple[dict[str, object], str]:
    """Run the command, and return run.json and what was printed."""
    result = CliRunner().invoke(
        iterreg,
        [
            *("thorax", "--fixed", str(folder / "fixed.nii.gz")),
            *("--moving", str(folder / "moving.nii.gz"), "--out", str(folder / "out")),
            *("--overwrite", *options),
        ],
    )
    assert result.exit_code in (ExitCode.OK, ExitCode.DOUBTFUL, ExitCode.FAILED), result.output
    return json.loads((folder / "out" / "run.json").read_text()), result.stdout


def test_rigid_first_finds_the_couch_shift(moved: tuple[Path, RigidMotion]) -> None:
    folder, true = moved
    isocentre = tuple(c + 10.0 for c in true.centre_lps_mm)
    tables, printed = register(
        folder, "--rigid-first", "--isocentre", *(str(c) for c in isocentre), "--no-report"
    )
    found = RigidMotion(*(tuple(v) for v in tables["rigid"].values()))  # type: ignore[attr-defined]
    expected = RigidMotion.of(true.matrix_lps, isocentre)
    assert found.centre_lps_mm == pytest.approx(isocentre)
    assert found.translation_mm == pytest.approx(expected.translation_mm, abs=0.5)
    assert found.rotation_deg == pytest.approx(expected.rotation_deg, abs=0.5)
    assert found.words in printed
    read = sitk.ReadTransform(str(folder / "out" / "rigid_transform.tfm"))
    there = found.matrix_lps[:3] @ [1.0, 2.0, 3.0, 1.0]
    assert read.TransformPoint((1.0, 2.0, 3.0)) == pytest.approx(there)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--isocentre", "0", "0", "0"], "--isocentre goes with --rigid-first"),
        (["--rigid-first", "--set", "start.affine=affine"], "contradicts --set start.affine"),
        (["--rigid-first", "--isocentre", "0", "0", "nan"], "expected a finite number"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, options: list[str], message: str) -> None:
    needed = ["--fixed", "a.nii", "--moving", "b.nii", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(iterreg, ["thorax", *needed, *options])
    assert result.exit_code == ExitCode.USAGE and message in result.output
