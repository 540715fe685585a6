"""A coarse look decides which points of the grid are decoded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_samreg_match import Flood, save, scene, volume
from test_samreg_variants import loaded, picture, read, small, small_state
from torch import Tensor
from torch.nn import functional as nnf

import iterreg
from iterreg.samreg.attention import image_terms
from iterreg.samreg.candidates import MATCHERS, RoiSettings
from iterreg.samreg.decoder import build_decoder, decode, glance
from iterreg.samreg.everything import EverythingSettings, Rois, grid_points, segment_everything
from iterreg.samreg.glance import SAME, Look, look_at
from iterreg.samreg.loading import load_segmenter
from iterreg.samreg.match import find_rois
from iterreg.samreg.segmenter import Embedding, Glancing, Masks
from iterreg.samreg.variants import VARIANTS

DATA = Path(os.environ.get("ITERREG_DATA", Path(__file__).parents[2] / "shared" / "data"))
WEIGHTS = DATA.parent / "weights" / "mobile_sam.pt"
EVERY_POINT, COARSELY = (EverythingSettings(glance=way) for way in (False, True))


class GlancingFlood(Flood):
    """It counts the points that are decoded, and sees a quarter of the resolution at a glance."""

    def __init__(self, worth: float = 0.95) -> None:
        """What it predicts for its own masks at a glance."""
        super().__init__()
        self.decoded, self.worth = 0, worth

    def decode(self, embedding: Embedding, points_xy: Tensor) -> Masks:
        """One mask a point."""
        self.decoded += len(points_xy)
        return super().decode(embedding, points_xy)

    def glance(self, embedding: Embedding, points_xy: Tensor) -> Masks | None:
        """The same masks, coarse."""
        masks = super().decode(embedding, points_xy)
        worth = torch.full_like(masks.predicted_iou, self.worth)
        return Masks(masks.logits[..., ::4, ::4], worth)


def everything(segmenter: Flood, settings: EverythingSettings) -> Rois:
    """The masks of the scene."""
    shown = torch.from_numpy(scene())[..., None].repeat(1, 1, 3)
    (embedding,) = segmenter.encode([shown])
    return segment_everything(segmenter, embedding, shown, (120, 160), settings)


def test_one_point_of_each_shape_is_decoded() -> None:
    flood = GlancingFlood()
    found, every = everything(flood, COARSELY), everything(Flood(), EVERY_POINT)
    assert set(found.masks) == set(every.masks) and len(found) >= 3
    assert flood.decoded == found.points == len(found) < every.points / 4


def test_without_a_glance_each_point_is_decoded() -> None:
    flood = GlancingFlood()
    assert everything(flood, EVERY_POINT).points == flood.decoded
    assert not isinstance(Flood(), Glancing)
    assert everything(Flood(), COARSELY).points == flood.decoded


def test_points_of_the_user_are_decoded_whatever_the_glance_says() -> None:
    flood = GlancingFlood(worth=0.1)
    asked = ((40.0, 35.0), (41.0, 36.0))
    found = everything(flood, replace(COARSELY, more=asked))
    assert flood.decoded == found.points == 2 and [m.area for m in found.masks] == [1200]


def test_slices_are_matched_after_a_glance(tmp_path: Path) -> None:
    fixed = save(volume((1, 2, 3)), tmp_path / "a.nii.gz")
    moving = save(volume((1, 2, 3), shift=(6, 4)), tmp_path / "b.nii.gz")
    floods = GlancingFlood(), Flood()
    found, usual = (
        iterreg.match_rois(fixed, moving, segmenter=flood, cache=False) for flood in floods
    )
    assert floods[0].decoded == 6 * 4 and len(found) == len(usual) == 3
    for one, other in zip(found, usual, strict=True):
        assert torch.equal(one.fixed.data, other.fixed.data)
        assert torch.equal(one.moving.data, other.moving.data)


@pytest.mark.parametrize("matcher", MATCHERS)
def test_each_point_of_a_picture_is_decoded(tmp_path: Path, matcher: str) -> None:
    fixed, moving = save(scene(), tmp_path / "a.png"), save(scene((6, 4)), tmp_path / "b.png")
    images, decoded = 2 if matcher == "everything" else 1, {}
    for way in (None, True):
        flood, usual = GlancingFlood(), EverythingSettings(glance=way)
        settings = RoiSettings(everything=usual, matcher=matcher)
        found = find_rois(fixed, moving, flood, settings, cache=False)
        assert len(found.pairs) == 3
        decoded[way] = flood.decoded
    assert decoded[None] - decoded[True] > images * 50


def squares(places: Sequence[tuple[int, int, int]]) -> Tensor:
    """Masks of 32 x 32 with a square each: row, column, side."""
    masks = torch.zeros(len(places), 32, 32, dtype=torch.bool)
    for mask, (row, column, side) in zip(masks, places, strict=True):
        mask[row : row + side, column : column + side] = True
    return masks


def overlaps(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of masks (K, pixels) and (L, pixels): (K, L)."""
    shared = one.float() @ other.float().T
    return shared / (one.sum(1)[:, None] + other.sum(1)[None] - shared)


