"""The inverse: promised residuals, statuses at sliding interfaces, both ranks, dense and points."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from iterreg.displacement import DisplacementField, Transform, warp_image, warp_labels
from iterreg.errors import GeometryError
from iterreg.geometry import Grid, Points, apply_affine
from iterreg.image import Image, LabelMap
from iterreg.inverse import TOLERANCE_VOX, InverseStatus, invert_points, invert_to_grid

OK, GAP, OVERLAP, OUTSIDE, BLENDED = InverseStatus


def make_grid(shape: tuple[int, ...], spacing: tuple[float, ...], turn: float = 0.0) -> Grid:
    rank = len(shape)
    direction = np.eye(rank)
    c, s = np.cos(turn), np.sin(turn)
    direction[:2, :2] = [[c, -s], [s, c]]
    rows = tuple(tuple(r) for r in direction.tolist())
    return Grid(shape, spacing, tuple(range(10, 10 + rank)), rows)


def wave(grid: Grid, amplitude_vox: float, length_vox: float) -> torch.Tensor:
    """A smooth field with |du/dx| up to amplitude * 2 pi / length along each axis."""
    axes = torch.meshgrid(*[torch.arange(float(n)) for n in grid.shape_zyx], indexing="ij")
    k = 2 * np.pi / length_vox
    return torch.stack(
        [amplitude_vox * torch.sin(k * axes[(a + 1) % len(axes)] + a) for a in range(len(axes))]
    )


def small_affine(rank: int) -> np.ndarray:
    affine = np.eye(rank + 1)
    affine[:rank, :rank] += 0.04 * np.random.default_rng(1).normal(size=(rank, rank))
    affine[:rank, rank] = np.arange(1, rank + 1) * 2.5
    return affine


def interior_points(grid: Grid, margin: float, count: int = 400) -> Points:
    rng = np.random.default_rng(0)
    size = np.asarray(grid.shape_zyx)
    index = margin + rng.random((count, grid.rank)) * (size - 1 - 2 * margin)
    return Points(apply_affine(grid.index_to_lps, index))


@pytest.mark.parametrize(
    ("shape", "spacing"), [((40, 44, 48), (1.5, 1.2, 3.0)), ((60, 70), (0.8, 1.3))]
)
def test_smooth_field_round_trip_within_the_promise(shape, spacing):
    grid = make_grid(shape, spacing, turn=0.3)
    transform = Transform(small_affine(grid.rank), DisplacementField(wave(grid, 3.0, 24.0), grid))
    start = interior_points(grid, margin=8)
    result = invert_points(transform, transform.map_points(start))
    assert set(result.status) == {OK}
    assert result.residual_mm.max() < TOLERANCE_VOX * max(spacing)
    # |grad u| is 0.79 here, so a residual of r leaves at most r / (1 - 0.79) in x.
    error = np.linalg.norm(result.points.lps - start.lps, axis=1)
    assert error.max() < 5 * TOLERANCE_VOX * max(spacing)


def test_steep_stretch_is_inverted_by_newton():
    """Stretching by three (du/dx = 2) does not fold, but fixed-point steps diverge on it."""
    grid = make_grid((8, 8, 60), (1.0, 1.0, 1.0))
    vox = torch.zeros(3, *grid.shape_zyx)
    x = torch.arange(60.0)
    vox[2] = 6 * torch.tanh((x - 30) / 3)
    transform = Transform(np.eye(4), DisplacementField(vox, grid))
    index = np.array([[3.0, 3.0, v] for v in np.linspace(26, 34, 17)])
    start = Points(apply_affine(grid.index_to_lps, index))
    result = invert_points(transform, transform.map_points(start))
    assert set(result.status) == {OK}
    np.testing.assert_allclose(result.points.lps, start.lps, atol=0.02)


def test_identity_is_exact():
    grid = make_grid((6, 7, 8), (1.0, 2.0, 3.0))
    transform = Transform(np.eye(4), DisplacementField.zero(grid))
    inverse, status = invert_to_grid(transform, grid)
    assert float(inverse.field.vox.abs().max()) == 0
    assert bool((status == OK).all())


def test_points_outside_the_grid_follow_the_affine_alone():
    grid = make_grid((20, 20, 20), (1.0, 1.0, 1.0))
    transform = Transform(small_affine(3), DisplacementField(wave(grid, 0.5, 20.0), grid))
    far = Points(np.array([[200.0, 15.0, 15.0], [-90.0, 0.0, 3.0]]))
    result = invert_points(transform, transform.map_points(far))
    assert set(result.status) == {OUTSIDE}
    np.testing.assert_allclose(result.points.lps, far.lps, atol=1e-3)
    assert result.residual_mm.max() < 1e-3


def sliding(tangential: float, normal: float) -> tuple[Transform, LabelMap]:
    """Two blocks split at y = 19.5; the upper one moves along x, and along y by ``normal``."""
    grid = make_grid((16, 40, 48), (1.0, 2.0, 1.5))
    labels = torch.ones(grid.shape_zyx, dtype=torch.int32)
    labels[:, 20:] = 2
    vox = torch.zeros(3, *grid.shape_zyx)
    vox[2, :, 20:], vox[1, :, 20:] = tangential, normal
    affine = np.eye(4)
    affine[:3, 3] = (5.0, -3.0, 2.0)
    return Transform(affine, DisplacementField(vox, grid)), LabelMap(labels, grid)


def moving_from_fixed_index(transform: Transform, index: list[list[float]]) -> Points:
    """Points of the moving image at z = A^-1(y), given in fixed voxels."""
    z = apply_affine(transform.grid.index_to_lps, np.asarray(index))
    return Points(apply_affine(transform.affine_lps, z))


def shifted_labels(transform: Transform, labels: torch.Tensor) -> LabelMap:
    """Labels in moving space, on the fixed lattice carried along by the affine's shift."""
    grid = transform.grid
    origin = tuple((np.asarray(grid.origin_lps_mm) + transform.affine_lps[:3, 3]).tolist())
    moving = Grid(grid.shape_zyx, grid.spacing_xyz_mm, origin, grid.direction_lps)
    return LabelMap(labels, moving)


