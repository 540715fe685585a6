"""``iterreg convert``: ITK's field and composite, Learn2Reg's field, either direction."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner, Result
from scipy.ndimage import gaussian_filter

from iterreg.cli import iterreg
from iterreg.displacement import Transform
from iterreg.formats import TRANSFORM_FORMATS, WRITTEN
from iterreg.formats.convert import Images, TransformFile, convert_transform
from iterreg.formats.loaded import Loaded
from iterreg.formats.types import Sides, TransformFormat
from iterreg.geometry import Grid


def run(*arguments: object) -> Result:
    """The command."""
    return CliRunner().invoke(iterreg, ["convert", *(str(a) for a in arguments)])


@pytest.fixture
def images(tmp_path: Path) -> tuple[Path, Path]:
    """Fixed and moving with other shapes, spacings and axes; one of them flipped."""
    fixed = sitk.Image(18, 16, 14, sitk.sitkFloat32)
    fixed.SetSpacing((1.0, 1.5, 2.0))
    fixed.SetOrigin((-8.0, -10.0, -12.0))
    moving = sitk.Image(20, 22, 15, sitk.sitkFloat32)
    moving.SetSpacing((1.2, 1.1, 1.9))
    moving.SetDirection((-1, 0, 0, 0, 1, 0, 0, 0, 1))
    moving.SetOrigin((12.0, -11.0, -13.0))
    paths = (tmp_path / "fixed.nii.gz", tmp_path / "moving.nii.gz")
    for image, path in zip((fixed, moving), paths, strict=True):
        sitk.WriteImage(image, str(path))
    return paths


def itk_field(path: Path, reference: Path, size: float = 1.0) -> sitk.DisplacementFieldTransform:
    """A smooth field of some millimetres on an image's grid, written as ITK writes it."""
    grid = sitk.ReadImage(str(reference))
    shape = tuple(reversed(grid.GetSize()))
    noise = np.random.default_rng(0).normal(size=(3, *shape))
    smooth = np.stack([gaussian_filter(c, 3) for c in noise])
    vectors = np.moveaxis(smooth / smooth.std() * size, 0, -1)
    image = sitk.GetImageFromArray(vectors.astype(np.float64), isVector=True)
    image.CopyInformation(grid)
    sitk.WriteImage(image, str(path))
    return sitk.DisplacementFieldTransform(image)


def voxels(path: Path, count: int = 25) -> list[tuple[int, ...]]:
    """Some voxels of an image, nibabel's order."""
    shape = sitk.ReadImage(str(path)).GetSize()
    chosen = np.random.default_rng(1).integers(0, shape, (count, 3))
    return [tuple(int(i) for i in index) for index in chosen]


def test_itk_to_learn2reg_by_the_definition(images: tuple[Path, Path], tmp_path: Path) -> None:
    fixed, moving = images
    transform = itk_field(tmp_path / "u.nii.gz", fixed)
    out = tmp_path / "disp.nii.gz"
    result = run(
        "--transform",
        tmp_path / "u.nii.gz",
        "--fixed",
        fixed,
        "--moving",
        moving,
        "--to",
        "learn2reg",
        "--out",
        out,
    )
    assert result.exit_code == 0, result.output
    assert "fixed to moving, on the grid of fixed.nii.gz" in result.stdout
    assert "moving index minus fixed index" in result.stdout
    d = np.asarray(nibabel.load(out).dataobj)
    a, b = sitk.ReadImage(str(fixed)), sitk.ReadImage(str(moving))
    for index in voxels(fixed):
        lands = transform.TransformPoint(a.TransformIndexToPhysicalPoint(index))
        expected = np.subtract(b.TransformPhysicalPointToContinuousIndex(lands), index)
        np.testing.assert_allclose(d[index], expected, atol=1e-4)


