"""From two images to ROI pairs, and the command; with MobileSAM's weights where they are."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from click.testing import CliRunner, Result
from run_files import FILES
from scipy import ndimage
from torch import Tensor

import iterreg
from iterreg.cli import iterreg as command
from iterreg.cli.samreg import samreg
from iterreg.errors import ExitCode, GeometryError, ImageReadError, NoRoiPairsError, OutputError
from iterreg.image import LabelMap
from iterreg.samreg.candidates import MATCHERS, RoiSettings
from iterreg.samreg.everything import EverythingSettings
from iterreg.samreg.filters import AREA_OF, NESTED
from iterreg.samreg.match import find_rois, fit_preset
from iterreg.samreg.matching import MATCHING_RULES, MatchSettings
from iterreg.samreg.pictures import AXES
from iterreg.samreg.prompts import as_prompts
from iterreg.samreg.roi_files import read_roi_pairs
from iterreg.samreg.segmenter import Embedding, Masks

DATA = Path(os.environ.get("ITERREG_DATA", Path(__file__).parents[2] / "shared" / "data"))
WEIGHTS = DATA.parent / "weights" / "mobile_sam.pt"
INPUT, COARSE = 256, 64
GREY = (60, 130, 200)
"""Grey levels of the shapes; a shape is known by its own."""


class Flood:
    """A segmenter without weights: a point's mask is what has its grey level and touches it."""

    name, fingerprint, device = "flood", "flood-1", torch.device("cpu")

    def __init__(self) -> None:
        """No picture seen yet."""
        self.encoded = 0
        self._shown: dict[int, np.ndarray] = {}

    def encode(self, pictures: Sequence[Tensor]) -> list[Embedding]:
        """Smooth bands of the grey level; padding has a loud feature of its own."""
        return [self._encode(picture) for picture in pictures]

    def _encode(self, picture: Tensor) -> Embedding:
        self.encoded += 1
        height, width = picture.shape[:2]
        scale = INPUT / max(height, width)
        rows, columns = round(height * scale), round(width * scale)
        grey = picture[..., 0].float()[None, None]
        shown = torch.nn.functional.interpolate(grey, (rows, columns), mode="nearest")[0, 0]
        levels = torch.full((INPUT, INPUT), -1000.0)
        levels[:rows, :columns] = shown
        centres = torch.arange(0, 256, 16.0)[:, None, None]
        bands = torch.exp(-(((levels - centres) / 16) ** 2))
        bands = torch.cat((bands, 100 * (levels < 0)[None].float()))
        features = torch.nn.functional.avg_pool2d(bands[None], INPUT // COARSE)[0]
        embedding = Embedding(features, (height, width), (rows / INPUT, columns / INPUT))
        self._shown[id(embedding.features)] = levels.numpy()
        return embedding

    def decode(self, embedding: Embedding, points_xy: Tensor) -> Masks:
        """One mask a point."""
        levels = self._shown[id(embedding.features)]
        scale = INPUT * embedding.valid_hw[1] / embedding.size_hw[1]
        logits, judged = [], []
        for x, y in (points_xy * scale).tolist():
            level = levels[int(y), int(x)]
            parts, _ = ndimage.label(np.abs(levels - level) < 15)
            logits.append(np.where(parts == parts[int(y), int(x)], 10.0, -10.0))
            judged.append(0.95)
        stacked = torch.from_numpy(np.stack(logits)).float()[:, None]
        return Masks(stacked, torch.tensor(judged)[:, None])

    def decode_boxes(self, embedding: Embedding, boxes_xyxy: Tensor) -> Masks:
        """What touches the middle of each box."""
        return self.decode(embedding, boxes_xyxy.reshape(-1, 2, 2).mean(1))


def scene(shift: tuple[int, int] = (0, 0), shape: tuple[int, int] = (120, 160)) -> np.ndarray:
    """Three shapes on black."""
    picture = np.zeros(shape, np.uint8)
    y, x = shift
    picture[20 + y : 50 + y, 20 + x : 60 + x] = GREY[0]
    picture[70 + y : 100 + y, 30 + x : 55 + x] = GREY[1]
    picture[40 + y : 80 + y, 90 + x : 125 + x] = GREY[2]
    return picture


def volume(slices: Sequence[int], depth: int = 6, shift: tuple[int, int] = (0, 0)) -> np.ndarray:
    """The scene in some slices, nothing in the others."""
    stack = np.zeros((depth, 120, 160), np.uint8)
    for k in slices:
        shapes = scene(shift)
        # No two slices alike: what is alike is segmented once.
        stack[k] = np.where(shapes > 0, shapes + k, 0)
    return stack


def save(array: np.ndarray, path: Path, origin_z: float = 0.0) -> Path:
    """Write a picture, or a volume with slices of 5 mm."""
    loaded = sitk.GetImageFromArray(array)
    if array.ndim == 3:
        loaded.SetSpacing((1, 1, 5))
        loaded.SetOrigin((0, 0, origin_z))
    sitk.WriteImage(loaded, str(path))
    return path


def boxes(pair: iterreg.RoiPair) -> list[list[int]]:
    """First index of both masks."""
    return [(m.data != 0).nonzero().min(0).values.tolist() for m in (pair.fixed, pair.moving)]


def test_pictures_of_different_sizes_are_matched(tmp_path: Path) -> None:
    fixed = save(scene(), tmp_path / "a.png")
    moving = save(scene((6, 4), (140, 170)), tmp_path / "b.png")
    found = iterreg.match_rois(fixed, moving, segmenter=Flood(), cache=False)
    corners = np.array(sorted(boxes(pair) for pair in found))
    assert corners[:, 0].tolist() == [[20, 20], [40, 90], [70, 30]]
    assert np.abs(corners[:, 1] - corners[:, 0] - [6, 4]).max() <= 1
    assert all(pair.similarity > 0.95 for pair in found)
    assert {int((pair.fixed.data != 0).sum()) for pair in found} == {1200, 750, 1400}


def test_a_single_structure_far_away_is_found_by_its_looks(tmp_path: Path) -> None:
    pictures = np.zeros((2, 120, 160), np.uint8)
    pictures[0, 10:40, 10:40], pictures[1, 80:110, 120:150] = 200, 200
    # Turned it looks different.
    pictures[0, 10:25, 10:30], pictures[1, 80:95, 120:140] = 0, 0
    fixed, moving = (save(p, tmp_path / f"{k}.png") for k, p in enumerate(pictures))
    found = find_rois(fixed, moving, Flood(), cache=False)
    assert [boxes(pair) for pair in found.pairs] == [[[10, 10], [80, 120]]]
    assert found.alignment.kind == "translation" and not found.is_supported
    np.testing.assert_allclose(found.alignment.affine_lps[:2, 2], [110, 70], atol=1)


def test_each_slice_is_encoded_once_and_a_blank_one_never(tmp_path: Path) -> None:
    fixed = save(volume((1, 2, 3)), tmp_path / "a.nii.gz")
    moving = save(volume((1, 2, 3, 4)), tmp_path / "b.nii.gz")
    flood = Flood()
    found = find_rois(fixed, moving, flood, cache=tmp_path / "cache")
    assert flood.encoded == 7
    assert found.fixed.counts["blank"] == 3 and found.fixed.counts["encoded"] == 3
    again = find_rois(fixed, moving, flood, cache=tmp_path / "cache")
    assert flood.encoded == 7 and again.moving.counts["cached"] == 4
    for one, other in zip(found.pairs, again.pairs, strict=True):
        assert torch.equal(one.fixed.data, other.fixed.data) and one.similarity == other.similarity
    finer = RoiSettings(everything=EverythingSettings(points=20))
    find_rois(fixed, moving, flood, finer, cache=tmp_path / "cache")
    assert flood.encoded == 14


def test_a_damaged_cache_is_as_good_as_none(tmp_path: Path) -> None:
    picture, cache, flood = save(scene(), tmp_path / "a.png"), tmp_path / "cache", Flood()
    whole = find_rois(picture, picture, flood, cache=cache)
    masks, features = sorted(cache.iterdir(), key=lambda file: file.stat().st_size)
    assert flood.encoded == 2
    masks.write_bytes(masks.read_bytes()[:200])
    features.write_bytes(features.read_bytes()[:-200])
    again = find_rois(picture, picture, flood, cache=cache)
    assert flood.encoded == 4 and len(again.pairs) == len(whole.pairs) == 3


def test_a_pair_that_does_not_lie_on_its_partner_is_less_sure(tmp_path: Path) -> None:
    grain = np.random.default_rng(0).integers(0, 8, (6, 120, 160)).astype(np.uint8)
    shapes, moved = volume((1, 2, 3)), volume((1, 2, 3))
    # One of three shapes is elsewhere, though it looks the same.
    moved[:, 70:100, 30:55] = 0
    moved[1:4, 85:115, 50:75] = GREY[1] + np.arange(1, 4, dtype=np.uint8)[:, None, None]
    pair = [
        save(np.where(v > 0, v, grain), tmp_path / f"{name}.nii.gz")
        for name, v in (("a", shapes), ("b", moved))
    ]
    by_looks = RoiSettings(matching=MatchSettings(prior=0))
    found = find_rois(pair[0], pair[1], Flood(), by_looks, cache=False)
    assert found.is_supported
    sure = {boxes(p)[0][1]: p.confidence or 0.0 for p in found.guidance}
    assert {20, 40, 70} <= set(sure) and sure[70] < 0.7 < 0.9 < min(sure[20], sure[40])


def test_slices_of_a_volume_become_its_structures(tmp_path: Path) -> None:
    fixed = save(volume((1, 2, 3)), tmp_path / "a.nii.gz")
    moving = save(volume((1, 3), shift=(3, 2)), tmp_path / "b.nii.gz")
    found = find_rois(fixed, moving, Flood(), cache=False)
    assert len(found.pairs) >= 3
    linked = [pair for pair, chain in zip(found.pairs, found.chains, strict=True) if len(chain) > 1]
    assert found.guidance == tuple(linked) == found.pairs[:3] and len(linked) == 3
    capped = iterreg.match_rois(fixed, moving, segmenter=Flood(), cache=False, pairs=2)
    assert [p.similarity for p in capped] == [p.similarity for p in found.pairs[:2]]
    for pair in linked:
        for mask in (pair.fixed, pair.moving):
            assert (mask.data != 0).any(2).any(1).nonzero().squeeze(1).tolist() == [1, 2, 3]


@pytest.mark.parametrize(("reach", "partner"), [(0, {1}), (1, {1, 2}), (4, {1, 2, 3})])
def test_partners_lie_within_the_slice_range(tmp_path: Path, reach: int, partner: set[int]) -> None:
    # The moving volume begins two slices lower: its slice 3 lies where the fixed slice 1 does.
    fixed = save(volume((1, 2, 3)), tmp_path / "a.nii.gz")
    moving = save(volume((3,), 8), tmp_path / "b.nii.gz", origin_z=-10.0)
    rules = MatchSettings(0.5, "one-to-many", slice_range=reach, prior=0)
    found = find_rois(fixed, moving, Flood(), RoiSettings(matching=rules), cache=False)
    places = {int(found.fixed.slices[m.fixed]) for chain in found.chains for m in chain}
    assert places == partner


def test_the_stored_order_of_axes_does_not_matter(tmp_path: Path) -> None:
    fixed = save(volume((1, 2)), tmp_path / "a.nii.gz")
    turned = sitk.PermuteAxes(sitk.ReadImage(str(fixed)), (2, 0, 1))
    sitk.WriteImage(sitk.Flip(turned, (True, False, True)), str(tmp_path / "t.nii.gz"))
    found = iterreg.match_rois(fixed, tmp_path / "t.nii.gz", segmenter=Flood(), cache=False)
    assert len(found) == 3
    for pair in found:
        masks = (pair.moving, pair.fixed)
        theirs, ours = (LabelMap(m.data.int(), m.grid).to_canonical()[0] for m in masks)
        assert torch.equal(theirs.data, ours.data)


def test_a_volume_of_one_slice(tmp_path: Path) -> None:
    one = save(volume((0,), 1), tmp_path / "a.nii.gz")
    assert len(iterreg.match_rois(one, one, segmenter=Flood(), cache=False)) == 3


def test_a_picture_and_a_volume_do_not_match(tmp_path: Path) -> None:
    picture, stack = save(scene(), tmp_path / "a.png"), save(volume((1,)), tmp_path / "b.nii.gz")
    with pytest.raises(GeometryError, match="expected rank 2"):
        iterreg.match_rois(picture, stack, segmenter=Flood(), cache=False)


def test_masks_of_a_large_picture_have_its_own_pixels(tmp_path: Path) -> None:
    big = save(np.kron(scene(), np.ones((18, 18), np.uint8)), tmp_path / "a.png")
    flood = Flood()
    found = find_rois(big, big, flood, cache=tmp_path / "cache")
    # Once for the masks, and once without illumination for the cells.
    assert flood.encoded == 2 and len(found.pairs) == 3
    sizes = sorted(int((pair.fixed.data != 0).sum()) for pair in found.pairs)
    assert sizes == pytest.approx([750 * 324, 1200 * 324, 1400 * 324], rel=0.03)


# The command ----------------------------------------------------------------------------------


@pytest.fixture
def flood(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Flood:
    """The command with a segmenter that needs no weights."""
    made = Flood()
    monkeypatch.setattr("iterreg.samreg.match.load", lambda variant, checkpoint, device: made)
    monkeypatch.setenv("ITERREG_CACHE", str(tmp_path / "cache"))
    return made


def run(folder: Path, *arguments: object) -> Result:
    """The command on a.* and b.* of a folder."""
    pair = [next(folder.glob(f"{name}.*")) for name in "ab"]
    out = () if "--out" in arguments else ("--out", folder / "out")
    words = ["samreg", "--fixed", pair[0], "--moving", pair[1], *out, *arguments]
    return CliRunner().invoke(command, [str(w) for w in words])


@pytest.mark.parametrize(
    ("option", "choices"),
    [
        ("match", MATCHING_RULES),
        ("matcher", MATCHERS),
        ("area_of", AREA_OF),
        ("nested", NESTED),
        ("axis", AXES),
    ],
)
def test_the_command_offers_the_choices_of_the_method(option: str, choices: Sequence[str]) -> None:
    (declared,) = (p for p in samreg.params if p.name == option)
    assert list(declared.type.choices) == list(choices)


def test_progress_never_goes_back(tmp_path: Path) -> None:
    picture, events = save(scene(), tmp_path / "a.png"), []
    iterreg.match_rois(picture, picture, segmenter=Flood(), cache=False, progress=events.append)
    fractions = [event.fraction for event in events]
    assert fractions == sorted(fractions) and fractions[0] >= 0 and fractions[-1] <= 1
    stages = dict.fromkeys(event.stage for event in events)
    assert list(stages) == ["segment fixed", "segment moving", "match"]


def test_photographs_are_fitted_as_such() -> None:
    grid = iterreg.Grid((20, 20), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
    grey = iterreg.Image(torch.rand(1, 20, 20).expand(3, -1, -1), grid)
    colour = replace(grey, data=torch.rand(3, 20, 20))
    assert fit_preset(colour, colour) == "photograph"
    assert fit_preset(grey, colour) == fit_preset(grey, grey) == "samreg"


def test_the_command_writes_pairs_and_the_fit(tmp_path: Path, flood: Flood) -> None:
    save(volume((1, 2, 3)), tmp_path / "a.nii.gz")
    save(volume((1, 2, 3), shift=(5, 3)), tmp_path / "b.nii.gz")
    result = run(tmp_path)
    # Grey blocks in noise correlate little, so the verdict may be doubtful.
    assert result.exit_code in (ExitCode.OK, ExitCode.DOUBTFUL), result.output
    names = {f.name for f in (tmp_path / "out").iterdir()}
    assert names == {
        *FILES,
        "roi_pairs.json",
        "roi_pairs.png",
        "fixed_roi_pairs.nii.gz",
        "moving_roi_pairs.nii.gz",
    }
    tables = json.loads((tmp_path / "out" / "run.json").read_text())
    assert tables["matching"]["fixed"]["encoded"] == 3
    assert tables["matching"]["settings"]["matching"]["threshold"] == 0.8
    assert tables["start"].startswith("alignment by samreg")
    assert {"encode", "decode", "filter", "match", "link"} <= set(tables["matching"]["seconds"])
    assert all(region["dice_after"] > 0.95 for region in tables["measures"]["regions"])
    assert re.search(r"slices +6 encoded, 0 from the cache", result.output)
    assert re.search(r"pairs +\d+ ROI pairs, of \d+ fixed and \d+ moving regions", result.output)

    again = run(tmp_path, "--no-fit", "--out", tmp_path / "second", "--quiet")
    assert again.exit_code == 0 and flood.encoded == 6, again.output
    assert {f.name for f in (tmp_path / "second").iterdir()} == {
        "roi_pairs.json",
        "roi_pairs.png",
        "fixed_roi_pairs.nii.gz",
        "moving_roi_pairs.nii.gz",
        "run.json",
    }

    guided = CliRunner().invoke(
        command,
        [
            "register",
            "--preset",
            "general",
            "--fixed",
            str(tmp_path / "a.nii.gz"),
            "--moving",
            str(tmp_path / "b.nii.gz"),
            "--out",
            str(tmp_path / "third"),
            "--quiet",
            "--roi-pairs",
            str(tmp_path / "out" / "roi_pairs.json"),
        ],
    )
    assert guided.exit_code == 0, guided.output
    regions = json.loads((tmp_path / "third" / "run.json").read_text())["measures"]["regions"]
    assert len(regions) == 3 and all(region["dice_after"] > 0.9 for region in regions)


def test_the_command_tells_the_patches_that_agree_before_and_after_the_fit(
    tmp_path: Path, flood: Flood
) -> None:
    waves = 40 * ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(130, 170)), 2.5)
    for name, (y, x) in {"a": (0, 0), "b": (5, 3)}.items():
        shown = scene((y, x)) + 20 + waves[10 - y : 130 - y, 10 - x : 170 - x]
        save(shown.clip(0, 255).astype(np.uint8), tmp_path / f"{name}.png")
    result = run(tmp_path)
    assert result.exit_code in (ExitCode.OK, ExitCode.DOUBTFUL), result.output
    told = json.loads((tmp_path / "out" / "run.json").read_text())["matching"]["support"]
    before, after = (told[when] for when in ("before_fit", "after_fit"))
    assert before["patches"] >= 20 and after["patches_agree"] > 0.9 * after["patches"]
    words = f"{before['patches_agree']} of {before['patches']} agree with the alignment"
    assert re.search(
        rf"patches +{words}, {after['patches_agree']} .*with the\s+fitted field", result.output
    )
    assert re.search(r"aligned +by [a-zA-Z ]+\n", result.output), "its patches are told beside"


def test_labels_and_roi_pairs_together(tmp_path: Path, flood: Flood) -> None:
    save(volume((1, 2, 3)), tmp_path / "a.nii.gz")
    save(volume((1, 2, 3), shift=(5, 3)), tmp_path / "b.nii.gz")
    for name in "ab":
        stored = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"{name}.nii.gz")))
        organ = np.abs(stored - float(GREY[0])) < 20
        save(organ.astype(np.uint8), tmp_path / f"labels_{name}.nii.gz")
    result = run(
        tmp_path,
        "--fixed-labels",
        tmp_path / "labels_a.nii.gz",
        "--moving-labels",
        tmp_path / "labels_b.nii.gz",
    )
    assert result.exit_code in (ExitCode.OK, ExitCode.DOUBTFUL), result.output
    tables = json.loads((tmp_path / "out" / "run.json").read_text())
    assert list(tables["regions"]) == ["1"] and tables["matching"]["pairs"] == 3
    half = run(tmp_path, "--fixed-labels", tmp_path / "labels_a.nii.gz", "--overwrite")
    assert half.exit_code == ExitCode.USAGE


