"""One judge for every method: an ITK displacement field and label maps in, figures out, as JSON.

    python benchmarks/_evaluator.py --case CASE --displacement FIELD [--out FILE]

It belongs to none of the methods: numpy, scipy, SimpleITK and surface-distance, and nothing of
iterreg. CASE is a folder with fixed.nii.gz and moving.nii.gz, and where there are any
{fixed,moving}_labels.nii.gz and landmarks.csv (fixed_x, ..., moving_z; LPS mm). FIELD is a vector
image on the fixed grid, LPS mm: the whole way of a fixed point to its moving partner. Without it
the images are judged as they lie.

Arrays are (z, y, x), index components too. A label counts where it has at least 100 voxels in both
images. See :func:`judge` for what each figure is.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import surface_distance
from numpy.typing import NDArray
from scipy import ndimage

LEAST_VOXELS = 100
LOG_FLOOR = 1e-9
SLAB_VOXELS = 1 << 19

Array = NDArray[Any]
Offsets = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Lattice:
    """Where an image's voxels lie."""

    shape: tuple[int, ...]
    spacing_mm: Array
    origin: Array
    to_mm: Array
    """(3, 3): from a step of one voxel along each array axis to LPS mm."""

    @classmethod
    def of(cls, image: sitk.Image) -> Lattice:
        """The lattice of an image, in array order."""
        spacing = np.array(image.GetSpacing())
        direction = np.array(image.GetDirection()).reshape(3, 3)
        return cls(
            image.GetSize()[::-1],
            spacing[::-1],
            np.array(image.GetOrigin()),
            (direction * spacing)[:, ::-1],
        )

    def index(self, points: Array) -> Array:
        """(n, 3) LPS mm to array indices."""
        found: Array = np.linalg.solve(self.to_mm, (points - self.origin).T).T
        return found


