"""Transforms in and out of ITK: exact round trips, foreign files, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from iterreg.displacement import (
    DisplacementField,
    Transform,
    resample_transform,
    total_displacement_vox,
)
from iterreg.errors import ImageContentError, ImageReadError, OutputError, TransformError
from iterreg.formats.itk import write_transform
from iterreg.formats.itk_objects import itk_to_transform, transform_to_itk
from iterreg.formats.reading import as_transform, read_transform
from iterreg.geometry import Grid, Points, apply_affine
from iterreg.io import write_displacement_mm


def grid_of_rank(rank: int, count: int = 20) -> Grid:
    rotation, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(rank, rank)))
    rows = tuple(tuple(r) for r in rotation.tolist())
    shape = (count, count + 3, count + 6)[:rank]
    return Grid(shape, (1.1, 0.8, 2.5)[:rank], (-120.3, 40.1, 77.7)[:rank], rows)


def some_transform(rank: int) -> Transform:
    rng = np.random.default_rng(2)
    grid = grid_of_rank(rank)
    affine = np.eye(rank + 1)
    affine[:rank, :rank] += 0.05 * rng.normal(size=(rank, rank))
    affine[:rank, rank] = rng.normal(size=rank) * 10
    vox = torch.from_numpy(rng.normal(size=(rank, *grid.shape_zyx)).astype(np.float32)) * 2
    return Transform(affine, DisplacementField(vox, grid))


def random_points(grid: Grid, margin: float = 3.0) -> Points:
    rng = np.random.default_rng(0)
    size = np.asarray(grid.shape_zyx)
    index = rng.uniform(-margin, size - 1 + margin, size=(500, grid.rank))
    return Points(apply_affine(grid.index_to_lps, index))


def mapped(itk: sitk.Transform, points: Points) -> np.ndarray:
    return np.array([itk.TransformPoint(p) for p in points.lps.tolist()])


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("extension", ["h5", "tfm"])
def test_round_trip_is_exact_and_itk_agrees(tmp_path, rank, extension):
    transform = some_transform(rank)
    path = tmp_path / f"transform.{extension}"
    write_transform(transform, path)
    back = read_transform(path)
    assert back.grid == transform.grid
    np.testing.assert_array_equal(back.affine_lps, transform.affine_lps)
    torch.testing.assert_close(back.field.vox, transform.field.vox, atol=1e-6, rtol=1e-6)
    points = random_points(transform.grid)
    ours = transform.map_points(points).lps
    np.testing.assert_allclose(mapped(sitk.ReadTransform(str(path)), points), ours, atol=1e-3)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("rank", [2, 3])
def test_displacements_in_steps_are_near_in_both_files_and_take_less_room(tmp_path, rank):
    """The step is the largest power of two that is not above what was asked for."""
    transform, step_mm = some_transform(rank), 2.0**-7
    for folder, most_step_mm in (("exact", 0.0), ("steps", 0.01)):
        (tmp_path / folder).mkdir()
        write_transform(transform, tmp_path / folder / "t.h5", most_step_mm)
        write_displacement_mm(transform, tmp_path / folder / "d.nii.gz", most_step_mm)
    exact, steps = tmp_path / "exact", tmp_path / "steps"
    for name in ("t.h5", "d.nii.gz"):
        assert (steps / name).stat().st_size < (exact / name).stat().st_size
    field = sitk.ReadTransform(str(steps / "t.h5")).GetNthTransform(1)
    stored = np.array(sitk.DisplacementFieldTransform(field).GetParameters()) / step_mm
    np.testing.assert_array_equal(stored, np.rint(stored))
    fields = [sitk.ReadImage(str(f / "d.nii.gz"), sitk.sitkVectorFloat64) for f in (exact, steps)]
    apart = np.abs(np.subtract(*map(sitk.GetArrayFromImage, fields)))
    assert 0.2 * step_mm < apart.max() <= 0.5 * step_mm + 1e-4


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("extension", ["nii.gz", "mha"])
def test_displacement_image_is_a_transform(tmp_path, rank, extension):
    transform = some_transform(rank)
    path = tmp_path / f"displacement_mm.{extension}"
    write_displacement_mm(transform, path)
    back = read_transform(path)
    assert back.grid.same_space(transform.grid)
    np.testing.assert_array_equal(back.affine_lps, np.eye(rank + 1))
    torch.testing.assert_close(
        back.field.vox, total_displacement_vox(transform), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize(
    "itk",
    [
        sitk.TranslationTransform(3, (1.0, 2.0, 3.0)),
        sitk.Euler3DTransform((10.0, 5.0, 1.0), 0.1, 0.2, 0.3, (1.0, 2.0, 3.0)),
        sitk.VersorRigid3DTransform((0.0, 0.0, 1.0), 0.4, (3.0, 2.0, 1.0), (5.0, 6.0, 7.0)),
        sitk.Similarity3DTransform(1.2, (0.0, 1.0, 0.0), 0.3, (3.0, 2.0, 1.0), (5.0, 6.0, 7.0)),
        sitk.ScaleTransform(3, (1.1, 0.9, 1.2)),
        sitk.AffineTransform((1.1, 0, 0.1, 0, 0.9, 0, 0, 0.2, 1), (1.0, 2.0, 3.0), (9.0, 8.0, 7.0)),
        sitk.Transform(3, sitk.sitkIdentity),
    ],
    ids=lambda itk: itk.GetName(),
)
@pytest.mark.parametrize("extension", ["tfm", "h5", "mat"])
def test_linear_transforms(tmp_path, itk, extension):
    grid = grid_of_rank(3)
    path = tmp_path / f"t.{extension}"
    try:
        sitk.WriteTransform(itk, str(path))
    except RuntimeError:
        pytest.skip("ITK cannot write this kind to this format")
    transform = read_transform(path, grid)
    assert transform.grid == grid
    points = random_points(grid)
    np.testing.assert_allclose(transform.map_points(points).lps, mapped(itk, points), atol=1e-6)
    with pytest.raises(TransformError, match="reference grid") as error:
        read_transform(path)
    assert "\n" not in str(error.value)
    with pytest.raises(TransformError, match="2-D transform, got 3-D"):
        read_transform(path, grid_of_rank(2))


def test_nested_composites_of_linear_transforms_after_a_field():
    transform = some_transform(3)
    inner = transform_to_itk(transform)
    euler = sitk.Euler3DTransform((1.0, 2.0, 3.0), 0.1, 0.2, 0.3, (4.0, 5.0, 6.0))
    outer = sitk.CompositeTransform([sitk.TranslationTransform(3, (7.0, 0, 0)), euler, inner])
    ours = itk_to_transform(outer)
    assert ours.grid == transform.grid
    points = random_points(transform.grid)
    np.testing.assert_allclose(ours.map_points(points).lps, mapped(outer, points), atol=1e-3)


@pytest.mark.parametrize("kind", ["bspline", "affine first"])
def test_other_kinds_are_sampled_on_a_reference(tmp_path, kind):
    grid = grid_of_rank(3, count=30)
    if kind == "bspline":
        domain = sitk.Image(*reversed(grid.shape_zyx), sitk.sitkUInt8)
        domain.SetSpacing(grid.spacing_xyz_mm)
        domain.SetOrigin(grid.origin_lps_mm)
        domain.SetDirection(np.ravel(grid.direction_lps).tolist())
        itk: sitk.Transform = sitk.BSplineTransformInitializer(domain, [3, 3, 3], 3)
        itk.SetParameters(np.random.default_rng(0).normal(size=len(itk.GetParameters())).tolist())
    else:
        zero = transform_to_itk(Transform(np.eye(4), DisplacementField.zero(grid)))
        field = zero.GetNthTransform(1).Downcast()
        itk = sitk.CompositeTransform([field, sitk.TranslationTransform(3, (1.0, 2.0, 3.0))])
    path = tmp_path / "t.h5"
    sitk.WriteTransform(itk, str(path))
    with pytest.raises(TransformError, match="reference grid") as error:
        read_transform(path)
    assert "\n" not in str(error.value)
    transform = read_transform(path, grid)
    points = random_points(grid, margin=-2.0)
    np.testing.assert_allclose(transform.map_points(points).lps, mapped(itk, points), atol=0.02)


def test_resampled_transform_agrees_with_the_old_one():
    grid = grid_of_rank(3)
    axes = torch.meshgrid(*[torch.arange(float(n)) for n in grid.shape_zyx], indexing="ij")
    vox = torch.stack([0.2 * axes[1] + 1, 0.1 * axes[0] - axes[2] * 0.05, axes[0] * 0.1])
    affine = np.eye(4)
    affine[:3, 3] = 3.0
    old = Transform(affine, DisplacementField(vox, grid))
    other = Grid((34, 30, 45), (0.9, 0.9, 1.4), grid.origin_lps_mm, grid.direction_lps)
    new = resample_transform(old, other)
    assert new.grid == other
    index = np.random.default_rng(0).uniform(1, 17, size=(200, 3))
    points = Points(apply_affine(grid.index_to_lps, index))
    np.testing.assert_allclose(new.map_points(points).lps, old.map_points(points).lps, atol=2e-3)
    far = Grid((4, 4, 4), (1.0, 1.0, 1.0), (900.0, 0.0, 0.0), other.direction_lps)
    assert float(resample_transform(old, far).field.vox.abs().max()) == 0
    assert resample_transform(old, grid).field.vox is old.field.vox
    with pytest.raises(TransformError, match="3-D reference"):
        resample_transform(old, grid_of_rank(2))


def test_the_three_ways_to_give_a_transform(tmp_path):
    transform = some_transform(3)
    path = tmp_path / "t.h5"
    write_transform(transform, path)
    assert as_transform(transform, "initial_transform") is transform
    for value in (path, str(path), transform_to_itk(transform)):
        assert as_transform(value, "initial_transform").grid == transform.grid
    with pytest.raises(TypeError, match="initial_transform"):
        as_transform(np.eye(4), "initial_transform")


def test_refusals(tmp_path):
    grid = grid_of_rank(3)
    bad = tmp_path / "bad.h5"
    bad.write_bytes(b"hello" * 100)
    cut = tmp_path / "cut.h5"
    write_transform(some_transform(3), cut)
    cut.write_bytes(cut.read_bytes()[:20000])
    singular = tmp_path / "singular.tfm"
    sitk.WriteTransform(sitk.ScaleTransform(3, (1.0, 0.0, 1.0)), str(singular))
    text = tmp_path / "notes.txt"
    text.write_text("no transform")
    for path in (bad, cut, singular, text, tmp_path / "none.h5"):
        with pytest.raises(TransformError) as error:
            read_transform(path, grid)
        assert "\n" not in str(error.value)
        assert str(path) in str(error.value)
    with pytest.raises(OutputError, match=r"\.nii"):
        write_transform(some_transform(3), tmp_path / "t.nii")
    short = tmp_path / "d.nii.gz"
    write_displacement_mm(some_transform(3), short)
    short.write_bytes(short.read_bytes()[:-50])
    with pytest.raises(ImageReadError, match="truncated"):
        read_transform(short)


def test_not_finite_is_refused(tmp_path: Path):
    transform = some_transform(3)
    transform.field.vox[0, 0, 0, 0] = torch.nan
    path = tmp_path / "d.mha"
    write_displacement_mm(transform, path)
    with pytest.raises(ImageContentError, match="finite"):
        read_transform(path)