def test_no_pair_is_a_result_with_its_own_exit_code(tmp_path: Path, flood: Flood) -> None:
    save(scene(), tmp_path / "a.png")
    y, x = np.mgrid[:120, :160]
    other = np.where(np.hypot(y - 70, x - 60) < 40, 100, 0).astype(np.uint8)
    save(other, tmp_path / "b.png")
    result = run(tmp_path, "--quiet")
    assert result.exit_code == ExitCode.NO_ROI_PAIRS
    assert "similarity of at least 0.8, got 0." in result.output
    assert json.loads((tmp_path / "out" / "roi_pairs.json").read_text())["pairs"] == []
    tables = json.loads((tmp_path / "out" / "run.json").read_text())
    assert tables["matching"]["best_similarity"] < 0.8


def test_a_volume_pair_without_a_match_has_the_same_exit_code(tmp_path: Path, flood: Flood) -> None:
    save(volume((1, 2, 3)), tmp_path / "a.nii.gz")
    other = np.zeros((6, 120, 160), np.uint8)
    # Too large for a region, and brighter than the one that is left.
    other[1:4, :, 80:], other[1:4, 30:70, 10:50] = 200, 90
    save(other, tmp_path / "b.nii.gz")
    result = run(tmp_path, "--quiet", "--no-cache")
    assert result.exit_code == ExitCode.NO_ROI_PAIRS, result.output
    assert "similarity of at least 0.8, got 0." in result.output


