"""Metrics against analytic truths and against the packages that define them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from synthetic import fixed_grid, places_lps, rotation

from iterreg import DisplacementField, Transform, metrics
from iterreg.errors import GeometryError
from iterreg.geometry import Points
from iterreg.kernels import simplices

SHAPES = [(9, 11), (7, 8, 9)]
AFFINE_3D = torch.tensor([[1.2, 0.1, 0.0], [-0.2, 0.9, 0.05], [0.0, 0.1, 1.1]])


def index_map(shape):
    axes = [torch.arange(n, dtype=torch.float32) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def affine_displacement(shape, matrix):
    index = index_map(shape)
    return torch.einsum("ij,j...->i...", matrix, index) - index


def ball(shape, centre, radius, spacing=None):
    spacing = spacing or (1,) * len(shape)
    squares = [
        ((index - c) * s) ** 2
        for index, c, s in zip(index_map(shape), centre, spacing, strict=True)
    ]
    return sum(squares) <= radius**2


def brute_simplices(total):
    """Signed volumes of each voxel's simplices in the grid and their own; 0 for those beyond it."""
    rank, *shape = total.shape
    shift = total.double().numpy()
    unit = np.eye(rank, dtype=int)
    simplices = [
        [sign * step for sign, step in zip(signs, unit, strict=True)]
        for signs in itertools.product((1, -1), repeat=rank)
    ]
    if rank == 3:
        simplices += [[sign * (1 - step) for step in unit] for sign in (1, -1)]
    volumes, own = np.zeros((2, len(simplices), *shape))
    for voxel in np.ndindex(*shape):
        for k, ends in enumerate(simplices):
            vertices = np.array([np.zeros(rank, int), *ends]) + voxel
            if (vertices < 0).any() or (vertices >= shape).any():
                continue
            moved = np.array([v + shift[(slice(None), *v)] for v in vertices])
            before, after = (np.linalg.det(v[1:] - v[0]) for v in (vertices, moved))
            volumes[(k, *voxel)] = after * np.sign(before) / math.factorial(rank)
            own[(k, *voxel)] = abs(before) / math.factorial(rank)
    return volumes, own


# Overlap


def test_dice_against_its_definition():
    rng = np.random.default_rng(0)
    fixed = torch.from_numpy(rng.integers(0, 5, (6, 7, 8)).astype(np.int32))
    warped = torch.from_numpy(rng.integers(0, 5, (6, 7, 8)).astype(np.int32))
    scores = metrics.dice(fixed, warped, [1, 3, 4])
    for value, score in scores.items():
        a, b = fixed == value, warped == value
        assert score == pytest.approx(2 * int((a & b).sum()) / int(a.sum() + b.sum()))
    assert list(scores) == [1, 3, 4]


def test_dice_empty_and_odd_labels():
    fixed = torch.tensor([[2035, 2035, -3, 0]], dtype=torch.int32)
    warped = torch.tensor([[2035, 7, 0, 0]], dtype=torch.int32)
    scores = metrics.dice(fixed, warped, [2035, 7, -3])
    assert scores[2035] == pytest.approx(2 / 3)
    assert math.isnan(scores[7])
    assert scores[-3] == 0
    huge = 2**30
    assert metrics.dice(fixed.clamp(0) * 0 + huge, fixed * 0 + huge, [1, huge])[huge] == 1
    with pytest.raises(GeometryError, match="dice: warped"):
        metrics.dice(fixed, warped[:, :2], [1])


# Surface distance


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_hd95_equals_deepminds(rank):
    import surface_distance

    shape, spacing = (22, 25, 19)[:rank], (2.5, 1.2, 0.7)[:rank]
    rng = np.random.default_rng(1)
    fixed = ball(shape, (10, 12, 9)[:rank], 6) | torch.from_numpy(rng.random(shape) > 0.995)
    warped = ball(shape, (11, 10, 9)[:rank], 7)
    found = surface_distance.compute_surface_distances(fixed.numpy(), warped.numpy(), spacing)
    expected = surface_distance.compute_robust_hausdorff(found, 95)
    assert metrics.hd95_mm(fixed, warped, spacing) == pytest.approx(expected, abs=1e-9)
    assert metrics.hd95_mm(warped, fixed, spacing) == pytest.approx(expected, abs=1e-9)


