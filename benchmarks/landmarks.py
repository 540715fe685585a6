"""Automatic landmarks in the lungs of a CT pair, for a landmark error where no expert placed any.

    python benchmarks/landmarks.py CASE [--out landmarks.csv]

CASE is a folder with fixed.nii.gz, moving.nii.gz and their label maps. No registration method has a
part in it, and no expert either: corners of the vessel tree are found in the fixed lung and matched
one by one, by exhaustive search for the block of the moving image that correlates best. A pair is
kept when

- the best correlation is high;
- the match, searched back from the moving image, returns to where it began;
- a smaller block finds the same place;
- it moves as its neighbours do, within a few mm (gross mismatches fall here).

What is left is biased to places that are easy to match, and each landmark carries an error of its
own. Its size is printed: the distance between the answers of the two block sizes (``block``) and
of the two directions (``round trip``). A method's error below that says nothing.

That is done twice, and the findings are pooled: with blocks compared inside the lung alone, which
works up to the wall, and with whole blocks deep in the lung, where nothing need be masked. A corner
found both ways, which is the surest, counts twice. Nothing is random.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage, spatial
from scipy.fft import irfftn, next_fast_len, rfftn

LUNG = 2
WINDOW_HU = (-950, 0)
BLOCK_MM, SMALL_BLOCK_MM = 10.0, 6.5
"""Half-width of the blocks."""
REACH_MM = (22.5, 12.0, 10.0)
"""Half-width of the search along z, y and x; breathing moves the lung along z."""
CANDIDATES = 1500
LEAST_VOXELS = 40
MOST_ODD_MM = 4.0
NEIGHBOURS = 8

Array = NDArray[Any]


@dataclass(frozen=True)
class Lung:
    """One side of the pair.

    Args:
        image: (z, y, x) HU, clipped.
        deep_mm: depth below the lung's surface, vessels filled in.
        spacing_mm: (3), array order.
    """

    image: Array
    deep_mm: Array
    spacing_mm: Array


@dataclass(frozen=True)
class Way:
    """How landmarks are matched and sifted.

    Args:
        wall_mm: least distance of a landmark from the lung's surface.
        block_wall_mm: the same of a voxel that is compared; None compares whole blocks.
        correlation: the least of a match.
        round_trip_mm, block_mm: the most that two directions, two block sizes, may differ.
    """

    wall_mm: float
    block_wall_mm: float | None
    correlation: float
    round_trip_mm: float
    block_mm: float


WAYS = (Way(4.5, 1.5, 0.65, 1.3, 1.1), Way(9.0, None, 0.6, 1.5, 1.3))


def main() -> None:
    """Find landmarks, print how good they are, write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", type=Path)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    found, quality = landmarks_of(asked.case)
    print(", ".join(f"{name} {value:.3g}" for name, value in quality.items()))
    write_landmarks(found, asked.out or asked.case / "landmarks.csv")


def landmarks_of(case: Path) -> tuple[Array, dict[str, float]]:
    """Landmarks of a pair, (n, 6) LPS mm, fixed before moving, and what is known of their error."""
    images = [sitk.ReadImage(str(case / f"{side}.nii.gz")) for side in ("fixed", "moving")]
    fixed, moving = (
        lung_of(image, case / f"{side}_labels.nii.gz")
        for image, side in zip(images, ("fixed", "moving"), strict=True)
    )
    at, to, quality = matched(fixed, moving)
    ends = []
    for image, index in zip(images, (at, to), strict=True):
        physical = image.TransformContinuousIndexToPhysicalPoint
        ends.append([physical(row[::-1].tolist()) for row in index.astype(float)])
    return np.hstack(ends), quality


def write_landmarks(points: Array, path: Path) -> None:
    """A CSV with one pair a row."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([f"{side}_{axis}" for side in ("fixed", "moving") for axis in "xyz"])
        rows.writerows([f"{value:.3f}" for value in point] for point in points)


def lung_of(image: sitk.Image, labels: Path) -> Lung:
    """An image, clipped, with the depth below its lung's surface."""
    spacing = np.array(image.GetSpacing()[::-1])
    mask = sitk.GetArrayFromImage(sitk.ReadImage(str(labels))) == LUNG
    filled = ndimage.binary_closing(np.pad(mask, 8), iterations=5)[8:-8, 8:-8, 8:-8]
    deep = ndimage.distance_transform_edt(filled, sampling=spacing)
    data = np.clip(sitk.GetArrayFromImage(image).astype(np.float32), *WINDOW_HU)
    return Lung(data, deep, spacing)