def test_a_file_in_place_of_the_cache_is_named(tmp_path: Path) -> None:
    picture, file = save(scene(), tmp_path / "a.png"), tmp_path / "cache"
    file.write_text("")
    with pytest.raises(OutputError, match="expected a folder, got the file"):
        find_rois(picture, picture, Flood(), cache=file)


def test_no_mask_is_a_result_too(tmp_path: Path, flood: Flood) -> None:
    save(scene(), tmp_path / "a.png")
    empty = np.zeros((100, 100), np.uint8)
    empty[50, 50] = 255
    save(empty, tmp_path / "b.png")
    result = run(tmp_path, "--quiet")
    assert result.exit_code == ExitCode.NO_ROI_PAIRS
    assert "regions of interest in the moving image, got none" in result.output
    assert (tmp_path / "out" / "roi_pairs.png").exists()


def test_small_pictures_end_in_one_line(tmp_path: Path, flood: Flood) -> None:
    save(scene(), tmp_path / "a.png")
    save(scene()[:40:4, :40:4], tmp_path / "b.png")
    result = run(tmp_path)
    assert result.exit_code == ExitCode.IMAGE_CONTENT
    assert "expected pictures of at least 16 x 16 pixels, got 10 x 10" in result.output
    assert not (tmp_path / "out").exists()