def test_hd95_of_concentric_spheres_and_translations():
    shape, centre = (48, 48, 48), (23.5, 23.5, 23.5)
    distance = metrics.hd95_mm(ball(shape, centre, 18), ball(shape, centre, 13), (2, 2, 2))
    assert distance == pytest.approx(10, abs=1.5)
    square = torch.zeros(20, 20, dtype=torch.bool)
    square[5:10, 5:10] = True
    assert metrics.hd95_mm(square, square.roll(3, 1), (1.0, 2.0)) == pytest.approx(6)
    assert metrics.hd95_mm(square, square, (1.0, 2.0)) == 0


def test_mean_surface_distance_is_that_of_the_package():
    package = pytest.importorskip("surface_distance")
    shape, centre, spacing = (24, 30, 26), (12, 15, 13), (2.0, 1.0, 1.5)
    fixed, warped = ball(shape, centre, 9), ball(shape, (13, 14, 12), 7)
    parts = package.compute_surface_distances(fixed.numpy(), warped.numpy(), spacing)
    areas = parts["surfel_areas_gt"], parts["surfel_areas_pred"]
    distances = parts["distances_gt_to_pred"], parts["distances_pred_to_gt"]
    expected = sum((a * d).sum() for a, d in zip(areas, distances, strict=True))
    expected /= sum(a.sum() for a in areas)
    found = metrics.surface_distance_by_label(fixed.int(), warped.int(), [1, 4], spacing)
    assert found[1].mean_mm == pytest.approx(expected, rel=1e-9)
    assert math.isnan(found[4].mean_mm)


def test_hd95_by_label_is_hd95_of_each_mask():
    fixed, warped = torch.zeros(2, 20, 22, 24, dtype=torch.int32)
    for part, shift in ((fixed, 0), (warped, 2)):
        part[ball(part.shape, (6, 7 + shift, 8), 4)] = 5
        part[ball(part.shape, (14, 15, 16 - shift), 3)] = 2
    fixed[0, 0, 0] = 9
    scores = metrics.hd95_by_label_mm(fixed, warped, [5, 2, 9], (3, 1, 1))
    for value in (2, 5):
        whole = metrics.hd95_mm(fixed == value, warped == value, (3, 1, 1))
        assert scores[value] == pytest.approx(whole)
    assert math.isnan(scores[9])
    assert math.isnan(metrics.hd95_mm(fixed == 77, warped == 77, (3, 1, 1)))
    with pytest.raises(GeometryError, match="spacing"):
        metrics.hd95_mm(fixed == 5, warped == 5, (1, 1))


# Jacobian


@pytest.mark.parametrize("shape", SHAPES)
def test_affine_maps_have_their_determinant_everywhere(shape):
    matrix = AFFINE_3D[: len(shape), : len(shape)]
    total = affine_displacement(shape, matrix)
    det = float(torch.linalg.det(matrix))
    assert torch.allclose(metrics.det_jacobian(total), torch.tensor(det), atol=1e-5)
    assert metrics.sdlogj(total) == pytest.approx(0, abs=1e-5)
    assert not metrics.folding_mask(total).any()
    labels = torch.ones(shape, dtype=torch.int32)
    assert metrics.volume_change(total, labels)[1] == pytest.approx(det, abs=1e-5)


