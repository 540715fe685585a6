"""Files in and out: formats, geometry, refusals of one line, and nothing half-written."""

from __future__ import annotations

import gzip
import os
import stat
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from iterreg.atomic import OutputFolder
from iterreg.displacement import DisplacementField, Transform, total_displacement_mm
from iterreg.errors import (
    GeometryError,
    ImageContentError,
    ImageReadError,
    IterregError,
    OutputError,
)
from iterreg.geometry import Grid, Points
from iterreg.image import Image, LabelMap
from iterreg.io import (
    GeometryWarning,
    as_image,
    as_label_map,
    read_image,
    read_label_map,
    read_mask,
    read_points,
    write_displacement_mm,
    write_image,
    write_label_map,
    write_points,
    write_scalar,
)

VOLUMES = ["nii", "nii.gz", "mha", "mhd", "nrrd", "nhdr"]
DATA = Path(os.environ.get("ITERREG_DATA", Path(__file__).parents[2] / "shared" / "data"))
MINI = Path(__file__).parents[1] / "iterreg" / "data" / "thorax4dct_mini"


def oblique(shape: tuple[int, ...] = (5, 6, 7)) -> Grid:
    rank = len(shape)
    if rank == 2:
        return Grid(shape, (0.7, 1.3), (-20.0, 31.5), ((1.0, 0.0), (0.0, 1.0)))
    rotation, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    rows = tuple(tuple(r) for r in rotation.tolist())
    return Grid(shape, (0.9, 1.4, 3.0), (-100.25, 31.5, 7.0), rows)


def ramp(grid: Grid, dtype: str = "int16", scale: float = 7.0, **more: float) -> Image:
    data = torch.arange(grid.voxel_count, dtype=torch.float32).view(1, *grid.shape_zyx)
    return Image(data * scale - 50, grid, dtype, **more)


def one_line(error: pytest.ExceptionInfo[IterregError], path: Path) -> bool:
    return "\n" not in str(error.value) and str(path) in str(error.value)


# ---------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("extension", VOLUMES)
@pytest.mark.parametrize("shape", [(5, 6, 7), (6, 7), (1, 6, 7)])
def test_image_round_trip(tmp_path, extension, shape):
    image = ramp(oblique(shape))
    path = tmp_path / f"image.{extension}"
    write_image(image, path)
    back = read_image(path)
    assert back.grid.same_space(image.grid)
    assert back.grid.rank == len(shape)
    assert back.dtype == "int16"
    assert back.name == str(path)
    torch.testing.assert_close(back.data, image.data, atol=0, rtol=0)
    assert not [f for f in tmp_path.iterdir() if f.name.startswith(".")]


@pytest.mark.parametrize("extension", ["nii", "nii.gz"])
@pytest.mark.parametrize("shape", [(5, 6, 7), (6, 7)])
def test_nibabel_reads_the_same_geometry(tmp_path, extension, shape):
    image = ramp(oblique(shape))
    path = tmp_path / f"image.{extension}"
    write_image(image, path)
    loaded = nibabel.load(path)
    rank = len(shape)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ loaded.affine
    index_zyx = np.array([1, 2, 3][:rank])
    ours = image.grid.index_to_lps @ [*index_zyx, 1]
    xyz = [*reversed(index_zyx), *[0] * (3 - rank), 1]
    np.testing.assert_allclose((lps @ xyz)[:rank], ours[:rank], atol=1e-3)
    value = np.asarray(loaded.dataobj).reshape(loaded.shape)[tuple(reversed(index_zyx))]
    assert value == image.data[0][tuple(index_zyx)]


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int32", "uint32", "int64", "float64"]
)
def test_stored_type_is_kept_and_clipped(tmp_path, dtype):
    grid = oblique()
    data = torch.linspace(-1e12, 1e12, grid.voxel_count).view(1, *grid.shape_zyx)
    data[0, 0, 0, :3] = torch.tensor([1.4, 2.6, float("nan")])
    path = tmp_path / "image.nii.gz"
    write_image(Image(data, grid, dtype), path)
    loaded = nibabel.load(path)
    assert loaded.get_data_dtype() == np.dtype(dtype)
    stored = np.asarray(loaded.dataobj)
    if dtype != "float64":
        limits = np.iinfo(dtype)
        assert stored[:3, 0, 0].tolist() == [1, 3, 0]
        assert stored.min() == max(limits.min, int(data.nan_to_num().min()))
        assert stored.max() >= min(limits.max, 999_999_000_000)


