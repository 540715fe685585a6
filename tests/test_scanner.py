"""A cone-beam scanner whose geometry the user knows, from the settings to the results."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from click.testing import CliRunner
from cone_beam_scans import SCANNERS, SCANS
from scipy.spatial.transform import Rotation

from iterreg import (
    ConeBeam,
    Image,
    load_config,
    load_run,
    optimize_pair,
    read_image,
    read_label_map,
)
from iterreg.cli import iterreg
from iterreg.errors import ConfigError, ExitCode
from iterreg.geometry import apply_affine
from iterreg.regions.cone_beam import view_of
from iterreg.regions.field_of_view import field_of_view
from iterreg.scale import LengthScale

MINI = Path(__file__).parents[1] / "iterreg" / "data" / "thorax4dct_mini"
GEOMETRY = {
    "source_axis_mm": 1000.0,
    "source_detector_mm": 1500.0,
    "panel_width_mm": 300.0,
    "panel_height_mm": 200.0,
}
SCANNER = ConeBeam(**GEOMETRY)
FEW_STEPS = {"levels.spacing_mm": [8.0], "levels.steps": [2]}


def test_a_picture_has_no_scanner() -> None:
    data = torch.arange(900.0).reshape(1, 30, 30)
    picture = Image.from_array(data, axes="cyx", spacing_xyz_mm=(1.0, 1.0))
    picture = replace(picture, scanner=SCANNER)
    with pytest.raises(ConfigError, match="expected no scanner for a picture"):
        field_of_view(picture)
    with pytest.raises(ConfigError, match="expected no scanner for a picture"):
        optimize_pair(picture, picture, preset="general")


@pytest.mark.parametrize("isocentre", [None, (3.0, -40.0, 10.0)])
def test_the_axis_stays_with_the_patient_where_the_grid_is_turned(
    isocentre: tuple[float, float, float] | None,
) -> None:
    grid = read_image(MINI / "fixed.nii.gz").grid
    scanner = replace(SCANNER, isocentre_lps_mm=isocentre)
    turn = Rotation.from_euler("xyz", [12, -8, 15], degrees=True).as_matrix()
    centre = grid.centre_lps_mm
    origin = centre + turn @ (np.array(grid.origin_lps_mm) - centre)
    turned = replace(
        grid,
        origin_lps_mm=tuple(origin.tolist()),
        direction_lps=tuple(map(tuple, (turn @ np.array(grid.direction_lps)).tolist())),
    )
    points = apply_affine(turned.index_to_lps, np.indices(grid.shape_zyx).reshape(3, -1).T)
    across = points - (centre if isocentre is None else np.array(isocentre))
    radius_mm = np.hypot(across[:, 0], across[:, 1])
    half_mm = scanner.half_height_mm * (1 - radius_mm / 1000)
    expected = (np.abs(across[:, 2]) <= half_mm) & (radius_mm <= scanner.radius_mm)
    found = view_of(scanner, turned).ravel()
    assert (found != expected).mean() < 1e-5
    # A scanner that was turned with the grid sees what it sees on the straight one.
    axis = tuple((turn @ [0.0, 0.0, 2.0]).tolist())
    if isocentre is None:
        leaning = view_of(replace(scanner, axis_lps=axis), turned)
        assert (leaning != view_of(scanner, grid)).mean() < 1e-5


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"source_axis_mm": math.nan}, "source_axis_mm: expected a finite number, got nan"),
        ({"source_detector_mm": math.inf}, "source_detector_mm: expected a finite number"),
        ({"panel_width_mm": "wide"}, "panel_width_mm: expected a finite number, got 'wide'"),
        ({"isocentre_lps_mm": (1.0, 2.0)}, "isocentre_lps_mm: expected 3 finite numbers"),
        ({"axis_lps": (0.0, 0.0, 0.0)}, "axis_lps: expected a direction"),
        ({"panel_shift_mm": -150.0}, "expected a panel that sees the axis"),
        ({"panel_height_mm": 0.0}, "expected positive distances"),
    ],
)
def test_a_scanner_that_cannot_be_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ConeBeam(**(GEOMETRY | changed))


def test_an_image_takes_a_scanner_alone() -> None:
    with pytest.raises(TypeError, match=r"expected an iterreg\.ConeBeam, got dict"):
        replace(read_image(MINI / "fixed.nii.gz"), scanner=GEOMETRY)


def test_a_scanner_that_the_image_contradicts_is_told() -> None:
    scan = read_image(SCANS / "half_fan.nii.gz")
    true = SCANNERS["half_fan"]
    right = optimize_pair(replace(scan, scanner=true), scan, preset="general", overrides=FEW_STEPS)
    assert not any("differ" in note for note in right.notes)
    moved = replace(true, isocentre_lps_mm=(0.0, 0.0, 40.0))
    wrong = optimize_pair(replace(scan, scanner=moved), scan, preset="general", overrides=FEW_STEPS)
    assert any("fixed_scanner and the view that its voxels show differ" in n for n in wrong.notes)


def test_lengths_in_other_units_give_the_same_view() -> None:
    grid = read_image(MINI / "fixed.nii.gz").to_canonical()[0].grid
    view = view_of(SCANNER.in_units_of(10.0), LengthScale(10.0).grid(grid))
    assert np.array_equal(view, view_of(SCANNER, grid))


def test_an_image_brings_its_scanner_along() -> None:
    fixed, moving = (read_image(MINI / f"{side}.nii.gz") for side in ("fixed", "moving"))
    result = optimize_pair(replace(fixed, scanner=SCANNER), moving, overrides=FEW_STEPS)
    placed = SCANNER.about(fixed.grid.centre_lps_mm)
    assert placed.isocentre_lps_mm == pytest.approx(fixed.grid.centre_lps_mm)
    assert result.config.fixed_scanner == placed
    assert result.config.moving_scanner is None
    assert result.field_of_view["fixed"].startswith("geometry: ")
    assert result.field_of_view["moving"].startswith("whole: ")


def test_the_command_takes_the_geometry_and_the_folder_keeps_it(tmp_path: Path) -> None:
    out = tmp_path / "run"
    pair = [f"--{side}={MINI / side}.nii.gz" for side in ("fixed", "moving")]
    settings = [f"--set=fixed_scanner.{key}={value}" for key, value in GEOMETRY.items()]
    settings += [f"--set={key}={value}" for key, value in FEW_STEPS.items()]
    command = ["thorax", *pair, f"--out={out}", *settings]
    finished = (ExitCode.OK, ExitCode.DOUBTFUL, ExitCode.FAILED)
    assert CliRunner().invoke(iterreg, command).exit_code in finished
    fixed = read_image(MINI / "fixed.nii.gz")
    canonical, order = fixed.to_canonical()
    seen = order.undo(torch.from_numpy(view_of(SCANNER, canonical.grid)))
    share = 100 * float(seen.float().mean())
    tables = json.loads((out / "run.json").read_text())
    assert tables["field_of_view"]["fixed"] == f"geometry: {share:.0f} % of the image is seen"
    assert load_run(out).fixed.scanner == SCANNER.about(fixed.grid.centre_lps_mm)
    regions = read_label_map(out / "fixed_regions.nii.gz")
    assert not regions.data[~seen].any()
    carried = tmp_path / "carried.nii.gz"
    apply = ["apply", f"--transform={out / 'transform.h5'}", f"--reference={MINI / 'fixed.nii.gz'}"]
    labels = ["--labels", str(MINI / "moving_labels.nii.gz"), "--unseen=drop", f"--out={carried}"]
    assert CliRunner().invoke(iterreg, [*apply, *labels]).exit_code == 0
    assert not read_label_map(carried).data[~seen].any()
    # A part of the image is seen by the scanner where it stood, not by one in the part's middle.
    part = sitk.ReadImage(str(MINI / "fixed.nii.gz"))[40:, :50, 20:]
    sitk.WriteImage(part, str(tmp_path / "part.nii.gz"))
    apply[2] = f"--reference={tmp_path / 'part.nii.gz'}"
    assert CliRunner().invoke(iterreg, [*apply, *labels, "--overwrite"]).exit_code == 0
    of_part = read_label_map(carried).data
    whole = read_image(MINI / "fixed.nii.gz").grid.shape_zyx
    assert tuple(of_part.shape) == (whole[0] - 20, 50, whole[2] - 40)
    assert not of_part[~seen[20:, :50, 40:]].any()
    assert bool(of_part.any())


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {"source_axis_mm": 1000.0},
            "fixed_scanner: expected also source_detector_mm, panel_width",
        ),
        (GEOMETRY | {"isocentre_lps_mm": [0.0, 1.0]}, "isocentre_lps_mm: expected 3 values"),
        (GEOMETRY | {"source_axis_mm": 2000.0}, "expected positive distances and a panel beyond"),
        (GEOMETRY | {"panel": 3.0}, "unknown key"),
    ],
)
def test_half_a_geometry_is_refused(table: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config({"schema": 1, "fixed_scanner": table})
    whole = GEOMETRY | {"isocentre_lps_mm": [0, 1, 2]}
    config = load_config({"schema": 1, "fixed_scanner": whole})
    assert config.fixed_scanner == replace(SCANNER, isocentre_lps_mm=(0.0, 1.0, 2.0))