# Real weights ---------------------------------------------------------------------------------


@pytest.mark.skipif(not WEIGHTS.exists(), reason=f"{WEIGHTS}: no MobileSAM weights here")
def test_mobile_sam_matches_two_frames_of_a_heart(segmented_once: Path) -> None:
    folder = DATA / "samreg2d" / "cardiac_mr"
    found = iterreg.match_rois(
        folder / "image1_R.png",
        folder / "image1_T.png",
        checkpoint=WEIGHTS,
        points=8,
        device="cpu",
        cache=segmented_once,
    )
    labels = [iterreg.read_label_map(folder / f"label1_{k}.png").data != 0 for k in "RT"]

    def dice(mask: iterreg.LabelMap, label: Tensor) -> float:
        inside = mask.data != 0
        return 2 * float((inside & label).sum()) / float(inside.sum() + label.sum())

    best = max(found, key=lambda pair: dice(pair.fixed, labels[0]))
    assert dice(best.fixed, labels[0]) > 0.8 and dice(best.moving, labels[1]) > 0.8
    assert best.similarity > 0.9


# Prompts and labels through pairs ---------------------------------------------------------------


def test_a_prompt_picks_the_region_around_it(tmp_path: Path) -> None:
    fixed = save(scene(), tmp_path / "a.png")
    moving = save(scene((4, -6)), tmp_path / "b.png")
    points = iterreg.Points([[107.0, 60.0]])
    pairs = iterreg.match_rois(fixed, moving, segmenter=Flood(), cache=False, prompts=points)
    assert len(pairs) == 1 and bool(pairs[0].fixed.data[60, 107])
    assert int(pairs[0].fixed.data.sum()) == pytest.approx(40 * 35, rel=0.05)
    with pytest.raises(GeometryError, match=r"prompts: expected points inside .*a.png, got \(500"):
        outside = iterreg.Points([[500.0, 60.0]])
        iterreg.match_rois(fixed, moving, segmenter=Flood(), cache=False, prompts=outside)