def test_each_mask_is_covered_by_one_of_a_chosen_point() -> None:
    random = np.random.default_rng(0)
    places = [(int(r), int(c), int(s)) for r, c, s in random.integers(1, 16, (120, 3))]
    masks, iou = squares(places).view(40, 3, 32, 32), torch.rand(40, 3)
    chosen = Look(masks, iou).choose(0.5)
    flat = masks.flatten(2)
    found = overlaps(flat[iou > 0.5], flat[chosen][iou[chosen] > 0.5])
    assert float(found.amax(1).min()) > SAME
    assert len(chosen) < 40 and chosen.tolist() == sorted(set(chosen.tolist()))


def test_the_best_point_of_a_shape_is_chosen_and_what_is_poor_or_empty_is_not() -> None:
    masks = squares([(2, 2, 8), (2, 3, 8), (20, 20, 6), (12, 4, 5), (0, 0, 0)])[:, None]
    look = Look(masks, torch.tensor([0.7, 0.8, 0.65, 0.59, 0.9])[:, None])
    assert look.choose(0.6).tolist() == [1, 2]
    assert look.choose(0.95).tolist() == []
    # A point that shows both shapes at once covers both.
    both = torch.cat((masks[[0, 2, 1]], masks[[2, 3, 2]]), 1)
    iou = torch.tensor([[0.7, 0.7], [0.65, 0.1], [0.9, 0.66]])
    assert Look(both, iou).choose(0.6).tolist() == [2]


def test_a_shape_around_another_is_another() -> None:
    """They overlap less than those of which everything mode drops one."""
    masks = squares([(2, 2, 10), (3, 3, 8), (2, 2, 9)])[:, None]
    look = Look(masks, torch.tensor([[0.9], [0.8], [0.7]]))
    assert look.choose(0.6).tolist() == [0, 1]
    assert EverythingSettings().nms == SAME


@pytest.mark.parametrize("each", [1, 2])
def test_a_point_whose_mask_is_not_good_enough_gives_way_to_another(each: int) -> None:
    places = [(2, 2, 12), (2, 3, 12), (3, 3, 12), (20, 20, 6)]
    masks = squares(places)[:, None].expand(-1, each, -1, -1)
    look = Look(masks, torch.tensor([0.7, 0.8, 0.6, 0.9])[:, None].expand(-1, each))
    first = look.choose(0.5)
    assert first.tolist() == [1, 3]
    look.tell(first, torch.tensor([[False], [True]]))
    second = look.choose(0.65)
    assert second.tolist() == [0]
    look.tell(second, torch.tensor([[True]]))
    assert look.choose(0.5).tolist() == []


class Strict(GlancingFlood):
    """In full, only the mask of one point of each shape is good: the second one decoded."""

    def decode(self, embedding: Embedding, points_xy: Tensor) -> Masks:
        """One mask a point."""
        masks, first = super().decode(embedding, points_xy), self.decoded == len(points_xy)
        return Masks(masks.logits, masks.predicted_iou - (0.1 if first else 0.0))


def test_a_shape_is_not_lost_with_the_first_point_that_shows_it() -> None:
    flood = Strict()
    found, every = everything(flood, COARSELY), everything(Flood(), EVERY_POINT)
    assert set(found.masks) == set(every.masks)
    assert flood.decoded == 2 * len(found)


def test_a_glance_is_the_decoders_own_result_at_every_fourth_position() -> None:
    random = torch.Generator().manual_seed(0)
    decoder = build_decoder(VARIANTS["sam_vit_b"]).eval().requires_grad_(False)
    features, encoding = torch.randn(2, 64, 256, generator=random)
    prompts = torch.randn(3, 2, 256, generator=random)
    image = image_terms(decoder.transformer, features, encoding, torch.float32)
    logits, iou = decode(decoder, image, prompts, ())
    seen, guessed = glance(decoder, image, prompts)
    torch.testing.assert_close(seen, logits[..., ::4, ::4], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(guessed, iou, atol=1e-5, rtol=1e-4)


def test_an_embedding_of_16_x_16_is_not_halved(tmp_path: Path) -> None:
    segmenter = loaded(small("sam_vit_b"), small_state(), tmp_path)
    (embedding,) = segmenter.encode([picture(256, 180)])
    assert segmenter.glance(embedding, torch.ones(1, 2)) is None
    points = torch.rand(5, 2) * 180
    assert look_at(segmenter, embedding, points, True).choose(0.9).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.skipif(not WEIGHTS.exists(), reason=f"{WEIGHTS}: no MobileSAM weights here")
def test_mobile_sam_sees_at_a_glance_what_it_decodes() -> None:
    shown = torch.from_numpy(read("cardiac_mr/image1_R.png"))
    segmenter = load_segmenter("mobile_sam", WEIGHTS, torch.device("cpu"))
    assert isinstance(segmenter, Glancing)
    (embedding,) = segmenter.encode([shown])
    points = grid_points(shown, 20)
    chosen = look_at(segmenter, embedding, points, True).choose(0.6)
    assert 5 < len(chosen) < len(points) / 3
    some = points[chosen]
    coarse, full = segmenter.glance(embedding, some), segmenter.decode(embedding, some)
    assert coarse is not None
    good = full.predicted_iou > 0.9
    large = nnf.interpolate(coarse.logits, size=full.logits.shape[-2:], mode="bilinear")
    one, other = large[good] > 0, full.logits[good] > 0
    overlap = (one & other).sum((1, 2)) / (one | other).sum((1, 2)).clamp(min=1)
    assert float(overlap.median()) > 0.8