def test_sliding_blocks_each_side_is_exact():
    transform, labels = sliding(tangential=6.0, normal=0.0)
    moving = shifted_labels(transform, labels.data)
    at = [[8.0, y, 30.0] for y in (10.0, 18.0, 18.9, 20.1, 21.0, 30.0)]
    result = invert_points(transform, moving_from_fixed_index(transform, at), labels, moving)
    assert set(result.status) == {OK}
    index = apply_affine(transform.grid.lps_to_index, result.points.lps)
    np.testing.assert_allclose(index[:3, 2], 30.0, atol=1e-3)
    np.testing.assert_allclose(index[3:, 2], 24.0, atol=1e-3)
    np.testing.assert_allclose(index[:, 1], [row[1] for row in at], atol=1e-3)


def test_gap_takes_the_nearest_branch():
    transform, labels = sliding(tangential=0.0, normal=3.0)
    data = torch.ones_like(labels.data)
    data[:, 23:] = 2
    moving = shifted_labels(transform, data)
    # Block 1 ends at 19.5, block 2 begins at 22.5: between them nothing lands.
    at = [[8.0, y, 20.0] for y in (18.0, 20.2, 21.8, 24.0)]
    result = invert_points(transform, moving_from_fixed_index(transform, at), labels, moving)
    assert result.status == (OK, GAP, GAP, OK)
    index = apply_affine(transform.grid.lps_to_index, result.points.lps)
    np.testing.assert_allclose(index[:, 1], [18.0, 20.2, 18.8, 21.0], atol=0.02)


def test_overlap_is_told_and_the_moving_label_chooses():
    transform, labels = sliding(tangential=0.0, normal=-4.0)
    data = torch.ones_like(labels.data)
    data[:, 18:] = 2
    moving = shifted_labels(transform, data)
    at = [[8.0, y, 20.0] for y in (10.0, 17.0, 18.5, 25.0)]
    result = invert_points(transform, moving_from_fixed_index(transform, at), labels, moving)
    assert result.status == (OK, OVERLAP, OVERLAP, OK)
    index = apply_affine(transform.grid.lps_to_index, result.points.lps)
    np.testing.assert_allclose(index[:, 1], [10.0, 17.0, 22.5, 29.0], atol=0.02)


def test_label_that_was_not_brought_into_place_finds_its_true_origin():
    transform, labels = sliding(tangential=6.0, normal=0.0)
    data = labels.data.clone()
    data[6:10, 28:34, 20:30] = 1
    moving = shifted_labels(transform, data)
    point = moving_from_fixed_index(transform, [[8.0, 31.0, 25.0]])
    result = invert_points(transform, point, labels, moving)
    assert result.status == (OK,)
    assert result.residual_mm.max() < 0.01
    index = apply_affine(transform.grid.lps_to_index, result.points.lps)
    np.testing.assert_allclose(index[0], [8.0, 31.0, 19.0], atol=0.01)