@pytest.mark.parametrize("axis", ["z", "y"])
def test_a_prompt_in_a_volume(tmp_path: Path, axis: str) -> None:
    fixed = save(volume((1, 2, 3, 4)), tmp_path / "a.nii.gz")
    points = iterreg.Points([[107.0, 60.0, 10.0]])
    pairs = iterreg.match_rois(
        fixed, fixed, segmenter=Flood(), cache=False, prompts=points, axis=axis
    )
    assert len(pairs) == 1 and bool(pairs[0].fixed.data[2, 60, 107])


def test_prompts_on_the_command_line(tmp_path: Path, flood: Flood) -> None:
    save(scene(), tmp_path / "a.png")
    save(scene((4, -6)), tmp_path / "b.png")
    (tmp_path / "inside.csv").write_text("x,y\n107,60\n")
    (tmp_path / "nowhere.csv").write_text("x,y\n5,5\n")
    found = run(tmp_path, "--no-fit", "--prompts", tmp_path / "inside.csv")
    assert found.exit_code == ExitCode.OK, found.output
    assert len(read_roi_pairs(tmp_path / "out" / "roi_pairs.json")) == 1
    tables = json.loads((tmp_path / "out" / "run.json").read_text())
    assert tables["inputs"]["prompts"]["file"] == str(tmp_path / "inside.csv")
    (tmp_path / "three.csv").write_text("x,y\n107,60\n5,5\n108,61\n")
    some = run(tmp_path, "--no-fit", "--overwrite", "--prompts", tmp_path / "three.csv")
    assert "2 of 3 have a pair; none at prompt 2" in " ".join(some.output.split())
    assert "2 share pair 1" in " ".join(some.output.split())
    tables = json.loads((tmp_path / "out" / "run.json").read_text())
    assert tables["matching"]["prompted"] == [1, None, 1]
    none = run(tmp_path, "--no-fit", "--overwrite", "--prompts", tmp_path / "nowhere.csv")
    assert none.exit_code == ExitCode.NO_ROI_PAIRS
    assert "expected a matched region at a prompt, got none at any of 1" in none.output


