"""Two phases of a real heart: thick slices, and structures that the edge of the view cuts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from iterreg import LabelMap, Registration, optimize_pair, read_label_map
from iterreg.displacement import total_displacement_vox, warp_labels
from iterreg.metrics import dice, folding

DATA = Path(os.environ.get("ITERREG_DATA", Path(__file__).parents[2] / "shared" / "data")) / "acdc"
PHASES = ("frame01", "frame12")

pytestmark = [
    pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is absent; set ITERREG_DATA"),
    # The sform of these files was never filled in, and iterreg says so.
    pytest.mark.filterwarnings("ignore:.*taken from pixdim:iterreg.io.GeometryWarning"),
]


def image(phase: str) -> Path:
    return DATA / f"patient068_{phase}.nii.gz"


def labels(phase: str) -> LabelMap:
    return read_label_map(DATA / f"patient068_{phase}_gt.nii.gz")


def mean_dice(run: Registration, fixed: LabelMap, moving: LabelMap) -> float:
    overlap = dice(fixed.data, warp_labels(moving, run.transform).data, fixed.values)
    return sum(overlap.values()) / len(overlap)


@pytest.mark.parametrize(("fixed", "moving"), [PHASES, PHASES[::-1]])
def test_labels_meet_in_either_direction(fixed, moving):
    """In diastole the ventricles reach the last slice, in systole they end before it."""
    ours, theirs = labels(fixed), labels(moving)
    run = optimize_pair(
        image(fixed),
        image(moving),
        fixed_labels=ours,
        moving_labels=theirs,
        preset="cardiac",
        device="cpu",
    )
    assert mean_dice(run, ours, theirs) > 0.98
    assert folding(total_displacement_vox(run.transform), ours.data).interior_folds == 0


def test_without_labels_intensities_are_compared():
    ours, theirs = (labels(phase) for phase in PHASES)
    run = optimize_pair(*map(image, PHASES), preset="cardiac", device="cpu")
    assert run.config.similarity.kind == "mse" and run.config.unguided is None
    assert any("similarity.kind=mind" in note for note in run.notes)
    assert mean_dice(run, ours, theirs) > 0.78
