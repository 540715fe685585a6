"""Grids, axes and points: indices and millimetres always mean the same place."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from conftest import reoriented_data, reoriented_grid

from iterreg.displacement import displacement_vox_to_mm
from iterreg.errors import GeometryError
from iterreg.geometry import Grid, Points, apply_affine, canonical, fixed_to_moving_index
from iterreg.image import Image, LabelMap, require_same_space

SHAPE = (5, 7, 11)
SPACING = (0.9, 1.6, 3.1)
ORIGIN = (-31.5, 12.25, 140.0)


def rotation(rank: int, degrees: float, seed: int = 0) -> np.ndarray:
    """A rotation by an angle about a random axis."""
    angle = np.deg2rad(degrees)
    if rank == 2:
        return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    axis = np.random.default_rng(seed).normal(size=3)
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def some_grid(rank: int, direction: np.ndarray | None = None) -> Grid:
    """A grid with three different sizes and spacings."""
    rows = np.eye(rank) if direction is None else direction
    return Grid(SHAPE[-rank:], SPACING[:rank], ORIGIN[:rank], tuple(map(tuple, rows.tolist())))


def all_orders(rank: int) -> list[tuple[tuple[int, ...], tuple[bool, ...]]]:
    """Every way to store the same array."""
    flips = itertools.product((False, True), repeat=rank)
    return list(itertools.product(itertools.permutations(range(rank)), flips))


ORDERS = [(rank, axes, flips) for rank in (2, 3) for axes, flips in all_orders(rank)]


@pytest.mark.parametrize("rank", [2, 3])
def test_index_to_lps_is_itk(rank):
    sitk = pytest.importorskip("SimpleITK")
    grid = some_grid(rank, rotation(rank, 33))
    image = sitk.Image([int(n) for n in reversed(grid.shape_zyx)], sitk.sitkUInt8)
    image.SetSpacing(grid.spacing_xyz_mm)
    image.SetOrigin(grid.origin_lps_mm)
    image.SetDirection(np.asarray(grid.direction_lps).flatten().tolist())
    index = np.random.default_rng(1).uniform(-3, 9, size=(20, rank))
    theirs = [image.TransformContinuousIndexToPhysicalPoint(i[::-1].tolist()) for i in index]
    mine = apply_affine(grid.index_to_lps, index)
    np.testing.assert_allclose(mine, theirs, atol=1e-9)
    np.testing.assert_allclose(apply_affine(grid.lps_to_index, mine), index, atol=1e-9)


def test_what_a_grid_tells():
    grid = some_grid(3)
    assert grid.rank == 3 and grid.orientation == "LPS"
    assert grid.spacing_zyx_mm == (3.1, 1.6, 0.9)
    assert grid.voxel_count == 5 * 7 * 11
    assert grid.voxel_volume_mm3 == pytest.approx(0.9 * 1.6 * 3.1)
    assert repr(grid) == "Grid(11 x 7 x 5 voxels (x first) of 0.9 x 1.6 x 3.1 mm, axes LPS)"
    np.testing.assert_allclose(grid.corners_lps_mm[0], ORIGIN)
    middle = apply_affine(grid.index_to_lps, (np.asarray(SHAPE) - 1) / 2)
    np.testing.assert_allclose(grid.centre_lps_mm, middle)


@pytest.mark.parametrize(("rank", "axes", "flips"), ORDERS)
@pytest.mark.parametrize("degrees", [0.0, 20.0], ids=["straight", "oblique"])
def test_every_stored_order_becomes_the_same_canonical_array(rank, axes, flips, degrees):
    grid = some_grid(rank, rotation(rank, degrees))
    data = torch.rand(2, *grid.shape_zyx)
    stored = reoriented_grid(grid, axes, flips)
    back, order = canonical(stored)
    assert torch.equal(order.apply(reoriented_data(data, axes, flips)), data)
    assert back.shape_zyx == grid.shape_zyx
    np.testing.assert_allclose(back.index_to_lps, grid.index_to_lps, atol=1e-9)


@pytest.mark.parametrize(("rank", "axes", "flips"), ORDERS)
def test_arrays_and_vectors_survive_the_round_trip(rank, axes, flips):
    stored = reoriented_grid(some_grid(rank, rotation(rank, 20)), axes, flips)
    reordered, order = canonical(stored)
    scalars = torch.rand(*stored.shape_zyx)
    assert torch.equal(order.undo(order.apply(scalars)), scalars)
    vectors = torch.randn(rank, *stored.shape_zyx, dtype=torch.float64)
    there = order.apply_vectors(vectors)
    assert torch.equal(order.undo_vectors(there), vectors)
    mm = displacement_vox_to_mm(there, reordered)
    assert torch.allclose(mm, order.apply(displacement_vox_to_mm(vectors, stored))), (
        "a vector means the same millimetres in both orders"
    )


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("rank", [2, 3])
def test_canonical_keeps_places_whatever_the_direction(rank, seed):
    direction, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(rank, rank)))
    grid = some_grid(rank, direction)
    reordered, order = canonical(grid)
    axes = torch.meshgrid(*[torch.arange(n) for n in grid.shape_zyx], indexing="ij")
    index = torch.stack(axes).double()
    places = apply_affine(grid.index_to_lps, index.movedim(0, -1).numpy())
    moved = order.apply(torch.from_numpy(places).movedim(-1, 0)).movedim(0, -1).numpy()
    mine = torch.stack(
        torch.meshgrid(*[torch.arange(n) for n in reordered.shape_zyx], indexing="ij"), -1
    )
    np.testing.assert_allclose(apply_affine(reordered.index_to_lps, mine.numpy()), moved, atol=1e-9)
    again, nothing = canonical(reordered)
    assert again == reordered
    assert nothing.axes == tuple(range(rank)) and not any(nothing.flipped)


def test_images_and_label_maps_become_canonical():
    grid = reoriented_grid(some_grid(3), (2, 0, 1), (True, False, True))
    image = Image(torch.rand(1, *grid.shape_zyx), grid)
    labels = LabelMap((image.data[0] > 0.5).int(), grid)
    turned, _ = image.to_canonical()
    maps, _ = labels.to_canonical()
    assert turned.grid == maps.grid and turned.grid.orientation == "LPS"
    assert torch.equal(maps.data, (turned.data[0] > 0.5).int())


@pytest.mark.parametrize("rank", [2, 3])
def test_displacements_in_mm_are_differences_of_points(rank):
    grid = some_grid(rank, rotation(rank, 40))
    vox = torch.randn(rank, 30, dtype=torch.float64)
    mm = displacement_vox_to_mm(vox, grid)
    start, end = np.zeros((30, rank)), vox.T.numpy()
    apart = apply_affine(grid.index_to_lps, end) - apply_affine(grid.index_to_lps, start)
    np.testing.assert_allclose(mm.T.numpy(), apart, atol=1e-12)


def test_fixed_to_moving_index():
    fixed, moving = some_grid(3), some_grid(3, rotation(3, 50))
    affine = np.eye(4)
    affine[:3] += np.random.default_rng(3).normal(size=(3, 4)) * 0.1
    index = np.random.default_rng(4).uniform(0, 5, size=(9, 3))
    points = apply_affine(affine, apply_affine(fixed.index_to_lps, index))
    through = apply_affine(fixed_to_moving_index(fixed, affine, moving), index)
    np.testing.assert_allclose(apply_affine(moving.index_to_lps, through), points, atol=1e-9)


def test_pooled_voxels_lie_in_the_middle_of_their_blocks():
    grid = some_grid(3, rotation(3, 25))
    coarse = grid.pooled((1, 2, 3))
    assert coarse.shape_zyx == (5, 4, 4)
    assert coarse.spacing_zyx_mm == pytest.approx((3.1, 3.2, 2.7))
    first = apply_affine(grid.index_to_lps, np.array([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(coarse.origin_lps_mm, first)


# The same space -------------------------------------------------------------------------------


def changed(grid: Grid, **changes: object) -> Grid:
    """A grid with some fields replaced."""
    kept = {k: getattr(grid, k) for k in grid.__dataclass_fields__}
    return Grid(**(kept | changes))


def test_same_space_tolerates_the_rounding_of_headers():
    grid = some_grid(3, rotation(3, 25))
    as_float32 = changed(
        grid,
        spacing_xyz_mm=tuple(np.float32(grid.spacing_xyz_mm).tolist()),
        origin_lps_mm=tuple(np.float32(grid.origin_lps_mm).tolist()),
        direction_lps=tuple(map(tuple, np.float32(grid.direction_lps).tolist())),
    )
    assert grid.same_space(as_float32) and as_float32.same_space(grid)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"origin_lps_mm": (-31.5, 12.25, 140.1)}, "origin"),
        ({"spacing_xyz_mm": (0.9, 1.6, 3.2)}, "spacing"),
        ({"shape_zyx": (5, 7, 12)}, "size"),
        ({"direction_lps": tuple(map(tuple, rotation(3, 5.0).tolist()))}, "axes"),
    ],
)
def test_another_space_is_refused_and_told(changes, told):
    grid = some_grid(3)
    other = changed(grid, **changes)
    assert not grid.same_space(other)
    image = Image(torch.rand(1, *grid.shape_zyx), grid, name="ct.nii.gz")
    labels = LabelMap(torch.zeros(other.shape_zyx, dtype=torch.int32), other, name="regions.nii.gz")
    with pytest.raises(GeometryError, match=rf"regions.nii.gz: .*ct.nii.gz: {told}"):
        require_same_space(labels, image)


def test_a_flipped_copy_is_another_space():
    grid = some_grid(3)
    assert not grid.same_space(reoriented_grid(grid, (0, 1, 2), (True, False, False)))


def test_a_grid_takes_arrays_and_keeps_plain_numbers():
    numbers = (4, 5, 6), (1.0, 2.0, 3.0), (-1.0, 0.0, 1.0)
    direction = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    plain = Grid(*numbers, direction)
    assert Grid(*map(np.array, numbers), np.eye(3)) == plain
    assert Grid(*map(torch.tensor, numbers), torch.eye(3)) == plain
    assert hash(Grid(*map(list, numbers), np.eye(3))) == hash(plain)


# Refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"shape_zyx": (4,)}, "2 or 3 axes"),
        ({"shape_zyx": (4, 4)}, "expected 2 numbers of spacing"),
        ({"shape_zyx": (4.0, 4, 4)}, "whole numbers"),
        ({"spacing_xyz_mm": 1.0}, "expected 3 numbers of spacing"),
        ({"spacing_xyz_mm": "abc"}, "spacing_xyz_mm: expected numbers, got 'abc'"),
        ({"direction_lps": ((1.0, 0.0), (0.0,))}, "direction_lps: expected numbers"),
        ({"shape_zyx": (4, 0, 4)}, "needs a voxel"),
        ({"spacing_xyz_mm": (1.0, 0.0, 1.0)}, "positive"),
        ({"spacing_xyz_mm": (1.0, -2.0, 1.0)}, "positive"),
        ({"spacing_xyz_mm": (1.0, float("nan"), 1.0)}, "positive"),
        ({"origin_lps_mm": (0.0, float("inf"), 0.0)}, "finite"),
        ({"direction_lps": ((1.0, 0.5, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))}, "orthonormal"),
        ({"direction_lps": ((1.0, 0.0), (0.0, 1.0))}, "orthonormal"),
        ({"direction_lps": ((0.0,) * 3,) * 3}, "orthonormal"),
    ],
)
def test_grids_that_make_no_sense_are_refused(changes, told):
    with pytest.raises(GeometryError, match=told):
        changed(some_grid(3), **changes)


def test_points():
    points = Points([[1, 2, 3], [4, 5, 6]])
    assert len(points) == 2 and points.lps.dtype == np.float64
    assert repr(points) == "Points(2 points, 3-D, LPS mm)"
    for wrong in ([1.0, 2.0], [[1.0]], [[1.0, 2.0, float("nan")]]):
        with pytest.raises(GeometryError):
            Points(wrong)


def test_values_refuse_data_that_does_not_fill_their_grid():
    grid = some_grid(3)
    with pytest.raises(GeometryError, match="does not fill"):
        Image(torch.rand(1, 2, 3, 4), grid)
    with pytest.raises(GeometryError, match="do not fill"):
        LabelMap(torch.zeros(2, 3, 4, dtype=torch.int32), grid)


def rounded_by_a_reader(grid: Grid, seed: int) -> Grid:
    """The grid of the same file by another reader: lengths in float32, axes by a quaternion."""
    noise = np.random.default_rng(seed).uniform(-6e-8, 6e-8, (2 + grid.rank, grid.rank))
    return Grid(
        grid.shape_zyx,
        tuple(np.float32(grid.spacing_xyz_mm).astype(float)),
        tuple(np.asarray(grid.origin_lps_mm) * (1 + noise[0])),
        tuple(map(tuple, np.asarray(grid.direction_lps) + noise[2:])),
    )


def some_header(seed: int) -> Grid:
    """Sizes, spacings and angles as scanners write them."""
    draw = np.random.default_rng(seed)
    spacing = (round(draw.uniform(0.4, 1.5), 3), 500 / 512, round(draw.uniform(0.5, 5), 1))
    shape = tuple(draw.integers(1, 600, 3).tolist())
    axes = rotation(3, draw.choice([0, 3, 30]), seed)
    return Grid(shape, spacing, tuple(draw.uniform(-300, 300, 3)), tuple(map(tuple, axes.tolist())))


def test_two_readers_of_one_header_snap_to_one_grid():
    same = [
        some_header(seed).snapped() == rounded_by_a_reader(some_header(seed), seed).snapped()
        for seed in range(200)
    ]
    assert np.mean(same) > 0.9


def test_a_snapped_grid_stays_in_place():
    for seed in range(50):
        grid = some_header(seed)
        moved = apply_affine(grid.lps_to_index, grid.snapped().corners_lps_mm)
        apart = np.abs(moved - apply_affine(grid.lps_to_index, grid.corners_lps_mm))
        assert apart.max() < 0.02, (seed, grid)
        assert grid.snapped().same_space(grid)


def test_a_flipped_copy_snaps_to_the_same_place():
    grid = some_grid(3, rotation(3, 33))
    expected = canonical(grid.snapped())[0]
    for axes, flips in all_orders(3):
        stored = canonical(reoriented_grid(grid, axes, flips).snapped())[0]
        assert stored.shape_zyx == expected.shape_zyx
        np.testing.assert_allclose(stored.index_to_lps, expected.index_to_lps, atol=1e-9)