@pytest.mark.parametrize("last", ["back.nii.gz", "back.mha", "back.h5", "back.tfm"])
def test_there_and_back(images: tuple[Path, Path], tmp_path: Path, last: str) -> None:
    fixed, moving = images
    transform = itk_field(tmp_path / "u.nrrd", fixed)
    first = run(
        "--transform",
        tmp_path / "u.nrrd",
        "--fixed",
        fixed,
        "--moving",
        moving,
        "--out",
        tmp_path / "disp.npz",
    )
    assert first.exit_code == 0, first.output
    second = run(
        "--transform",
        tmp_path / "disp.npz",
        "--fixed",
        fixed,
        "--moving",
        moving,
        "--out",
        tmp_path / last,
        "--to",
        "itk",
    )
    assert second.exit_code == 0, second.output
    if last.endswith((".h5", ".tfm")):
        back = sitk.ReadTransform(str(tmp_path / last))
    else:
        field = sitk.ReadImage(str(tmp_path / last), sitk.sitkVectorFloat64)
        back = sitk.DisplacementFieldTransform(field)
    a = sitk.ReadImage(str(fixed))
    for index in voxels(fixed):
        point = a.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(
            back.TransformPoint(point), transform.TransformPoint(point), atol=1e-4
        )


def test_a_composite_becomes_its_total(images: tuple[Path, Path], tmp_path: Path) -> None:
    fixed, moving = images
    field = itk_field(tmp_path / "u.nrrd", fixed)
    affine = sitk.AffineTransform(3)
    affine.Rotate(0, 1, 0.05)
    affine.SetTranslation((2.0, -1.0, 0.5))
    composite = sitk.CompositeTransform([affine, field])
    sitk.WriteTransform(composite, str(tmp_path / "t.h5"))
    result = run(
        "--transform",
        tmp_path / "t.h5",
        "--fixed",
        fixed,
        "--moving",
        moving,
        "--out",
        tmp_path / "disp.npz",
    )
    assert result.exit_code == 0, result.output
    with np.load(tmp_path / "disp.npz") as arrays:
        d = arrays[arrays.files[0]]
    a, b = sitk.ReadImage(str(fixed)), sitk.ReadImage(str(moving))
    for index in voxels(fixed):
        lands = composite.TransformPoint(a.TransformIndexToPhysicalPoint(index))
        ours = b.TransformContinuousIndexToPhysicalPoint((index + d[index]).astype(float).tolist())
        np.testing.assert_allclose(ours, lands, atol=1e-3)


def test_the_other_direction_is_inverted(images: tuple[Path, Path], tmp_path: Path) -> None:
    """A peer whose field takes moving points to fixed ones, on the moving grid."""
    fixed, moving = images
    backward = itk_field(tmp_path / "v.nrrd", moving, size=0.8)
    result = run(
        "--transform",
        tmp_path / "v.nrrd",
        "--fixed",
        fixed,
        "--moving",
        moving,
        "--direction",
        "moving-to-fixed",
        "--out",
        tmp_path / "t.h5",
    )
    assert result.exit_code == 0, result.output
    assert "moving to fixed" in result.stdout
    assert "inverted" in result.stdout
    forward = sitk.ReadTransform(str(tmp_path / "t.h5"))
    a = sitk.ReadImage(str(fixed))
    for index in np.random.default_rng(2).integers(4, 9, (20, 3)).tolist():
        point = a.TransformIndexToPhysicalPoint(index)
        back = backward.TransformPoint(forward.TransformPoint(point))
        np.testing.assert_allclose(back, point, atol=0.02)


def test_what_cannot_be_told_is_asked_for(images: tuple[Path, Path], tmp_path: Path) -> None:
    fixed, moving = images
    itk_field(tmp_path / "u.nii.gz", fixed)
    ambiguous = run(
        "--transform",
        tmp_path / "u.nii.gz",
        "--fixed",
        fixed,
        "--moving",
        moving,
        "--out",
        tmp_path / "d.nii.gz",
    )
    assert (ambiguous.exit_code, "--to" in ambiguous.stderr) == (7, True)
    lonely = run(
        "--transform", tmp_path / "u.nii.gz", "--fixed", fixed, "--out", tmp_path / "d.npz"
    )
    assert (lonely.exit_code, "moving image" in lonely.stderr) == (12, True)
    scalar = run(
        "--transform", fixed, "--fixed", fixed, "--moving", moving, "--out", tmp_path / "d.npz"
    )
    assert (scalar.exit_code, "18 x 16 x 14" in scalar.stderr) == (12, True)
    there = run("--transform", tmp_path / "u.nii.gz", "--fixed", fixed, "--out", moving)
    assert (there.exit_code, "--overwrite" in there.stderr) == (7, True)
    wrong = run(
        "--transform", tmp_path / "u.nii.gz", "--fixed", moving, "--out", tmp_path / "t.png"
    )
    assert wrong.exit_code == 7