@pytest.mark.parametrize("shape", [(9,), (5, 6), (4, 5, 3), (2, 2, 2)])
@pytest.mark.parametrize("slab", [1, 40, 1 << 15])
def test_folds_and_their_volume_against_brute_force(shape, slab, monkeypatch):
    monkeypatch.setattr(simplices, "SLAB_VOXELS", slab)
    random = torch.Generator().manual_seed(2)
    total = torch.randn(len(shape), *shape, generator=random) * (1.0 if len(shape) == 1 else 0.5)
    volumes, own = brute_simplices(total)
    folds = volumes.min(0) < 0
    assert 0 < folds.sum() < folds.size
    np.testing.assert_array_equal(metrics.folding_mask(total).numpy(), folds)
    lost = np.maximum(-volumes, 0).sum(0) / own.sum(0)
    labels = torch.zeros(shape, dtype=torch.int32)
    labels[len(labels) // 2 :] = 1
    found = metrics.folding(total, labels)
    assert found.ndv_vox == pytest.approx(lost.sum(), rel=1e-4)
    assert found.ndv_percent == pytest.approx(100 * lost.mean(), rel=1e-4)
    assert found.interior_folds + found.interface_folds == folds.sum()
    mask = torch.rand(shape, generator=random) < 0.5
    part = metrics.folding(total, torch.zeros(shape, dtype=torch.int32), mask)
    assert part.interior_folds == folds[mask.numpy()].sum()
    assert part.interior_ndv_vox == pytest.approx(lost[mask.numpy()].sum(), rel=1e-4)
    assert part.interior_ndv_percent == pytest.approx(100 * lost[mask.numpy()].mean(), rel=1e-4)


@pytest.mark.parametrize("shape", [(7,), (6, 5), (5, 6, 7)])
def test_the_simplices_fill_the_image_twice(shape):
    # Nothing moves near the border, so the mapped image has its own volume.
    total = torch.zeros(len(shape), *shape)
    inner = (slice(None), *[slice(2, n - 2) for n in shape])
    total[inner] = torch.rand(total[inner].shape, generator=torch.Generator().manual_seed(6))
    within = math.prod(n - 1 for n in shape)
    assert brute_simplices(total)[0].sum() / 2 == pytest.approx(within, rel=1e-6)
    found = [np.stack(dets).sum() for *_, dets in simplices.simplex_slabs(total)]
    volume = sum(found) / 2 / math.factorial(len(shape))
    assert volume == pytest.approx(math.prod(shape), rel=1e-5)


def test_a_twist_folds_by_the_inner_tetrahedra_alone():
    shape, angle = (6, 8, 8), math.radians(110)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    total = torch.zeros(3, *shape)
    total[1:, 3:] = affine_displacement(shape[1:], turn).unsqueeze(1)
    away = (slice(None), slice(1, -1), slice(1, -1))
    for start, stop, determinants in simplices.simplex_slabs(total):
        assert (start, stop, len(determinants)) == (0, 6, 10)
        corners = torch.stack(determinants[:8])[(slice(None), *away)]
        assert torch.allclose(corners, torch.ones(()), atol=1e-4), "by the eight nothing folds"
    folds = torch.zeros(shape, dtype=torch.bool)
    folds[2:4] = True
    assert torch.equal(metrics.folding_mask(total)[away], folds[away])
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[away] = True
    found = metrics.folding(total, torch.zeros(shape, dtype=torch.int32), mask)
    # One inner tetrahedron a voxel, of a third of a voxel, turned over; a cell has two cuts.
    assert found.ndv_vox == pytest.approx(2 * 36 * -math.cos(angle) / 6, rel=1e-4)
    assert found.interior_folds == 2 * 36


def test_folding_is_interior_where_all_simplices_lie_in_one_region():
    labels = torch.randint(0, 2, (4, 5, 6), generator=torch.Generator().manual_seed(7))
    labels = (torch.nn.functional.avg_pool3d(labels[None].float(), 3, 1, 1)[0] > 0.55).int()
    wide = np.pad(labels.numpy(), 1, mode="edge")
    steps = [s * np.eye(3, dtype=int)[k] for s in (1, -1) for k in range(3)]
    steps += [s * (1 - np.eye(3, dtype=int)[k]) for s in (1, -1) for k in range(3)]
    count = sum(
        all(wide[tuple(np.array(v) + 1 + step)] == wide[tuple(np.array(v) + 1)] for step in steps)
        for v in np.ndindex(4, 5, 6)
    )
    found = metrics.folding(torch.zeros(3, 4, 5, 6), labels)
    assert found.interior_voxels == count and 0 < count < int(metrics.interior_mask(labels).sum())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("slab", [1, 1 << 15])
def test_central_determinant_is_numpy_gradient(shape, slab, monkeypatch):
    monkeypatch.setattr(simplices, "SLAB_VOXELS", slab)
    rank = len(shape)
    total = torch.randn(rank, *shape, generator=torch.Generator().manual_seed(3)) * 0.3
    mapped = (index_map(shape) + total).numpy()
    jacobian = np.stack([np.stack(np.gradient(mapped[c])) for c in range(rank)])
    expected = np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1)))
    np.testing.assert_allclose(metrics.det_jacobian(total).numpy(), expected, atol=1e-5)
    spread = np.log(expected.clip(1e-9)).std()
    assert metrics.sdlogj(total) == pytest.approx(spread, rel=1e-3)