def test_nifti_intensity_scale_is_written_back(tmp_path):
    grid = oblique()
    first, second = tmp_path / "in.nii.gz", tmp_path / "out.nii.gz"
    stored = np.arange(grid.voxel_count, dtype=np.int16).reshape(grid.shape_zyx[::-1])
    image = nibabel.Nifti1Image(stored, np.diag([2.0, 3, 4, 1]))
    image.header.set_slope_inter(0.5, -1024)
    nibabel.save(image, first)
    read = read_image(first)
    assert (read.dtype, read.slope, read.intercept) == ("int16", 0.5, -1024)
    assert float(read.data.min()) == -1024
    write_image(read, second)
    again = nibabel.load(second)
    assert (again.dataobj.slope, again.dataobj.inter) == (0.5, -1024)
    assert again.get_data_dtype() == np.int16
    np.testing.assert_array_equal(again.dataobj.get_unscaled(), stored)
    torch.testing.assert_close(read_image(second).data, read.data)


def test_a_scale_that_the_format_cannot_hold_becomes_float(tmp_path):
    image = ramp(oblique(), "int16", slope=0.5, intercept=-3.0)
    write_image(image, tmp_path / "a.mha")
    back = read_image(tmp_path / "a.mha")
    assert back.dtype == "float32"
    torch.testing.assert_close(back.data, image.data)


def test_rgb_picture(tmp_path):
    grid = Grid((6, 9), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
    data = torch.randint(0, 256, (3, 6, 9)).float()
    write_image(Image(data, grid, "uint8"), tmp_path / "p.png")
    back = read_image(tmp_path / "p.png")
    assert back.grid.rank == 2
    assert back.dtype == "uint8"
    torch.testing.assert_close(back.data, data)
    with pytest.raises(ImageContentError, match="colour"):
        read_label_map(tmp_path / "p.png")


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [
        (0, 3, "uint8"),
        (0, 300, "uint16"),
        (-1, 5, "int8"),
        (-1, 200, "int16"),
        (0, 70000, "uint32"),
    ],
)
def test_labels_are_stored_small(tmp_path, low, high, dtype):
    grid = oblique()
    data = torch.zeros(grid.shape_zyx, dtype=torch.int32)
    data[0, 0, :2] = torch.tensor([low, high])
    path = tmp_path / "labels.nii.gz"
    write_label_map(LabelMap(data, grid), path)
    assert nibabel.load(path).get_data_dtype() == np.dtype(dtype)
    back = read_label_map(path, {high: "liver"})
    assert torch.equal(back.data, data)
    assert back.title(high) == "liver"


@pytest.mark.parametrize("extension", ["nii.gz", "mha", "nrrd"])
@pytest.mark.parametrize("shape", [(5, 6, 7), (6, 7)])
def test_displacement_is_itks_vector_field(tmp_path, extension, shape):
    grid = oblique(shape)
    vox = torch.randn(len(shape), *shape)
    transform = Transform(np.eye(len(shape) + 1), DisplacementField(vox, grid))
    path = tmp_path / f"displacement_mm.{extension}"
    write_displacement_mm(transform, path)
    loaded = sitk.ReadImage(str(path))
    assert loaded.GetNumberOfComponentsPerPixel() == len(shape)
    expected = np.moveaxis(total_displacement_mm(transform).numpy(), 0, -1)
    np.testing.assert_allclose(sitk.GetArrayFromImage(loaded), expected, atol=1e-6)
    np.testing.assert_allclose(loaded.GetOrigin(), grid.origin_lps_mm, atol=1e-4)
    if extension == "nii.gz" and len(shape) == 3:
        header = nibabel.load(path).header
        assert header.get_intent()[0] == "vector"
        assert header["dim"][:6].tolist() == [5, 7, 6, 5, 1, 3]