def test_a_box_picks_the_region_that_fills_it(tmp_path: Path) -> None:
    fixed, moving = save(scene(), tmp_path / "a.png"), save(scene((4, -6)), tmp_path / "b.png")
    (tmp_path / "box.csv").write_text("x,y,x2,y2\n128,84,88,37\n22,22,,\n")
    box = tmp_path / "box.csv"
    pairs = iterreg.match_rois(fixed, moving, segmenter=Flood(), cache=False, prompts=box)
    assert sorted(boxes(pair)[0] for pair in pairs) == [[20, 20], [40, 90]]


def test_a_box_in_an_oblique_volume(tmp_path: Path) -> None:
    fixed = save(volume((1, 2, 3, 4)), tmp_path / "a.nii.gz")
    turned = sitk.ReadImage(str(fixed))
    turn = sitk.VersorTransform((0.0, 0.0, 1.0), 0.2).GetMatrix()
    turned.SetDirection(turn)
    sitk.WriteImage(turned, str(fixed))
    ends = (89, 39, 1), (126, 81, 4)
    corners = [turned.TransformContinuousIndexToPhysicalPoint(end) for end in ends]
    (tmp_path / "box.csv").write_text(
        "x_mm,y_mm,z_mm,x2_mm,y2_mm,z2_mm\n" + ",".join(f"{v:.6f}" for c in corners for v in c)
    )
    box = tmp_path / "box.csv"
    pairs = iterreg.match_rois(fixed, fixed, segmenter=Flood(), cache=False, prompts=box)
    assert len(pairs) == 1 and boxes(pairs[0])[0] == [1, 40, 90]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("x,y,x2,y2\n300,10,400,50\n", "boxes inside {a}, got (300, 10) to (400, 50)"),
        ("x,y,x2,y2\n20,20,20,50\n", "boxes of at least a voxel inside {a}, along both axes"),
        ("x,y,z,x2,y2,z2\n1,1,1,9,9,9\n", "got rank 3; a picture has no z"),
        ("x,y,x2,y2\n20,20,40,\n", "prompts.csv, line 2: expected finite numbers in mm"),
        ("x,y,x2\n20,20,40\n", "expected the columns x2,y2 for a box's other corner, got 1 of"),
        ("x,y,x2,y2\n", "expected at least one point"),
        ("x,y,x2,y2\n20,70,80,118\n", "a matched region at a prompt, got none at any of 1"),
    ],
)
def test_a_bad_box_is_told_in_one_line(rows: str, says: str, tmp_path: Path, flood: Flood) -> None:
    picture = save(scene(), tmp_path / "a.png")
    save(scene((4, -6)), tmp_path / "b.png")
    (tmp_path / "prompts.csv").write_text(rows)
    told = run(tmp_path, "--no-fit", "--prompts", tmp_path / "prompts.csv")
    assert told.exit_code not in (ExitCode.OK, ExitCode.ERROR), told.output
    last = told.output.strip().splitlines()[-1]
    assert says.format(a=picture) in last, told.output


