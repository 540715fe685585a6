"""DICOM objects of a real chest on oblique grids of thick slices, judged by other programs."""

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
from click.testing import CliRunner, Result
from dicom_validator import errors_of
from scipy.ndimage import map_coordinates
from test_clinic import STUDY

import iterreg as package
from iterreg.cli import iterreg

CHEST = Path(package.__file__).parent / "data" / "thorax4dct_mini"
FAST = ("--set", "levels.spacing_mm=[16.0, 8.0]", "--set", "levels.steps=[20, 10]")
SIZE, SPACING = (64, 52, 22), {"fixed": (3.5, 4.5, 8.0), "moving": (4.0, 4.0, 7.0)}
ANGLES = {"fixed": (0.15, -0.1, 0.25), "moving": (-0.1, 0.12, 0.1)}
FRAMES = {"fixed": f"{dicom_files.ROOT}.11", "moving": f"{dicom_files.ROOT}.12"}


def axes_of(angles: tuple[float, float, float]) -> np.ndarray:
    """Columns, rows and slices, turned about x, y and z."""
    turn = sitk.Euler3DTransform()
    turn.SetRotation(*angles)
    return np.array(turn.GetMatrix()).reshape(3, 3)


def oblique(side: str) -> sitk.Image:
    """The chest on an oblique grid about its middle."""
    image = sitk.ReadImage(str(CHEST / f"{side}.nii.gz"))
    middle = np.array(image.TransformContinuousIndexToPhysicalPoint(np.array(image.GetSize()) / 2))
    axes, spacing = axes_of(ANGLES[side]), np.array(SPACING[side])
    first = middle - axes @ (spacing * (np.array(SIZE) - 1) / 2)
    grid = sitk.Image(SIZE, sitk.sitkInt16)
    grid.SetSpacing(spacing.tolist())
    grid.SetOrigin(first.tolist())
    grid.SetDirection(axes.ravel().tolist())
    return sitk.Resample(image, grid, sitk.Transform(), sitk.sitkLinear, -1000.0, sitk.sitkInt16)


def write_series(folder: Path, image: sitk.Image, side: str, uid: str) -> None:
    """The slices as DICOM files."""
    axes = np.array(image.GetDirection()).reshape(3, 3)
    values = sitk.GetArrayFromImage(image).astype(float)
    for z, plane in enumerate(values):
        dicom_files.write_slice(
            folder / side / f"IM{z:04d}.dcm",
            plane,
            image.TransformIndexToPhysicalPoint((0, 0, z)),
            z + 1,
            uid=uid,
            axes=[*axes[:, 0], *axes[:, 1]],
            spacing=image.GetSpacing()[1::-1],
            SliceThickness=str(image.GetSpacing()[2]),
            FrameOfReferenceUID=FRAMES[side],
            **STUDY,
        )


def ellipses(image: sitk.Image) -> list[np.ndarray]:
    """An ellipsoid as outlines in the slices of an oblique image."""
    turn = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    outlines = []
    for z in range(6, 16):
        size = np.sqrt(1 - ((z - 10.5) / 6) ** 2)
        index = np.column_stack(
            [32 + 14 * size * np.cos(turn), 26 + 11 * size * np.sin(turn), np.full(60, float(z))]
        )
        places = map(image.TransformContinuousIndexToPhysicalPoint, index.tolist())
        outlines.append(np.array(list(places)))
    return outlines


def write_dose(path: Path, image: sitk.Image) -> None:
    """A hot ellipsoid, on a coarser grid with the axes of the image."""
    z, y, x = np.indices((14, 24, 30))
    apart = ((x - 15) / 8) ** 2 + ((y - 12) / 7) ** 2 + ((z - 7) / 4) ** 2
    dose_gy = sitk.GetImageFromArray(60.0 * np.exp(-apart))
    dose_gy.SetOrigin(image.TransformContinuousIndexToPhysicalPoint((2.0, 2.0, 1.0)))
    dose_gy.SetSpacing((8.0, 8.0, 10.0))
    dose_gy.SetDirection(image.GetDirection())
    dicom_files.write_dose(path, dose_gy, FRAMES["moving"], 1e-4, **STUDY)