def matched(fixed: Lung, moving: Lung) -> tuple[Array, Array, dict[str, float]]:
    """Indices of landmarks in both images, (n, 3) each, and their quality."""
    found = np.vstack([found_by(way, fixed, moving) for way in WAYS])
    at, to = found[:, :3], found[:, 3:6]
    quality = {
        "landmarks": float(len(at)),
        "motion mm": float(length(to - at, fixed).mean()),
        "block mm": float(found[:, 6].mean()),
        "round trip mm": float(found[:, 7].mean()),
    }
    return at, to, quality


def found_by(way: Way, fixed: Lung, moving: Lung) -> Array:
    """(n, 8): fixed index, moving index, and what the answers differ by (blocks, round trip)."""
    block, small = half_width(BLOCK_MM, fixed), half_width(SMALL_BLOCK_MM, fixed)
    reach, near_by = half_width(REACH_MM, fixed), np.full(3, 2)
    at = corners(fixed, way.wall_mm, block)
    to, correlation = search(way, fixed, moving, at, at, block, reach)
    near = np.rint(to).astype(np.int64)
    back, _ = search(way, moving, fixed, near, near, block, reach)
    again, _ = search(way, fixed, moving, at, near, small, near_by)
    round_trip = length(back - at + to - near, fixed)
    between = length(again - to, fixed)
    good = correlation > way.correlation
    good &= (round_trip < way.round_trip_mm) & (between < way.block_mm)
    good &= oddness(at, to, good, fixed) < MOST_ODD_MM
    return np.column_stack([at, (to + again) / 2, between, round_trip])[good]


def half_width(mm: float | tuple[float, ...], lung: Lung) -> Array:
    """A half-width in voxels."""
    return np.maximum(1, np.rint(np.array(mm) / lung.spacing_mm)).astype(np.int64)


def length(vox: Array, lung: Lung) -> Array:
    """Lengths in mm of vectors in voxels."""
    result: Array = np.linalg.norm(vox * lung.spacing_mm, axis=1)
    return result


def corners(lung: Lung, wall_mm: float, block: Array) -> Array:
    """Places that can be found in every direction, best first: Foerstner's measure, 1 / tr(T^-1).

    Source:
        Foerstner and Guelch, A fast operator for detection and precise location of distinct
        points, 1987; its use on lung CT after Rohr.
    """
    slopes = [
        ndimage.gaussian_filter1d(np.gradient(lung.image, axis=a) / lung.spacing_mm[a], 1.0, axis=a)
        for a in range(3)
    ]
    tensor = np.empty((*lung.image.shape, 3, 3), np.float32)
    for i in range(3):
        for j in range(i, 3):
            product = ndimage.gaussian_filter(slopes[i] * slopes[j], 1.5)
            tensor[..., i, j] = tensor[..., j, i] = product
    inside = lung.deep_mm > wall_mm
    strength = np.zeros(lung.image.shape, np.float32)
    inverse = np.linalg.inv(tensor[inside] + 1e-3 * np.eye(3, dtype=np.float32))
    strength[inside] = 1 / np.trace(inverse, axis1=-2, axis2=-1)
    peaks = np.argwhere((ndimage.maximum_filter(strength, 3) == strength) & inside)
    room = ((peaks > block) & (peaks < np.array(lung.image.shape) - block - 1)).all(1)
    peaks = peaks[room]
    order = np.argsort(-strength[tuple(peaks.T)], kind="stable")
    return peaks[order][:CANDIDATES]


