"""The alignment of two pictures: cells, keypoints, and the patches that decide."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, rotate, zoom

import iterreg
from iterreg.config import load_config
from iterreg.displacement import DisplacementField, Transform
from iterreg.geometry import Grid, apply_affine
from iterreg.image import Image
from iterreg.regions.picture_view import picture_view
from iterreg.samreg.align import Alignment, align
from iterreg.samreg.cache import RoiCache
from iterreg.samreg.candidates import Candidates
from iterreg.samreg.cells import Cells, Removed, match_cells
from iterreg.samreg.confidence import Evidence
from iterreg.samreg.fit import check_fit, fitted_to_size
from iterreg.samreg.hypotheses import Choice, choose_alignment
from iterreg.samreg.match import load
from iterreg.samreg.matching import Match
from iterreg.samreg.patches import Support, refine, support_of, warp_plane
from iterreg.samreg.pictures import PictureStack, cut_pictures
from iterreg.samreg.planes import COARSE_PX, LOCAL_SHARE, pick_channel, plane_of
from iterreg.samreg.rle import encode_mask
from iterreg.samreg.segmenter import Embedding, Segmenter
from iterreg.samreg.verifying import overlap_of, verified

DATA = Path(os.environ.get("ITERREG_DATA", Path(__file__).parents[2] / "shared" / "data"))
WEIGHTS = DATA.parent / "weights" / "mobile_sam.pt"
AXES = ((1.0, 0.0), (0.0, 1.0))


def image(pixels: np.ndarray, spacing_mm: float = 1.0) -> Image:
    """A grey or coloured picture."""
    data = torch.from_numpy(np.atleast_3d(pixels).astype(np.float32)).permute(2, 0, 1).contiguous()
    grid = Grid(tuple(data.shape[1:]), (spacing_mm, spacing_mm), (0.0, 0.0), AXES)
    return Image(data, grid, dtype="uint8")


def texture(side: int = 300, seed: int = 0) -> np.ndarray:
    """Blobs of several sizes."""
    noise = np.random.default_rng(seed).normal(size=(side, side))
    mixed = sum(gaussian_filter(noise, s) * s for s in (2, 5, 12))
    return np.clip(128 + 60 * mixed / mixed.std(), 0, 255).astype(np.uint8)


def stacks(*pictures: np.ndarray) -> tuple[PictureStack, PictureStack]:
    """Both pictures as the matching takes them."""
    first, second = (cut_pictures(image(p), None) for p in pictures)
    return first, second


def none(matches: int = 0) -> Alignment:
    """What regions without a match propose."""
    return Alignment(np.eye(3), "identity", np.zeros(matches, bool), 0.0)


class Blind:
    """An encoder that sees the same everywhere."""

    name, fingerprint, device = "blind", "blind-1", torch.device("cpu")

    def encode(self, pictures: list[torch.Tensor]) -> list[Embedding]:
        """One constant feature."""
        return [
            Embedding(torch.ones(4, 16, 16), (p.shape[0], p.shape[1]), (1.0, 1.0)) for p in pictures
        ]


# Round views and turned tiles -----------------------------------------------------------------


def disc(shape: tuple[int, int], radius: float) -> np.ndarray:
    """A disc in the middle."""
    y, x = np.indices(shape)
    return np.hypot(y - shape[0] / 2, x - shape[1] / 2) < radius


def test_a_round_view_ends_inside_its_edge_and_a_marker_does_not_count() -> None:
    picture = np.where(disc((240, 240), 110), texture(240) // 2 + 60, 2)
    picture[115:125, 225:236] = 90
    picture = picture + np.random.default_rng(1).integers(0, 3, picture.shape)
    view = picture_view(picture[..., None])
    assert 0.9 < view.sum() / disc((240, 240), 110).sum() < 1
    assert view[~disc((240, 240), 110)].sum() < 20


@pytest.mark.parametrize("degrees", [18, 45])
def test_a_turned_tile_is_seen_without_its_corners(degrees: float) -> None:
    tile = texture(200) // 2 + 40
    turned = rotate(tile, degrees, reshape=False, order=1, cval=0)
    whole = rotate(np.ones((200, 200)), degrees, reshape=False, order=1, cval=0) > 0.5
    view = picture_view(turned[..., None])
    assert 0.93 < view.sum() / whole.sum() <= 1 and not view[~whole].any()


def test_a_body_in_air_is_no_round_view() -> None:
    y, x = np.indices((200, 200))
    body = np.hypot((y - 100) / 0.75, x - 100) < 90
    assert picture_view(np.where(body, 120, 0)[..., None]).all()


def test_a_structure_on_black_is_seen_whole() -> None:
    blob = gaussian_filter(np.random.default_rng(3).normal(size=(160, 160)), 12)
    assert picture_view(np.where(blob > 0.01, 150, 0)[..., None]).all()


# Patches --------------------------------------------------------------------------------------


def test_patches_find_a_shift_to_a_tenth_of_a_pixel_and_reject_a_far_one() -> None:
    big = texture(340)
    moved = zoom(big.astype(float), 1, order=1)[13 : 13 + 300, 18 : 18 + 300]
    pair = stacks(big[10 : 10 + 300, 20 : 20 + 300], moved)
    planes = [plane_of(s, None, COARSE_PX, LOCAL_SHARE) for s in pair]
    affine_lps, support = refine((planes[0], planes[1]), np.eye(3))
    assert support.is_enough and support.share > 0.9
    np.testing.assert_allclose(affine_lps, [[1, 0, 2], [0, 1, -3], [0, 0, 1]], atol=0.1)
    far = np.array([[1.0, 0, 45], [0, 1, 30], [0, 0, 1]])
    wrong = support_of(planes[0], warp_plane(planes[0], planes[1], far))
    assert not wrong.is_enough and wrong.share < 0.15


def test_few_patches_prove_nothing() -> None:
    assert Support(90, 100, 0.02).is_enough
    assert not Support(9, 10, 0.02).is_enough and not Support(20, 100, 0.02).is_enough
    assert Support(0, 0, 0.0).share == 0


def test_the_channel_with_the_vessels_is_taken() -> None:
    structure = texture(200).astype(float)
    flat = np.full_like(structure, 180)
    coloured = np.stack([flat, 60 + structure / 4, 0.2 * flat], 2).astype(np.uint8)
    picture = torch.from_numpy(coloured)
    assert pick_channel((picture, picture)) == 1
    grey = picture[..., 1:2].expand(-1, -1, 3)
    assert pick_channel((picture, grey)) is None


# Cells ----------------------------------------------------------------------------------------


def test_cells_are_matched_though_all_share_a_mean_and_know_their_position() -> None:
    generator = torch.Generator().manual_seed(0)
    y, x = np.meshgrid(np.linspace(-1, 1, 12), np.linspace(-1, 1, 12), indexing="ij")
    places = np.stack([x.ravel(), y.ravel()], 1)
    content = torch.randn(144, 24, generator=generator)
    position = torch.from_numpy(places).float() @ torch.randn(2, 24, generator=generator)
    shuffled = torch.randperm(144, generator=generator)
    loud = 10 * torch.randn(24, generator=generator)
    fixed = Cells(content + 5 * position + loud, places, places, 1.0)
    moving = Cells(content[shuffled] + 5 * position - loud, places, places, 1.0)

    def right(removed: Removed | None) -> int:
        found = match_cells(fixed, moving, removed)
        pairs = zip(found.fixed_lps.tolist(), found.moving_lps.tolist(), strict=True)
        truth = {tuple(places[int(k)]): tuple(places[i]) for i, k in enumerate(shuffled)}
        return sum(truth[tuple(here)] == tuple(there) for here, there in pairs)

    assert right(None) > 130 and right(Removed(whiten=False)) > 130
    assert right(Removed(position=False, whiten=False)) < 100
    assert right(Removed(mean=False, whiten=False)) < 100


def test_an_affine_is_found_among_wrong_matches() -> None:
    rng = np.random.default_rng(0)
    fixed = rng.uniform(0, 100, (80, 2))
    truth = np.array([[1.1, 0.2, 5.0], [-0.1, 0.9, -3.0], [0, 0, 1]])
    moving = apply_affine(truth, fixed)
    moving[:40] = rng.uniform(0, 100, (40, 2))
    found = align(fixed, moving, 0.5, "affine")
    assert found.kind == "affine" and found.inlier_count >= 40
    np.testing.assert_allclose(found.affine_lps, truth, atol=1e-6)


# The choice -----------------------------------------------------------------------------------


def chosen(pair: tuple[PictureStack, PictureStack], encoder: object, **more: bool) -> Choice:
    """The choice without a cache and without regions."""
    segmenter: Segmenter = encoder  # type: ignore[assignment]
    return choose_alignment(pair, segmenter, none(), RoiCache(None), **more)


def test_keypoints_find_what_a_blind_encoder_does_not() -> None:
    first = texture(300)
    second = rotate(first, 90)
    choice = chosen(stacks(first, second), Blind())
    assert choice.best is not None and choice.best.source == "keypoints"
    corners = np.array([[0.0, 0.0], [299.0, 0.0], [150.0, 80.0]])
    expected = np.stack([corners[:, 1], 299 - corners[:, 0]], 1)
    np.testing.assert_allclose(apply_affine(choice.best.affine_lps, corners), expected, atol=0.1)


def test_unlike_pictures_have_no_supported_alignment() -> None:
    choice = chosen(stacks(texture(300, 0), texture(300, 1)), Blind())
    assert choice.best is None and "no alignment is supported" in choice.summary
    assert choice.to_dict()["supported"] is False and choice.to_dict()["tried"]


def test_a_blank_picture_has_none() -> None:
    assert chosen(stacks(texture(64), np.full((64, 64), 7)), Blind()).best is None


# Real weights ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mobile_sam() -> Segmenter:
    """MobileSAM with its real weights."""
    if not WEIGHTS.is_file():
        pytest.skip(f"no weights at {WEIGHTS}; set ITERREG_DATA")
    return load("mobile_sam", WEIGHTS, "cpu")


def aerial(name: str) -> np.ndarray:
    """A part of an aerial picture."""
    path = DATA / "samreg2d" / "aerial" / f"{name}.png"
    return iterreg.read_image(path).data.permute(1, 2, 0).numpy().astype(np.uint8)


@pytest.mark.parametrize(("quarters", "mirrored"), [(0, False), (2, False), (1, True)])
def test_cells_find_a_turned_or_mirrored_aerial_picture(
    mobile_sam: Segmenter, quarters: int, mirrored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = np.zeros((0, 2)), np.zeros((0, 2))
    monkeypatch.setattr("iterreg.samreg.hypotheses.match_keypoints", lambda *_: nothing)
    first, second = aerial("zh7_01_04_R"), aerial("zh7_01_04_T")
    turned = np.rot90(second[:, ::-1] if mirrored else second, quarters).copy()
    # Far from where the header has it, so that cells alone can find it.
    pair = stacks(first[:240, :240], turned[60:])
    choice = chosen(pair, mobile_sam, mirrored=mirrored)
    assert choice.best is not None and choice.best.source.startswith("cells")
    assert ("mirrored" in choice.best.source) == mirrored
    # By keypoints of the upright pair, which OpenCV places to 0.1 pixels.
    upright = np.array([[0.99926, 0.04231, -13.15], [-0.04231, 0.99926, 4.596], [0, 0, 1]])
    points = np.array([[60.0, 70.0], [150.0, 120.0], [100.0, 200.0]])
    x, y = apply_affine(upright, points).T
    for _ in range(mirrored):
        x = 299 - x
    for _ in range(quarters):
        x, y = y, 299 - x
    expected = np.stack([x, y - 60], 1)
    error = np.linalg.norm(apply_affine(choice.best.affine_lps, points) - expected, axis=1)
    assert error.max() < 0.5


# The fit --------------------------------------------------------------------------------------


def test_a_field_that_spoils_a_supported_start_is_dropped() -> None:
    first = texture(260)
    pair = stacks(first, first)
    grid = pair[0].grid
    still = Transform(np.eye(3), DisplacementField.zero(grid))
    kept = check_fit(pair, still)
    assert kept is not None and not kept.is_start and kept.support.share > 0.95
    rows = torch.arange(260.0)[:, None].expand(260, 260)
    waves = torch.stack([8 * torch.sin(rows / 15), 8 * torch.cos(rows.T / 15)])
    spoilt = check_fit(pair, Transform(np.eye(3), DisplacementField(waves, grid)))
    assert spoilt is not None and spoilt.is_start and "dropped" in spoilt.note
    told = spoilt.to_dict()
    assert told["field_dropped"] and spoilt.support is spoilt.before
    assert told["after_fit"]["patches_agree"] < told["before_fit"]["patches_agree"] / 2
    assert f"{spoilt.after.agree} with the fitted field, which was dropped" in spoilt.summary
    assert not bool(spoilt.transform.field.vox.any())


def test_a_field_that_shifts_details_alone_is_dropped() -> None:
    """Ripples of 4 of 900 pixels: about one pixel where whole structures are compared."""
    pair = stacks(texture(900), texture(900))
    grid = pair[0].grid
    waves = torch.zeros(2, 900, 900)
    waves[1] = 4 * torch.sin(torch.arange(900) / 25)[:, None]
    spoilt = check_fit(pair, Transform(np.eye(3), DisplacementField(waves, grid)))
    assert spoilt is not None and spoilt.is_start
    assert spoilt.support.is_enough and not bool(spoilt.transform.field.vox.any())


def test_a_large_photograph_is_fitted_at_coarser_levels() -> None:
    config = load_config("photograph")
    axes = ((1.0, 0.0), (0.0, 1.0))
    large = fitted_to_size(config, Grid((2048, 3072), (1.0, 1.0), (0.0, 0.0), axes))
    assert min(large.levels.spacing_mm) == 6.0 and large.overlap.band_mm == 36.0
    assert fitted_to_size(config, Grid((1024, 900), (1.0, 1.0), (0.0, 0.0), axes)) is config


def test_partners_that_do_not_lie_on_each_other_are_no_pair() -> None:
    y, x = np.mgrid[:200, :200]
    whole, half = np.hypot(y - 100, x - 100) < 40, (np.hypot(y - 100, x - 100) < 40) & (x < 100)
    edge = np.hypot(y - 100, x - 195) < 40
    stack = cut_pictures(image(texture(200)), None)

    def regions(*masks: np.ndarray) -> Candidates:
        runs = tuple(encode_mask(m) for m in masks)
        none, zeros = torch.zeros(len(masks), 1), np.zeros(len(masks), np.int64)
        return Candidates(stack, runs, zeros, none, none[0], np.zeros((len(masks), 2)), {}, {})

    fixed, moving = regions(whole, edge), regions(whole, half, np.hypot(y - 100, x - 180) < 40)
    assert verified([Match(0, 0, 1.0), Match(0, 1, 1.0)], fixed, moving, np.eye(3)) == [
        Match(0, 0, 1.0)
    ]
    # Behind a shift of 15 pixels both show the same, as far as the fixed picture goes.
    shift = np.array([[1.0, 0, -15], [0, 1, 0], [0, 0, 1]])
    assert overlap_of(Match(1, 2, 1.0), fixed, moving, shift) > 0.9
    assert overlap_of(Match(1, 2, 1.0), fixed, moving, np.eye(3)) < 0.8


def test_the_confidence_grows_with_each_evidence() -> None:
    middle = Evidence(0.4, 0.95)
    assert Evidence(0.6, 0.95).confidence > middle.confidence < Evidence(0.4, 0.99).confidence
    assert Evidence(0.95, 0.99).confidence > 0.9 > 0.5 > Evidence(0.05, 0.85).confidence
