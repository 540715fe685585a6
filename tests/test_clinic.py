"""What a clinic hands on: DICOM objects read back by programs that are none of ours."""

from __future__ import annotations

import csv
import shutil
import subprocess
from pathlib import Path

import dicom_files
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch
from click.testing import CliRunner, Result
from dicom_validator import errors_of
from scipy.ndimage import gaussian_filter, map_coordinates

from iterreg.cli import iterreg
from iterreg.clinic.dvh import dose_volume
from iterreg.clinic.structures import contours_of
from iterreg.errors import ExitCode, ImageContentError
from iterreg.geometry import Grid
from iterreg.image import Image
from iterreg.io import read_image
from iterreg.io.dicom.structures import read_structures

SIZE = (26, 24, 14)
SPACING = (2.0, 2.5, 3.0)
SHIFT_MM = 4.0
STUDY = {
    "StudyDate": "20200101",
    "StudyTime": "120000",
    "StudyID": "1",
    "AccessionNumber": "",
    "ReferringPhysicianName": "",
    "PatientBirthDate": "",
    "PatientSex": "O",
    "KVP": "120",
    "PatientPosition": "HFS",
}
FAST = ("--set", "levels.spacing_mm=[8.0, 4.0]", "--set", "levels.steps=[5, 5]")


def image(shift_mm: float) -> sitk.Image:
    """A soft texture in HU, moved along x; bent too, where it is moved."""
    noise = np.random.default_rng(0).normal(0, 1, SIZE[::-1])
    texture = 4000 * gaussian_filter(noise, (1.5, 2, 2))
    if shift_mm:
        z, y, x = np.indices(texture.shape).astype(float)
        x = x + 1.5 * np.sin(2 * np.pi * y / SIZE[1])
        texture = map_coordinates(texture, (z, y, x), order=1, mode="nearest")
    made = sitk.GetImageFromArray(np.rint(texture).astype(np.int16))
    made.SetSpacing(SPACING)
    made.SetOrigin((-20.0 + shift_mm, -30.0, 100.0))
    return made


def square(shift_mm: float) -> list[np.ndarray]:
    """A box as outlines in the slices of the moving image."""
    corners = [(-4.0, -12.0), (14.0, -12.0), (14.0, 8.0), (-4.0, 8.0)]
    heights = [100.0 + SPACING[2] * k for k in range(4, 10)]
    return [np.array([(x + shift_mm, y, z) for x, y in corners]) for z in heights]


def write_dose(path: Path, scale: float = 1e-4) -> None:
    """A dose that falls off along x, on a grid of its own in the space of the moving image."""
    dose_gy = sitk.GetImageFromArray(np.broadcast_to(np.linspace(40, 10, 30), (20, 32, 30)))
    dose_gy.SetOrigin((-24.0, -34.0, 96.0))
    dose_gy.SetSpacing((2.5, 2.5, 2.5))
    dicom_files.write_dose(path, dose_gy, f"{dicom_files.ROOT}.12", scale, **STUDY)


