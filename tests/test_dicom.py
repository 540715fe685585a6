"""DICOM folders as they are: several series, phases, scouts, tilted, compressed, damaged.

The files are written by pydicom from the pair that comes with the package; SimpleITK reads and
resamples the truth.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from click.testing import CliRunner, Result
from dicom_files import ROOT, write_enhanced, write_series, write_slice, write_tilted
from pydicom.data import get_testdata_file
from pydicom.fileset import FileSet
from pydicom.uid import RLELossless

from iterreg import Image, read_image
from iterreg.cli import iterreg
from iterreg.errors import GeometryError, ImageContentError, ImageReadError, IterregError
from iterreg.io import GeometryWarning
from iterreg.provenance import sha256_of
from iterreg.regions.field_of_view import field_of_view

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom.*")

OTHER = f"{ROOT}.2"


@pytest.fixture(scope="module")
def fixed(pair_folder: Path) -> sitk.Image:
    """A part of the fixed scan, with axes LPS."""
    return sitk.ReadImage(str(pair_folder / "fixed.nii.gz"))[20:100:2, ::2, 20:60]


@pytest.fixture(scope="module")
def moving(pair_folder: Path) -> sitk.Image:
    """The same part of the moving scan."""
    return sitk.ReadImage(str(pair_folder / "moving.nii.gz"))[20:100:2, ::2, 20:60]


def is_image(read: Image, truth: sitk.Image) -> None:
    """The same voxels at the same places."""
    np.testing.assert_allclose(read.data[0].numpy(), sitk.GetArrayFromImage(truth), atol=0.01)
    np.testing.assert_allclose(read.grid.spacing_xyz_mm, truth.GetSpacing(), rtol=1e-5)
    np.testing.assert_allclose(read.grid.origin_lps_mm, truth.GetOrigin(), atol=1e-3)
    np.testing.assert_allclose(np.ravel(read.grid.direction_lps), truth.GetDirection(), atol=1e-6)


def refused(place: Path, kind: type[IterregError], *words: str, series: str | None = None) -> str:
    """It is refused in one line that names the folder."""
    with pytest.raises(kind) as error:
        read_image(place, series)
    message = str(error.value)
    assert str(place) in message and "\n" not in message
    for word in words:
        assert word in message, message
    return message


def read_with_note(place: Path, words: str, series: str | None = None) -> Image:
    """It is read, and a warning and a note say what was done."""
    with pytest.warns(GeometryWarning, match=words):
        image = read_image(place, series)
    assert image.notes
    return image


def cli(*words: Any) -> Result:
    """Run the command line."""
    return CliRunner().invoke(iterreg, [str(word) for word in words])


# ---------------------------------------------------------------------------------------- folders


def test_one_series(tmp_path, fixed):
    write_series(tmp_path / "one", fixed)
    image = read_image(tmp_path / "one")
    is_image(image, fixed)
    assert image.dtype == "int16" and image.notes == ()


def test_nested_folders_other_files_and_no_extensions(tmp_path, fixed):
    write_series(tmp_path / "study" / "scan" / "001", fixed, suffix="")
    (tmp_path / "study" / "DICOMDIR").write_bytes(b"junk")
    (tmp_path / "study" / "readme.txt").write_text("hello")
    (tmp_path / "study" / ".hidden").write_text("hello")
    is_image(read_image(tmp_path / "study"), fixed)


def test_a_scale_of_its_own_for_each_slice(tmp_path, fixed):
    values = sitk.GetArrayFromImage(fixed).astype(float)
    for z, plane in enumerate(values):
        place = np.array(fixed.GetOrigin()) + np.array((0, 0, z * fixed.GetSpacing()[2]))
        write_slice(
            tmp_path / f"{z}.dcm", plane, place, z + 1, spacing=fixed.GetSpacing()[1::-1],
            slope=0.5 + 0.02 * z,
        )  # fmt: skip
    read = read_image(tmp_path)
    assert np.abs(read.data[0].numpy() - values).max() <= 0.5 * (0.5 + 0.02 * len(values)) + 1e-3


def test_several_series_are_listed_and_picked(tmp_path, fixed, moving):
    folder = tmp_path / "two"
    more = {"SeriesDate": "20240131"}
    write_series(folder, fixed, SeriesDescription="Thorax inhale", **more)
    write_series(folder, moving, SeriesDescription="Thorax exhale", uid=OTHER, SeriesNumber=2,
                 prefix="B", **more)  # fmt: skip
    refused(folder, ImageReadError, "found 2 DICOM series", "'Thorax inhale'", "'Thorax exhale'",
            "2024-01-31", "40 slices", "--fixed-series")  # fmt: skip
    for series in ("1", f"{ROOT}.1", "inhale", "INHALE"):
        is_image(read_image(folder, series), fixed)
    for series in ("2", OTHER, "exhale"):
        is_image(read_image(folder, series), moving)
    refused(folder, ImageReadError, "found 2", series="Thorax")
    refused(folder, ImageReadError, "'brain'", series="brain")


def test_series_with_one_number_get_letters(tmp_path, fixed, moving):
    write_series(tmp_path / "a", fixed)
    write_series(tmp_path / "b", moving, uid=OTHER)
    refused(tmp_path, ImageReadError, "1a: CT, 40 slices", "1b: CT, 40 slices", OTHER)
    is_image(read_image(tmp_path, "1a"), fixed)
    is_image(read_image(tmp_path, "1b"), moving)


def test_copies_of_files_are_left_out_with_a_note(tmp_path, fixed):
    write_series(tmp_path / "a", fixed)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    is_image(read_with_note(tmp_path, "40 copies"), fixed)


@pytest.mark.parametrize("series", ["same", "own"])
def test_scouts_are_left_out_with_a_note(tmp_path, fixed, series):
    write_series(tmp_path, fixed)
    scout = sitk.GetArrayFromImage(fixed).astype(float)[:, 10, :]
    write_slice(
        tmp_path / "A_SCOUT.dcm", scout, fixed.GetOrigin(), 999, axes=(1, 0, 0, 0, 0, -1),
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
        uid=f"{ROOT}.1" if series == "same" else OTHER,
    )  # fmt: skip
    is_image(read_with_note(tmp_path, "left out"), fixed)


@pytest.mark.parametrize("key", ["InstanceNumber", "TemporalPositionIdentifier", "AcquisitionTime"])
def test_phases_at_the_same_positions(tmp_path, fixed, moving, key):
    for k, image in enumerate((fixed, moving)):
        values: Any = {"AcquisitionTime": f"10000{k}", "TemporalPositionIdentifier": k + 1}
        more = {key: values[key]} if key in values else {}
        write_series(tmp_path, image, first=1 + 100 * k, prefix=f"P{k}_", **more)
    words = "phases at the same positions", "1/1", "1/2", key
    refused(tmp_path, ImageReadError, *words)
    is_image(read_image(tmp_path, "1/1"), fixed)
    second = read_image(tmp_path, "1/2")
    is_image(second, moving)
    is_image(read_image(tmp_path, second.series), moving)
    refused(tmp_path, ImageReadError, "found 2", series="1")


def test_a_phase_with_a_missing_slice(tmp_path, fixed, moving):
    """The other phase can be read; of this one the slice is named."""
    for k, image in enumerate((fixed, moving)):
        slices = [z for z in range(40) if (k, z) != (1, 17)]
        write_series(tmp_path, image, slices=slices, first=1 + 100 * k, prefix=f"P{k}_",
                     TemporalPositionIdentifier=k + 1)  # fmt: skip
    is_image(read_image(tmp_path, "1/1"), fixed)
    place = fixed.GetOrigin()[2] + 17 * fixed.GetSpacing()[2]
    refused(tmp_path, GeometryError, f"missing at z = {place:.5g} mm", series="1/2")


def test_a_dicomdir(tmp_path, fixed, moving):
    files = FileSet()
    for k, image in enumerate((fixed[:, :, :5], moving[:, :, :5])):
        more = {"StudyDate": "20240131", "StudyTime": "1200", "StudyID": "1"}
        for path in write_series(tmp_path / f"raw{k}", image, uid=f"{ROOT}.{k + 1}", **more):
            files.add(path)
    disc = tmp_path / "disc"
    files.write(disc)
    with warnings.catch_warnings():
        # pydicom leaves the temporary folder of a file set to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        del files
        gc.collect()
    refused(disc / "DICOMDIR", ImageReadError, "1a", "1b")
    is_image(read_image(disc / "DICOMDIR", OTHER), moving[:, :, :5])
    is_image(read_image(disc, OTHER), moving[:, :, :5])
    next(p for p in sorted(disc.rglob("*")) if p.is_file() and p.name != "DICOMDIR").unlink()
    refused(disc / "DICOMDIR", ImageReadError, "1 of 10 are missing")


# --------------------------------------------------------------------------------------- geometry


@pytest.mark.parametrize("degrees", [20, -12])
def test_a_tilted_gantry(tmp_path, fixed, degrees):
    """Every voxel shows what the scan shows at its place."""
    write_tilted(tmp_path, fixed, degrees)
    image = read_with_note(tmp_path, f"tilted by {abs(degrees)}.0 degrees")
    view = field_of_view(image)
    assert view.kind == "padding" and 0.5 < view.share < 0.95
    values = image.data[0]
    assert float(values[~view.mask].max()) == -2048 and float(values[view.mask].min()) > -1025

    def on_fixed(array: np.ndarray) -> np.ndarray:
        box = sitk.GetImageFromArray(array)
        box.SetSpacing(image.grid.spacing_xyz_mm)
        box.SetOrigin(image.grid.origin_lps_mm)
        box.SetDirection(np.ravel(image.grid.direction_lps).tolist())
        return sitk.GetArrayFromImage(sitk.Resample(box, fixed, sitk.Transform(), sitk.sitkLinear))

    truth, back = sitk.GetArrayFromImage(fixed), on_fixed(values.numpy())
    seen = on_fixed(view.mask.numpy().astype(np.float32)) > 0.999
    assert seen.mean() > 0.5
    assert np.corrcoef(back[seen], truth[seen])[0, 1] > 0.98
    # As a box turned by the tilt, the same voxels lie up to 35 mm from their places.
    assert np.abs(back[seen] - truth[seen]).mean() < 40


def test_oblique_slices_without_tilt_are_no_shear(tmp_path):
    values = np.random.default_rng(0).integers(-1000, 1000, (5, 6, 7)).astype(float)
    c, s = np.cos(0.4), np.sin(0.4)
    axes, normal = (1, 0, 0, 0, c, s), np.array([0, -s, c])
    for z, plane in enumerate(values):
        write_slice(tmp_path / f"{z}.dcm", plane, 3 * z * normal, z, axes=axes, spacing=(2, 1))
    image = read_image(tmp_path)
    np.testing.assert_array_equal(image.data[0].numpy(), values)
    assert image.grid.spacing_xyz_mm == pytest.approx((1, 2, 3), rel=1e-6)


def test_missing_slices_are_named(tmp_path, fixed):
    kept = [z for z in range(40) if z not in (13, 14, 30)]
    write_series(tmp_path, fixed, slices=kept)
    first, step = fixed.GetOrigin()[2], fixed.GetSpacing()[2]
    places = ", ".join(f"{first + z * step:.5g}" for z in (13, 14, 30))
    refused(tmp_path, GeometryError, "3 of them missing", f"z = {places} mm")


def test_doubled_slices_are_named(tmp_path, fixed):
    write_series(tmp_path, fixed, slices=[*range(40), 20])
    place = fixed.GetOrigin()[2] + 20 * fixed.GetSpacing()[2]
    refused(tmp_path, GeometryError, "doubled", f"z = {place:.5g} mm", "IM0020.dcm", "IM0040.dcm")


def test_uneven_slices_are_refused(tmp_path):
    for n, z in enumerate((0, 4, 8, 13, 17)):
        write_slice(tmp_path / f"{n}.dcm", np.zeros((3, 4)), (0, 0, z), n)
    refused(tmp_path, GeometryError, "evenly spaced", "4 to 5 mm")


def test_a_slice_beside_the_others(tmp_path):
    for n in range(5):
        write_slice(tmp_path / f"{n}.dcm", np.zeros((3, 4)), (7 * (n == 2), 0, 4 * n), n)
    refused(tmp_path, GeometryError, "2.dcm", "7 mm beside")


def test_two_slices_far_apart(tmp_path, fixed):
    write_series(tmp_path, fixed, slices=[10, 12])
    read_with_note(tmp_path, "8 mm apart but 4 mm thick")


def test_mosaics_are_refused(tmp_path, fixed):
    kind = ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]
    write_series(tmp_path, fixed[:, :, :3], ImageType=kind)
    refused(tmp_path, ImageReadError, "mosaic", "dcm2niix")


def test_older_files_of_many_frames_are_named(tmp_path, fixed):
    """A scan of nuclear medicine: no place for each frame."""
    dataset = write_enhanced(tmp_path / "nm.dcm", fixed, Modality="NM")
    del dataset.PerFrameFunctionalGroupsSequence, dataset.SharedFunctionalGroupsSequence
    dataset.PixelSpacing, dataset.SpacingBetweenSlices = ["4", "4"], "4"
    dataset.ImagePositionPatient = ["0", "0", "0"]
    dataset.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    dataset.save_as(tmp_path / "nm.dcm")
    refused(tmp_path / "nm.dcm", ImageReadError, "older file of", "dcm2niix")


def test_rounded_axes_are_one_stack(tmp_path):
    """Axes that differ by less than rounding, on both sides of a rounded number."""
    for z in range(6):
        c, s = np.cos(0.005 + 1e-7 * (-1) ** z), np.sin(0.005 + 1e-7 * (-1) ** z)
        write_slice(
            tmp_path / f"{z}.dcm", np.full((4, 5), z), (0, -3 * z * s, 3 * z * c), z,
            axes=(1, 0, 0, 0, c, s), spacing=(0.976562 + 1e-6 * z, 0.976562),
        )  # fmt: skip
    assert read_image(tmp_path).grid.shape_zyx == (6, 4, 5)


def test_slices_without_a_place(tmp_path, fixed):
    for path in write_series(tmp_path, fixed):
        dataset = pydicom.dcmread(path)
        del dataset.ImagePositionPatient
        dataset.save_as(path)
    refused(tmp_path, GeometryError, "no ImagePositionPatient")


def test_stacks_of_two_planes_in_one_series(tmp_path, fixed):
    write_series(tmp_path, fixed)
    for n in range(5):
        write_slice(
            tmp_path / f"c{n}.dcm",
            np.zeros((8, 9)),
            (0, 4 * n, 0),
            100 + n,
            axes=(1, 0, 0, 0, 0, -1),
        )
    refused(tmp_path, ImageReadError, "found 2 stacks in one series", "axial, 40", "coronal, 5")
    is_image(read_image(tmp_path, "axial"), fixed)
    assert read_image(tmp_path, "1/2").grid.shape_zyx == (5, 8, 9)


def test_a_missing_slice_may_be_one_that_was_left_out(tmp_path, fixed):
    path = write_series(tmp_path, fixed)[10]
    dataset = pydicom.dcmread(path)
    dataset.PixelSpacing = ["9", "9"]
    dataset.save_as(path)
    refused(tmp_path, GeometryError, "missing at z", "1 images of another size or plane", path.name)


# --------------------------------------------------------------------------------- pixels, damage


def test_a_table_of_intensities_in_place_of_a_slope(tmp_path, fixed):
    """The right value of each voxel is twice what is stored: 2 (HU + 1024)."""
    for path in write_series(tmp_path, fixed):
        dataset = pydicom.dcmread(path)
        del dataset.RescaleSlope, dataset.RescaleIntercept
        table = pydicom.Dataset()
        table.LUTDescriptor, table.ModalityLUTType = [4096, 0, 16], "US"
        table.add_new(0x00283006, "OW", (2 * np.arange(4096)).astype("<u2").tobytes())
        dataset.ModalityLUTSequence = [table]
        dataset.save_as(path)
    stored = np.rint(sitk.GetArrayFromImage(fixed).astype(float)) + 1024
    np.testing.assert_array_equal(read_image(tmp_path).data[0].numpy(), 2 * stored)


def test_a_file_that_begins_with_the_length_of_its_first_group(tmp_path, fixed):
    for path in write_series(tmp_path, fixed):
        path.write_bytes(path.read_bytes()[132:])
        assert path.read_bytes()[:6] == b"\x02\0\0\0UL"
    is_image(read_image(tmp_path), fixed)


def test_enhanced_files_of_many_frames(tmp_path, fixed):
    path = tmp_path / "enhanced.dcm"
    slopes = np.linspace(1, 2, 40)
    write_enhanced(path, fixed, slopes=slopes)
    for place in (path, tmp_path):
        image = read_image(place)
        np.testing.assert_allclose(image.data[0].numpy(), sitk.GetArrayFromImage(fixed), atol=1.01)
        np.testing.assert_allclose(image.grid.origin_lps_mm, fixed.GetOrigin(), atol=1e-3)


def test_enhanced_files_with_phases(tmp_path, fixed):
    write_enhanced(tmp_path / "e.dcm", fixed, phases=3)
    refused(tmp_path / "e.dcm", ImageReadError, "3 phases", "TemporalPositionIndex 2")
    is_image(read_image(tmp_path / "e.dcm", "1/3"), fixed + 200)


@pytest.mark.parametrize("enhanced", [False, True])
def test_run_length_compression(tmp_path, fixed, enhanced):
    slopes = np.linspace(1, 2, 40)
    paths = [tmp_path / "e.dcm"]
    if enhanced:
        write_enhanced(paths[0], fixed, slopes=slopes)
    else:
        paths = write_series(tmp_path, fixed)
    before = read_image(tmp_path)
    for path in paths:
        dataset = pydicom.dcmread(path)
        dataset.compress(RLELossless)
        dataset.save_as(path)
    after = read_image(tmp_path)
    np.testing.assert_array_equal(after.data, before.data)
    assert after.grid == before.grid


@pytest.mark.parametrize(
    "name",
    [
        "MR_small_RLE.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_implicit.dcm",
    ],
)
def test_transfer_syntaxes(tmp_path, name):
    """The same image, packed in the ways that scanners and archives pack it."""
    truth = pydicom.dcmread(get_testdata_file("MR_small.dcm")).pixel_array
    shutil.copy(get_testdata_file(name), tmp_path / "slice.dcm")
    image = read_image(tmp_path)
    np.testing.assert_array_equal(image.data[0, 0].numpy(), truth)


def test_files_without_a_preamble(tmp_path):
    truth = pydicom.dcmread(get_testdata_file("MR_small_implicit.dcm"))
    truth.save_as(tmp_path / "bare.dcm", enforce_file_format=False)
    content = (tmp_path / "bare.dcm").read_bytes()
    start = content.index(b"\x08\0\x08\0", 132)
    (tmp_path / "bare.dcm").write_bytes(content[start:])
    image = read_image(tmp_path)
    np.testing.assert_array_equal(image.data[0, 0].numpy(), truth.pixel_array)


@pytest.mark.parametrize("key", ["Rows", "Columns", "BitsAllocated"])
@pytest.mark.parametrize("value", [8, 60000])
def test_slices_that_are_not_as_large_as_they_say(tmp_path, fixed, key, value):
    path = write_series(tmp_path, fixed[:, :, :1])[0]
    dataset = pydicom.dcmread(path)
    setattr(dataset, key, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.save_as(path)
    refused(tmp_path, ImageReadError, "IM0000.dcm", "by its header")


def test_a_damaged_slice_among_good_ones(tmp_path, fixed):
    paths = write_series(tmp_path, fixed)
    paths[7].write_bytes(paths[7].read_bytes()[:-100])
    refused(tmp_path, ImageReadError, "IM0007.dcm")


def test_colours_are_refused(tmp_path):
    shutil.copy(get_testdata_file("SC_rgb_dcmtk_+eb+cr.dcm"), tmp_path / "c.dcm")
    with pytest.raises((ImageContentError, GeometryError)):
        read_image(tmp_path)


def test_palettes_are_refused(tmp_path, fixed):
    write_series(tmp_path, fixed[:, :, :3])
    for path in tmp_path.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.PhotometricInterpretation = "PALETTE COLOR"
        dataset.save_as(path)
    with pytest.raises(ImageContentError, match="colours") as error:
        read_image(tmp_path)
    assert str(error.value).count(str(tmp_path)) == 1


@pytest.mark.parametrize(
    ("name", "modality"), [("liver_1frame.dcm", "SEG"), ("rtstruct.dcm", "RTSTRUCT")]
)
def test_objects_without_intensities(tmp_path, name, modality):
    path = tmp_path / name
    shutil.copy(get_testdata_file(name), path)
    refused(path, ImageReadError, f"modality {modality}")
    refused(tmp_path, ImageReadError, "found none")


def test_pipes_and_devices_in_a_folder_are_passed_over(tmp_path, fixed):
    write_series(tmp_path, fixed)
    os.mkfifo(tmp_path / "pipe.dcm")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "empty.dcm").write_bytes(b"")
    is_image(read_image(tmp_path), fixed)
    assert sha256_of(tmp_path) is not None


def test_a_folder_of_everything_is_refused(tmp_path, fixed, monkeypatch):
    monkeypatch.setattr("iterreg.io.dicom.files.MOST_FILES", 20)
    write_series(tmp_path, fixed)
    refused(tmp_path, ImageReadError, "more than 20 files", "folder of one study")


def test_empty_folders_and_single_slices(tmp_path, fixed):
    refused(tmp_path, ImageReadError, "found none")
    path = write_series(tmp_path / "s", fixed[:, :, :1])[0]
    assert read_image(path).grid.shape_zyx[0] == 1
    dataset = pydicom.dcmread(path)
    del dataset.SliceThickness
    dataset.save_as(path)
    assert read_with_note(path, "does not say how thick it is").grid.spacing_xyz_mm[2] == 1


# --------------------------------------------------------------------------------------- commands


def test_the_list(tmp_path, fixed, moving):
    write_series(tmp_path / "a", fixed, SeriesDescription="chest \x1b[2J CT", SeriesDate="20240131")
    write_series(tmp_path / "b", moving, uid=OTHER, SeriesNumber=7)
    done = cli("dicom", "list", tmp_path)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == "1: 'chest [2J CT', CT, 2024-01-31, 40 slices of 40 x 36"
    assert lines[2].startswith("7: CT") and OTHER in lines[3]
    (tmp_path / "none").mkdir()
    assert cli("dicom", "list", tmp_path / "none").exit_code == ImageReadError.exit_code
    assert cli("dicom", "list", tmp_path / "gone").exit_code == ImageReadError.exit_code


def test_a_command_names_its_own_options(tmp_path, fixed, moving):
    write_series(tmp_path / "two", fixed)
    write_series(tmp_path / "two", moving, uid=OTHER, prefix="B")
    sitk.WriteTransform(sitk.TranslationTransform(3, (1.0, 2.0, 3.0)), str(tmp_path / "t.tfm"))
    sitk.WriteImage(fixed, str(tmp_path / "f.nii.gz"))
    two, out = tmp_path / "two", tmp_path / "out.mha"
    given = "--transform", tmp_path / "t.tfm", "--out", out
    done = cli("apply", *given, "--reference", tmp_path / "f.nii.gz", "--image", two)
    assert "with --image-series or --reference-series, such as 1a" in done.stderr
    assert "with --fixed-series or --moving-series" in cli("convert", *given, "--fixed", two).stderr
    given = "--transform", tmp_path / "t.tfm", "--out", tmp_path / "o.h5"
    assert cli("convert", *given, "--fixed", two, "--fixed-series", "1b").exit_code == 0


@pytest.mark.filterwarnings("default")
def test_a_run_picks_a_series_for_each_image_and_its_report_finds_them(tmp_path, fixed, moving):
    place, out = tmp_path / "study", tmp_path / "out"
    write_series(place, fixed, SeriesDescription="inhale")
    write_series(place, moving, uid=OTHER, SeriesDescription="exhale", prefix="B")
    words = ["register", "--preset", "general", "--fixed", place, "--moving", place, "--out", out,
             "--set", "levels.steps=[1]", "--set", "levels.spacing_mm=[16.0]"]  # fmt: skip
    done = cli(*words)
    assert done.exit_code == ImageReadError.exit_code
    assert "1a: 'inhale'" in done.stderr
    done = cli(*words, "--fixed-series", "inhale", "--moving-series", "1b")
    assert done.exit_code in (0, 15), done.output
    tables = json.loads((out / "run.json").read_text("utf-8"))
    assert tables["fixed"]["series"] == f"{ROOT}.1" and tables["moving"]["series"] == OTHER
    done = cli("report", out, "--overwrite")
    assert done.exit_code == 0, done.output
    warped = tmp_path / "w.nii.gz"
    done = cli("apply", "--transform", out / "transform.h5", "--reference", place, "--image", place,
               "--reference-series", "inhale", "--image-series", "exhale",
               "--out", warped)  # fmt: skip
    assert done.exit_code == 0, done.output
    assert read_image(warped).grid.same_space(read_image(place, "inhale").grid)