def test_equal_results_are_equal_files_and_writing_is_fast(tmp_path):
    shape = (96, 128, 160)
    grid = oblique(shape)
    transform = Transform(np.eye(4), DisplacementField(torch.rand(3, *shape), grid))
    for name in ("a.nii.gz", "b.nii.gz"):
        start = time.process_time()
        write_displacement_mm(transform, tmp_path / name)
        assert time.process_time() - start < 3.0
        time.sleep(0.01)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_scalar_and_points(tmp_path):
    grid = oblique()
    write_scalar(torch.full(grid.shape_zyx, 0.5), grid, tmp_path / "j.nii.gz")
    assert read_image(tmp_path / "j.nii.gz").dtype == "float32"
    points = Points(np.array([[1.5, -2.0, 3.25], [0.0, 1e3, 7.0]]))
    write_points(points, tmp_path / "p.csv", {"status": ["ok", "gap"]})
    lines = (tmp_path / "p.csv").read_text().splitlines()
    assert lines[0] == "x,y,z,status"
    assert lines[1].endswith(",ok")
    np.testing.assert_allclose(read_points(tmp_path / "p.csv").lps, points.lps)
    with pytest.raises(OutputError, match="expected 2 values"):
        write_points(points, tmp_path / "q.csv", {"n": [1]})


def test_points_in_two_dimensions_and_other_columns(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("\ufefflabel, Y,X\na,2,1\n\nb,4,3\n", encoding="utf-8")
    assert read_points(path).lps.tolist() == [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize(
    "text", ["", "1,2,3\n4,5,6\n", "x,y,z\n", "x,y,z\n1,2\n", "x,y\n1,a\n", "x,y,z\n1,2,nan\n"]
)
def test_bad_points_are_refused(tmp_path, text):
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(ImageReadError) as error:
        read_points(path)
    assert one_line(error, path)


def test_the_three_ways_to_give_an_image(tmp_path):
    image = ramp(oblique())
    path = tmp_path / "i.nii.gz"
    write_image(image, path)
    loaded = sitk.ReadImage(str(path))
    for value in (image, path, str(path), loaded):
        torch.testing.assert_close(as_image(value, "fixed").data, image.data)
    assert as_image(loaded, "fixed").name == "fixed"
    assert as_image(loaded, "fixed").dtype == "int16"
    assert as_label_map(loaded, "fixed_labels", {6: "a"}).names == {6: "a"}
    with pytest.raises(TypeError, match=r"fixed: expected a path.* got list"):
        as_image([[0.0]], "fixed")


def test_masks_are_zero_and_one(tmp_path):
    grid = oblique()
    data = torch.zeros(grid.shape_zyx, dtype=torch.int32)
    path = tmp_path / "m.nii.gz"
    write_label_map(LabelMap(data, grid), path)
    with pytest.raises(ImageContentError, match="no voxel"):
        read_mask(path)
    data[2] = 255
    write_label_map(LabelMap(data, grid), path)
    assert read_mask(path).values == [1]


# --------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("extension", VOLUMES)
@pytest.mark.parametrize("share", [0.3, 0.7, 0.995])
def test_truncated_files_are_refused(tmp_path, extension, share):
    noise = torch.rand(1, 20, 21, 22) * 1000
    path = tmp_path / f"cut.{extension}"
    write_image(Image(noise, oblique((20, 21, 22)), "int16"), path)
    data = max(tmp_path.iterdir(), key=lambda f: f.stat().st_size)
    content = data.read_bytes()
    data.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ImageReadError) as error:
        read_image(path)
    assert one_line(error, path)


@pytest.mark.parametrize("extension", ["jpg", "png"])
def test_truncated_pictures_are_refused(tmp_path, extension):
    path = tmp_path / f"cut.{extension}"
    array = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    assert read_image(path).grid.shape_zyx == (64, 64)
    path.write_bytes(path.read_bytes()[:-1500])
    with pytest.raises(ImageReadError) as error:
        read_image(path)
    assert one_line(error, path)


@pytest.mark.parametrize("extension", VOLUMES)
def test_what_is_not_an_image_is_refused(tmp_path, extension):
    path = tmp_path / f"no.{extension}"
    for content in (b"", b"hello " * 200, gzip.compress(b"hello " * 200)):
        path.write_bytes(content)
        with pytest.raises(ImageReadError) as error:
            read_image(path)
        assert one_line(error, path)


def test_missing_unsupported_and_empty_folder(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    (tmp_path / "a.dcm").write_bytes(b"x")
    for path, what in (
        (tmp_path / "none.nii.gz", "no such file"),
        (tmp_path / "a.txt", "got .txt"),
        (tmp_path / "a.dcm", "folder of the series"),
        (tmp_path, "found none"),
    ):
        with pytest.raises(ImageReadError, match=what) as error:
            read_image(path)
        assert one_line(error, path)


def test_four_axes(tmp_path):
    path = tmp_path / "f.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 3, 2, 5), np.float32), np.eye(4)), path)
    with pytest.raises(ImageContentError, match="4-D, expected one volume"):
        read_image(path)
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 3, 2, 1), np.float32), np.eye(4)), path)
    assert read_image(path).grid.shape_zyx == (2, 3, 4)
    vectors = sitk.GetImageFromArray(np.zeros((3, 4, 5, 3), np.float32), isVector=True)
    sitk.WriteImage(vectors, str(tmp_path / "v.mha"))
    with pytest.raises(ImageContentError, match="one value per voxel"):
        read_image(tmp_path / "v.mha")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1.5, 3e9])