def test_axis_of_length_one_has_no_part():
    flat = torch.randn(2, 8, 9, generator=torch.Generator().manual_seed(4)) * 0.5
    for axis in range(3):
        volume = torch.zeros(3, 8, 9)
        others = [k for k in range(3) if k != axis]
        volume[others] = flat
        volume[axis] = 7.5 * torch.rand(8, 9)
        volume = volume.unsqueeze(axis + 1)
        shape = volume.shape[1:]
        expected = metrics.det_jacobian(flat).reshape(shape)
        assert torch.equal(metrics.det_jacobian(volume), expected)
        assert torch.equal(metrics.folding_mask(volume), metrics.folding_mask(flat).reshape(shape))
        regions = torch.randint(0, 2, (8, 9), generator=torch.Generator().manual_seed(5))
        assert metrics.folding(volume, regions.reshape(shape)) == metrics.folding(flat, regions)
    line = torch.zeros(3, 1, 1, 5)
    line[2, 0, 0, 3] = -1.5
    assert metrics.folding_mask(line).flatten().tolist() == [False, False, True, True, False]
    point = torch.ones(3, 1, 1, 1)
    assert metrics.det_jacobian(point).item() == 1
    assert not metrics.folding_mask(point).any()


def test_folding_counts_a_known_fold_where_it_is():
    shape = (8, 9, 10)
    labels = torch.ones(shape, dtype=torch.int32)
    labels[:, :, 6:] = 2
    total = torch.zeros(3, *shape)
    total[2, 4, 4, 2] = 1.5  # passes its neighbour at x = 3
    result = metrics.folding(total, labels)
    folds = metrics.folding_mask(total)
    assert folds[4, 4, 2] and folds[4, 4, 3] and not folds[4, 4, 1]
    assert result.interior_folds == int(folds.sum()) == 2
    assert (result.interface_folds, result.interface_voxels) == (0, 2 * 8 * 9)
    assert result.interior_voxels == 8 * 8 * 9
    assert result.share_interior == pytest.approx(0.8)
    assert result.interior_share == pytest.approx(2 / 576)
    assert "2 of 576" in repr(result)
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[4, 4, 2:7] = True
    part = metrics.folding(total, labels, mask)
    assert (part.interior_folds, part.interior_voxels, part.interface_voxels) == (2, 3, 2)


@pytest.mark.parametrize("shape", [(7, 6), (5, 6, 4), (2, 2, 2)])
def test_no_angle_and_no_scale_folds_and_a_mirror_folds_everywhere(shape):
    labels = torch.ones(shape, dtype=torch.int32)
    for turned in itertools.combinations(range(len(shape)), 2):
        for angle in np.radians([37.0, 90.0, 118.0, 180.0, 271.0]):
            for scale in (0.3, 1.0, 1.9):
                matrix = scale * np.eye(len(shape))
                c, s = scale * np.cos(angle), scale * np.sin(angle)
                matrix[np.ix_(turned, turned)] = [[c, -s], [s, c]]
                total = affine_displacement(shape, torch.from_numpy(matrix).float())
                assert not metrics.folding_mask(total).any()
                assert metrics.folding(total, labels).ndv_vox == 0
    for axis in range(len(shape)):
        mirror = torch.eye(len(shape))
        mirror[axis, axis] = -1
        found = metrics.folding(affine_displacement(shape, mirror), labels)
        assert found.interior_share == 1
        assert found.ndv_percent == pytest.approx(100)


def test_sliding_folds_only_at_the_interface():
    shape = (12, 12)
    labels = torch.ones(shape, dtype=torch.int32)
    labels[:, 6:] = 2
    total = torch.zeros(2, *shape)
    total[1, :, :6] = 1.5  # the left half runs into the right one
    result = metrics.folding(total, labels)
    assert result.interior_folds == 0
    assert result.interface_folds == result.interface_voxels == 24
    assert result.interface_share == 1


