"""The optimiser on pairs whose motion is fov: sliding, large, affine; and the repair of folds."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from synthetic import rotation
from torch import Tensor

from iterreg import Grid, Image, LabelMap, Registration, load_config, optimize_pair
from iterreg.displacement import displacement_vox_to_mm, total_displacement_vox
from iterreg.energy.region import Region
from iterreg.geometry import apply_affine
from iterreg.kernels import folding_voxels
from iterreg.metrics import folding, folding_mask, interior_mask
from iterreg.optimize.affine import AffineStart, find_affine
from iterreg.optimize.discrete import search
from iterreg.optimize.field import Field
from iterreg.optimize.pair import Interfaces, Pair
from iterreg.optimize.repair import repair_border, repair_folds
from iterreg.optimize.side import Side
from iterreg.verdict import Kind

SIZE, SPACING_MM = 48, 2.0
SLIDE_MM = 4.0
MARGIN = 4
"""Voxels at the border, where what is seen in one image has left the other."""


def straight(shape: tuple[int, ...], spacing_mm: float, origin_mm: float = 0.0) -> Grid:
    """A grid along the axes of space."""
    rank = len(shape)
    rows = tuple(map(tuple, np.eye(rank).tolist()))
    return Grid(shape, (spacing_mm,) * rank, (origin_mm,) * rank, rows)


def places_mm(grid: Grid) -> np.ndarray:
    """(*shape, rank), the centre of every voxel along the array's axes, mm from the first."""
    axes = [np.arange(n) * s for n, s in zip(grid.shape_zyx, grid.spacing_zyx_mm, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1)


def texture(places: np.ndarray, seed: int = 0, waves: int = 60) -> np.ndarray:
    """A texture that has a value at every place, not only on a lattice: exact ground truth."""
    random = np.random.default_rng(seed)
    direction = random.normal(size=(waves, places.shape[-1]))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    wave_mm = random.uniform(10, 40, waves)
    phase = random.uniform(0, 2 * np.pi, waves)
    total = np.zeros(places.shape[:-1])
    for d, length, p in zip(direction, wave_mm, phase, strict=True):
        total += np.cos(2 * np.pi * (places @ d) / length + p)
    return 100 * total / np.sqrt(waves / 2)


# Sliding --------------------------------------------------------------------------------------


def sliding_pair(rank: int) -> tuple[Image, Image, LabelMap, Tensor]:
    """Two blocks that move along their common face, opposite ways; the true motion in mm."""
    grid = straight((SIZE,) * rank, SPACING_MM)
    upper = np.zeros(grid.shape_zyx, bool)
    upper[SIZE // 2 :] = True
    images = []
    for moved in (0.0, 1.0):
        blocks = []
        for seed, way in ((0, -SLIDE_MM), (1, SLIDE_MM)):
            places = places_mm(grid)
            places[..., 1] -= way * moved
            blocks.append(texture(places, seed))
        data = torch.from_numpy(np.where(upper, blocks[1], blocks[0])).float().unsqueeze(0)
        images.append(Image(data, grid))
    names = {1: "lower block", 2: "upper block"}
    labels = LabelMap(torch.from_numpy(upper.astype(np.int32) + 1), grid, names)
    motion = torch.zeros(rank, *grid.shape_zyx)
    motion[1] = torch.from_numpy(np.where(upper, SLIDE_MM, -SLIDE_MM))
    return images[0], images[1], labels, motion


@cache
def slide(rank: int, sliding_weight: float) -> tuple[Registration, Tensor]:
    """Register the sliding pair; the length of the error at every voxel, mm."""
    fixed, moving, labels, motion = sliding_pair(rank)
    overrides = {
        "similarity.intensity_range": [],
        "smoothness.sliding": [["lower*", "upper*"]],
        "smoothness.sliding_weight": sliding_weight,
    }
    run = optimize_pair(
        fixed, moving, fixed_labels=labels, moving_labels=labels, overrides=overrides, device="cpu"
    )
    error = total_displacement_vox(run.transform) * SPACING_MM - motion
    return run, error.square().sum(0).sqrt()


def judged(labels: Tensor) -> Tensor:
    """Interior voxels away from the border of the image."""
    mask = interior_mask(labels)
    for axis in range(labels.ndim):
        mask.narrow(axis, 0, MARGIN).zero_()
        mask.narrow(axis, labels.shape[axis] - MARGIN, MARGIN).zero_()
    return mask


def near_the_face(mask: Tensor) -> Tensor:
    """Of a mask, what lies within six voxels of the sliding face."""
    band = torch.zeros_like(mask)
    band[SIZE // 2 - 6 : SIZE // 2 + 6] = True
    return mask & band


@pytest.mark.parametrize("rank", [2, 3])
def test_sliding_is_found_on_both_sides(rank):
    run, error = slide(rank, load_config("thorax").smoothness.sliding_weight)
    # Blocks that slide along a plane keep their labels, which the verdict cannot know.
    assert {reason.kind for reason in run.verdict.reasons} == {Kind.LABELS}
    inside = judged(run.fixed_labels.data)
    for value in (1, 2):
        side = inside & run.fixed_labels.mask(value)
        assert float(error[side].mean()) < SPACING_MM / 2
        assert float(error[near_the_face(side)].mean()) < SPACING_MM / 2


@pytest.mark.parametrize("rank", [2, 3])
def test_a_globally_smooth_field_cannot_slide(rank):
    run, error = slide(rank, load_config("thorax").smoothness.sliding_weight)
    _, smooth_error = slide(rank, 1.0)
    face = near_the_face(judged(run.fixed_labels.data))
    assert float(smooth_error[face].mean()) > 1.5 * float(error[face].mean())


@pytest.mark.parametrize("rank", [2, 3])
def test_the_field_jumps_at_the_face_and_nowhere_else(rank):
    run, _ = slide(rank, load_config("thorax").smoothness.sliding_weight)
    labels = run.fixed_labels.data
    along = total_displacement_vox(run.transform)[1] * SPACING_MM
    jump = along.diff(dim=0)[:, *[slice(MARGIN, -MARGIN)] * (rank - 1)].mean(
        dim=tuple(range(1, rank))
    )
    assert int(jump.argmax()) == SIZE // 2 - 1
    assert float(jump.max()) > SLIDE_MM, "most of the 8 mm between two neighbours"
    assert folding(total_displacement_vox(run.transform), labels).interior_folds == 0


@pytest.mark.parametrize("names", [{}, {1: "lower block", 2: "upper block"}], ids=["none", "given"])
def test_labels_without_a_name_slide(names):
    fixed, moving, labels, _ = sliding_pair(2)
    labels = LabelMap(labels.data, labels.grid, names)
    overrides = {"similarity.intensity_range": [], "smoothness.sliding": [["lower*", "upper*"]]}
    run = optimize_pair(
        fixed, moving, fixed_labels=labels, moving_labels=labels, overrides=overrides, device="cpu"
    )
    expected, _ = slide(2, load_config("thorax").smoothness.sliding_weight)
    assert torch.equal(run.transform.field.vox, expected.transform.field.vox)


# Repair ---------------------------------------------------------------------------------------

SLIDES = Interfaces(torch.tensor([[1.0, 0.05], [0.05, 1.0]]), torch.zeros(2, 2))


def repaired_field(
    u: Tensor,
    labels: Tensor,
    spacing_zyx_mm: tuple[float, ...] = (1.0, 1.0, 1.0),
    interfaces: Interfaces = SLIDES,
) -> tuple[Tensor, int]:
    """A copy of a displacement (3, Z, Y, X) in mm without folds, and how many are left."""
    shape = tuple(labels.shape)
    grid = replace(straight(shape, 1.0), spacing_xyz_mm=tuple(reversed(spacing_zyx_mm)))
    side = Side(torch.zeros(1, *shape), labels, torch.ones(shape, dtype=torch.bool), grid)
    field, left = repair_folds(Field(u.clone(), side), interfaces)
    return field.u_mm, left


@pytest.mark.parametrize("shape", [(12, 14, 16), (1, 20, 22)])
def test_the_total_displacement_does_not_fold_at_the_border(shape: tuple[int, ...]) -> None:
    """There it goes on beyond the image, so that the affine decides what folds."""
    rank = 3 - (shape[0] == 1)
    some = np.random.default_rng(1).normal(size=(rank, rank))
    axes = np.linalg.qr(np.eye(rank) + 0.1 * (some - some.T))[0]
    axes = axes * np.sign(np.diag(axes))
    grid = Grid(shape[3 - rank :], (1.5, 1.0, 2.0)[:rank], (0.0,) * rank, axes.tolist())
    labels = torch.zeros(shape, dtype=torch.int32)
    side = Side(torch.zeros(1, *shape), labels, torch.ones(shape, dtype=torch.bool), grid)
    noise = 0.9 * torch.randn(3, *shape, generator=torch.Generator().manual_seed(2))
    noise[: 3 - rank] = 0
    field, left = repair_folds(Field(noise, side), Interfaces.glued(1))
    assert left == 0
    affine = np.eye(rank + 1)
    affine[:rank, :rank] += 0.25 * np.random.default_rng(3).normal(size=(rank, rank))

    def folds(u_mm: Tensor) -> torch.Tensor:
        transform = Field(u_mm.clone(), side).to_transform(affine, grid)
        # The measures count inside the grid alone; the repair looks beyond it, as the loop does.
        return folding_voxels(total_displacement_vox(transform))

    before = field.u_mm.clone()
    assert int(folds(before).sum()) > 5
    repaired, left = repair_border(field, Interfaces.glued(1), affine)
    assert left == 0 and not bool(folds(repaired.u_mm).any())
    moved = (repaired.u_mm != before).any(0)
    assert 0 < int(moved.sum()) < 0.5 * moved.numel()
    turned = np.eye(rank + 1)
    turned[-3:-1, -3:-1] = [[-0.5, -(0.75**0.5)], [0.75**0.5, -0.5]]
    kept, _ = repair_border(Field(before.clone(), side), Interfaces.glued(1), turned)
    assert torch.equal(kept.u_mm, before)


def test_planted_folds_are_removed_and_the_rest_is_left_alone():
    shape, spacing = (20, 21, 22), (2.0, 1.0, 1.5)
    labels = torch.zeros(shape, dtype=torch.int32)
    labels[10:] = 1
    u = torch.zeros(3, *shape)
    u[1, :10], u[1, 10:] = -4.0, 4.0
    u[2, 4, 10, 10] += 9.0
    u[0, 15:17, 5, 5] -= 8.0
    scale = torch.tensor([1 / s for s in spacing]).view(3, 1, 1, 1)
    assert folding(u * scale, labels).interior_folds > 0
    repaired, left = repaired_field(u, labels, spacing)
    assert left == 0 and folding(repaired * scale, labels).interior_folds == 0
    changed = (repaired != u).any(0).nonzero()
    planted = torch.tensor([[4, 10, 10], [15, 5, 5], [16, 5, 5]])
    apart = (changed.unsqueeze(1) - planted).abs().amax(-1).amin(1)
    assert int(apart.max()) <= 6
    jump = repaired[1, 10] - repaired[1, 9]
    assert float((jump - 8).abs().max()) < 1.5, "the slide is no fold"


def test_glued_regions_do_not_fold_at_their_interface_and_sliding_ones_may():
    shape = (12, 13, 14)
    labels = torch.zeros(shape, dtype=torch.int32)
    labels[6:] = 1
    u = torch.zeros(3, *shape)
    u[0, :6], u[0, 6:] = 1.0, -1.0
    assert int(folding_mask(u).sum()) > 0
    kept, left = repaired_field(u, labels)
    assert left == 0 and torch.equal(kept, u)
    glued, left = repaired_field(u, labels, interfaces=Interfaces.glued(2))
    assert left == 0 and int(folding_mask(glued).sum()) == 0


@pytest.mark.parametrize("shape", [(1, 60, 60), (24, 28, 26)], ids=str)
def test_a_flap_that_lies_upside_down_is_spread_out(shape):
    at = torch.stack(torch.meshgrid(*[torch.arange(float(n)) for n in shape], indexing="ij"))
    middle = torch.tensor([(n - 1) / 2 for n in shape]).view(3, 1, 1, 1)
    away = at - middle
    u = -2.2 * away * torch.exp(-(away.square().sum(0)) / (2 * 4.0**2))
    if shape[0] == 1:
        u[0] = 0
    labels = torch.zeros(shape, dtype=torch.int32)
    assert int(folding_mask(u).sum()) > 40
    repaired, left = repaired_field(u, labels)
    assert left == 0 and int(folding_mask(repaired).sum()) == 0
    far = away.square().sum(0).sqrt() > 25
    assert torch.equal(repaired[:, far], u[:, far])


def test_folds_of_a_picture_are_removed():
    labels = torch.zeros(1, 20, 20, dtype=torch.int32)
    u = torch.zeros(3, 1, 20, 20)
    u[2, 0, 10, 10] = 3.0
    repaired, left = repaired_field(u, labels)
    assert left == 0 and folding(repaired, labels).interior_folds == 0


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 1.5, 0.8)], ids=str)
@pytest.mark.parametrize("shape", [(9, 10, 11), (1, 12, 13), (2, 3, 14)], ids=str)
def test_random_folds_are_removed(shape, spacing):
    scale = torch.tensor(spacing).view(3, 1, 1, 1)
    u = 0.5 * torch.randn(3, *shape, generator=torch.Generator().manual_seed(1)) * scale
    if shape[0] == 1:
        u[0] = 0
    labels = torch.zeros(shape, dtype=torch.int32)
    repaired, left = repaired_field(u, labels, spacing)
    assert int(folding_mask(u / scale).sum()) > 10
    assert left == 0 and not folding_mask(repaired / scale).any()
    assert torch.equal(repaired, repaired_field(u, labels, spacing)[0])


