"""The edge of the view: what lies beyond it, which no scanner measured, moves nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic import moved_mm

from iterreg import LabelMap, optimize_pair, read_image, read_label_map
from iterreg.geometry import Grid
from iterreg.image import Image
from iterreg.neighbourhood import continued
from iterreg.optimize.side import Side

CUT = 18
"""Slices of 4 mm that a narrow scan does not show at either end of the chest."""


def narrow(image: Image) -> Image:
    """The same image with padding in the place of both ends."""
    data = image.data.clone()
    data[:, :CUT] = data[:, -CUT:] = -3024.0
    return replace(image, data=data)


def blank_ends(labels: LabelMap) -> LabelMap:
    """The same regions where the narrow scan shows them."""
    data = labels.data.clone()
    data[:CUT] = data[-CUT:] = 0
    return replace(labels, data=data)


def test_a_narrow_scan_moves_at_its_ends_as_a_whole_one(pair_folder: Path) -> None:
    fixed, moving = (read_image(pair_folder / f"{side}.nii.gz") for side in ("fixed", "moving"))
    ours, theirs = (
        read_label_map(pair_folder / f"{side}_labels.nii.gz") for side in ("fixed", "moving")
    )
    whole = optimize_pair(fixed, moving, fixed_labels=ours, moving_labels=theirs)
    part = optimize_pair(narrow(fixed), moving, fixed_labels=blank_ends(ours), moving_labels=theirs)
    differ_mm = np.linalg.norm(moved_mm(part) - moved_mm(whole), axis=-1)
    body = ours.data.numpy() > 0
    ends = np.r_[CUT : CUT + 2, -CUT - 2 : -CUT]
    assert differ_mm[ends][body[ends]].mean() < 2.0


@pytest.mark.parametrize("beyond", [float("nan"), -5.0, 7.0])
def test_an_image_goes_on_beyond_its_view_whatever_stands_there(beyond: float) -> None:
    grid = Grid((40, 30, 30), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0), tuple(np.eye(3).tolist()))
    inside = torch.rand(1, 40, 30, 30, generator=torch.Generator().manual_seed(0))
    measured = torch.zeros(40, 30, 30, dtype=torch.bool)
    measured[12:28] = True
    image = torch.where(measured, inside, beyond)
    side = Side(image, torch.zeros(40, 30, 30, dtype=torch.int32), measured, grid)
    found = side.continued_beyond(measured).image
    assert torch.equal(found[:, measured], inside[:, measured])
    near = found[0, 6:12]
    assert float(near.min()) >= 0.0
    assert float(near.max()) <= 1.0


def test_thick_slices_are_not_continued_across() -> None:
    volume = torch.arange(4.0).view(1, 4, 1, 1).expand(1, 4, 3, 3).clone()
    known = torch.ones(4, 3, 3, dtype=torch.bool)
    known[3] = False
    assert torch.equal(continued(volume, known, [(0, 1, 1)]), volume)
