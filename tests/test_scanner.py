"""A cone-beam scanner whose geometry the user knows, from the settings to the results."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

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
    with pytest.raises(ConfigError, match="expected no scanner for a picture"):
        field_of_view(replace(picture, scanner=SCANNER))


def test_lengths_in_other_units_give_the_same_view() -> None:
    grid = read_image(MINI / "fixed.nii.gz").to_canonical()[0].grid
    view = view_of(SCANNER.in_units_of(10.0), LengthScale(10.0).grid(grid))
    assert np.array_equal(view, view_of(SCANNER, grid))


def test_an_image_brings_its_scanner_along() -> None:
    fixed, moving = (read_image(MINI / f"{side}.nii.gz") for side in ("fixed", "moving"))
    result = optimize_pair(replace(fixed, scanner=SCANNER), moving, overrides=FEW_STEPS)
    assert result.config.fixed_scanner == SCANNER
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
    assert load_run(out).fixed.scanner == SCANNER
    regions = read_label_map(out / "fixed_regions.nii.gz")
    assert not regions.data[~seen].any()
    carried = tmp_path / "carried.nii.gz"
    apply = ["apply", f"--transform={out / 'transform.h5'}", f"--reference={MINI / 'fixed.nii.gz'}"]
    labels = ["--labels", str(MINI / "moving_labels.nii.gz"), "--unseen=drop", f"--out={carried}"]
    assert CliRunner().invoke(iterreg, [*apply, *labels]).exit_code == 0
    assert not read_label_map(carried).data[~seen].any()


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