def run(*arguments: object) -> Result:
    """A command."""
    return CliRunner().invoke(iterreg, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two oblique series, their registration, and everything that was exported."""
    folder = tmp_path_factory.mktemp("oblique")
    for number, side in enumerate(("fixed", "moving"), 1):
        write_series(folder, oblique(side), side, f"{dicom_files.ROOT}.{number}")
    moving = oblique("moving")
    dicom_files.write_structures(folder / "structures.dcm", {"Target": ellipses(moving)})
    write_dose(folder / "dose.dcm", moving)
    pair = ("--fixed", folder / "fixed", "--moving", folder / "moving", "--out", folder / "run")
    how = ("--preset", "general", "--threads", 1, "--no-report", "--save-error", *FAST)
    made = run("register", *pair, *how)
    assert made.exit_code in (0, 15, 16), made.output
    given = ("--rtstruct", folder / "structures.dcm", "--rtdose", folder / "dose.dcm")
    written = run("dicom", "export", folder / "run", "--out", folder / "out", *given)
    assert written.exit_code == 0, written.output
    return folder


def read_mask(prefix: Path) -> np.ndarray:
    """The one mask that plastimatch drew."""
    (mask,) = prefix.glob("*.mha")
    return sitk.GetArrayFromImage(sitk.ReadImage(str(mask))) > 0


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Of two masks."""
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


def expected_mask(folder: Path) -> np.ndarray:
    """The ellipsoid as SimpleITK takes it to the fixed image."""
    moving = oblique("moving")
    index = np.indices(SIZE[::-1])[::-1]
    apart = sum(
        ((n - m) / s) ** 2 for n, m, s in zip(index, (32, 26, 10.5), (14, 11, 6), strict=True)
    )
    drawn = sitk.GetImageFromArray((apart <= 1).astype(np.float32))
    drawn.CopyInformation(moving)
    transform = sitk.ReadTransform(str(folder / "run" / "transform.h5"))
    moved = sitk.Resample(drawn, oblique("fixed"), transform, sitk.sitkLinear, 0.0)
    return sitk.GetArrayFromImage(moved) >= 0.5


def test_the_grid_of_the_object_is_oblique_and_its_map_is_that_of_itk(exported: Path) -> None:
    dataset = pydicom.dcmread(exported / "out" / "registration.dcm")
    _, moved = dataset.DeformableRegistrationSequence
    (grid,) = moved.DeformableRegistrationGridSequence
    shape = tuple(grid.GridDimensions)[::-1]
    vectors = np.frombuffer(grid.VectorGridData, "<f4").reshape(*shape, 3)
    x, y = np.array(grid.ImageOrientationPatient, float).reshape(2, 3)
    assert np.abs(np.column_stack((x, y)) - axes_of(ANGLES["fixed"])[:, :2]).max() < 1e-6
    axes = np.column_stack((x, y, np.cross(x, y))) * grid.GridResolution
    after = np.array(
        moved.PostDeformationMatrixRegistrationSequence[0].FrameOfReferenceTransformationMatrix,
        float,
    ).reshape(4, 4)
    transform = sitk.ReadTransform(str(exported / "run" / "transform.h5"))
    fixed, moving = oblique("fixed"), oblique("moving")
    defined = 0
    for index in np.random.default_rng(0).uniform((12, 12, 4), (52, 40, 18), (50, 3)):
        point = np.array(fixed.TransformContinuousIndexToPhysicalPoint(index.tolist()))
        at = np.linalg.solve(axes, point - np.array(grid.ImagePositionPatient, float))[::-1]
        offset = [map_coordinates(vectors[..., k], at.reshape(3, 1), order=1)[0] for k in range(3)]
        expected = transform.TransformPoint(point.tolist())
        there = np.array(moving.TransformPhysicalPointToContinuousIndex(expected))
        if (there < 1).any() or (there > np.array(SIZE) - 2).any():
            continue  # nothing has to be defined outside the moving image
        landed = (after @ [*(point + offset), 1])[:3]
        assert np.abs(landed - expected).max() < 2e-3
        defined += 1
    assert defined > 30 and np.isnan(vectors).any()


def test_simpleitk_reads_the_oblique_series_and_dose(exported: Path) -> None:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(exported / "out" / "warped")))
    series, warped = reader.Execute(), sitk.ReadImage(str(exported / "run" / "warped.nii.gz"))
    for image in (series, warped):
        assert np.allclose(image.GetDirection(), oblique("fixed").GetDirection(), atol=1e-5)
        assert np.allclose(image.GetOrigin(), oblique("fixed").GetOrigin(), atol=1e-3)
        assert np.allclose(image.GetSpacing(), SPACING["fixed"], atol=1e-4)
    ours, theirs = (sitk.GetArrayFromImage(i).astype(float) for i in (series, warped))
    assert np.abs(ours - theirs).max() <= 1
    transform = sitk.ReadTransform(str(exported / "run" / "transform.h5"))
    planned, made = (sitk.ReadImage(str(exported / name)) for name in ("dose.dcm", "out/dose.dcm"))
    assert np.allclose(made.GetDirection(), oblique("fixed").GetDirection(), atol=1e-5)
    planned = sitk.Cast(planned, sitk.sitkFloat64) * 1e-4
    expected = sitk.GetArrayFromImage(
        sitk.Resample(planned, oblique("fixed"), transform, sitk.sitkLinear, 0.0)
    )
    scaling = float(pydicom.dcmread(exported / "out" / "dose.dcm").DoseGridScaling)
    found = sitk.GetArrayFromImage(made).astype(np.float64) * scaling
    inside = np.s_[3:-3, 6:-6, 6:-6]
    assert np.abs(found - expected)[inside].max() < 2e-3 < expected.max() > 40


