"""Figures that judge a registration: overlap, distances, landmarks, folding, coverage.

Pure functions of tensors on the fixed grid, rank 2 or 3. A displacement is always the *total*
one, A(x + u(x)) - x, in voxels of the fixed grid, (rank, *shape), components in array order. An
axis of length 1 has no part in a Jacobian. Long sums are made in float64; results are the same on
every run.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iterreg.errors import GeometryError, MissingDependencyError
from iterreg.geometry import Points

SLAB_VOXELS = 1 << 15
"""Voxels worked on at once: temporaries stay in the cache, and torch does not split an operation of
this size (its grain), so that on a busy machine no thread waits for another."""

LOG_FLOOR = 1e-9
"""Determinants are clipped here before their logarithm is taken (Learn2Reg's value)."""

COVERAGE_SUBDIVISIONS = (2, 4)
"""Samples along each axis of a fixed voxel: of all voxels, then around what is unreached."""

SAMPLE_TOLERANCE = 1e-3
"""Voxels by which the parts of a mapped voxel overlap, so that rounding opens no seam."""


# Overlap --------------------------------------------------------------------------------------


def dice(fixed: Tensor, warped: Tensor, values: Iterable[int]) -> dict[int, float]:
    """Dice overlap of each label.

    Args:
        fixed: (*shape) integer labels of the fixed image.
        warped: (*shape) integer labels of the moving image, warped to the fixed grid.
        values: the labels to score.

    Returns:
        2 |F and W| / (|F| + |W|) for each label, 0 to 1; NaN where the label is empty in ``fixed``.

    Raises:
        GeometryError: the shapes differ.
    """
    _require_shape("dice", "warped", warped, fixed.shape)
    wanted = sorted(set(values))
    in_fixed, in_warped = _compact(fixed, wanted), _compact(warped, wanted)
    both = torch.where(in_fixed == in_warped, in_fixed, 0)
    size_fixed, size_warped, size_both = (
        torch.bincount(part.flatten(), minlength=len(wanted) + 1).tolist()
        for part in (in_fixed, in_warped, both)
    )
    return {
        value: 2 * size_both[k] / (size_fixed[k] + size_warped[k]) if size_fixed[k] else np.nan
        for k, value in enumerate(wanted, start=1)
    }


def _compact(labels: Tensor, sorted_values: Sequence[int]) -> Tensor:
    """Number the labels 1, 2, ... in the order of ``sorted_values``; all others become 0."""
    if not sorted_values:
        return torch.zeros_like(labels, dtype=torch.int64)
    low, high = sorted_values[0], sorted_values[-1]
    if high - low < 1 << 20:
        table = torch.zeros(high - low + 3, dtype=torch.int64)
        for k, value in enumerate(sorted_values, start=1):
            table[value - low + 1] = k
        position = labels.to(torch.int64).clamp_(low - 1, high + 1).sub_(low - 1)
        return table.to(labels.device)[position]
    known = torch.tensor(sorted_values, dtype=torch.int64, device=labels.device)
    position = torch.searchsorted(known, labels.to(torch.int64)).clamp_(max=len(known) - 1)
    return torch.where(known[position] == labels, position + 1, 0)


# Surface distance -----------------------------------------------------------------------------


def hd95_mm(fixed_mask: Tensor, warped_mask: Tensor, spacing_zyx_mm: Sequence[float]) -> float:
    """95th percentile of the symmetric surface distance, by DeepMind's surface elements.

    A surface element sits at a corner of voxels, weighs its area, and is as far from the other
    surface as from the nearest of that surface's elements. Elements, areas and percentile are
    those of ``surface_distance.compute_robust_hausdorff``; distances come from a k-d tree over the
    elements instead of two dense distance maps, which gives the same numbers sooner.

    Args:
        fixed_mask: (*shape) bool.
        warped_mask: (*shape) bool.
        spacing_zyx_mm: voxel spacing in array order; all ones gives Learn2Reg's HD95.

    Returns:
        The distance in mm; NaN where either mask is empty.

    Raises:
        GeometryError: shapes or ranks that disagree.
        MissingDependencyError: surface-distance or scipy is not installed.

    Source:
        Nikolov et al., Clinically applicable segmentation of head and neck anatomy, JMIR 2021;
        https://github.com/google-deepmind/surface-distance.
    """
    _require_shape("hd95_mm", "warped_mask", warped_mask, fixed_mask.shape)
    if len(spacing_zyx_mm) != fixed_mask.ndim:
        raise GeometryError(
            f"hd95_mm: spacing_zyx_mm: expected {fixed_mask.ndim} numbers, got {spacing_zyx_mm}"
        )
    fixed, warped = (m.detach().cpu().numpy().astype(bool) for m in (fixed_mask, warped_mask))
    box = _bounding_box(fixed | warped)
    return _hd95_of_crop(fixed[box], warped[box], tuple(float(s) for s in spacing_zyx_mm))


def hd95_by_label_mm(
    fixed: Tensor, warped: Tensor, values: Iterable[int], spacing_zyx_mm: Sequence[float]
) -> dict[int, float]:
    """:func:`hd95_mm` of each label of two label maps, each in the box of its own voxels.

    Args:
        fixed: (*shape) integer labels of the fixed image.
        warped: (*shape) integer labels of the moving image, warped to the fixed grid.
        values: the labels to score.
        spacing_zyx_mm: voxel spacing in array order.

    Returns:
        HD95 in mm for each label; NaN where the label is empty in either.

    Raises:
        GeometryError: the shapes differ.
        MissingDependencyError: surface-distance or scipy is not installed.
    """
    _require_shape("hd95_by_label_mm", "warped", warped, fixed.shape)
    ndimage = _import("scipy.ndimage", "scipy")
    wanted = sorted(set(values))
    a, b = (_compact(part, wanted).to(torch.int32).cpu().numpy() for part in (fixed, warped))
    boxes = [ndimage.find_objects(part, max_label=len(wanted)) for part in (a, b)]
    spacing = tuple(float(s) for s in spacing_zyx_mm)
    result = {}
    for k, value in enumerate(wanted):
        first, second = boxes[0][k], boxes[1][k]
        if first is None or second is None:
            result[value] = np.nan
            continue
        box = tuple(
            slice(min(p.start, q.start), max(p.stop, q.stop))
            for p, q in zip(first, second, strict=True)
        )
        result[value] = _hd95_of_crop(a[box] == k + 1, b[box] == k + 1, spacing)
    return result


def _hd95_of_crop(
    fixed: NDArray[np.bool_], warped: NDArray[np.bool_], spacing: tuple[float, ...]
) -> float:
    if not fixed.any() or not warped.any():
        return float("nan")
    spatial = _import("scipy.spatial", "scipy")
    codes = [_neighbour_codes(mask) for mask in (fixed, warped)]
    areas = _surfel_areas(spacing)
    surfaces = [(code != 0) & (code != len(areas) - 1) for code in codes]
    shared = surfaces[0] & surfaces[1]
    points = [np.argwhere(surface) * spacing for surface in surfaces]
    trees = [spatial.cKDTree(p, balanced_tree=False, compact_nodes=False) for p in points]
    worst = 0.0
    for mine, other in ((0, 1), (1, 0)):
        distance = np.zeros(len(points[mine]))
        apart = ~shared[surfaces[mine]]
        distance[apart] = trees[other].query(points[mine][apart])[0]
        area = areas[codes[mine][surfaces[mine]]]
        worst = max(worst, _weighted_percentile(distance, area, 0.95))
    return worst


def _neighbour_codes(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Which of the 2 ** rank voxels around each corner are inside, in the package's code."""
    kernel = _surfel_tables(mask.ndim)[0]
    padded = np.pad(mask, 1).view(np.uint8)
    codes: NDArray[np.uint8] = np.zeros([n + 1 for n in mask.shape], np.uint8)
    for offset in itertools.product((0, 1), repeat=mask.ndim):
        window = tuple(slice(o, o + n + 1) for o, n in zip(offset, mask.shape, strict=True))
        codes += padded[window] * np.uint8(kernel[offset])
    return codes


def _surfel_areas(spacing: tuple[float, ...]) -> NDArray[np.float64]:
    table: NDArray[np.float64] = _surfel_tables(len(spacing))[1](spacing)
    return table


def _surfel_tables(rank: int) -> tuple[Any, Callable[[Sequence[float]], Any]]:
    tables = _import("surface_distance.lookup_tables", "surface-distance")
    if rank == 2:
        return (
            tables.ENCODE_NEIGHBOURHOOD_2D_KERNEL,
            tables.create_table_neighbour_code_to_contour_length,
        )
    return (
        tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL,
        tables.create_table_neighbour_code_to_surface_area,
    )


def _weighted_percentile(
    value: NDArray[np.float64], weight: NDArray[np.float64], share: float
) -> float:
    order = np.lexsort((weight, value))
    cumulated = np.cumsum(weight[order]) / weight.sum()
    position = min(int(np.searchsorted(cumulated, share)), len(order) - 1)
    return float(value[order][position])


def _bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    box = []
    for axis in range(mask.ndim):
        others = tuple(k for k in range(mask.ndim) if k != axis)
        hit = np.flatnonzero(mask.any(axis=others))
        box.append(slice(int(hit[0]), int(hit[-1]) + 1) if len(hit) else slice(0, 0))
    return tuple(box)


# Jacobian -------------------------------------------------------------------------------------


def corner_determinants(total_vox: Tensor) -> Tensor:
    """Determinant of the Jacobian of x + d(x) in every one-sided corner stencil.

    A stencil takes, along each axis, the forward or the backward difference. For a map that is
    trilinear between voxels, these are its determinants at the corners of its cells.

    Args:
        total_vox: (rank, *shape), total displacement in voxels of the fixed grid.

    Returns:
        (2 ** m, *shape) for m axes longer than 1, forward before backward, the last axis fastest;
        NaN where a stencil would leave the grid.
    """
    field = _active(total_vox)
    axes = field.shape[0]
    result = field.new_empty((2**axes, *field.shape[1:]))
    for start, stop, links in _slabs(field):
        for k, det in enumerate(_corners(links)):
            result[k, start:stop] = det
    for k, sides in enumerate(itertools.product((0, 1), repeat=axes)):
        for axis, backward in enumerate(sides):
            result[k].select(axis, 0 if backward else -1).fill_(torch.nan)
    return result.reshape(2**axes, *total_vox.shape[1:])


def folding_mask(total_vox: Tensor) -> Tensor:
    """Where x + d(x) folds: det J <= 0 (or not a number) in any corner stencil that exists.

    Args:
        total_vox: (rank, *shape), total displacement in voxels of the fixed grid.

    Returns:
        (*shape) bool.
    """
    field = _active(total_vox)
    result = torch.empty(field.shape[1:], dtype=torch.bool, device=field.device)
    for start, stop, links in _slabs(field):
        lowest: Tensor | None = None
        for det in _corners(links):
            lowest = det if lowest is None else torch.minimum(lowest, det)
        assert lowest is not None
        result[start:stop] = ~(lowest > 0)
    return result.reshape(total_vox.shape[1:])


@dataclass(frozen=True)
class Folding:
    """How much of a map folds, inside regions and where regions meet.

    Args:
        interior_share, interface_share: folding voxels over the voxels of their kind, 0 to 1;
            NaN where there is no voxel of that kind.
        interior_folds, interface_folds: how many voxels fold.
        interior_voxels, interface_voxels: how many there are.
    """

    interior_share: float
    interface_share: float
    interior_folds: int
    interface_folds: int
    interior_voxels: int
    interface_voxels: int

    @property
    def share_interior(self) -> float:
        """The share of all counted voxels that is interior."""
        return _ratio(self.interior_voxels, self.interior_voxels + self.interface_voxels)

    def __repr__(self) -> str:
        """Counts, for people."""
        return (
            f"Folding(interior {self.interior_folds} of {self.interior_voxels}, "
            f"interface {self.interface_folds} of {self.interface_voxels}, "
            f"{100 * self.share_interior:.1f} % interior)"
        )


def folding(total_vox: Tensor, labels: Tensor, mask: Tensor | None = None) -> Folding:
    """Count the folding voxels, interior and interface apart.

    Args:
        total_vox: (rank, *shape), total displacement in voxels of the fixed grid.
        labels: (*shape) integer labels of the fixed image (a partition; background counts).
        mask: (*shape) bool, the voxels to count; all when None.

    Returns:
        Shares and counts.

    Raises:
        GeometryError: the shapes disagree.
    """
    _require_shape("folding", "labels", labels, total_vox.shape[1:])
    folds, interior = folding_mask(total_vox), interior_mask(labels)
    parts = [interior, ~interior]
    if mask is not None:
        parts = [part & mask for part in parts]
    voxels = [int(torch.count_nonzero(part)) for part in parts]
    folds_of = [int(torch.count_nonzero(part & folds)) for part in parts]
    shares = [_ratio(n, of) for n, of in zip(folds_of, voxels, strict=True)]
    return Folding(shares[0], shares[1], *folds_of, *voxels)


def interior_mask(labels: Tensor) -> Tensor:
    """Voxels whose face neighbours all carry the same label as they do; the others are interface.

    Args:
        labels: (*shape) integers. Neighbours outside the grid do not count.

    Returns:
        (*shape) bool.
    """
    interior = torch.ones_like(labels, dtype=torch.bool)
    for axis in range(labels.ndim):
        length = labels.shape[axis] - 1
        same = labels.narrow(axis, 0, length) == labels.narrow(axis, 1, length)
        interior.narrow(axis, 0, length).logical_and_(same)
        interior.narrow(axis, 1, length).logical_and_(same)
    return interior


def det_jacobian(total_vox: Tensor) -> Tensor:
    """Determinant of the Jacobian of x + d(x) by central differences, one-sided at the border.

    Args:
        total_vox: (rank, *shape), total displacement in voxels of the fixed grid.

    Returns:
        (*shape), in the dtype of the displacement.
    """
    return _central_determinant(_active(total_vox), None).reshape(total_vox.shape[1:])


def sdlogj(total_vox: Tensor, mask: Tensor | None = None) -> float:
    """Standard deviation of log det J, with det J clipped at 1e-9 from below.

    Args:
        total_vox: (rank, *shape), total displacement in voxels of the fixed grid.
        mask: (*shape) bool, the voxels to use (:func:`interior_mask`); the whole grid when None.

    Returns:
        The population standard deviation; NaN where no voxel is used.
    """
    det = det_jacobian(total_vox)
    used = (det if mask is None else det[mask]).to(torch.float64)
    if used.numel() == 0:
        return float("nan")
    return float(used.clamp_(min=LOG_FLOOR).log_().std(correction=0))


def sdlogj_l2r(
    displacement_l2r: NDArray[np.floating] | Tensor, mask: NDArray[np.bool_] | Tensor | None = None
) -> float:
    """SDlogJ as the Learn2Reg evaluator computes it: std of log(clip(det J + 3, 1e-9, 1e9)).

    Central differences, two voxels cropped at each side. With 3 added, a fold hardly shows: papers'
    figures are of this size, and must only be compared with it.

    Args:
        displacement_l2r: (I, J, K, 3), moving index minus fixed index; (I, J, 2) in 2-D.
        mask: (I, J, K) bool, the fixed voxels to use; all when None.

    Returns:
        The population standard deviation; NaN where an axis has fewer than five voxels.
    """
    field = torch.as_tensor(displacement_l2r).movedim(-1, 0)
    if min(field.shape[1:]) < 5:
        return float("nan")
    inner = (slice(2, -2),) * (field.ndim - 1)
    det = _central_determinant(field.to(torch.float64), None)[inner]
    used = det if mask is None else det[torch.as_tensor(mask, dtype=torch.bool)[inner]]
    if used.numel() == 0:
        return float("nan")
    return float((used + 3).clamp_(LOG_FLOOR, 1 / LOG_FLOOR).log_().std(correction=0))


def volume_change(
    total_vox: Tensor, labels: Tensor, values: Iterable[int] | None = None
) -> dict[int, float]:
    """Volume of each mapped region over its volume in the fixed image.

    The mean of det J over the region, with differences taken inside the region wherever it has a
    neighbour there: a jump at a sliding interface is no change of volume.

    Args:
        total_vox: (rank, *shape), total displacement in voxels of the fixed grid.
        labels: (*shape) integer labels of the fixed image.
        values: the labels to report; those that occur, background left out, when None.

    Returns:
        The ratio for each label (1 where nothing changes); NaN where the label is empty.

    Raises:
        GeometryError: the shapes disagree.
    """
    _require_shape("volume_change", "labels", labels, total_vox.shape[1:])
    found = [v for v in torch.unique(labels).tolist() if v != 0] if values is None else values
    wanted = sorted(set(found))
    field = _active(total_vox)
    det = _central_determinant(field, labels.reshape(field.shape[1:]))
    index = _compact(labels, wanted).flatten().cpu()
    # On the CPU: a weighted count on a GPU adds in no fixed order.
    total = torch.bincount(index, det.flatten().double().cpu(), minlength=len(wanted) + 1)
    count = torch.bincount(index, minlength=len(wanted) + 1)
    return {v: _ratio(float(total[k]), int(count[k])) for k, v in enumerate(wanted, start=1)}


Links = list[tuple[Tensor, Tensor]]
"""For each axis the forward and the backward difference of x + d(x), each (axes, *slab)."""


def _active(total_vox: Tensor) -> Tensor:
    """The displacement without its axes of length 1 and the components along them."""
    rank = total_vox.shape[0]
    if total_vox.ndim != rank + 1:
        raise GeometryError(
            f"total_vox: expected shape (rank, *shape), got {tuple(total_vox.shape)}"
        )
    axes = [k for k in range(rank) if total_vox.shape[1 + k] > 1]
    if len(axes) == rank:
        return total_vox
    if not axes:
        return total_vox.new_empty((0, 1))
    return total_vox[axes].reshape(len(axes), *[total_vox.shape[1 + k] for k in axes])


def _slabs(field: Tensor) -> Iterator[tuple[int, int, Links]]:
    """Cut a field into slabs along its first axis: (start, stop, links of the slab).

    Where a difference would leave the grid, the opposite one stands in: it adds no stencil that
    is not there, and the mean of the two is the one-sided difference.
    """
    if field.shape[0] == 0:
        yield 0, 1, []
        return
    length = field.shape[1]
    step = max(1, SLAB_VOXELS * length // max(1, field[0].numel()))
    for start in range(0, length, step):
        stop = min(start + step, length)
        yield start, stop, [_link(field, axis, start, stop) for axis in range(field.shape[0])]


def _link(field: Tensor, axis: int, start: int, stop: int) -> tuple[Tensor, Tensor]:
    dim = axis + 1
    length = field.shape[1]
    first, last = (max(start - 1, 0), min(stop + 1, length)) if axis == 0 else (start, stop)
    block = field[:, first:last]
    size = block.shape[dim]
    links = block.narrow(dim, 1, size - 1) - block.narrow(dim, 0, size - 1)
    links[axis] += 1
    parts = [links]
    if axis > 0 or start == 0:
        parts.insert(0, links.narrow(dim, 0, 1))
    if axis > 0 or stop == length:
        parts.append(links.narrow(dim, links.shape[dim] - 1, 1))
    padded = torch.cat(parts, dim) if len(parts) > 1 else links
    count = padded.shape[dim] - 1
    return padded.narrow(dim, 1, count), padded.narrow(dim, 0, count)


def _corners(links: Links) -> Iterator[Tensor]:
    """The determinants of all corner stencils, forward before backward, the last axis fastest."""
    if len(links) != 3:
        for columns in itertools.product(*links):
            yield _determinant(columns)
        return
    # The cross product of two columns serves both differences along the first axis.
    crosses = [_cross(second, third) for second, third in itertools.product(*links[1:])]
    for first in links[0]:
        for cross in crosses:
            yield _dot(first, cross)


def _central_determinant(field: Tensor, labels: Tensor | None) -> Tensor:
    """Determinant by central differences, on one side of an interface where labels are given."""
    result = torch.empty(field.shape[1:], dtype=field.dtype, device=field.device)
    for start, stop, links in _slabs(field):
        if labels is not None:
            links = [
                _one_sided(labels, axis, start, stop, *pair) for axis, pair in enumerate(links)
            ]
        result[start:stop] = _determinant([(ahead + behind) / 2 for ahead, behind in links])
    return result


def _one_sided(
    labels: Tensor, axis: int, start: int, stop: int, forward: Tensor, backward: Tensor
) -> tuple[Tensor, Tensor]:
    """Let a difference within a region stand in for one that crosses its surface."""
    length = labels.shape[0]
    first, last = (max(start - 1, 0), min(stop + 1, length)) if axis == 0 else (start, stop)
    block = labels[first:last]
    size = block.shape[axis] - 1
    same = block.narrow(axis, 0, size) == block.narrow(axis, 1, size)
    edge = torch.zeros_like(same.narrow(axis, 0, 1))
    low = [edge] if axis > 0 or start == 0 else []
    high = [edge] if axis > 0 or stop == length else []
    padded = torch.cat([*low, same, *high], axis)
    count = padded.shape[axis] - 1
    ahead, behind = padded.narrow(axis, 1, count), padded.narrow(axis, 0, count)
    return (
        torch.where(ahead | ~behind, forward, backward),
        torch.where(behind | ~ahead, backward, forward),
    )


def _determinant(columns: Sequence[Tensor]) -> Tensor:
    """det of up to three columns, each (m, *shape) for m columns."""
    if not columns:
        return torch.ones(())
    if len(columns) == 1:
        return columns[0][0]
    if len(columns) == 2:
        return (columns[0][0] * columns[1][1]).addcmul_(columns[0][1], columns[1][0], value=-1)
    return _dot(columns[0], _cross(columns[1], columns[2]))


def _cross(a: Tensor, b: Tensor) -> list[Tensor]:
    return [
        (a[1] * b[2]).addcmul_(a[2], b[1], value=-1),
        (a[2] * b[0]).addcmul_(a[0], b[2], value=-1),
        (a[0] * b[1]).addcmul_(a[1], b[0], value=-1),
    ]


def _dot(a: Tensor, b: Sequence[Tensor]) -> Tensor:
    return (a[0] * b[0]).addcmul_(a[1], b[1]).addcmul_(a[2], b[2])


# Landmarks ------------------------------------------------------------------------------------


def tre_mm(
    fixed: Points, moving: Points, map_points: Callable[[Points], Points]
) -> NDArray[np.float64]:
    """Target registration error of each landmark.

    Args:
        fixed: (n) landmarks of the fixed image.
        moving: (n) the same landmarks in the moving image, in the same order.
        map_points: the transform, from points of the fixed image to points of the moving one.

    Returns:
        (n) distances in mm, measured in the moving image.

    Raises:
        GeometryError: the two sets differ in number or rank.
    """
    if fixed.lps.shape != moving.lps.shape:
        raise GeometryError(
            f"tre_mm: moving: expected {fixed.lps.shape} like the fixed landmarks, "
            f"got {moving.lps.shape}"
        )
    distance: NDArray[np.float64] = np.linalg.norm(map_points(fixed).lps - moving.lps, axis=1)
    return distance


@dataclass(frozen=True)
class TreSummary:
    """Landmark errors in a few numbers: how many, then mm; NaN without landmarks."""

    count: int
    mean_mm: float
    median_mm: float
    p95_mm: float
    max_mm: float


def summarize_tre(errors_mm: NDArray[np.floating]) -> TreSummary:
    """Mean, median, 95th percentile and maximum of landmark errors.

    Args:
        errors_mm: (n), from :func:`tre_mm`.

    Returns:
        The summary.
    """
    errors = np.asarray(errors_mm, np.float64)
    if errors.size == 0:
        return TreSummary(0, *[float("nan")] * 4)
    figures = (errors.mean(), np.median(errors), np.percentile(errors, 95), errors.max())
    return TreSummary(errors.size, *map(float, figures))


# Coverage -------------------------------------------------------------------------------------


def coverage(
    moving_labels: Tensor,
    fixed_labels: Tensor,
    mapped_index: Tensor,
    values: Iterable[int] | None = None,
) -> dict[int, float]:
    """The share of each moving region that the fixed region of the same label reaches.

    Dice of warped labels forgives a region that collapses onto a corner of its partner; this does
    not. Each fixed voxel is a small box, and a moving voxel of the same label counts when its
    centre lies in the image of such a box. Boxes are cut into parts, mapped by the differences to
    the neighbours of the same label (so nothing is drawn across an interface): two parts an axis
    first, then four in the voxels that map near what is still unreached. No holes are left where
    the map stretches by less than 2 in every direction (in voxels of the two grids); a region that
    is stretched more scores too low. A part's image is taken as its bounding box: where the map
    turns, the region grows by up to a fifth of a voxel.

    Args:
        moving_labels: (*moving shape) integer labels.
        fixed_labels: (*shape) integer labels.
        mapped_index: (rank, *shape), index in the moving grid that each fixed voxel maps to.
        values: the labels to score; those of the moving image, background left out, when None.

    Returns:
        0 to 1 for each label; NaN where it is empty in the moving image.

    Raises:
        GeometryError: the shapes disagree.
    """
    _require_shape("coverage", "mapped_index", mapped_index[0], fixed_labels.shape)
    found = [v for v in torch.unique(moving_labels).tolist() if v != 0]
    wanted = sorted(set(found if values is None else values))
    # A border of background stands for everything outside the moving image.
    goal = torch.nn.functional.pad(_compact(moving_labels, wanted), (1, 1) * moving_labels.ndim)
    region = _compact(fixed_labels, wanted)
    reached = torch.zeros_like(goal, dtype=torch.bool)
    sources = region.flatten().nonzero().squeeze(1)
    for level, samples in enumerate(COVERAGE_SUBDIVISIONS):
        if level > 0:
            sources = _near_unreached(goal, reached, mapped_index, sources)
        for part in torch.split(sources, SLAB_VOXELS):
            _splat(goal, reached, region, mapped_index, part, samples)
    size = torch.bincount(goal.flatten(), minlength=len(wanted) + 1).tolist()
    hit = torch.bincount(goal[reached], minlength=len(wanted) + 1).tolist()
    return {value: _ratio(hit[k], size[k]) for k, value in enumerate(wanted, start=1)}


def _splat(
    goal: Tensor, reached: Tensor, region: Tensor, mapped: Tensor, part: Tensor, samples: int
) -> None:
    """Mark what the samples of some fixed voxels (flat indices) reach."""
    rank = mapped.shape[0]
    flat = mapped.reshape(rank, -1)
    own = region.flatten()[part]
    steps = [_steps(region, flat, part, own, axis) for axis in range(rank)]
    offsets = [(2 * k + 1 - samples) / (2 * samples) for k in range(samples)]
    positions = [flat[:, part]]
    for axis, (forward, backward) in enumerate(steps):
        used = offsets if region.shape[axis] > 1 else [0.0]
        shifts = [(forward if o > 0 else backward) * o for o in used]
        positions = [position + shift for position in positions for shift in shifts]
    # Along an axis of length 1 nothing is known of a voxel's extent: it reaches its nearest.
    least = [[0.5 if n == 1 else SAMPLE_TOLERANCE] for n in region.shape]
    reach = torch.tensor(least, dtype=flat.dtype, device=flat.device)
    for forward, backward in steps:
        reach = reach + torch.maximum(forward.abs(), backward.abs()) / (2 * samples)
    goal_flat, reached_flat = goal.view(-1), reached.view(-1)
    for position in positions:
        target = _padded_index(goal, position)
        hit = (goal_flat[target] == own) & ((position - position.round()).abs() <= reach).all(0)
        reached_flat[target[hit]] = True


def _steps(
    region: Tensor, flat: Tensor, part: Tensor, own: Tensor, axis: int
) -> tuple[Tensor, Tensor]:
    """How the map changes per voxel ahead and behind, each (rank, n), within the own region."""
    size = region.shape[axis]
    stride = int(np.prod(region.shape[axis + 1 :]))
    index = part.div(stride, rounding_mode="floor").remainder(size)
    region_flat = region.flatten()
    here = flat[:, part]
    ahead = torch.where(index < size - 1, part + stride, part)
    behind = torch.where(index > 0, part - stride, part)
    has_ahead = (ahead != part) & (region_flat[ahead] == own)
    has_behind = (behind != part) & (region_flat[behind] == own)
    forward, backward = flat[:, ahead] - here, here - flat[:, behind]
    # A lone voxel borrows the step to any neighbour along the axis, but no jump with it.
    lone = ~has_ahead & ~has_behind
    forward, backward = (torch.where(lone, s.clamp(-2, 2), s) for s in (forward, backward))
    use_ahead = has_ahead | (lone & (ahead != part))
    use_behind = has_behind | (lone & (behind != part))
    return (torch.where(use_ahead, forward, backward), torch.where(use_behind, backward, forward))


def _near_unreached(goal: Tensor, reached: Tensor, mapped: Tensor, sources: Tensor) -> Tensor:
    """Those of the sources (flat indices) that map next to an unreached voxel.

    Stretched twofold, a fixed voxel reaches sqrt(3) from its centre: two voxels, once rounded.
    """
    near = (goal > 0) & ~reached
    for axis in range(goal.ndim):
        once = near.clone()
        for shift in range(1, min(3, goal.shape[axis])):
            length = goal.shape[axis] - shift
            near.narrow(axis, shift, length).logical_or_(once.narrow(axis, 0, length))
            near.narrow(axis, 0, length).logical_or_(once.narrow(axis, shift, length))
    near, flat = near.view(-1), mapped.reshape(goal.ndim, -1)
    parts = torch.split(sources, SLAB_VOXELS)
    return torch.cat([part[near[_padded_index(goal, flat[:, part])]] for part in parts])


def _padded_index(goal: Tensor, position: Tensor) -> Tensor:
    """Flat index, in an array with a border of one voxel, of positions in the array without it."""
    index = torch.zeros(position.shape[1], dtype=torch.int64, device=position.device)
    for axis, size in enumerate(goal.shape):
        nearest = torch.nan_to_num(position[axis], nan=-1.0).round_().clamp_(-1, size - 2)
        index.mul_(size).add_(nearest.to(torch.int64) + 1)
    return index


# Shared ---------------------------------------------------------------------------------------


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def _require_shape(function: str, argument: str, tensor: Tensor, shape: Sequence[int]) -> None:
    if tuple(tensor.shape) != tuple(shape):
        raise GeometryError(
            f"{function}: {argument}: expected shape {tuple(shape)}, got {tuple(tensor.shape)}"
        )


def _import(module: str, package: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"HD95 needs the package {package}: pip install {package}"
        ) from error