def test_labels_do_not_harm_a_continuous_field():
    grid = make_grid((40, 40, 40), (1.0, 1.5, 2.0))
    transform = Transform(np.eye(4), DisplacementField(wave(grid, 2.0, 30.0), grid))
    labels = torch.zeros(grid.shape_zyx, dtype=torch.int32)
    labels[10:30, 8:25, 12:33] = 3
    labels[20:30, 20:35, 5:15] = -7
    fixed = LabelMap(labels, grid)
    inverse, _ = invert_to_grid(transform, grid)
    moving = warp_labels(fixed, inverse)
    start = interior_points(grid, margin=5, count=2000)
    result = invert_points(transform, transform.map_points(start), fixed, moving)
    assert result.status.count(OK) > 0.995 * len(start)
    assert result.residual_mm.max() < 0.1
    assert np.quantile(result.residual_mm, 0.99) < TOLERANCE_VOX * 2.0


@pytest.mark.parametrize("labelled", [False, True])
def test_dense_inverse_equals_the_point_inverse_and_pulls_images(labelled):
    transform, labels = sliding(tangential=4.0, normal=0.0)
    smooth = wave(transform.grid, 0.8, 25.0)
    smooth[1] = 0
    field = DisplacementField(transform.field.vox * labelled + smooth, transform.grid)
    transform = Transform(transform.affine_lps, field)
    moving = shifted_labels(transform, labels.data)
    maps = (labels, moving) if labelled else (None, None)
    inverse, status = invert_to_grid(transform, moving.grid, *maps)
    assert status.shape == moving.grid.shape_zyx
    index = np.stack(np.unravel_index(np.arange(0, moving.grid.voxel_count, 37), status.shape), 1)
    points = Points(apply_affine(moving.grid.index_to_lps, index))
    result = invert_points(transform, points, *maps)
    dense = status[tuple(torch.from_numpy(index.T))].tolist()
    agree = [s == d for s, d in zip(result.status, dense, strict=True)]
    assert np.mean(agree) > 0.999
    apart = np.linalg.norm(inverse.map_points(points).lps - result.points.lps, axis=1)
    assert np.quantile(apart, 0.999) < 0.03
    back = warp_labels(labels, inverse)
    inside = status == OK
    assert float((back.data == moving.data)[inside].float().mean()) > 0.98
    image = Image(labels.data.float().unsqueeze(0), labels.grid)
    pulled = warp_image(image, inverse, fill=-5.0)
    assert pulled.grid == moving.grid
    same = (pulled.data[0] == moving.data)[inside]
    assert float(same.float().mean()) > 0.9


def test_moving_point_outside_its_label_map_still_gets_an_answer():
    transform, labels = sliding(tangential=6.0, normal=0.0)
    small = Grid((2, 2, 2), (1.0, 1.0, 1.0), (500.0, 0.0, 0.0), ((1, 0, 0), (0, 1, 0), (0, 0, 1)))
    moving = LabelMap(torch.ones(2, 2, 2, dtype=torch.int32), small)
    point = moving_from_fixed_index(transform, [[8.0, 10.0, 20.0], [8.0, 30.0, 20.0]])
    result = invert_points(transform, point, labels, moving)
    assert result.status == (OK, OK)
    index = apply_affine(transform.grid.lps_to_index, result.points.lps)
    np.testing.assert_allclose(index[:, 2], [20.0, 14.0], atol=0.01)


def test_one_slice_thick_axis_does_not_move():
    grid = make_grid((1, 30, 30), (1.0, 1.0, 8.0))
    vox = wave(grid, 1.0, 20.0)
    vox[0] = 0
    transform = Transform(np.eye(4), DisplacementField(vox, grid))
    inverse, status = invert_to_grid(transform, grid)
    assert float(inverse.field.vox[0].abs().max()) == 0
    assert bool((status[:, 5:25, 5:25] == OK).all())


def test_refusals_name_what_differs():
    transform, labels = sliding(1.0, 0.0)
    other = LabelMap(torch.ones(4, 4, 4, dtype=torch.int32), make_grid((4, 4, 4), (1.0, 1.0, 1.0)))
    points = Points(np.zeros((1, 3)))
    with pytest.raises(GeometryError, match="fixed grid"):
        invert_points(transform, points, other, labels)
    with pytest.raises(GeometryError, match="3-D points"):
        invert_points(transform, Points(np.zeros((1, 2))))
    with pytest.raises(GeometryError, match="3-D moving grid"):
        invert_to_grid(transform, make_grid((4, 4), (1.0, 1.0)))