# The table of formats -------------------------------------------------------------------------


def test_the_command_offers_the_formats_of_the_table() -> None:
    options = {o.name: o.type for o in iterreg.get_command(None, "convert").params}
    assert list(options["source_format"].choices) == ["auto", *TRANSFORM_FORMATS]
    assert list(options["out_format"].choices) == ["auto", *WRITTEN]
    assert [name for name, row in TRANSFORM_FORMATS.items() if row.write] == list(WRITTEN)


@pytest.mark.parametrize("chosen", ["auto", "itk", "learn2reg"])
def test_an_unknown_suffix_to_write_is_refused_with_the_known_ones(
    images: tuple[Path, Path], tmp_path: Path, chosen: str
) -> None:
    fixed, moving = images
    itk_field(tmp_path / "u.nii.gz", fixed)
    out = tmp_path / "t.xyz"
    files = ("--transform", tmp_path / "u.nii.gz", "--fixed", fixed, "--moving", moving)
    result = run(*files, "--out", out, "--to", chosen)
    assert result.exit_code == 7 and not out.exists()
    rows = TRANSFORM_FORMATS if chosen == "auto" else [chosen]
    for suffix in (s for name in rows for s in TRANSFORM_FORMATS[name].write_suffixes):
        assert suffix in result.stderr
    assert "got .xyz" in result.stderr


def test_an_unknown_suffix_to_read_is_refused_with_the_known_ones(
    images: tuple[Path, Path], tmp_path: Path
) -> None:
    fixed, moving = images
    source = tmp_path / "t.xyz"
    source.write_bytes(b"something")
    result = run(
        "--transform", source, "--fixed", fixed, "--moving", moving, "--out", tmp_path / "t.h5"
    )
    assert result.exit_code == 12
    for row in TRANSFORM_FORMATS.values():
        assert all(suffix in result.stderr for suffix in row.read_suffixes)


def test_learn2reg_fields_carry_the_fixed_images_matrix(
    images: tuple[Path, Path], tmp_path: Path
) -> None:
    """The images may be in formats that nibabel does not read."""
    fixed, moving = images
    for path in images:
        sitk.WriteImage(sitk.ReadImage(str(path)), str(path).replace(".nii.gz", ".mha"))
    itk_field(tmp_path / "u.nrrd", moving)
    as_mha = [str(path).replace(".nii.gz", ".mha") for path in (moving, fixed)]
    out = tmp_path / "disp.nii.gz"
    files = ("--transform", tmp_path / "u.nrrd", "--fixed", as_mha[0], "--moving", as_mha[1])
    result = run(*files, "--out", out, "--to", "learn2reg")
    assert result.exit_code == 0, result.output
    np.testing.assert_allclose(nibabel.load(out).affine, nibabel.load(moving).affine, atol=1e-5)


def test_a_new_format_is_one_row(
    images: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(path: Path, sides: Sides) -> Loaded:
        affine = np.eye(4)
        affine[:3, 3] = [float(number) for number in path.read_text().split()]
        return Loaded(str(path), 3, affine)

    def write(transform: Transform, path: Path, moving: Grid) -> str:
        path.write_text(" ".join(map(str, transform.affine_lps[:3, 3])))
        return "shift in mm"

    shift = TransformFormat("shift in mm", (".shift",), (".shift",), Path.is_file, load, write)
    rows = {name: TRANSFORM_FORMATS[name] for name in TRANSFORM_FORMATS} | {"shift": shift}
    monkeypatch.setattr(TRANSFORM_FORMATS, "_rows", rows)
    first, middle, last = (tmp_path / name for name in ("a.shift", "b.h5", "c.shift"))
    first.write_text("1 2 3")
    for source, out in ((first, middle), (middle, last)):
        report = convert_transform(TransformFile(source), TransformFile(out), Images(images[0]))
        assert "shift in mm" in report
    assert [float(number) for number in last.read_text().split()] == [1, 2, 3]
