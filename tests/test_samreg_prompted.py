"""The matcher that prompts the moving image with the regions of the fixed one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from click.testing import CliRunner
from test_samreg_match import Flood, save, scene, volume

import iterreg
from iterreg.cli import iterreg as command
from iterreg.errors import ConfigError, ExitCode
from iterreg.image import Image
from iterreg.samreg.candidates import Candidates, RoiSettings
from iterreg.samreg.inverting import Target, invert_prompts
from iterreg.samreg.match import find_rois
from iterreg.samreg.pictures import PictureStack, cut_pictures
from iterreg.samreg.rle import encode_mask
from iterreg.samreg.roi_files import read_roi_pairs

DATA = Path(os.environ.get("ITERREG_DATA", Path(__file__).parents[2] / "shared" / "data"))
WEIGHTS = DATA.parent / "weights" / "mobile_sam.pt"
PROMPTED = RoiSettings(matcher="prompted")
CELL_PX = 4


def stack_of(shape: tuple[int, int]) -> PictureStack:
    """A picture that is not blank."""
    data = torch.zeros(1, *shape)
    data[:, ::2] = 200
    grid = iterreg.Grid(shape, (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
    return cut_pictures(Image(data, grid, dtype="uint8"), None)


def square_in(shape: tuple[int, int], row: int, column: int) -> np.ndarray:
    """A square of 24 x 16 pixels."""
    mask = np.zeros(shape, bool)
    mask[row : row + 24, column : column + 16] = True
    return mask


@pytest.mark.parametrize("height", [128, 96])
def test_prompts_go_where_the_cells_look_like_the_region(height: int) -> None:
    # The square model input shows the picture above its padding.
    shape = (height, 128)
    mask, moved = square_in(shape, 40, 32), square_in(shape, 48, 44)
    noise = torch.from_numpy(np.random.default_rng(0).normal(0, 0.05, (8, 32, 32))).float()
    looks = torch.from_numpy(moved[::CELL_PX, ::CELL_PX].copy()).float()
    noise[0, : height // CELL_PX] += looks
    prototype, mean = torch.eye(8)[:1], torch.zeros(8)
    stack = stack_of(shape)
    fixed = Candidates(
        stack,
        (encode_mask(mask),),
        np.zeros(1, np.int64),
        prototype,
        mean,
        np.zeros((1, 2)),
        {},
        {},
    )
    target = Target(stack, 0, (noise, (height / 128, 1.0)), np.eye(3), spread_mm=12.0)
    points, boxes = invert_prompts(fixed, [0], target)
    assert len(points) == len(boxes) == 2
    found = {tuple(round(v) for v in box) for box in boxes}
    assert (32, 40, 48, 64) in found, "where the alignment puts it"
    (other,) = found - {(32, 40, 48, 64)}
    assert np.abs(np.subtract(other, (44, 48, 60, 72))).max() <= 2
    for (x, y), (left, top, right, bottom) in zip(points, boxes, strict=True):
        assert left + 6 < x < right - 6 and top + 6 < y < bottom - 6
    near = Target(stack, 0, target.features, np.eye(3), spread_mm=0.0)
    assert invert_prompts(fixed, [0], near)[1] == ((32.0, 40.0, 48.0, 64.0),)


def test_both_matchers_find_the_same_shapes(tmp_path: Path) -> None:
    fixed = save(scene(), tmp_path / "a.png")
    moving = save(scene((6, 4), (140, 170)), tmp_path / "b.png")
    flood = Flood()
    usual = find_rois(fixed, moving, flood, cache=False)
    found = find_rois(fixed, moving, flood, PROMPTED, cache=False)
    assert len(found.pairs) == len(usual.pairs) == 3
    for one, other in zip(found.pairs, usual.pairs, strict=True):
        assert torch.equal(one.fixed.data, other.fixed.data)
        assert torch.equal(one.moving.data, other.moving.data)
    assert found.moving.counts["points"] <= 12 < usual.moving.counts["points"]


def test_slices_of_a_volume_are_prompted_where_their_partners_lie(tmp_path: Path) -> None:
    fixed = save(volume((1, 2, 3)), tmp_path / "a.nii.gz")
    # The moving volume begins two slices lower: its slice 3 lies where the fixed slice 1 does.
    moving = save(volume((3, 4, 5), 8, shift=(3, 2)), tmp_path / "b.nii.gz", origin_z=-10.0)
    flood, cache = Flood(), tmp_path / "cache"
    found = find_rois(fixed, moving, flood, PROMPTED, cache=cache)
    assert flood.encoded == 6 and found.moving.counts["encoded"] == 3
    places = {
        (int(found.fixed.slices[m.fixed]), int(found.moving.slices[m.moving]))
        for chain in found.chains
        for m in chain
    }
    assert places == {(1, 3), (2, 4), (3, 5)} and len(found.guidance) == 3
    again = find_rois(fixed, moving, flood, PROMPTED, cache=cache)
    assert flood.encoded == 6 and again.moving.counts["cached"] == 3
    for one, other in zip(found.pairs, again.pairs, strict=True):
        assert torch.equal(one.moving.data, other.moving.data)


def test_nothing_in_the_fixed_image_asks_for_nothing(tmp_path: Path) -> None:
    moving = save(scene(), tmp_path / "b.png")
    tiny = np.zeros((120, 160), np.uint8)
    tiny[60:62, 80:82] = 200
    found = find_rois(save(tiny, tmp_path / "a.png"), moving, Flood(), PROMPTED, cache=False)
    assert not found.pairs and "regions of interest in the fixed image" in found.reason_for_none


def test_an_unknown_matcher_is_refused(tmp_path: Path) -> None:
    picture = save(scene(), tmp_path / "a.png")
    with pytest.raises(ConfigError, match="matcher: expected one of everything, prompted, got 'x'"):
        iterreg.match_rois(picture, picture, segmenter=Flood(), matcher="x")


# Real weights ---------------------------------------------------------------------------------


def dice(mask: np.ndarray, label: np.ndarray) -> float:
    """Overlap of a mask and a label."""
    return 2 * float((mask & label).sum()) / float(mask.sum() + label.sum())


@pytest.mark.skipif(not WEIGHTS.exists(), reason=f"{WEIGHTS}: no MobileSAM weights here")
def test_mobile_sam_is_prompted_in_the_second_frame_of_a_heart(segmented_once: Path) -> None:
    folder = DATA / "samreg2d" / "cardiac_mr"
    found = iterreg.match_rois(
        folder / "image1_R.png",
        folder / "image1_T.png",
        checkpoint=WEIGHTS,
        points=8,
        matcher="prompted",
        device="cpu",
        cache=segmented_once,
    )
    labels = [iterreg.read_label_map(folder / f"label1_{k}.png").data.numpy() != 0 for k in "RT"]
    best = max(found, key=lambda pair: dice(pair.fixed.data.numpy() != 0, labels[0]))
    assert dice(best.fixed.data.numpy() != 0, labels[0]) > 0.8
    assert dice(best.moving.data.numpy() != 0, labels[1]) > 0.8
    assert best.similarity > 0.9 and len(found) >= 3


def test_the_command_prompts_slices_of_a_turned_heart(tmp_path: Path) -> None:
    stems = [DATA / "acdc" / f"patient067_frame{frame}" for frame in ("01", "10")]
    if not (WEIGHTS.is_file() and Path(f"{stems[0]}.nii.gz").is_file()):
        pytest.skip(f"no weights at {WEIGHTS} or no hearts; set ITERREG_DATA")
    turn = sitk.VersorTransform((0.0, 0.6, 0.8), 0.3).GetMatrix()
    part, truth = np.s_[70:210, 40:170, 3:5], []
    for name, stem in zip("ab", stems, strict=True):
        heart = sitk.ReadImage(f"{stem}.nii.gz")[part]
        heart.SetDirection(turn)
        sitk.WriteImage(heart, str(tmp_path / f"{name}.nii.gz"))
        labels = sitk.GetArrayFromImage(sitk.ReadImage(f"{stem}_gt.nii.gz")[part])
        truth.append(labels == 3)
    words = ["samreg", "--matcher", "prompted", "--points", "10", "--no-fit", "--no-cache"]
    words += ["--checkpoint", WEIGHTS, "--out", tmp_path / "out"]
    words += ["--fixed", tmp_path / "a.nii.gz", "--moving", tmp_path / "b.nii.gz"]
    done = CliRunner().invoke(command, [str(w) for w in words])
    assert done.exit_code == ExitCode.OK, done.output
    matching = json.loads((tmp_path / "out" / "run.json").read_text())["matching"]
    assert matching["settings"]["matcher"] == "prompted"
    assert matching["moving"]["points"] < matching["fixed"]["points"]
    pairs = read_roi_pairs(tmp_path / "out" / "roi_pairs.json")
    overlaps = [
        min(
            dice(mask.data.numpy() != 0, t)
            for mask, t in zip((p.fixed, p.moving), truth, strict=True)
        )
        for p in pairs
    ]
    assert max(overlaps) > 0.7