def test_folding_boundary_cases():
    collapsed = -index_map((4, 5))
    assert metrics.folding_mask(collapsed).all()
    broken = torch.zeros(2, 4, 5)
    broken[0, 1, 1] = torch.nan
    assert metrics.folding_mask(broken)[1, 1]
    one = metrics.folding(torch.zeros(2, 4, 5), torch.ones(4, 5, dtype=torch.int32))
    assert one.interior_share == 0 and math.isnan(one.interface_share)
    with pytest.raises(GeometryError, match="labels"):
        metrics.folding(torch.zeros(2, 4, 5), torch.ones(5, 4))
    with pytest.raises(GeometryError, match="total_vox"):
        metrics.folding_mask(torch.zeros(3, 4, 5))


def test_sdlogj_of_interior_ignores_the_interface():
    shape = (10, 10)
    labels = torch.ones(shape, dtype=torch.int32)
    labels[:, 5:] = 2
    total = torch.zeros(2, *shape)
    total[1, :, 5:] = 0.7
    assert metrics.sdlogj(total) > 0.1
    assert metrics.sdlogj(total, metrics.interior_mask(labels)) == pytest.approx(0, abs=1e-6)
    assert math.isnan(metrics.sdlogj(total, torch.zeros(shape, dtype=torch.bool)))


def test_sdlogj_l2r_against_scipys_correlate():
    from scipy import ndimage

    field = np.random.default_rng(5).normal(0, 0.8, (9, 8, 10, 3)).astype(np.float32)
    components = field.astype(np.float64).transpose(3, 0, 1, 2)
    jacobian = np.empty((3, 3, 9, 8, 10))
    for axis in range(3):
        kernel = np.array([-0.5, 0, 0.5]).reshape([3 if k == axis else 1 for k in range(3)])
        for c in range(3):
            jacobian[c, axis] = ndimage.correlate(components[c], kernel, mode="constant")
    jacobian += np.eye(3)[..., None, None, None]
    inner = jacobian[:, :, 2:-2, 2:-2, 2:-2]
    det = np.linalg.det(np.moveaxis(inner, (0, 1), (-2, -1)))
    logs = np.log((det + 3).clip(1e-9, 1e9))
    assert metrics.sdlogj_l2r(field) == pytest.approx(logs.std(), rel=1e-9)
    mask = np.random.default_rng(6).random((9, 8, 10)) > 0.5
    expected = logs[mask[2:-2, 2:-2, 2:-2]].std()
    assert metrics.sdlogj_l2r(field, mask) == pytest.approx(expected, rel=1e-9)
    assert math.isnan(metrics.sdlogj_l2r(field[:, :4]))


def test_volume_change_is_blind_to_the_jump_at_an_interface():
    shape = (10, 12)
    labels = torch.ones(shape, dtype=torch.int32)
    labels[:, 6:] = 4
    matrix = torch.tensor([[1.0, 0.0], [0.0, 1.25]])
    total = torch.where(labels == 4, affine_displacement(shape, matrix) + 3, 0.0)
    changes = metrics.volume_change(total, labels, [1, 4, 9])
    assert changes[1] == pytest.approx(1)
    assert changes[4] == pytest.approx(1.25, abs=1e-5)
    assert math.isnan(changes[9])


@pytest.mark.parametrize("slab", [1, 30, 1 << 15])
def test_volume_change_does_not_depend_on_the_slabs(slab, monkeypatch):
    shape = (9, 8, 7)
    generator = torch.Generator().manual_seed(7)
    labels = torch.randint(0, 3, shape, generator=generator)
    total = torch.randn(3, *shape, generator=generator)
    expected = metrics.volume_change(total, labels)
    monkeypatch.setattr(simplices, "SLAB_VOXELS", slab)
    assert metrics.volume_change(total, labels) == pytest.approx(expected)


# Landmarks