def test_a_region_of_3d_slicer_is_a_box(tmp_path: Path) -> None:
    markup = {
        "type": "ROI",
        "coordinateSystem": "RAS",
        "center": [-10, -20, 30],
        "orientation": [0, 1, 0, -1, 0, 0, 0, 0, 1],
        "size": [4, 8, 2],
    }
    path = tmp_path / "R.mrk.json"
    path.write_text(json.dumps({"markups": [markup]}))
    (corners,) = as_prompts(path, "prompts").boxes
    assert corners.shape == (8, 3)
    assert corners.min(0).tolist() == [6, 18, 29] and corners.max(0).tolist() == [14, 22, 31]
    path.write_text(json.dumps({"markups": [markup | {"size": [4, 0, 2]}]}))
    with pytest.raises(ImageReadError, match="expected an ROI of a size above 0 mm"):
        as_prompts(path, "prompts")


def test_a_box_around_a_ventricle_with_real_weights(tmp_path: Path) -> None:
    stem = DATA / "acdc" / "patient067_frame01"
    if not (WEIGHTS.is_file() and Path(f"{stem}.nii.gz").is_file()):
        pytest.skip(f"no weights at {WEIGHTS} or no hearts; set ITERREG_DATA")
    turn = sitk.VersorTransform((0.0, 0.6, 0.8), 0.3).GetMatrix()
    part = np.s_[70:210, 40:170, 3:5]
    for name, frame in (("a", "01"), ("b", "10")):
        heart = sitk.ReadImage(str(DATA / "acdc" / f"patient067_frame{frame}.nii.gz"))[part]
        heart.SetDirection(turn)
        sitk.WriteImage(heart, str(tmp_path / f"{name}.nii.gz"))
    truth = sitk.GetArrayFromImage(sitk.ReadImage(f"{stem}_gt.nii.gz")[part]) == 3
    (z, y, x), shown = np.nonzero(truth), sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    ends = [[float(f(v)) for v in (x, y, z)] for f in (np.min, np.max)]
    corners = [shown.TransformContinuousIndexToPhysicalPoint(end) for end in ends]
    (tmp_path / "box.csv").write_text(
        "x,y,z,x2,y2,z2\n" + ",".join(f"{v:.4f}" for c in corners for v in c)
    )
    options = ("--points", "10", "--no-fit", "--no-cache", "--checkpoint", WEIGHTS)
    done = run(tmp_path, "--prompts", tmp_path / "box.csv", *options)
    assert done.exit_code == ExitCode.OK, done.output
    (pair,) = read_roi_pairs(tmp_path / "out" / "roi_pairs.json")
    mask = pair.fixed.data.numpy() != 0
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.85


