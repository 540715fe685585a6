"""The report's table of the expected error: known bounds in, figures of each region out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from iterreg.displacement import DisplacementField, Transform
from iterreg.geometry import Grid
from iterreg.image import Image, LabelMap
from iterreg.report import Source, write_report
from iterreg.report.error import ErrorRow, expected_error_rows

GRID = Grid((10, 20), (1.0, 2.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))


def source(error: torch.Tensor | None, labels: LabelMap | None) -> Source:
    """A page's source without images."""
    return Source(
        {},
        Transform(np.eye(3), DisplacementField.zero(GRID)),
        images=None,
        labels=None if labels is None else (labels, labels),
        expected_error=None if error is None else Image(error, GRID),
    )


def bounds() -> tuple[torch.Tensor, LabelMap]:
    """Region 1: 0.5 and 1 to 2 mm, region 2: 3 and 6 mm, half of it unseen."""
    labels = torch.zeros(GRID.shape_zyx, dtype=torch.int32)
    labels[:, :5], labels[:, 5:9] = 1, 2
    error = torch.full((2, *GRID.shape_zyx), -1.0)
    error[0, labels == 1], error[0, labels == 2] = 0.5, 3.0
    error[1, labels == 1] = torch.linspace(1, 2, 50)
    error[1, labels == 2] = 6.0
    error[:, :, 7:9] = -1.0
    return error, LabelMap(labels, GRID, {1: "left_lung"})


def test_each_region_has_its_own_figures() -> None:
    error, labels = bounds()
    lung, other, whole = expected_error_rows(source(error, labels))
    assert lung == ErrorRow("left lung", "0.50 mm", "1.49 mm", "1.96 mm", "0 %")
    assert other == ErrorRow("label 2", "3.00 mm", "6.00 mm", "6.00 mm", "50 %")
    assert (whole.name, whole.unseen) == ("whole image", "65 %")


def test_one_channel_is_the_bound_of_nine_in_ten() -> None:
    error, labels = bounds()
    lung = expected_error_rows(source(error[1:], labels))[0]
    assert (lung.typical, lung.bound) == ("not measured", "1.49 mm")


def test_nothing_known_is_said_and_nothing_saved_makes_no_table(tmp_path: Path) -> None:
    _, labels = bounds()
    (whole,) = expected_error_rows(source(torch.full((2, *GRID.shape_zyx), -1.0), None))
    assert (whole.bound, whole.unseen) == ("not measured", "100 %")
    assert expected_error_rows(source(None, labels)) == []
    write_report(tmp_path / "without.html", source(None, labels))
    assert "<h3>Expected error" not in (tmp_path / "without.html").read_text("utf-8")
    write_report(tmp_path / "with.html", source(bounds()[0], labels))
    text = (tmp_path / "with.html").read_text("utf-8")
    assert "<h3>Expected error</h3>" in text and "1.49 mm" in text


def test_regions_on_another_grid_are_left_out() -> None:
    error, labels = bounds()
    far = LabelMap(labels.data, Grid(GRID.shape_zyx, (1.0, 2.0), (50.0, 0.0), GRID.direction_lps))
    assert [row.name for row in expected_error_rows(source(error, far))] == ["whole image"]