def test_tre_and_its_summary():
    fixed = Points(np.array([[0.0, 0, 0], [1, 2, 3], [4, 5, 6]]))
    moving = Points(fixed.lps + np.array([[3, 4, 0], [0, 0, 0], [0, 0, 1]]))
    assert metrics.tre_mm(fixed, moving, lambda p: p).tolist() == [5, 0, 1]
    errors = metrics.tre_mm(fixed, moving, lambda p: Points(p.lps + np.array([3, 4, 0])))
    assert errors[0] == 0
    summary = metrics.summarize_tre(np.array([5.0, 0, 1]))
    assert (summary.count, summary.mean_mm, summary.median_mm, summary.max_mm) == (3, 2, 1, 5)
    assert summary.p95_mm == pytest.approx(4.6)
    assert math.isnan(metrics.summarize_tre(np.array([])).mean_mm)
    with pytest.raises(GeometryError, match="moving"):
        metrics.tre_mm(fixed, Points(moving.lps[:2]), lambda p: p)


# Coverage


@pytest.mark.parametrize("shape", [(14, 16), (10, 12, 11)])
def test_identity_and_translation_cover(shape):
    labels = torch.zeros(shape, dtype=torch.int32)
    labels[tuple(slice(2, 8) for _ in shape)] = 3
    labels[-1] = 5
    index = index_map(shape)
    assert metrics.coverage(labels, labels, index) == {3: 1, 5: 1}
    shifted = metrics.coverage(labels, labels, index + torch.tensor(3.0), [3])
    assert shifted[3] == pytest.approx(0.5 ** len(shape))
    assert metrics.coverage(labels, labels, index + 1000)[3] == 0
    away = metrics.coverage(labels, labels * 0 + 9, index, [3, 7])
    assert away[3] == 0 and math.isnan(away[7])


@pytest.mark.parametrize("stretch", [0.7, 1.0, 1.95, 2.37])
@pytest.mark.parametrize("angle", [0.0, 0.4, math.pi / 4])
def test_a_stretched_and_turned_region_has_no_holes(stretch, angle):
    c, s = math.cos(angle), math.sin(angle)
    turn = torch.tensor([[1.0, 0, 0], [0, c, -s], [0, s, c]])
    tilt = torch.tensor([[c, -s, 0.0], [s, c, 0], [0, 0, 1]])
    matrix = stretch * turn @ tilt
    fixed = ball((21, 21, 21), (10, 10, 10), 8.0).int()
    moving = ball((41, 41, 41), (20, 20, 20), 8.0 * stretch).int()
    mapped = torch.einsum("ij,j...->i...", matrix, index_map(fixed.shape) - 10) + 20
    inner = ball((41, 41, 41), (20, 20, 20), (8.0 - 1.0) * stretch).int()
    assert metrics.coverage(inner, fixed, mapped)[1] == 1
    # The truth: the fixed voxel that holds the pulled-back centre of each moving voxel.
    inverse = torch.linalg.inv(matrix)
    back = torch.einsum("ij,j...->i...", inverse, index_map(moving.shape) - 20) + 10
    truth = fixed[tuple(back.round().long().clamp(0, 20))][moving > 0].float().mean()
    found = metrics.coverage(moving, fixed, mapped)[1]
    assert float(truth) - 1e-3 <= found <= float(truth) + 0.007


def test_thick_slices_reach_all_thin_ones():
    fixed, moving = torch.ones(5, 6, 6).int(), torch.ones(50, 6, 6).int()
    mapped = index_map(fixed.shape)
    mapped[0] = 10 * mapped[0] + 4.5
    assert metrics.coverage(moving, fixed, mapped)[1] == 1
    assert metrics.coverage(moving, fixed[:4], mapped[:, :4])[1] == pytest.approx(0.8)


def test_a_smooth_uneven_map_leaves_no_seams():
    labels = torch.ones(40, 40, dtype=torch.int32)
    index = index_map((40, 40))
    bent = index + 2.5 * torch.sin(index.flip(0) / 3) + 1.5 * torch.sin(index / 3)
    inside = torch.zeros_like(labels)
    inside[6:34, 6:34] = 1
    assert metrics.coverage(inside, labels, bent)[1] == 1


def test_collapse_is_seen():
    labels = ball((30, 30), (14, 14), 10).int()
    centre = torch.tensor([14.0, 14.0])[:, None, None]
    mapped = (index_map((30, 30)) - centre) / 2 + centre
    assert metrics.coverage(labels, labels, mapped)[1] == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("shift", [0.3, 0.45, 0.55])
