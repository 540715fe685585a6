"""From pictures to candidates and pairs: each step of SAMReg by itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from iterreg.errors import (
    ConfigError,
    GeometryError,
    ImageContentError,
    ImageReadError,
    NoRoiPairsError,
)
from iterreg.geometry import Grid, apply_affine
from iterreg.image import Image, LabelMap, RoiPair
from iterreg.samreg.align import align
from iterreg.samreg.everything import Rois
from iterreg.samreg.filters import RoiFilter, filter_rois
from iterreg.samreg.linking import fill_gaps, link
from iterreg.samreg.matching import Match, MatchSettings, assign, cosine_similarities
from iterreg.samreg.pictures import CT_WINDOW_HU, cut_axis, cut_pictures
from iterreg.samreg.propagating import propagate_labels
from iterreg.samreg.rle import RunLengthMask, decode_mask, encode_mask
from iterreg.samreg.roi_files import label_views, read_roi_pairs, write_roi_pairs
from iterreg.samreg.slices import in_threads


def grid(*shape: int, spacing: tuple[float, ...] | None = None, z_mm: float = 0.0) -> Grid:
    """An axis-aligned grid; ``shape`` is (z, y, x) or (y, x)."""
    rank = len(shape)
    origin = (0.0,) * (rank - 1) + (z_mm,)
    eye = tuple(tuple(float(i == j) for j in range(rank)) for i in range(rank))
    return Grid(shape, spacing or (1.0,) * rank, origin, eye)


def image(data: np.ndarray, on: Grid | None = None, dtype: str = "int16") -> Image:
    """An image of one channel, or of three where the array says so."""
    tensor = torch.from_numpy(np.asarray(data, np.float32))
    on = on or grid(*tensor.shape)
    return Image(tensor if tensor.ndim > on.rank else tensor[None], on, dtype, name="test image")


def square(shape: tuple[int, int], top: int, left: int, side: int) -> np.ndarray:
    """A mask of one square."""
    mask = np.zeros(shape, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def rois(*masks: np.ndarray) -> Rois:
    """Candidates of a slice, the first judged best."""
    n = len(masks)
    return Rois(
        tuple(encode_mask(m) for m in masks),
        torch.eye(n),
        torch.linspace(1, 0.9, n),
        torch.zeros(n),
    )


# Run-length masks -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mask",
    [
        np.random.default_rng(0).random((7, 9)) > 0.5,
        np.random.default_rng(1).random((3, 4, 5)) > 0.7,
        np.ones((2, 3), bool),
        np.zeros((2, 3), bool),
    ],
    ids=["plane", "volume", "full", "empty"],
)
def test_run_lengths_are_lossless(mask: np.ndarray) -> None:
    packed = encode_mask(mask)
    assert np.array_equal(decode_mask(packed), mask)
    assert packed.area == mask.sum()


def test_runs_that_do_not_fill_their_shape_are_refused() -> None:
    with pytest.raises(ImageContentError, match=r"runs that fill \(2, 3\)"):
        RunLengthMask((2, 3), (1, 2))


# Pictures -------------------------------------------------------------------------------------


def test_windows_are_those_of_the_kind_of_image() -> None:
    rng = np.random.default_rng(0)
    hounsfield = np.clip(rng.normal(0, 400, (2, 32, 32)), -1000, 1500)
    ct = cut_pictures(image(hounsfield), 0)
    assert (ct.window.low, ct.window.high) == CT_WINDOW_HU
    water = hounsfield.copy()
    water[0, 0, :2] = 0, 100
    levels = cut_pictures(image(water), 0).pixels[0][0, :2, 0].tolist()
    assert levels == [round(255 * 160 / 400), round(255 * 260 / 400)]
    mr = image(rng.gamma(2, 200, (2, 32, 32)))
    assert cut_pictures(mr, 0).window.kind.startswith("percentiles")
    assert cut_pictures(mr, 0, (0.0, 10.0)).window.kind == "given"


def test_colours_are_kept() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (3, 20, 30)).astype(np.float32)
    stack = cut_pictures(image(rgb, grid(20, 30), "uint8"), None)
    assert stack.window.kind == "as stored"
    assert np.array_equal(stack.pixels[0].numpy(), rgb.transpose(1, 2, 0).astype(np.uint8))


def test_sixteen_bits_use_all_grey_levels() -> None:
    ramp = np.linspace(30_000, 40_000, 400).reshape(20, 20)
    pixels = cut_pictures(image(ramp, dtype="uint16"), None).pixels[0]
    assert pixels.dtype == torch.uint8
    assert (int(pixels.min()), int(pixels.max())) == (0, 255)


def test_a_blank_slice_is_none_and_the_others_keep_their_brightness() -> None:
    volume = np.zeros((3, 24, 24))
    volume[0, 4:12, 4:12], volume[2, 4:12, 4:12] = 100, 50
    stack = cut_pictures(image(volume), 0)
    assert stack.pixels[1] is None
    assert int(stack.pixels[0].max()) == pytest.approx(2 * int(stack.pixels[2].max()), abs=2)


def test_pixels_become_square() -> None:
    tall = image(np.random.default_rng(0).random((4, 24, 20)), grid(4, 24, 20, spacing=(1, 1, 6)))
    stack = cut_pictures(tall, 2)
    assert stack.slice_shape == (4, 24)
    assert tuple(stack.pixels[0].shape) == (24, 24, 3)


def test_the_stored_order_of_axes_does_not_matter(reorient: Callable[..., Image]) -> None:
    volume = image(np.random.default_rng(0).random((4, 20, 24)), grid(4, 20, 24, spacing=(1, 1, 5)))
    turned = reorient(volume, (2, 0, 1), (True, False, True))
    assert cut_axis(volume, volume, None) == cut_axis(turned, turned, None) == 0
    first, second = cut_pictures(volume, 0), cut_pictures(turned, 0)
    assert all(torch.equal(a, b) for a, b in zip(first.pixels, second.pixels, strict=True))
    assert np.allclose(first.positions_lps_mm, second.positions_lps_mm)


def test_slices_are_cut_across_the_thickest_voxels() -> None:
    def volume(*spacing: float) -> Image:
        noise = np.random.default_rng(0).random((20, 20, 20))
        return image(noise, grid(20, 20, 20, spacing=spacing))

    assert cut_axis(volume(1, 1, 1), volume(1, 1, 1), None) == 0
    assert cut_axis(volume(8, 1, 1), volume(1, 1, 1), None) == 2
    assert cut_axis(volume(1, 1, 1), volume(1, 6, 1), None) == 1
    assert cut_axis(volume(1, 6, 1), volume(1, 1, 1), "x") == 2
    with pytest.raises(GeometryError, match="axis: expected one of z, y, x, got w"):
        cut_axis(volume(1, 1, 1), volume(1, 1, 1), "w")


def test_a_picture_smaller_than_a_patch_is_refused() -> None:
    with pytest.raises(ImageContentError, match="test image: expected pictures of at least"):
        cut_pictures(image(np.random.default_rng(0).random((12, 30))), None)


# Filters --------------------------------------------------------------------------------------


def test_specks_and_background_go() -> None:
    shape = (100, 100)
    found = rois(square(shape, 0, 0, 90), square(shape, 10, 10, 20), square(shape, 50, 50, 2))
    assert [m.area for m in filter_rois(found, RoiFilter(), 10_000).masks] == [400]
    assert [m.area for m in filter_rois(found, RoiFilter((1, 5), "mm2"), 1).masks] == [4]


def test_of_twins_the_one_judged_better_stays() -> None:
    shape = (100, 100)
    found = rois(square(shape, 10, 10, 40), square(shape, 10, 11, 40), square(shape, 60, 60, 20))
    left = filter_rois(found, RoiFilter(), 10_000)
    assert [m.area for m in left.masks] == [1600, 400]
    assert torch.equal(left.prototypes, torch.eye(3)[[0, 2]])


@pytest.mark.parametrize(
    ("rule", "sizes"), [("keep", [1600, 400]), ("outer", [1600]), ("inner", [400])]
)
def test_nested_masks_stay_by_choice(rule: str, sizes: list[int]) -> None:
    shape = (100, 100)
    found = rois(square(shape, 10, 10, 40), square(shape, 20, 20, 20))
    left = filter_rois(found, RoiFilter(nested=rule), 10_000)
    assert [m.area for m in left.masks] == sizes


# Matching -------------------------------------------------------------------------------------

SCORES = np.array([[0.99, 0.95, 0.10], [0.97, 0.90, 0.10], [0.20, 0.91, 0.85]])


def pairs_of(settings: MatchSettings, scores: np.ndarray = SCORES) -> list[tuple[int, int]]:
    """Indices of the matches."""
    allowed = np.ones(scores.shape, bool)
    return [(m.fixed, m.moving) for m in assign(scores, allowed, settings)]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("one-to-one", [(0, 0), (2, 1)]),
        ("mutual", [(0, 0)]),
        ("one-to-many", [(0, 0), (1, 0), (0, 1), (2, 1), (2, 2)]),
        ("optimal", [(1, 0), (0, 1), (2, 2)]),
    ],
)
def test_rules(rule: str, expected: list[tuple[int, int]]) -> None:
    assert pairs_of(MatchSettings(0.8, rule)) == expected


def test_threshold_and_what_is_not_allowed() -> None:
    assert pairs_of(MatchSettings(0.98)) == [(0, 0)]
    assert pairs_of(MatchSettings(0.995)) == []
    allowed = np.ones((3, 3), bool)
    allowed[0, 0] = False
    assert [(m.fixed, m.moving) for m in assign(SCORES, allowed, MatchSettings(0.8))] == [
        (1, 0),
        (0, 1),
        (2, 2),
    ]


def test_a_prior_decides_between_equals_and_excludes_the_far() -> None:
    scores = np.full((2, 2), 0.95)
    weight = np.array([[0.7, 1.0], [0.99, 0.7]])
    found = assign(scores, np.ones((2, 2), bool), MatchSettings(0.8, "one-to-many"), weight)
    assert {(m.fixed, m.moving, m.similarity) for m in found} == {(0, 1, 0.95), (1, 0, 0.95)}


def test_similarity_is_the_cosine_with_or_without_the_mean() -> None:
    a, b = torch.tensor([[3.0, 4.0]]), torch.tensor([[4.0, 3.0], [1.0, 1.0]])
    assert cosine_similarities(a, b) == pytest.approx(np.array([[0.96, 7 / 50**0.5]]))
    assert cosine_similarities(a, b, torch.tensor([3.0, 3.0]))[0, 0] == pytest.approx(0)


@pytest.mark.parametrize(
    "wrong", [{"rule": "best"}, {"threshold": 2.0}, {"pairs": 0}, {"slice_range": -1}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        MatchSettings(**wrong)


# Alignment ------------------------------------------------------------------------------------


def test_a_large_rotation_is_found_among_wrong_matches() -> None:
    rng = np.random.default_rng(0)
    fixed = rng.uniform(0, 300, (30, 2))
    angle = np.radians(40)
    model = np.eye(3)
    cosine, sine = np.cos(angle), np.sin(angle)
    model[:2, :2] = 1.2 * np.array([[cosine, -sine], [sine, cosine]])
    model[:2, 2] = 50, -20
    moving = apply_affine(model, fixed) + rng.normal(0, 1, fixed.shape)
    wrong = rng.permutation(30)[:18]
    moving[wrong] = rng.uniform(-100, 400, (18, 2))
    found = align(fixed, moving, inlier_distance_mm=8)
    assert found.kind == "similarity"
    assert np.abs(apply_affine(found.affine_lps, fixed) - apply_affine(model, fixed)).max() < 4


def test_the_identity_stays_where_most_agree_with_it() -> None:
    rng = np.random.default_rng(0)
    fixed = rng.uniform(0, 300, (12, 3))
    moving = fixed + rng.normal(0, 2, fixed.shape)
    moving[:4] = rng.uniform(0, 300, (4, 3))
    assert align(fixed, moving, 10, "translation").kind == "identity"
    shifted = align(fixed, moving + np.array([40.0, 0.0, 5.0]), 10, "translation")
    assert shifted.kind == "translation"
    assert shifted.affine_lps[:3, 3] == pytest.approx([40, 0, 5], abs=2)
    assert align(fixed[:0], moving[:0], 10).kind == "identity"


@pytest.mark.parametrize("seed", [-1, -(2**63), 10**30])
def test_an_alignment_takes_every_whole_number_as_a_seed(seed):
    fixed = np.random.default_rng(0).uniform(0, 200, (200, 3))
    found = align(fixed, fixed + np.array([40.0, 0.0, 5.0]), 10, "translation", seed=seed)
    np.testing.assert_allclose(found.affine_lps[:3, 3], (40, 0, 5), atol=1e-6)


# Linking --------------------------------------------------------------------------------------


def test_slices_of_one_structure_are_one_chain_and_others_are_not() -> None:
    shape = (40, 40)
    organ = [encode_mask(square(shape, 5, 5, 12 - k)) for k in range(5)]
    other = [encode_mask(square(shape, 25, 25, 8))]
    masks = [*organ, *other]
    slices = np.array([0, 1, 2, 3, 4, 2])
    matches = [Match(k, k, 0.9 + 0.01 * k) for k in (0, 1, 3, 4)] + [Match(5, 5, 0.99)]
    chains = link(matches, (masks, masks), (slices, slices), (5.0, 5.0))
    assert [[m.fixed for m in chain] for chain in chains] == [[0, 1, 3, 4], [5]]


def test_a_hole_in_a_structure_is_filled() -> None:
    shape = (40, 40)
    ends = {2: square(shape, 10, 10, 8), 4: square(shape, 10, 10, 16)}
    whole = fill_gaps(ends, lambda number: [])
    assert sorted(whole) == [2, 3, 4]
    assert 8**2 < whole[3].sum() < 16**2
    found = square(shape, 10, 10, 12)
    taken = fill_gaps(ends, lambda number: [square(shape, 25, 25, 5), found])
    assert np.array_equal(taken[3], found)


# Files and labels -----------------------------------------------------------------------------


def two_pairs() -> list[RoiPair]:
    """Two pairs of a volume that overlap, on different grids."""
    on = (grid(4, 20, 24, spacing=(1.5, 1.5, 5.0)), grid(5, 22, 20, z_mm=-3.0))
    made = []
    for number, side in ((1, 10), (2, 4)):
        maps = []
        for where in on:
            data = torch.zeros(where.shape_zyx, dtype=torch.int32)
            data[1:3, 4 : 4 + side, 6 : 6 + side] = 1
            maps.append(LabelMap(data, where, name=f"ROI {number}"))
        made.append(RoiPair(maps[0], maps[1], 0.9 - 0.0123456789 * number))
    return made


def test_files_are_lossless(tmp_path: Path) -> None:
    pairs = two_pairs()
    grids = pairs[0].fixed.grid, pairs[0].moving.grid
    file = tmp_path / "roi_pairs.json"
    write_roi_pairs(pairs, file, grids, {"segmenter": "test"})
    again = read_roi_pairs(file)
    assert len(again) == 2
    for old, new in zip(pairs, again, strict=True):
        assert new.similarity == old.similarity
        for a, b in ((old.fixed, new.fixed), (old.moving, new.moving)):
            assert torch.equal(a.data, b.data) and a.grid == b.grid
    table = json.loads(file.read_text())["pairs"][0]["fixed"]
    assert table["voxels"] == 200 and table["volume_mm3"] == 200 * 1.5 * 1.5 * 5
    assert table["first_zyx"] == [1, 4, 6] and table["last_zyx"] == [2, 13, 15]
    assert table["centroid_lps_mm"] == [10.5 * 1.5, 8.5 * 1.5, 1.5 * 5]


def test_no_pairs_are_a_file_too(tmp_path: Path) -> None:
    file = tmp_path / "roi_pairs.json"
    write_roi_pairs([], file, (grid(4, 5), grid(4, 5)))
    assert read_roi_pairs(file) == []


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"schema": 9, "pairs": []}', '{"schema": 1, "pairs": [{}]}']
)
def test_other_files_are_refused_by_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "roi_pairs.json"
    file.write_text(text)
    with pytest.raises(ImageReadError, match=r"roi_pairs\.json: expected"):
        read_roi_pairs(file)


def test_runs_of_another_grid_are_refused(tmp_path: Path) -> None:
    pairs = two_pairs()
    file = tmp_path / "roi_pairs.json"
    write_roi_pairs(pairs, file, (pairs[0].fixed.grid, pairs[0].moving.grid))
    tables = json.loads(file.read_text())
    tables["pairs"][0]["moving"]["runs"][0] += 1
    file.write_text(json.dumps(tables))
    with pytest.raises(ImageReadError, match="whole ROI pairs"):
        read_roi_pairs(file)


def test_the_view_has_the_smallest_roi_on_top() -> None:
    view = label_views(two_pairs())[0].data
    assert int(view[1, 5, 7]) == 2 and int(view[1, 12, 14]) == 1


def test_labels_are_propagated_by_pairs_alone() -> None:
    pair = two_pairs()[0]
    labels = torch.zeros(pair.moving.grid.shape_zyx, dtype=torch.int32)
    labels[1:3, 4:14, 6:11], labels[1:3, 4:14, 11:16] = 3, 5
    carried = propagate_labels(LabelMap(labels, pair.moving.grid, {3: "left"}), [pair])
    assert carried.names == {3: "left"}
    assert torch.equal(carried.data != 0, pair.fixed.data != 0)
    assert torch.unique(carried.data[1:3, 4:14, 6:11]).tolist() == [3]
    assert torch.unique(carried.data[1:3, 4:14, 11:16]).tolist() == [5]
    with pytest.raises(NoRoiPairsError, match="at least one ROI pair"):
        propagate_labels(LabelMap(labels, pair.moving.grid), [])
    with pytest.raises(GeometryError):
        propagate_labels(LabelMap(pair.fixed.data.int(), pair.fixed.grid), [pair])


# Slices in threads ------------------------------------------------------------------------------


def test_slices_in_threads_give_the_same_in_order() -> None:
    def work(number: int, on_share: object) -> tuple[int, int]:
        return number, torch.get_num_threads()

    before = torch.get_num_threads()
    told: list[float] = []
    found = list(in_threads(work, [5, 2, 9, 4], 2, told.append))
    assert found == [(5, 1), (2, 1), (9, 1), (4, 1)]
    assert told == [0.0, 0.25, 0.5, 0.75] and torch.get_num_threads() == before
    assert [n for n, _ in in_threads(work, [5, 2, 9, 4], 1)] == [5, 2, 9, 4]


def test_an_error_in_a_thread_reaches_the_caller() -> None:
    def work(number: int, on_share: object) -> int:
        return 1 // number

    with pytest.raises(ZeroDivisionError):
        list(in_threads(work, [1, 0, 2], 2))