def search(
    way: Way, one: Lung, other: Lung, at: Array, around: Array, block: Array, reach: Array
) -> tuple[Array, Array]:
    """Where the block at each place of one image correlates best with the other, to a subvoxel.

    Args:
        way: what of a block is compared.
        one, other: the images.
        at: (n, 3) places in ``one``.
        around: (n, 3) middle of the search in ``other``.
        block, reach: (3) half-widths in voxels.

    Returns:
        (n, 3) places in ``other`` and (n) correlations, -1 where nothing could be compared.
    """
    pad = block + reach
    pads = [(int(p), int(p)) for p in pad]
    least = -1 if way.block_wall_mm is None else way.block_wall_mm
    image, mask = (np.pad(part, pads) for part in (one.image, one.deep_mm > least))
    goal = np.pad(other.image, pads)
    known = np.pad(np.ones(other.image.shape, bool), pads)
    places, best = np.empty(at.shape), np.empty(len(at))
    for row, (here, there) in enumerate(zip(at, around, strict=True)):
        patch, inside = (cut(part, here + pad, block) for part in (image, mask))
        region, valid = (cut(part, there + pad, pad) for part in (goal, known))
        scores = correlations(patch, inside, region)
        scores[~whole(valid, block)] = -1
        peak = np.unravel_index(int(scores.argmax()), scores.shape)
        best[row] = scores[peak]
        places[row] = there - reach + np.array(peak) + subvoxel(scores, peak)
    return places, best


def cut(volume: Array, middle: Array, half: Array) -> Array:
    """The box of half-width ``half`` around a voxel."""
    box = (slice(int(c - h), int(c + h + 1)) for c, h in zip(middle, half, strict=True))
    return volume[tuple(box)]


def whole(valid: Array, block: Array) -> Array:
    """Where a block lies wholly inside the image."""
    shrunk = ndimage.minimum_filter(valid, size=tuple(2 * block + 1), mode="constant")
    return shrunk[tuple(slice(int(b), -int(b)) for b in block)]


def correlations(patch: Array, mask: Array, region: Array) -> Array:
    """Normalised correlation of the masked patch with every block of the region."""
    count = int(mask.sum())
    shape = [r - p + 1 for r, p in zip(region.shape, patch.shape, strict=True)]
    if count < LEAST_VOXELS:
        return np.full(shape, -1.0)
    inside = mask.astype(np.float64)
    mine = (patch - patch[mask].mean()) * inside
    theirs = region.astype(np.float64) - float(region.mean())
    both, total, square = slid([(mine, theirs), (inside, theirs), (inside, theirs**2)], shape)
    spread = np.maximum(square - total**2 / count, 0)
    scores: Array = both / np.sqrt(spread * float((mine**2).sum()) + 1e-6)
    return scores


def slid(pairs: list[tuple[Array, Array]], shape: list[int]) -> list[Array]:
    """Sums of products of a kernel with every block of a region."""
    size = [next_fast_len(n, real=True) for n in pairs[0][1].shape]
    window = tuple(slice(n) for n in shape)
    return [
        irfftn(rfftn(region, size) * np.conj(rfftn(kernel, size)), size)[window]
        for kernel, region in pairs
    ]


def subvoxel(scores: Array, peak: tuple[Any, ...]) -> Array:
    """The vertex of a parabola through the peak and its neighbours, axis by axis."""
    shift = np.zeros(3)
    for axis in range(3):
        if not 0 < peak[axis] < scores.shape[axis] - 1:
            continue
        low, high = (
            scores[tuple(p + (step if k == axis else 0) for k, p in enumerate(peak))]
            for step in (-1, 1)
        )
        bend = low - 2 * scores[peak] + high
        shift[axis] = 0.5 * (low - high) / bend if bend < 0 and min(low, high) > -1 else 0
    return shift


def oddness(at: Array, to: Array, good: Array, lung: Lung) -> Array:
    """How far each motion is from the median motion of its good neighbours, mm."""
    if good.sum() < 2:
        return np.full(len(at), np.inf)
    motion = (to - at) * lung.spacing_mm
    tree = spatial.cKDTree(at[good] * lung.spacing_mm)
    neighbours = tree.query(at * lung.spacing_mm, k=min(NEIGHBOURS, int(good.sum())))[1]
    result: Array = np.linalg.norm(motion - np.median(motion[good][neighbours], axis=1), axis=1)
    return result


if __name__ == "__main__":
    main()
