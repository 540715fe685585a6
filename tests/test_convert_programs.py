"""What ``iterreg convert`` writes for other programs, read back by nitransforms and fslpy."""

from __future__ import annotations

from pathlib import Path

import nibabel
import nitransforms.io.fsl
import nitransforms.io.itk
import numpy as np
import pytest
from click.testing import CliRunner, Result
from fsl.data.image import Image as FslImage
from fsl.transform.fnirt import readFnirt
from nibabel.affines import apply_affine
from nitransforms.nonlinear import DenseFieldTransform
from programs import RAS_LPS, Array, affine_ras, image_of, points_ras, smooth_ras, write_points_csv

from iterreg.cli import iterreg
from iterreg.displacement import Transform
from iterreg.errors import ExitCode
from iterreg.formats import TRANSFORM_FORMATS, WRITTEN
from iterreg.formats.itk import write_transform
from iterreg.formats.vectors import field_of_targets
from iterreg.io import grid_of_file, read_points

PAIRS = [("RAS", "RAS"), ("LAS", "LAS"), ("RAS", "LAS"), ("LPS", "PIR"), ("PIR", "RAS")]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(iterreg, [str(a) for a in arguments])


@pytest.fixture(params=PAIRS, ids="-".join)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """Two images with other axes, sizes and spacings."""
    fixed = image_of(tmp_path, "fixed", request.param[0])
    return fixed, image_of(tmp_path, "moving", request.param[1], (15, 11, 9), (2.0, 3.0, 4.5))


def truth(fixed: Path, ras: Array) -> Array:
    """Where the transform of :func:`transform_file` takes voxel centres, RAS mm."""
    index = np.rint(apply_affine(np.linalg.inv(nibabel.load(fixed).affine), ras)).astype(int)
    return apply_affine(affine_ras(), ras + smooth_ras(fixed)[tuple(index.T)])


def transform_file(folder: Path, fixed: Path) -> Path:
    """An affine after a smooth field, in ITK's form."""
    grid, u = grid_of_file(fixed), smooth_ras(fixed) * RAS_LPS
    field = field_of_targets(grid, lambda k, at: at + u[:, :, k].transpose(1, 0, 2).reshape(-1, 3))
    flip = np.diag([*RAS_LPS, 1.0])
    write_transform(Transform(flip @ affine_ras() @ flip, field), folder / "given.h5")
    return folder / "given.h5"


def converted(folder: Path, pair: tuple[Path, Path], to: str, name: str = "out.nii.gz") -> Path:
    fixed, moving = pair
    given = (
        "convert",
        "--transform",
        transform_file(folder, fixed),
        "--fixed",
        fixed,
        "--moving",
        moving,
    )
    result = run(*given, "--to", to, "--out", folder / name)
    assert result.exit_code == 0, result.output
    return folder / name


@pytest.mark.parametrize(("to", "is_deltas"), [("niftyreg", False), ("ras", True)])
@pytest.mark.parametrize("name", ["out.nii.gz", "out.nii"])
def test_positions_and_displacements_in_ras(
    tmp_path: Path, pair: tuple[Path, Path], to: str, is_deltas: bool, name: str
) -> None:
    path = converted(tmp_path, pair, to, name)
    ras = points_ras(pair[0])
    oracle = DenseFieldTransform(path, is_deltas=is_deltas)
    np.testing.assert_allclose(oracle.map(ras), truth(pair[0], ras), atol=1e-3)
    header = nibabel.load(path).header
    assert header["qform_code"] == header["sform_code"] == 1
    marks = (header["intent_name"].item(), float(header["intent_p1"]), int(header["intent_code"]))
    assert marks == ((b"NREG_TRANS", 0.0, 1007) if to == "niftyreg" else (b"", 0.0, 1006))