def test_plastimatch_reads_the_oblique_structures_and_series(
    exported: Path, tmp_path: Path
) -> None:
    program = shutil.which("plastimatch")
    if program is None:
        pytest.skip("plastimatch is not installed")
    out = exported / "out"
    subprocess.run(
        [program, "convert", "--input", out / "warped", "--output-img", tmp_path / "warped.mha"],
        check=True,
        capture_output=True,
    )
    series = sitk.ReadImage(str(tmp_path / "warped.mha"))
    assert np.allclose(series.GetDirection(), oblique("fixed").GetDirection(), atol=1e-4)
    warped = sitk.GetArrayFromImage(sitk.ReadImage(str(exported / "run" / "warped.nii.gz")))
    assert np.abs(sitk.GetArrayFromImage(series) - warped.astype(float)).max() <= 1
    subprocess.run(
        [
            *(program, "convert", "--input", out / "structures.dcm"),
            *("--referenced-ct", exported / "fixed", "--output-prefix", tmp_path / "masks"),
        ],
        check=True,
        capture_output=True,
    )
    assert dice(read_mask(tmp_path / "masks"), expected_mask(exported)) > 0.95


def test_the_expected_error_gives_the_histogram_its_band(exported: Path) -> None:
    with (exported / "out" / "dvh.csv").open(newline="") as file:
        planned, found = csv.DictReader(file)
    expected = sitk.ReadImage(str(exported / "run" / "expected_error_mm.nii.gz"))
    bound = sitk.GetArrayFromImage(expected)
    bound = bound[..., -1] if bound.ndim == 4 else bound
    inside = expected_mask(exported) & np.isfinite(bound)
    assert planned["error_mm"] == "0.0"
    assert float(found["error_mm"]) == pytest.approx(np.median(bound[inside]), rel=0.03)
    low, at, high = (float(found[f"d50{kind}_gy"]) for kind in ("_low", "", "_high"))
    assert low < at < high and float(planned["d50_gy"]) == pytest.approx(at, abs=6)


def test_each_contour_names_the_slice_that_it_lies_in(exported: Path) -> None:
    dataset = pydicom.dcmread(exported / "out" / "structures.dcm")
    slices = {d.SOPInstanceUID: d for d in map(pydicom.dcmread, (exported / "fixed").iterdir())}
    (drawn,) = dataset.ROIContourSequence
    assert len(drawn.ContourSequence) >= 8
    for contour in drawn.ContourSequence:
        (named,) = contour.ContourImageSequence
        there = slices[named.ReferencedSOPInstanceUID]
        points = np.array(contour.ContourData, float).reshape(-1, 3)
        across = axes_of(ANGLES["fixed"])[:, 2]
        apart_mm = (points - np.array(there.ImagePositionPatient, float)) @ across
        assert np.abs(apart_mm).max() < 1e-3


@pytest.mark.parametrize(
    "name", ["registration.dcm", "structures.dcm", "dose.dcm", "warped/0005.dcm"]
)
def test_no_validator_finds_an_error(exported: Path, tmp_path: Path, name: str) -> None:
    assert errors_of(exported / "out" / name, tmp_path) == []