def test_inner_tetrahedra_are_repaired_unless_they_reach_across_a_slide():
    shape = (6, 12, 12)
    y, x = torch.meshgrid(torch.arange(12), torch.arange(12), indexing="ij")
    labels = (y + x > 11).int().expand(shape).contiguous()
    u = torch.zeros(3, *shape)
    u[0] = 3.0 * labels  # along the interface, which is a staircase: no corner folds
    found = folding(u, labels)
    assert found.interior_folds == 0 and found.interface_folds > 100
    kept, left = repaired_field(u, labels)
    assert left == 0 and torch.equal(kept, u)
    glued, left = repaired_field(u, labels, interfaces=Interfaces.glued(2))
    assert left == 0 and not folding_mask(glued).any()


def test_a_tetrahedron_within_its_region_is_repaired_at_an_interface():
    shape = (8, 9, 10)
    labels = torch.zeros(shape, dtype=torch.int32)
    labels[4:] = 1
    u = torch.zeros(3, *shape)
    u[:, :4] = 6.0
    u[0, 4, 4, 4] = 1.6  # a voxel of the interface, into its own region
    assert folding(u, labels).interface_folds > 0
    repaired, left = repaired_field(u, labels)
    assert left == 0
    assert torch.equal(repaired[:, :4], u[:, :4]), "the other region stays"
    inner = folding_mask(repaired[:, 4:])
    assert not inner.any()


