"""What a series may be, and what is told of one that is not: before any registration."""

from __future__ import annotations

from pathlib import Path

import dicom_files
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from test_motion import SPACING, motion, rows, series

from iterreg.errors import ExitCode, ImageReadError
from iterreg.motion import read_series

__all__ = ["series"]  # a fixture

FAST = (
    *("--preset", "general", "--threads", 1, "--no-report"),
    *("--set", "levels.spacing_mm=[6.0]", "--set", "levels.steps=[5]"),
)


def dicom_phases(folder: Path, path: Path, own_series: bool) -> None:
    """The phases of a file as DICOM, in the wrong order on disk."""
    whole = np.rint(nibabel.load(path).get_fdata()).astype(np.int16)
    for number in reversed(range(whole.shape[-1])):
        image = sitk.GetImageFromArray(np.ascontiguousarray(whole[..., number].T))
        image.SetSpacing(SPACING)
        if own_series:
            place = f"{dicom_files.ROOT}.{70 - number}"
            more = {"uid": place, "SeriesDescription": f"4D, T={30 * number} %, b30"}
        else:
            more = {"TemporalPositionIdentifier": number + 1, "first": 1 + 100 * number}
        dicom_files.write_series(folder, image, prefix=f"P{9 - number}_", **more)


@pytest.mark.parametrize("own_series", [False, True])
def test_a_dicom_folder_with_phases(series: Path, tmp_path: Path, own_series: bool) -> None:
    folder = tmp_path / "dicom"
    dicom_phases(folder, series, own_series)
    if own_series:  # an average of all is no phase
        average = sitk.GetImageFromArray(np.zeros((14, 34, 30), np.int16))
        average.SetSpacing(SPACING)
        more = {"uid": f"{dicom_files.ROOT}.80", "SeriesDescription": "4D average"}
        dicom_files.write_series(folder, average, prefix="AVG", **more)
    found, expected = read_series(folder), read_series(series)
    assert len(found) == len(expected) == 4
    for one, other in zip(found, expected, strict=True):
        assert (one.image.data - other.image.data).abs().max() <= 0.51
        assert np.allclose(one.image.grid.spacing_xyz_mm, SPACING)
    out = tmp_path / "out"
    done = motion(folder, "--out", out, *FAST)
    assert done.exit_code == 0, done.output
    assert (out / "phase03" / "displacement_mm.nii.gz").exists()


def test_series_that_say_no_place_in_the_cycle_are_no_phases(series: Path, tmp_path: Path) -> None:
    folder = tmp_path / "dicom"
    dicom_phases(folder, series, own_series=True)
    image = sitk.GetImageFromArray(np.zeros((14, 34, 30), np.int16))
    more = {"uid": f"{dicom_files.ROOT}.81", "SeriesDescription": "another T=30 %"}
    dicom_files.write_series(folder, image, prefix="X", **more)
    with pytest.raises(ImageReadError, match="or a series a phase with 0 %, 10 %"):
        read_series(folder)


def test_the_strain_of_a_heart_is_written(series: Path, tmp_path: Path) -> None:
    labels = np.zeros((30, 34, 14), np.uint8)
    x, y = np.indices((30, 34)) - np.reshape((15, 17), (2, 1, 1))
    labels[np.hypot(x, y) < 9] = 2
    labels[np.hypot(x, y) < 5] = 3
    heart = nibabel.Nifti1Image(labels, nibabel.load(series).affine)
    nibabel.save(heart, tmp_path / "heart.nii.gz")
    given = ("--labels", tmp_path / "heart.nii.gz", "--wall", 2, "--cavity", 3)
    done = motion(series, "--out", tmp_path / "out", *given, *FAST)
    assert done.exit_code == 0, done.output
    found = rows(tmp_path / "out" / "strain.csv")
    assert len(found) == 4 * 3
    assert {r["direction"] for r in found} == {"radial", "circumferential", "longitudinal"}
    assert all(abs(float(r["mean"])) < 0.1 for r in found), "it moves, and keeps its shape"
    assert all(float(r["mean"]) == 0 for r in found if r["phase"] == "0")


def test_what_does_not_fit_is_told_in_one_line(series: Path, tmp_path: Path) -> None:
    whole = nibabel.load(series)
    other = nibabel.Nifti1Image(np.ones((20, 34, 14), np.uint8), whole.affine)
    nibabel.save(other, tmp_path / "other.nii.gz")
    (tmp_path / "far.csv").write_text("x,y,z\n900,900,900\n")
    (tmp_path / "cut.nii.gz").write_bytes(series.read_bytes()[:9000])
    nibabel.save(whole.slicer[..., :1], tmp_path / "one.nii.gz")
    (tmp_path / "empty").mkdir()
    for words, code, said in (
        ((series, "--labels", tmp_path / "other.nii.gz"), ExitCode.GEOMETRY, "expected the space"),
        ((series, "--points", tmp_path / "far.csv"), ExitCode.GEOMETRY, "expected points inside"),
        ((series, "--reference", 4), ExitCode.CONFIG, "reference: expected 0 to 3, got 4"),
        ((tmp_path / "cut.nii.gz",), ExitCode.IMAGE_READ, "cut.nii.gz: expected a whole"),
        ((tmp_path / "one.nii.gz",), ExitCode.IMAGE_CONTENT, "expected 2 to 500 phases, got 1"),
        ((tmp_path / "empty",), ExitCode.IMAGE_READ, "found 0 (DICOM volumes: none)"),
    ):
        refused = motion(*words, "--out", tmp_path / "out", "--quiet", *FAST)
        assert refused.exit_code == code, refused.output
        assert said in refused.stderr and refused.stderr.count("\n") == 1
        assert not (tmp_path / "out").exists()