def run(*arguments: object) -> Result:
    """A command."""
    return CliRunner().invoke(iterreg, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two series, their registration, and everything that was exported."""
    folder = tmp_path_factory.mktemp("clinic")
    for number, (name, shift_mm) in enumerate((("fixed", 0.0), ("moving", SHIFT_MM)), 1):
        dicom_files.write_series(
            folder / name,
            image(shift_mm),
            uid=f"{dicom_files.ROOT}.{number}",
            FrameOfReferenceUID=f"{dicom_files.ROOT}.1{number}",
            slices=range(SIZE[2] - 2 * (number - 1)),  # the moving image ends sooner
            **STUDY,
        )
    dicom_files.write_structures(folder / "structures.dcm", {"Target": square(SHIFT_MM)})
    write_dose(folder / "dose.dcm")
    pair = ("--fixed", folder / "fixed", "--moving", folder / "moving", "--out", folder / "run")
    made = run("register", "--preset", "general", *pair, "--threads", 1, "--no-report", *FAST)
    assert made.exit_code in (0, 15, 16), made.output
    given = ("--rtstruct", folder / "structures.dcm", "--rtdose", folder / "dose.dcm")
    written = run("dicom", "export", folder / "run", "--out", folder / "out", *given)
    assert written.exit_code == 0, written.output
    again = run(
        *("dicom", "export", folder / "run", "--out", folder / "band", *given),
        *("--error-mm", 5, "--no-series"),
    )
    assert again.exit_code == 0, again.output
    return folder


def test_the_object_is_the_transform_exactly(exported: Path) -> None:
    dataset = pydicom.dcmread(exported / "out" / "registration.dcm")
    still, moved = dataset.DeformableRegistrationSequence
    fixed, moving = (f"{dicom_files.ROOT}.1{n}" for n in (1, 2))
    assert dataset.FrameOfReferenceUID == still.SourceFrameOfReferenceUID == fixed
    assert moved.SourceFrameOfReferenceUID == moving
    (grid,) = moved.DeformableRegistrationGridSequence
    columns, rows, slices = grid.GridDimensions
    vectors = np.frombuffer(grid.VectorGridData, "<f4").reshape(slices, rows, columns, 3)
    first = np.array(grid.ImagePositionPatient, float)
    x, y = np.array(grid.ImageOrientationPatient, float).reshape(2, 3)
    axes = np.column_stack((x, y, np.cross(x, y))) * grid.GridResolution
    before, after = (
        np.array(s[0].FrameOfReferenceTransformationMatrix, float).reshape(4, 4)
        for s in (
            moved.PreDeformationMatrixRegistrationSequence,
            moved.PostDeformationMatrixRegistrationSequence,
        )
    )
    transform = sitk.ReadTransform(str(exported / "run" / "transform.h5"))
    low, high = np.array((-8.0, -20.0, 109.0)), np.array((16.0, 12.0, 130.0))
    for point in np.random.default_rng(0).uniform(low, high, (50, 3)):
        place = (before @ [*point, 1])[:3]
        index = np.linalg.solve(axes, place - first)[::-1].reshape(3, 1)
        offset = [map_coordinates(vectors[..., k], index, order=1)[0] for k in range(3)]
        landed = (after @ [*(place + offset), 1])[:3]
        assert np.abs(landed - transform.TransformPoint(point.tolist())).max() < 2e-3
    outside = np.isnan(vectors).any(-1)
    assert np.array_equal(outside, np.isnan(vectors).all(-1))
    assert outside[-1].mean() > 0.3 > outside[5].mean(), "the moving image ends sooner"
    assert np.nanmax(np.abs(vectors)) > 0.1


def test_the_warped_series_is_the_warped_image(exported: Path) -> None:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(exported / "out" / "warped")))
    series = reader.Execute()
    warped = sitk.ReadImage(str(exported / "run" / "warped.nii.gz"))
    assert series.GetSize() == warped.GetSize()
    assert np.allclose(series.GetOrigin(), warped.GetOrigin(), atol=1e-4)
    assert np.allclose(series.GetSpacing(), warped.GetSpacing(), atol=1e-5)
    ours, theirs = (sitk.GetArrayFromImage(i).astype(float) for i in (series, warped))
    assert np.abs(ours - theirs).max() <= 1
    first = pydicom.dcmread(exported / "out" / "warped" / "0001.dcm")
    assert first.FrameOfReferenceUID == f"{dicom_files.ROOT}.11" and first.Modality == "CT"


def test_structures_and_dose_follow_the_transform(exported: Path) -> None:
    transform = sitk.ReadTransform(str(exported / "run" / "transform.h5"))
    fixed = read_image(exported / "fixed")
    reference = sitk.ReadImage(str(exported / "run" / "warped.nii.gz"))
    (there,), _ = read_structures(exported / "structures.dcm", read_image(exported / "moving").grid)
    (here,), _ = read_structures(exported / "out" / "structures.dcm", fixed.grid)
    assert here.name == "Target"
    drawn = sitk.GetImageFromArray((there.mask.data != 0).numpy().astype(np.float32))
    drawn.CopyInformation(image(SHIFT_MM)[:, :, : SIZE[2] - 2])
    moved = sitk.Resample(drawn, reference, transform, sitk.sitkLinear, 0.0)
    expected, found = sitk.GetArrayFromImage(moved) >= 0.5, (here.mask.data != 0).numpy()
    assert 2 * (expected & found).sum() / (expected.sum() + found.sum()) > 0.97

    dose = sitk.ReadImage(str(exported / "dose.dcm"))
    planned = sitk.Cast(dose, sitk.sitkFloat64) * 1e-4
    resampled = sitk.GetArrayFromImage(
        sitk.Resample(planned, reference, transform, sitk.sitkLinear, 0.0)
    )
    dataset = pydicom.dcmread(exported / "out" / "dose.dcm")
    written = dataset.pixel_array * float(dataset.DoseGridScaling)
    assert np.abs(written - resampled)[2:-2, 2:-2, 2:-2].max() < 1e-3
    assert dataset.FrameOfReferenceUID == f"{dicom_files.ROOT}.11" and dataset.DoseUnits == "GY"


def test_histograms_agree_and_the_band_holds_them(exported: Path) -> None:
    def rows(place: str) -> list[dict[str, str]]:
        with (exported / place / "dvh.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    planned, found = rows("out")
    assert (planned["image"], found["image"]) == ("moving", "fixed")
    assert float(found["mean_gy"]) == pytest.approx(float(planned["mean_gy"]), abs=1.0)
    assert float(found["d95_low_gy"]) == float(found["d95_gy"]), "no error, no band"
    band = rows("band")[1]
    for name in ("d95", "d50", "d2"):
        low, at, high = (float(band[f"{name}{k}_gy"]) for k in ("_low", "", "_high"))
        assert low < at < high
    # 5 mm along x are two or three voxels, and the dose falls by 30 Gy in 72.5 mm.
    assert 1.2 < float(band["d50_high_gy"]) - float(band["d50_gy"]) < 2.6
    assert not (exported / "band" / "warped").exists()


@pytest.mark.parametrize(
    "name", ["registration.dcm", "structures.dcm", "dose.dcm", "warped/0005.dcm"]
)
def test_no_validator_finds_an_error(exported: Path, tmp_path: Path, name: str) -> None:
    assert errors_of(exported / "out" / name, tmp_path) == []


def test_plastimatch_reads_the_structures(exported: Path, tmp_path: Path) -> None:
    program = shutil.which("plastimatch")
    if program is None:
        pytest.skip("plastimatch is not installed")
    words = ["convert", "--input", exported / "out" / "structures.dcm"]
    words += ["--referenced-ct", exported / "fixed", "--output-prefix", tmp_path / "masks"]
    subprocess.run([program, *map(str, words)], check=True, capture_output=True)
    (mask,) = (tmp_path / "masks").glob("*.mha")
    theirs = sitk.GetArrayFromImage(sitk.ReadImage(str(mask))) > 0
    fixed = read_image(exported / "fixed")
    (ours,), _ = read_structures(exported / "out" / "structures.dcm", fixed.grid)
    both = theirs & (ours.mask.data != 0).numpy()
    assert 2 * both.sum() / (theirs.sum() + (ours.mask.data != 0).sum()) > 0.97


def test_a_result_of_other_images_is_refused(exported: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat.nii.gz"
    sitk.WriteImage(image(0.0), str(flat))
    words = ("--fixed", flat, "--moving", flat, "--out", tmp_path / "o")
    refused = run("dicom", "export", exported / "run", *words)
    assert refused.exit_code != 0 and not (tmp_path / "o").exists()
    assert refused.stderr.count("\n") == 1 and "flat.nii.gz" in refused.stderr
    alone = run("dicom", "export", exported / "run", "--out", tmp_path / "o", "--rtdose", flat)
    assert alone.exit_code == ExitCode.USAGE


def test_outlines_enclose_what_they_should() -> None:
    axes = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    grid = Grid((3, 20, 20), (1.0, 2.0, 5.0), (0.0, 0.0, 0.0), axes)
    share = torch.zeros(1, 3, 20, 20)
    share[0, 1, 4:16, 4:16] = 1
    share[0, 1, 8:12, 8:12] = 0
    rings = contours_of(Image(share, grid))
    areas = sorted(abs(_area(ring)) for ring in rings)
    assert len(rings) == 2 and all(np.allclose(ring[:, 2], 5.0) for ring in rings)
    # Half a voxel beyond the outer centres; the cut corners take one eighth of a voxel each.
    assert areas == pytest.approx([2 * (16 - 0.5), 2 * (144 - 0.5)])


def test_outlines_lie_in_the_slices_also_of_a_sagittal_series() -> None:
    axes = ((0.0, 0.0, -1.0), (1.0, 0.0, 0.0), (0.0, -1.0, 0.0))  # slices follow each other along x
    share = torch.zeros(1, 4, 20, 20)
    share[0, 1:3, 4:16, 4:16] = 1
    rings = contours_of(Image(share, Grid((4, 20, 20), (1.0, 1.0, 5.0), (0.0, 0.0, 0.0), axes)))
    assert sorted({float(abs(x)) for ring in rings for x in ring[:, 0]}) == [5.0, 10.0]


def _area(ring: np.ndarray) -> float:
    x, y = ring[:, 0], ring[:, 1]
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) / 2)


def test_a_structure_without_a_volume_has_no_histogram() -> None:
    axes = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    grid = Grid((4, 4, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), axes)
    empty, dose = Image(torch.zeros(1, 4, 4, 4), grid), Image(torch.ones(1, 4, 4, 4), grid)
    with pytest.raises(ImageContentError, match="cord: expected a structure with a volume"):
        dose_volume("cord", dose, empty)
    half = torch.zeros(1, 4, 4, 4)
    half[0, :2] = 1
    ramp = torch.arange(4.0).view(1, 4, 1, 1).expand(1, 4, 4, 4).contiguous() * 10
    drawn = dose_volume("cord", Image(ramp, grid), Image(half, grid))
    assert drawn.figures()["mean_gy"] == pytest.approx(5.0, abs=0.05)
    assert drawn.figures()["d2_gy"] == pytest.approx(10.0, abs=0.06)
    assert drawn.figures()["d95_gy"] == 0.0