def test_a_field_without_folds_is_not_touched():
    labels = torch.zeros(8, 8, 8, dtype=torch.int32)
    u = 0.1 * torch.randn(3, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    repaired, left = repaired_field(u, labels)
    assert left == 0 and torch.equal(repaired, u)


# Pyramid --------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [(1, 2, 3), (2, 2, 2), (4, 1, 5)], ids=str)
def test_pooled_labels_are_the_majority_of_each_block(factor):
    shape = (7, 9, 11)
    labels = torch.randint(
        0, 5, shape, dtype=torch.int32, generator=torch.Generator().manual_seed(1)
    )
    padded = np.pad(
        labels.numpy(), [(0, -n % f) for n, f in zip(shape, factor, strict=True)], mode="edge"
    )
    sizes = [n // f for n, f in zip(padded.shape, factor, strict=True)]
    blocks = padded.reshape(*[k for pair in zip(sizes, factor, strict=True) for k in pair])
    blocks = blocks.transpose(0, 2, 4, 1, 3, 5).reshape(*sizes, -1)
    counts = np.stack([(blocks == v).sum(-1) for v in range(5)])
    fov = torch.ones(shape, dtype=torch.bool)
    spacing = tuple(60.0 / f for f in reversed(factor))
    grid = replace(straight(shape, 1.0), spacing_xyz_mm=spacing)
    coarse = Side(torch.zeros(1, *shape), labels, fov, grid).at(60.0)
    assert np.array_equal(coarse.labels.numpy(), counts.argmax(0))


def test_regions_of_a_side():
    shape = (6, 7, 8)
    labels = torch.zeros(shape, dtype=torch.int32)
    labels[2:4, 1:6, 5:] = 3
    labels[0, 0, 0] = 1
    fov = torch.ones(shape, dtype=torch.bool)
    side = Side(torch.zeros(1, *shape), labels, fov, straight(shape, 1.0))
    assert side.boxes == {
        0: (slice(0, 6), slice(0, 7), slice(0, 8)),
        1: (slice(0, 1), slice(0, 1), slice(0, 1)),
        3: (slice(2, 4), slice(1, 6), slice(5, 8)),
    }
    found = {value: side.region(value) for value in side.boxes if value}
    assert sorted(found) == [1, 3] and bool(found[3].mask.all())


def test_a_region_at_a_coarser_level_fills_half_of_its_blocks():
    side = some_side((13, 14, 15))
    mask = torch.rand(side.shape, generator=torch.Generator().manual_seed(3)) < 0.5
    mask[:3], mask[..., :4] = False, False
    coarse = side.at(4.0)
    region = side.pooled_region(Region.of(mask), coarse)
    padded = np.pad(mask.numpy(), [(0, n % 2) for n in mask.shape], mode="edge").astype(float)
    nz, ny, nx = (n // 2 for n in padded.shape)
    share = padded.reshape(nz, 2, ny, 2, nx, 2).mean((1, 3, 5))
    whole = region.spread(region.mask, [slice(0, n) for n in coarse.shape], False)
    assert np.array_equal(whole.numpy(), share >= 0.5)


def some_side(shape: tuple[int, ...] = (20, 24, 28), spacing_mm: float = 2.0) -> Side:
    """Two halves with texture."""
    grid = straight(shape, spacing_mm)
    labels = torch.zeros(shape, dtype=torch.int32)
    labels[..., shape[2] // 2 :] = 1
    image = torch.from_numpy(texture(places_mm(grid))).float().unsqueeze(0)
    return Side(image, labels, torch.ones(shape, dtype=torch.bool), grid)


def test_a_coarser_side_covers_the_same_space():
    side = some_side()
    coarse = side.at(4.0)
    assert coarse.shape == (10, 12, 14) and coarse.spacing_mm == (4.0, 4.0, 4.0)
    np.testing.assert_allclose(coarse.grid.centre_lps_mm, side.grid.centre_lps_mm)
    assert side.at(1.0) is side, "an axis that is coarser stays"


def test_blocks_that_are_no_whole_voxels():
    """1.5 mm at a level of 2 mm: as dear as any other image at that level, and nothing is lost."""
    fine = some_side((20, 24, 28), 1.5)
    coarse = fine.at(2.0)
    assert coarse.spacing_mm == (2.0, 2.0, 2.0) and coarse.shape == (15, 18, 21)
    np.testing.assert_allclose(coarse.grid.centre_lps_mm, fine.grid.centre_lps_mm)
    torch.testing.assert_close(coarse.image.mean(), fine.image.mean(), atol=1e-5, rtol=0)
    own = torch.arange(21) >= 11  # block 10 is half of each: the lower label
    assert torch.equal(coarse.labels, own.int().expand(15, 18, 21))
    mask = fine.labels == 1
    region = fine.pooled_region(Region.of(mask), coarse)
    assert region.box[2] == slice(10, 21) and bool(region.mask.all())
    assert fine.at(1.7) is fine, "near enough"


@pytest.mark.parametrize(("spacing_mm", "level_mm"), [(2.0, 4.0), (1.5, 2.0)])
def test_prolongation_leaks_nothing_and_keeps_a_linear_motion(spacing_mm, level_mm):
    fine = some_side(spacing_mm=spacing_mm)
    coarse = fine.at(level_mm)
    offset = (level_mm - spacing_mm) / 2
    free = Interfaces(torch.eye(2), torch.zeros(2, 2))
    u = torch.where(coarse.labels == 1, 5.0, -5.0).expand(3, -1, -1, -1).contiguous()
    down = Field(u, coarse).on(fine, free).u_mm
    exact = torch.where(fine.labels == 1, 5.0, -5.0)
    torch.testing.assert_close(down[0], exact, atol=0.02, rtol=0)
    ramps = [torch.from_numpy(places_mm(s.grid)).movedim(-1, 0).float() for s in (coarse, fine)]
    ramps[0] += offset  # of the first centres
    down = Field(ramps[0].contiguous(), coarse).on(fine, Interfaces.glued(2)).u_mm
    inner = (slice(None), *[slice(1, -1)] * 3)
    torch.testing.assert_close(down[inner], ramps[1][inner], atol=1e-3, rtol=1e-5)


# Start and search -----------------------------------------------------------------------------


@pytest.mark.parametrize("stretch", [1.0, 1.2])
def test_the_turn_of_an_affine_knows_neither_spacing_nor_stretch(stretch):
    axes = rotation(0.0, 0.0, 25.0)
    fixed = some_side()
    turned_grid = replace(fixed.grid, direction_lps=tuple(map(tuple, axes.T.tolist())))
    coarser = replace(fixed.grid, spacing_xyz_mm=(1.0, 2.5, 4.0))
    affine = np.eye(4)
    affine[:3, :3] = stretch * axes
    reversed_axes = axes[::-1, ::-1]
    for moving, matrix in ((coarser, affine), (turned_grid, np.diag([stretch] * 3 + [1.0]))):
        pair = Pair(fixed, replace(fixed, grid=moving), Interfaces.glued(1))
        np.testing.assert_allclose(pair.turn(matrix), reversed_axes, atol=1e-9)


def body(origin_mm: float, affine: np.ndarray | None = None) -> Side:
    """A textured ellipsoid in air, 4 mm voxels; pulled through an affine on LPS where given."""
    shape = (26, 30, 34)
    grid = straight(shape, 4.0, origin_mm)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    points = apply_affine(grid.index_to_lps, index) - origin_mm
    if affine is not None:
        points = apply_affine(np.linalg.inv(affine), points)
    middle = np.array([66.0, 58.0, 50.0])
    inside = (((points - middle) / (50.0, 42.0, 34.0)) ** 2).sum(-1) < 1
    core = (((points - middle - 6) / (18.0, 20.0, 14.0)) ** 2).sum(-1) < 1
    values = np.where(inside, texture(points[..., ::-1], 2) / 400 + 0.6 + 0.3 * core, 0.0)
    labels = torch.from_numpy(inside.astype(np.int32) + core)
    fov = torch.ones(shape, dtype=torch.bool)
    return Side(torch.from_numpy(values).float().unsqueeze(0), labels, fov, grid)


def started(kind: str, fixed: Side, moving: Side) -> AffineStart:
    """The affine that is found with the thorax preset's energy."""
    interfaces = replace(Interfaces.glued(3), empty_background=True)
    config = load_config("thorax", {"start.affine": kind})
    return find_affine(config, Pair(fixed, moving, interfaces))


def apart_mm(start: AffineStart, truth: np.ndarray, fixed: Side) -> float:
    """The mean distance of two affines over the regions."""
    where = (fixed.labels > 0).nonzero().numpy()
    points = apply_affine(fixed.grid.index_to_lps, where)
    difference = apply_affine(start.affine_lps, points) - apply_affine(truth, points)
    return float(np.linalg.norm(difference, axis=1).mean())


@pytest.mark.parametrize("kind", ["translation", "rigid", "similarity", "affine"])
def test_headers_that_are_40_mm_apart(kind):
    fixed, moving = body(0.0), body(40.0)
    truth = np.eye(4)
    truth[:3, 3] = 40.0
    start = started(kind, fixed, moving)
    assert "centres" in start.how
    assert apart_mm(start, truth, fixed) < 0.2


def test_a_small_affine_is_found():
    angle = np.deg2rad(5)
    truth = np.eye(4)
    truth[:2, :2] = 1.04 * np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    )
    truth[:3, 3] = (6.0, -9.0, 3.0)
    fixed, moving = body(0.0), body(0.0, truth)
    assert apart_mm(started("none", fixed, moving), truth, fixed) > 4
    assert apart_mm(started("affine", fixed, moving), truth, fixed) < 1.0


def test_a_header_that_is_right_is_kept():
    side = body(10.0)
    start = started("affine", side, side)
    assert np.array_equal(start.affine_lps, np.eye(4)) and start.how == "identity"


def test_the_search_finds_a_block_that_moved_16_mm():
    grid = straight((24, 24, 32), 4.0)
    upper = torch.zeros(grid.shape_zyx, dtype=torch.int32)
    upper[12:] = 1
    sides = []
    for shift_mm in (0.0, 16.0):
        places = places_mm(grid)
        still = texture(places, 3)
        places[..., 2] -= shift_mm
        moved = texture(places, 4)
        image = np.where(upper.numpy() == 1, moved, still)
        fov = torch.ones(grid.shape_zyx, dtype=torch.bool)
        sides.append(Side(torch.from_numpy(image).float().unsqueeze(0), upper, fov, grid))
    u = search(Pair(*sides, SLIDES), np.eye(4), 24.0).u_mm
    truth = torch.zeros_like(u)
    truth[2] = 16.0 * upper
    error = (u - truth).square().sum(0).sqrt()[2:-2, 2:-2, 5:-5]
    assert float(error.median()) < 2.0
    assert float(error.mean()) < 3.0


@pytest.mark.parametrize("rank", [2, 3])
def test_shift_and_direction_mean_what_they_say(rank):
    """A moving image that lies 6 mm to the left: the transform says +6 along x."""
    grid = straight((32,) * rank, 3.0)
    fixed = Image(torch.from_numpy(texture(places_mm(grid), 6)).float().unsqueeze(0), grid)
    places = places_mm(grid)
    places[..., -1] -= 6.0
    moving = Image(torch.from_numpy(texture(places, 6)).float().unsqueeze(0), grid)
    overrides = {"similarity.intensity_range": [], "segmenter": "none", "start.affine": "none"}
    run = optimize_pair(fixed, moving, overrides=overrides, device="cpu")
    mm = displacement_vox_to_mm(total_displacement_vox(run.transform), grid)
    inner = (slice(None), *[slice(5, -5)] * rank)
    assert float(mm[inner][0].mean()) == pytest.approx(6.0, abs=0.2)
    assert float(mm[inner][1:].abs().mean()) < 0.2


def test_a_rung_that_the_images_do_not_support_is_not_climbed():
    """Two noises have no affine in common; and a stretch beyond the limits is no start."""
    random = np.random.default_rng(3)
    grid = straight((14, 16, 15), 3.0)
    labels = torch.zeros(grid.shape_zyx, dtype=torch.int32)
    fov = torch.ones(grid.shape_zyx, dtype=torch.bool)
    places = places_mm(grid)
    fixed = Side(torch.from_numpy(texture(places, 6)).float().unsqueeze(0), labels, fov, grid)
    middle = places.reshape(-1, 3).mean(0)
    squeezed = (places - middle) * [1.0, 1.0, 0.8] + middle
    moving = replace(fixed, image=torch.from_numpy(texture(squeezed, 6)).float().unsqueeze(0))
    pair = Pair(fixed, moving, Interfaces.glued(1))
    config = load_config("general", {"similarity.kind": "mse", "similarity.weight": 20.0})
    free = find_affine(config, pair)
    assert "affine" in free.how
    assert free.affine_lps[0, 0] == pytest.approx(1.25, abs=0.05)
    held = replace(config, verdict=replace(config.verdict, most_affine_stretch=1.1))
    assert "affine" not in find_affine(held, pair).how
    noise = replace(fixed, image=torch.from_numpy(random.random((1, *grid.shape_zyx))).float())
    found = find_affine(config, Pair(fixed, noise, Interfaces.glued(1)))
    assert np.abs(found.affine_lps[:3, :3] - np.eye(3)).max() < 0.3


def test_a_similarity_scales_all_axes_alike():
    grid = straight((14, 16, 15), 3.0)
    labels = torch.zeros(grid.shape_zyx, dtype=torch.int32)
    fov = torch.ones(grid.shape_zyx, dtype=torch.bool)
    places = places_mm(grid)
    middle = places.reshape(-1, 3).mean(0)
    images = [places, (places - middle) * 0.88 + middle]
    sides = [
        Side(torch.from_numpy(texture(p, 6)).float().unsqueeze(0), labels, fov, grid)
        for p in images
    ]
    overrides = {"similarity.kind": "mse", "start.affine": "similarity"}
    start = find_affine(load_config("general", overrides), Pair(*sides, Interfaces.glued(1)))
    scales = np.linalg.svd(start.affine_lps[:3, :3], compute_uv=False)
    assert scales == pytest.approx(1 / 0.88, abs=0.03)
    assert "similarity refined" in start.how