def test_coverage_counts_centres_and_does_not_dilate(shift):
    labels = torch.zeros(12, 12, dtype=torch.int32)
    labels[3:9, 3:9] = 1
    goal = torch.ones_like(labels)
    reached = metrics.coverage(goal, labels, index_map((12, 12)) + shift)[1]
    assert reached == pytest.approx(36 / 144)


def test_nothing_is_drawn_across_an_interface():
    fixed = torch.ones(10, 20, dtype=torch.int32)
    fixed[:, 10:] = 2
    moving = torch.ones(10, 40, dtype=torch.int32)
    moving[:, 20:] = 2
    mapped = index_map((10, 20))
    mapped[1, :, 10:] += 20  # the halves part; columns 10 to 29 are reached by neither
    found = metrics.coverage(moving, fixed, mapped)
    assert found == {1: 0.5, 2: 0.5}


def test_coverage_with_one_slice_and_nan():
    labels = torch.ones(1, 6, 6, dtype=torch.int32)
    index = index_map((1, 6, 6))
    assert metrics.coverage(labels, labels, index)[1] == 1
    index[:, 0, 0, 0] = torch.nan
    assert 0.8 < metrics.coverage(labels, labels, index)[1] < 1
    with pytest.raises(GeometryError, match="mapped_index"):
        metrics.coverage(labels, labels, index[:, :, :5])


def test_a_message_names_the_function_and_the_argument():
    with pytest.raises(GeometryError, match=r"^volume_change: .*labels"):
        metrics.volume_change(torch.zeros(3, 4, 5, 6), torch.zeros(4, 5, 7, dtype=torch.int32))


# Error of a field ------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [2, 3])
def test_field_error_is_the_distance_of_the_mapped_points(rank):
    grid = fixed_grid(rank)
    random = np.random.default_rng(0)
    transforms = []
    for angle in (0.03, -0.02):
        affine = np.eye(rank + 1)
        affine[:2, :2] = rotation(np.rad2deg(angle))
        affine[:rank, rank] = random.normal(size=rank)
        vox = torch.from_numpy(random.normal(size=(rank, *grid.shape_zyx))).float()
        transforms.append(Transform(affine, DisplacementField(vox, grid)))
    places = Points(places_lps(grid).reshape(-1, rank))
    one, other = (transform.map_points(places).lps for transform in transforms)
    expected = np.linalg.norm(one - other, axis=1)
    error_mm = metrics.field_error_mm(*transforms)
    np.testing.assert_allclose(error_mm.flatten(), expected, atol=1e-3)
    labels = torch.from_numpy(random.integers(0, 3, grid.shape_zyx))
    mask = torch.from_numpy(random.random(grid.shape_zyx) < 0.5)
    found = metrics.field_error(error_mm, labels, mask)
    assert found.overall.count == int(mask.sum())
    inside = expected[(mask & (labels == 2)).flatten().numpy()]
    assert found.by_label[2].p95_mm == pytest.approx(np.percentile(inside, 95), abs=1e-3)
    assert set(found.by_label) == {1, 2}


def test_field_error_on_another_grid_is_that_of_the_interpolated_field():
    fine, coarse = fixed_grid(2), fixed_grid(2).pooled((2, 2))
    ramp = torch.from_numpy(places_lps(coarse)[..., 0] * 0.1).float()
    ours = Transform(np.eye(3), DisplacementField(torch.stack([ramp, 0 * ramp]), coarse))
    known = Transform(np.eye(3), DisplacementField.zero(fine))
    error_mm = metrics.field_error_mm(ours, known)[2:-2, 2:-2]
    along_y_mm = places_lps(fine)[2:-2, 2:-2, 0] * 0.1 * coarse.spacing_xyz_mm[1]
    np.testing.assert_allclose(error_mm, np.abs(along_y_mm), atol=1e-4)


def test_field_error_refuses_what_does_not_fit():
    with pytest.raises(GeometryError, match="field_error: labels: expected shape"):
        metrics.field_error(torch.zeros(3, 3), labels=torch.zeros(3, 4))
    with pytest.raises(GeometryError, match="at least one voxel"):
        metrics.field_error(torch.zeros(3, 3), mask=torch.zeros(3, 3, dtype=torch.bool))