def test_label_values_that_are_no_labels(tmp_path, value):
    array = np.zeros((3, 4, 5), np.float64)
    array[1, 1, 1] = 2
    path = tmp_path / "l.nii.gz"
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)
    assert read_label_map(path).values == [2]
    array[1, 2, 3] = value
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)
    with pytest.raises(ImageContentError) as error:
        read_label_map(path)
    assert one_line(error, path)


@pytest.mark.parametrize("asked", ["nii", "nii.gz"])
def test_twin_files_are_not_mixed_up(tmp_path, asked):
    """ITK alone reads the voxels of a.nii where a.nii.gz was asked for and both are there."""
    for extension, scale in (("nii", 1.0), ("nii.gz", 2.0)):
        write_image(ramp(oblique(), scale=scale), tmp_path / f"a.{extension}")
    expected = ramp(oblique(), scale=1.0 if asked == "nii" else 2.0)
    assert torch.equal(read_image(tmp_path / f"a.{asked}").data, expected.data)


@pytest.mark.parametrize("extension", ["nii", "nii.gz", "mha", "nrrd"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nan_in_an_image_is_kept_not_zeroed(tmp_path, extension, dtype):
    grid = oblique()
    data = ramp(grid).data.clone()
    data[0, 1, 2, 3], data[0, 4, 0, 1] = torch.nan, torch.inf
    path = tmp_path / f"n.{extension}"
    write_image(Image(data, grid, dtype), path)
    back = read_image(path)
    torch.testing.assert_close(back.data, data, equal_nan=True)
    with pytest.raises(ImageContentError, match="2 NaN or infinite") as error:
        back.checked()
    assert one_line(error, path)


@pytest.mark.parametrize("spacing", ["0 1 1", "-2 1 1", "nan 1 1"])
def test_spacing_that_is_not_positive_mha(tmp_path, spacing):
    path = tmp_path / "s.mha"
    sitk.WriteImage(sitk.Image(3, 4, 5, sitk.sitkInt16), str(path), False)
    content = path.read_bytes()
    assert b"ElementSpacing = 1 1 1" in content
    wrong = b"ElementSpacing = " + spacing.encode()
    path.write_bytes(content.replace(b"ElementSpacing = 1 1 1", wrong))
    with pytest.raises((GeometryError, ImageReadError)) as error:
        read_image(path)
    assert one_line(error, path)


def test_nifti_geometry_that_itk_would_guess(tmp_path):
    array = np.zeros((3, 4, 5), np.int16)
    path = tmp_path / "g.nii"
    sheared = np.diag([2.0, 3, 4, 1])
    sheared[0, 1] = 0.4
    nibabel.save(nibabel.Nifti1Image(array, sheared), path)
    with pytest.raises(GeometryError, match="sheared") as error:
        read_image(path)
    assert one_line(error, path)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([2.0, 3, 4, 1])), path)
    content = bytearray(path.read_bytes())
    content[84:88] = np.float32(0).tobytes()
    path.write_bytes(content)
    with pytest.raises(GeometryError, match="pixdim"):
        read_image(path)
    nibabel.save(nibabel.Nifti1Image(array, None), path)
    with pytest.warns(GeometryWarning, match="left and right"):
        read_image(path)


def test_small_rounding_of_the_direction_is_tolerated(tmp_path):
    affine = np.diag([2.0, 3, 4, 1])
    affine[0, 1] = 2e-5
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 4, 5), np.int16), affine), tmp_path / "r.nii")
    assert read_image(tmp_path / "r.nii").grid.orientation == "RAS"


# ------------------------------------------------------------------------------------------ DICOM