def test_labels_are_carried_through_pairs(tmp_path: Path, flood: Flood) -> None:
    save(scene(), tmp_path / "a.png")
    save(scene((4, -6)), tmp_path / "b.png")
    drawn = np.zeros((120, 160), np.uint8)
    drawn[44:84, 84:119] = 3
    labels = save(drawn, tmp_path / "labels.nii.gz")
    assert run(tmp_path, "--no-fit").exit_code == ExitCode.OK
    out = tmp_path / "carried.nii.gz"
    words = [
        "samreg",
        "propagate",
        "--roi-pairs",
        tmp_path / "out" / "roi_pairs.json",
        "--labels",
        labels,
        "--out",
        out,
    ]
    told = CliRunner().invoke(command, [str(w) for w in words])
    assert told.exit_code == ExitCode.OK, told.output
    carried = iterreg.read_label_map(out)
    truth = scene() == GREY[2]
    assert int((carried.data.numpy().astype(bool) & truth).sum()) > 0.9 * truth.sum()
    assert int((carried.data.numpy().astype(bool) & ~truth).sum()) < 0.1 * truth.sum()
    assert set(carried.values) == {3} and "3" in told.output
    again = CliRunner().invoke(command, [str(w) for w in words])
    assert again.exit_code == ExitCode.OUTPUT and "exists already" in again.output


def test_without_pairs_nothing_is_carried(tmp_path: Path, flood: Flood) -> None:
    save(scene(), tmp_path / "a.png")
    save(np.where(scene() > 0, 255 - scene(), 0).astype(np.uint8), tmp_path / "b.png")
    labels = save(scene(), tmp_path / "labels.nii.gz")
    run(tmp_path, "--no-fit", "--threshold", "1")
    pairs = tmp_path / "out" / "roi_pairs.json"
    assert read_roi_pairs(pairs) == []
    with pytest.raises(NoRoiPairsError, match=r"roi_pairs.json: expected at least one ROI pair"):
        iterreg.propagate_labels(labels, pairs)