def test_itks_field(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    path = converted(tmp_path, pair, "itk")
    image = nitransforms.io.itk.ITKDisplacementsField.from_image(nibabel.load(path))
    ras = points_ras(pair[0])
    oracle = DenseFieldTransform(image, is_deltas=True)
    np.testing.assert_allclose(oracle.map(ras), truth(pair[0], ras), atol=1e-3)


def test_fsls_field(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    path = converted(tmp_path, pair, "fsl")
    fixed, moving = pair
    ras = points_ras(fixed)
    field = readFnirt(str(path), FslImage(str(moving)), FslImage(str(fixed)))
    assert field.deformationType == "relative"
    found = field.transform(ras, "world", "world")
    inside = np.isfinite(found).all(1)
    assert inside.mean() > 0.8
    np.testing.assert_allclose(found[inside], truth(fixed, ras)[inside], atol=1e-3)
    assert int(nibabel.load(path).header["intent_code"]) == 2006


@pytest.mark.parametrize("axes", ["RAS", "LAS"])
def test_fsls_field_on_one_grid_by_nitransforms(tmp_path: Path, axes: str) -> None:
    """nitransforms knows FSL's fields between images of one grid whose axes are R, A and S."""
    fixed = image_of(tmp_path, "fixed", axes)
    path = converted(tmp_path, (fixed, fixed), "fsl")
    image = nitransforms.io.fsl.FSLDisplacementsField.from_image(nibabel.load(path))
    ras = points_ras(fixed)
    oracle = DenseFieldTransform(image, is_deltas=True)
    np.testing.assert_allclose(oracle.map(ras), truth(fixed, ras), atol=1e-3)


@pytest.mark.parametrize("to", WRITTEN)
def test_what_is_written_is_known_again(tmp_path: Path, pair: tuple[Path, Path], to: str) -> None:
    path = converted(tmp_path, pair, to)
    fixed, moving = pair
    images = "--fixed", fixed, "--moving", moving
    own = ("--source", moving, "--reference", fixed) if to == "fsl" else ()
    result = run("convert", "--transform", path, *images, *own, "--out", tmp_path / "back.h5")
    assert result.exit_code == 0, result.output
    assert f"read: {TRANSFORM_FORMATS[to].meaning}" in result.stdout
    ras = points_ras(fixed)
    points, out = write_points_csv(tmp_path / "p.csv", ras), tmp_path / "o.csv"
    given = "--transform", tmp_path / "back.h5", "--points", points, "--out", out
    assert run("apply", *given).exit_code == 0
    np.testing.assert_allclose(read_points(out).lps * RAS_LPS, truth(fixed, ras), atol=2e-3)


@pytest.mark.parametrize("to", WRITTEN)
def test_equal_transforms_are_equal_files(tmp_path: Path, to: str) -> None:
    fixed = image_of(tmp_path, "fixed", "LPS")
    first = converted(tmp_path, (fixed, fixed), to, "a.nii.gz").read_bytes()
    assert converted(tmp_path, (fixed, fixed), to, "b.nii.gz").read_bytes() == first


def test_a_linear_transform_is_inverted_exactly(tmp_path: Path) -> None:
    fixed = image_of(tmp_path, "fixed", "LPS")
    (tmp_path / "a.1D").write_text("1 0 0 12 0 1 0 -8 0 0 1 4\n")
    images = "--fixed", fixed, "--moving", fixed
    given = "--transform", tmp_path / "a.1D", *images, "--direction", "moving-to-fixed"
    assert run("convert", *given, "--out", tmp_path / "b.h5").exit_code == 0
    (tmp_path / "p.csv").write_text("x,y,z\n-48,2,-16\n")
    out = tmp_path / "o.csv"
    field = "--transform", tmp_path / "b.h5", "--points", tmp_path / "p.csv", "--out", out
    result = run("apply", *field)
    assert result.exit_code == ExitCode.GEOMETRY  # the point lies outside the small image
    (tmp_path / "p.csv").write_text("x,y,z\n-7,11,5\n")
    assert run("apply", *field).exit_code == 0
    np.testing.assert_allclose(read_points(out).lps, [[-19, 19, 1]], atol=1e-4)


def test_formats_for_volumes_refuse_pictures(tmp_path: Path) -> None:
    import SimpleITK as sitk

    sitk.WriteImage(sitk.Image(8, 9, sitk.sitkUInt8), str(tmp_path / "flat.nii"))
    sitk.WriteTransform(sitk.TranslationTransform(2, (1, 2)), str(tmp_path / "t.tfm"))
    images = "--fixed", tmp_path / "flat.nii", "--moving", tmp_path / "flat.nii"
    deep = image_of(tmp_path, "deep", "LPS")
    mixed = "--fixed", tmp_path / "flat.nii", "--moving", deep, "--out", tmp_path / "o.h5"
    result = run("convert", "--transform", tmp_path / "t.tfm", *mixed)
    assert result.exit_code == ExitCode.GEOMETRY
    assert "deep.nii.gz: expected rank 2 as" in result.stderr
    for to in ("fsl", "niftyreg", "ras", "learn2reg"):
        out = tmp_path / ("o.nii.gz" if to == "learn2reg" else "o.nii")
        given = "--transform", tmp_path / "t.tfm", *images, "--to", to, "--out", out
        result = run("convert", *given)
        assert result.exit_code == ExitCode.OUTPUT, result.output
        assert "expected 3-D images for this format" in result.stderr
        assert not out.exists()


def test_fsl_needs_its_own_two_images(tmp_path: Path) -> None:
    fixed = image_of(tmp_path, "fixed", "LPS")
    np.savetxt(tmp_path / "flirt.mat", np.eye(4))
    given = "--transform", tmp_path / "flirt.mat", "--fixed", fixed, "--moving", fixed
    result = run("convert", *given, "--out", tmp_path / "o.h5")
    assert result.exit_code == ExitCode.TRANSFORM
    assert "add --source (flirt -in) and --reference (flirt -ref)" in result.stderr
    own = "--source", fixed, "--reference", fixed
    assert run("convert", *given, *own, "--out", tmp_path / "o.h5").exit_code == 0


def test_a_learn2reg_field_is_applied_between_its_images(
    tmp_path: Path, pair: tuple[Path, Path]
) -> None:
    path = converted(tmp_path, pair, "learn2reg", "disp.npz")
    fixed, moving = pair
    ras = points_ras(fixed)
    points, out = write_points_csv(tmp_path / "p.csv", ras), tmp_path / "o.csv"
    given = "apply", "--transform", path, "--points", points, "--out", out
    refused = run(*given)
    assert refused.exit_code == ExitCode.TRANSFORM
    assert "add --source (the moving image) and --reference (the fixed image)" in refused.stderr
    assert run(*given, "--source", moving, "--reference", fixed).exit_code == 0
    np.testing.assert_allclose(read_points(out).lps * RAS_LPS, truth(fixed, ras), atol=2e-3)