def write_series(folder: Path, uid: str, slices: int = 5, skip: int | None = None) -> None:
    folder.mkdir(exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    values = np.arange(slices * 6 * 7, dtype=np.int16).reshape(slices, 6, 7) - 100
    for n in range(slices):
        if n == skip:
            continue
        image = sitk.GetImageFromArray(values[n])
        image.SetSpacing((0.5, 0.75))
        position = f"-10\\20\\{3.0 * n}"
        for key, value in {
            "0008|0060": "CT",
            "0020|000e": uid,
            "0020|000d": "1.2.826.0.1.3680043.2.1125.1",
            "0008|0018": f"{uid}.{n + 1}",
            "0020|0032": position,
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0020|0013": str(n),
            "0018|0050": "3",
        }.items():
            image.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{uid[-1]}_{n}.dcm"))
        writer.Execute(image)


def test_dicom_folder(tmp_path):
    write_series(tmp_path / "one", "1.2.3.4")
    image = read_image(tmp_path / "one")
    assert image.grid.shape_zyx == (5, 6, 7)
    assert image.dtype == "int16"
    np.testing.assert_allclose(image.grid.spacing_xyz_mm, (0.5, 0.75, 3.0))
    np.testing.assert_allclose(image.grid.origin_lps_mm, (-10, 20, 0))
    assert float(image.data[0, 2, 1, 3]) == 2 * 42 + 7 + 3 - 100


def test_dicom_folder_of_two_series_lists_them(tmp_path):
    write_series(tmp_path / "two", "1.2.3.4")
    write_series(tmp_path / "two", "1.2.3.5")
    with pytest.raises(ImageReadError, match=r"1\.2\.3\.4.*1\.2\.3\.5") as error:
        read_image(tmp_path / "two")
    assert one_line(error, tmp_path / "two")


def test_dicom_with_a_missing_slice_is_refused(tmp_path):
    write_series(tmp_path / "gap", "1.2.3.4", slices=6, skip=3)
    with pytest.raises(GeometryError, match="missing at z = 9 mm"):
        read_image(tmp_path / "gap")


# ---------------------------------------------------------------------------------------- writing


def test_unwritable_and_unknown_targets(tmp_path):
    image = ramp(oblique())
    for path in (tmp_path / "no" / "a.nii.gz", tmp_path / "a.xyz", tmp_path):
        with pytest.raises(OutputError) as error:
            write_image(image, path)
        assert one_line(error, path)
    with pytest.raises(OutputError):
        write_image(image, tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(OutputError):
        write_image(ramp(oblique()), tmp_path / "a.nii.gz")
    with pytest.raises(OutputError), OutputFolder(tmp_path / "out"):
        pass
    tmp_path.chmod(stat.S_IRWXU)


def test_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.nii.gz"
    write_image(ramp(oblique()), path)
    before = path.read_bytes()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("iterreg.io.nifti.gzip_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_image(ramp(oblique(), scale=3.0), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# ------------------------------------------------------------------------------------- real files


@pytest.mark.skipif(not MINI.is_dir(), reason=f"{MINI} is absent")
def test_the_embedded_pair(tmp_path):
    fixed = read_image(MINI / "fixed.nii.gz").checked()
    labels = read_label_map(MINI / "fixed_labels.nii.gz")
    assert fixed.grid.same_space(labels.grid)
    assert fixed.dtype == "int16"
    assert labels.values == [1, 2, 3]
    write_image(fixed, tmp_path / "again.nii.gz")
    again = read_image(tmp_path / "again.nii.gz")
    assert torch.equal(again.data, fixed.data)
    assert again.grid.same_space(fixed.grid)


@pytest.mark.skipif(not (DATA / "acdc").is_dir(), reason=f"{DATA / 'acdc'} is absent")
def test_acdc_headers_are_read_by_their_pixdim(capfd):
    """Their sform was never filled in: it says voxels of 1 mm."""
    with pytest.warns(GeometryWarning, match="taken from pixdim"):
        image = read_image(DATA / "acdc" / "patient067_frame01.nii.gz")
        labels = read_label_map(DATA / "acdc" / "patient067_frame01_gt.nii.gz")
    assert image.grid.same_space(labels.grid)
    np.testing.assert_allclose(image.grid.spacing_xyz_mm, (1.3671875, 1.3671875, 10))
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
