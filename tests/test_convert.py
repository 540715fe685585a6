"""``iterreg convert``: ITK's field and composite, Learn2Reg's field, either direction."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from click.testing import CliRunner, Result
from scipy.ndimage import gaussian_filter

from iterreg.cli import iterreg
from iterreg.displacement import DisplacementField, Transform, total_displacement_vox
from iterreg.formats import TRANSFORM_FORMATS, TransformFormat
from iterreg.formats.common import COMPOSITE_EXTENSIONS
from iterreg.geometry import Grid
from iterreg.io import VOLUME_EXTENSIONS


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


def test_an_image_that_nibabel_cannot_read_will_do(
    images: tuple[Path, Path], tmp_path: Path
) -> None:
    fixed, moving = images
    itk_field(tmp_path / "u.nrrd", fixed)
    other = tmp_path / "fixed.mha"
    sitk.WriteImage(sitk.ReadImage(str(fixed)), str(other))
    fields = []
    for n, image in enumerate((fixed, other)):
        out = tmp_path / f"{n}.nii.gz"
        files = ("--transform", tmp_path / "u.nrrd", "--fixed", image, "--moving", moving)
        result = run(*files, "--to", "learn2reg", "--out", out)
        assert result.exit_code == 0, result.output
        fields.append(nibabel.load(out))
    np.testing.assert_allclose(fields[0].affine, nibabel.load(fixed).affine, atol=1e-5)
    np.testing.assert_allclose(fields[1].affine, fields[0].affine, atol=1e-5)
    np.testing.assert_allclose(fields[1].dataobj, fields[0].dataobj, atol=1e-4)


def test_unknown_files_are_refused_by_the_list_of_formats(
    images: tuple[Path, Path], tmp_path: Path
) -> None:
    fixed, moving = images
    (tmp_path / "t.lta").write_text("type = 1")
    both = ("--fixed", fixed, "--moving", moving)
    source = run("--transform", tmp_path / "t.lta", *both, "--out", tmp_path / "t.h5")
    assert source.exit_code == 12
    assert all(f"{name}: {row.means}" in source.stderr for name, row in TRANSFORM_FORMATS.items())
    itk_field(tmp_path / "u.nrrd", fixed)
    target = run("--transform", tmp_path / "u.nrrd", *both, "--out", tmp_path / "v.lta")
    assert target.exit_code == 7
    assert all(s in target.stderr for row in TRANSFORM_FORMATS.values() for s in row.writes)


def is_numpy(path: Path) -> bool:
    """Recognise the format that the next test adds."""
    return path.suffix == ".npy"


def read_numpy(path: Path, start: Grid, end: Grid) -> Transform:
    """Read a field in voxels."""
    return Transform(np.eye(4), DisplacementField(torch.from_numpy(np.load(path)), start))


def write_numpy(transform: Transform, path: Path, moving: Grid) -> str:
    """Write a field in voxels."""
    np.save(path, total_displacement_vox(transform).numpy())
    return "voxels as NumPy saves them"


def test_a_format_is_one_row(
    images: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    references = [f"{__name__}:{f.__name__}" for f in (is_numpy, read_numpy, write_numpy)]
    row = TransformFormat("field in voxels", (".npy",), False, *references)
    monkeypatch.setitem(TRANSFORM_FORMATS._rows, "numpy", row)
    transform = itk_field(tmp_path / "u.nrrd", images[0])
    there = ("--transform", tmp_path / "u.nrrd", "--fixed", images[0], "--out", tmp_path / "u.npy")
    back = ("--transform", tmp_path / "u.npy", "--fixed", images[0], "--out", tmp_path / "t.h5")
    assert run(*there).stdout.splitlines()[1].startswith("wrote: voxels as NumPy saves them")
    assert run(*back).stdout.startswith("read: field in voxels, fixed to moving")
    again = sitk.ReadTransform(str(tmp_path / "t.h5"))
    for index in voxels(images[0]):
        point = sitk.ReadImage(str(images[0])).TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(
            again.TransformPoint(point), transform.TransformPoint(point), atol=1e-4
        )


def test_the_row_of_itk_lists_every_volume_format() -> None:
    """The table may not import ``iterreg.io``, which loads torch."""
    assert set(VOLUME_EXTENSIONS) == set(TRANSFORM_FORMATS["itk"].writes) - {*COMPOSITE_EXTENSIONS}