def main() -> None:
    """Judge one field."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", type=Path, required=True)
    parser.add_argument("--displacement", type=Path)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    figures = judge(asked.case, asked.displacement)
    text = json.dumps(figures, indent=1)
    if asked.out:
        asked.out.write_text(text)
    else:
        print(text)


def judge(case: Path, displacement: Path | None) -> dict[str, Any]:
    """Every figure that the case allows.

    Returns:
        dice, hd95_mm: means over labels, and by label; labels warped by the nearest voxel, what
            lies outside the moving image is background. HD95 by DeepMind's surface elements.
        tre_mm, tre_p95_mm, tre_before_mm: of the landmarks.
        sdlogj: std of log det J by central differences, det J clipped at 1e-9; ``_interior`` of
            interior voxels (face neighbours of the same label); ``_regions`` of interior voxels of
            a label other than 0.
        sdlogj_l2r: Learn2Reg's: std of log(det J + 3), two voxels cropped at each side.
        interior_folds, interface_folds: voxels with a determinant <= 0 in one of their ten
            tetrahedra (Liu et al., IJCV 2024); interior if all vertices of these have one label;
            ``region_folds``: those of the interior of a label other than 0.
        ndv_vox, ndv_percent: non-diffeomorphic volume, in voxels and % of the image;
            ``interior_ndv_vox``, ``interior_ndv_percent``: of the interior.
        coverage: share of moving region i that the fixed region i reaches; mean, least, by label.
        volume_change: mean of the mapped region's volume over its fixed volume, by label;
            ``_worst`` the factor furthest from 1.
        outside: share of fixed labelled voxels that map outside the moving image.
    """
    fixed_image = sitk.ReadImage(str(case / "fixed.nii.gz"))
    fixed = Lattice.of(fixed_image)
    moving = Lattice.of(sitk.ReadImage(str(case / "moving.nii.gz")))
    if displacement is None:
        field_mm = np.zeros((3, *fixed.shape), np.float32)
    else:
        field_mm = read_field(displacement, fixed_image)
    figures = landmark_errors(case / "landmarks.csv", fixed, field_mm)
    total = total_in_voxels(field_mm, fixed)
    labels_path = case / "fixed_labels.nii.gz"
    if labels_path.is_file():
        f = sitk.GetArrayFromImage(sitk.ReadImage(str(labels_path))).astype(np.int32)
        m = sitk.GetArrayFromImage(sitk.ReadImage(str(case / "moving_labels.nii.gz")))
        m = m.astype(np.int32)
        mapped = moving_index(field_mm, fixed, moving)
        values = common_labels(f, m)
        figures |= overlap(f, m, mapped, values, fixed.spacing_mm)
        figures |= reached(f, m, mapped, values)
        figures |= volume_changes(total, f, values)
    else:
        f = np.zeros(fixed.shape, np.int32)
    figures |= jacobian(total, f)
    figures["sdlogj_l2r"] = sdlogj_l2r(field_mm, fixed, moving)
    return figures


def read_field(path: Path, fixed: sitk.Image) -> Array:
    """(3, *shape) LPS mm, components x, y, z; on the fixed grid."""
    field = sitk.ReadImage(str(path))
    if field.GetSize() != fixed.GetSize() or field.GetNumberOfComponentsPerPixel() != 3:
        raise SystemExit(f"{path}: expected 3 components on {fixed.GetSize()}")
    if not np.allclose(field.GetOrigin(), fixed.GetOrigin(), atol=0.05):
        raise SystemExit(f"{path}: expected the origin {fixed.GetOrigin()}")
    array = np.moveaxis(sitk.GetArrayFromImage(field), -1, 0).astype(np.float32)
    if not np.isfinite(array).all():
        raise SystemExit(f"{path}: expected finite displacements")
    return np.ascontiguousarray(array)


def total_in_voxels(field_mm: Array, fixed: Lattice) -> Array:
    """(3, *shape) displacement in voxels of the fixed grid, components in array order."""
    back = np.linalg.inv(fixed.to_mm)
    return np.tensordot(back, field_mm, axes=1).astype(np.float32)


def moving_index(field_mm: Array, fixed: Lattice, moving: Lattice) -> Array:
    """(3, *shape) index in the moving image that each fixed voxel maps to."""
    back = np.linalg.inv(moving.to_mm)
    shift = back @ (fixed.origin - moving.origin)
    step = back @ fixed.to_mm
    result = np.empty(field_mm.shape, np.float32)
    axes = np.ogrid[tuple(slice(n) for n in fixed.shape)]
    for row in range(3):
        here = sum(step[row, k] * axes[k] for k in range(3)) + shift[row]
        result[row] = here + np.tensordot(back[row], field_mm, axes=1)
    return result


def common_labels(fixed: Array, moving: Array) -> list[int]:
    """Labels, 0 left out, of at least LEAST_VOXELS voxels in both."""
    counts = [dict(zip(*np.unique(m, return_counts=True), strict=True)) for m in (fixed, moving)]
    return [
        int(v)
        for v in counts[0]
        if v > 0 and min(counts[0][v], counts[1].get(v, 0)) >= LEAST_VOXELS
    ]


def nearest(labels: Array, mapped: Array) -> tuple[Array, Array]:
    """Label at the nearest voxel, 0 outside; and where it lies inside the image."""
    limits = np.array(labels.shape).reshape(-1, *[1] * (mapped.ndim - 1))
    inside = ((mapped >= -0.5) & (mapped < limits - 0.5)).all(0)
    place = np.floor(mapped + np.float32(0.5)).astype(np.int32)
    place = np.clip(place, 0, limits - 1)
    return np.where(inside, labels[tuple(place)], 0), inside


# Overlap ----------------------------------------------------------------------------------------


def overlap(
    fixed: Array, moving: Array, mapped: Array, values: list[int], spacing_mm: Array
) -> dict[str, Any]:
    """Dice and HD95."""
    warped, inside = nearest(moving, mapped)
    dice, hd95 = {}, {}
    boxes = [ndimage.find_objects(m, max_label=max(values, default=0)) for m in (fixed, warped)]
    for value in values:
        first, second = boxes[0][value - 1], boxes[1][value - 1]
        if second is None:
            dice[value], hd95[value] = 0.0, None
            continue
        box = tuple(
            slice(min(a.start, b.start), max(a.stop, b.stop))
            for a, b in zip(first, second, strict=True)
        )
        a, b = fixed[box] == value, warped[box] == value
        dice[value] = 2 * int((a & b).sum()) / int(a.sum() + b.sum())
        surfaces = surface_distance.compute_surface_distances(a, b, spacing_mm.tolist())
        hd95[value] = float(surface_distance.compute_robust_hausdorff(surfaces, 95))
    labelled = fixed > 0
    return {
        "dice": mean(dice.values()),
        "hd95_mm": mean(v for v in hd95.values() if v is not None),
        "dice_by_label": dice,
        "hd95_by_label_mm": hd95,
        "outside": 1 - float(inside[labelled].mean()) if labelled.any() else 0.0,
    }


def reached(fixed: Array, moving: Array, mapped: Array, values: list[int]) -> dict[str, Any]:
    """Coverage: eight samples in each fixed voxel, carried by the differences within its region.

    A moving voxel counts where a sample falls into it. A map that stretches more than twofold
    leaves holes and scores too low.
    """
    hit = np.zeros(moving.shape, bool)
    flat = mapped.reshape(3, -1)
    everything = np.flatnonzero(np.isin(fixed, values))
    for part in np.array_split(everything, max(1, len(everything) // SLAB_VOXELS)):
        own, here = fixed.reshape(-1)[part], flat[:, part]
        quarters = [quarter_steps(fixed, flat, part, own, axis) for axis in range(3)]
        for sides in itertools.product((0, 1), repeat=3):
            place = here + sum(quarters[k][side] for k, side in enumerate(sides))
            found, _ = nearest(moving, place)
            good = found == own
            index = tuple(np.floor(place[:, good] + 0.5).astype(np.int64))
            hit[index] = True
    share = {v: float(hit[moving == v].mean()) for v in values}
    return {
        "coverage": mean(share.values()),
        "coverage_least": min(share.values(), default=None),
        "coverage_by_label": share,
    }


def quarter_steps(
    fixed: Array, flat: Array, part: Array, own: Array, axis: int
) -> tuple[Array, Array]:
    """A quarter of the way to the neighbours behind and ahead, (3, n), within the region."""
    stride = int(np.prod(fixed.shape[axis + 1 :]))
    place = part // stride % fixed.shape[axis]
    labels = fixed.reshape(-1)
    ahead = np.where(place < fixed.shape[axis] - 1, part + stride, part)
    behind = np.where(place > 0, part - stride, part)
    forward, backward = flat[:, ahead] - flat[:, part], flat[:, part] - flat[:, behind]
    has_ahead = (ahead != part) & (labels[ahead] == own)
    has_behind = (behind != part) & (labels[behind] == own)
    none = ~has_ahead & ~has_behind
    ahead_step = np.where(has_ahead, forward, np.where(none, 0, backward))
    behind_step = np.where(has_behind, backward, np.where(none, 0, forward))
    return -0.25 * behind_step, 0.25 * ahead_step


# Jacobian ---------------------------------------------------------------------------------------


def slabs(total: Array) -> Iterator[tuple[slice, list[Array], list[Array]]]:
    """Slabs along the first axis, with forward and backward differences of x + d(x).

    Where a difference would leave the grid, the opposite one stands in.
    """
    depth = total.shape[1]
    step = max(1, SLAB_VOXELS // int(np.prod(total.shape[2:])))
    for start in range(0, depth, step):
        stop = min(depth, start + step)
        low, high = max(0, start - 1), min(depth, stop + 1)
        block = total[:, low:high].astype(np.float64)
        inner = slice(start - low, start - low + stop - start)
        forward, backward = [], []
        for axis in range(3):
            link = np.diff(block, axis=axis + 1)
            link[axis] += 1
            first, last = np.take(link, [0], axis + 1), np.take(link, [-1], axis + 1)
            forward.append(np.concatenate([link, last], axis + 1)[:, inner])
            backward.append(np.concatenate([first, link], axis + 1)[:, inner])
        yield slice(start, stop), forward, backward


def determinant(columns: list[Array]) -> Array:
    """det of three columns (3, *shape)."""
    a, b, c = columns
    result: Array = (
        a[0] * (b[1] * c[2] - b[2] * c[1])
        - a[1] * (b[0] * c[2] - b[2] * c[0])
        + a[2] * (b[0] * c[1] - b[1] * c[0])
    )
    return result


def simplex_slabs(total: Array) -> Iterator[tuple[slice, list[Array]]]:
    """Slabs along the first axis, with determinants of the tetrahedra of x + d(x), ten a voxel.

    Eight corners, then two inner tetrahedra. At the border those beyond the image are 1, and the
    others are scaled so that they stand for the whole voxel.
    """
    depth = total.shape[1]
    step = max(1, SLAB_VOXELS // int(np.prod(total.shape[2:])))
    inner = [((0, s, s), (s, 0, s), (s, s, 0)) for s in (1, -1)]
    corners = [
        ((a, 0, 0), (0, b, 0), (0, 0, c)) for a, b, c in itertools.product((1, -1), repeat=3)
    ]
    for start in range(0, depth, step):
        stop = min(depth, start + step)
        rows = np.clip(np.arange(start - 1, stop + 1), 0, depth - 1)
        block = total[:, rows].astype(np.float64)
        block = np.pad(block, [(0, 0), (0, 0), (1, 1), (1, 1)], mode="edge")
        middle = block[:, 1:-1, 1:-1, 1:-1]
        edges = {}
        for offset in {o for simplex in corners + inner for o in simplex}:
            there = tuple(
                slice(1 + o, 1 + o + n) for o, n in zip(offset, middle.shape[1:], strict=True)
            )
            rest = np.array(offset, float).reshape(3, 1, 1, 1)
            edges[offset] = (block[(slice(None), *there)] - middle + rest) * np.sign(sum(offset))
        found = [determinant([edges[o] for o in s]) for s in corners + inner]
        own = [1.0] * len(corners) + [2.0] * len(inner)
        within = [simplex_within(total.shape[1:], start, stop, s) for s in corners + inner]
        scale = sum(own) / sum(w * o for w, o in zip(within, own, strict=True))
        yield (
            slice(start, stop),
            [np.where(w, d * scale, 1) for w, d in zip(within, found, strict=True)],
        )


def simplex_within(shape: tuple[int, ...], start: int, stop: int, ends: Offsets) -> Array:
    """Where a simplex lies in the grid, in some rows; an axis of one voxel goes on."""
    found = np.ones((stop - start, *shape[1:]), bool)
    for axis, size in enumerate(shape):
        place = np.arange(start, stop) if axis == 0 else np.arange(size)
        reach = sum(offset[axis] for offset in ends)
        there = (place + np.sign(reach) >= 0) & (place + np.sign(reach) < size) | (size == 1)
        found &= there.reshape([-1 if k == axis else 1 for k in range(3)])
    return found


def jacobian(total: Array, labels: Array) -> dict[str, Any]:
    """Folds, non-diffeomorphic volume, and the spread of log det J."""
    interior, whole = interior_voxels(labels), whole_simplices(labels)
    folds = np.zeros(labels.shape, bool)
    volume = np.zeros(labels.shape)
    logs = np.empty(labels.shape)
    for where, determinants in simplex_slabs(total):
        for det in determinants:
            folds[where] |= ~(det > 0)
            # A sixth of a determinant is a volume, and a cell is cut in two ways.
            volume[where] += np.maximum(-det, 0) / 12
    for where, forward, backward in slabs(total):
        middle = [(a + b) / 2 for a, b in zip(forward, backward, strict=True)]
        logs[where] = np.log(np.maximum(determinant(middle), LOG_FLOOR))
    inside = interior & (labels > 0)
    folding_inside = whole & (labels > 0)
    return {
        "interior_folds": int((folds & whole).sum()),
        "interface_folds": int((folds & ~whole).sum()),
        "region_folds": int((folds & folding_inside).sum()),
        "interior_fold_share": mean(folds[whole]),
        "interface_fold_share": mean(folds[~whole]),
        "region_fold_share": mean(folds[folding_inside]),
        "interior_share": float(whole.mean()),
        "ndv_vox": float(volume.sum()),
        "ndv_percent": 100 * float(volume.mean()),
        "interior_ndv_vox": float(volume[whole].sum()),
        "interior_ndv_percent": 100 * float(volume[whole].mean()) if whole.any() else None,
        "sdlogj": float(logs.std()),
        "sdlogj_interior": float(logs[interior].std()),
        "sdlogj_regions": float(logs[inside].std()) if inside.any() else None,
    }


def whole_simplices(labels: Array) -> Array:
    """Interior voxels whose inner tetrahedra, too, have one label at their vertices."""
    wide = np.pad(labels, 1, mode="edge")
    found = interior_voxels(labels)
    for sign, still in itertools.product((1, -1), range(3)):
        offset = [0 if axis == still else sign for axis in range(3)]
        there = tuple(slice(1 + o, 1 + o + n) for o, n in zip(offset, labels.shape, strict=True))
        found &= wide[there] == labels
    return found


def interior_voxels(labels: Array) -> Array:
    """Voxels whose face neighbours within the grid all carry their label."""
    interior = np.ones(labels.shape, bool)
    for axis in range(3):
        same = np.diff(labels, axis=axis) == 0
        whole = np.ones_like(np.take(same, [0], axis))
        interior &= np.concatenate([same, whole], axis) & np.concatenate([whole, same], axis)
    return interior


def volume_changes(total: Array, labels: Array, values: list[int]) -> dict[str, Any]:
    """Mean det J by label, its differences taken within the region where there is a neighbour."""
    det = np.empty(labels.shape)
    shares = []
    for axis in range(3):
        same = np.diff(labels, axis=axis) == 0
        none = np.zeros_like(np.take(same, [0], axis))
        ahead, behind = np.concatenate([same, none], axis), np.concatenate([none, same], axis)
        shares.append(np.where(ahead == behind, np.float32(0.5), ahead))
    for where, forward, backward in slabs(total):
        columns = []
        for axis in range(3):
            weight = shares[axis][where]
            columns.append(weight * forward[axis] + (1 - weight) * backward[axis])
        det[where] = determinant(columns)
    change = {v: float(det[labels == v].mean()) for v in values}
    worst = max(change.values(), key=lambda c: abs(np.log(max(c, LOG_FLOOR))), default=None)
    return {"volume_change_worst": worst, "volume_change_by_label": change}


def sdlogj_l2r(field_mm: Array, fixed: Lattice, moving: Lattice) -> float | None:
    """Learn2Reg's figure, of the moving index as a function of the fixed index."""
    if min(fixed.shape) < 5:
        return None
    own = np.indices(fixed.shape, dtype=np.float32)
    shift = moving_index(field_mm, fixed, moving) - own
    crop = (slice(2, -2),) * 3
    values = []
    for _, forward, backward in slabs(shift):
        middle = [(a + b) / 2 for a, b in zip(forward, backward, strict=True)]
        values.append(determinant(middle))
    det = np.concatenate(values)[crop]
    return float(np.log(np.clip(det + 3, LOG_FLOOR, 1 / LOG_FLOOR)).std())


# Landmarks --------------------------------------------------------------------------------------


def landmark_errors(path: Path, fixed: Lattice, field_mm: Array) -> dict[str, Any]:
    """Distances of mapped fixed landmarks from their moving partners."""
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    ends = [
        np.array([[float(row[f"{side}_{axis}"]) for axis in "xyz"] for row in rows])
        for side in ("fixed", "moving")
    ]
    index = fixed.index(ends[0]).T
    there = [ndimage.map_coordinates(c, index, order=1, mode="nearest") for c in field_mm]
    error = np.linalg.norm(ends[0] + np.stack(there, 1) - ends[1], axis=1)
    return {
        "landmarks": len(rows),
        "tre_mm": float(error.mean()),
        "tre_median_mm": float(np.median(error)),
        "tre_p95_mm": float(np.percentile(error, 95)),
        "tre_before_mm": float(np.linalg.norm(ends[0] - ends[1], axis=1).mean()),
    }


def mean(values: Any) -> float | None:
    """The mean, or None of nothing."""
    numbers = list(values) if not isinstance(values, np.ndarray) else values
    return float(np.mean(numbers)) if len(numbers) else None


if __name__ == "__main__":
    main()
