"""Pairs whose true error is known at some points, for ``expected_error.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _cases import DATA
from _verdict_trials import grey, small
from landmarks import landmarks_of
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, map_coordinates

import iterreg
from iterreg.displacement import Transform
from iterreg.geometry import Points, apply_affine
from iterreg.metrics import field_error_mm, tre_mm
from iterreg.optimize.side import Side

Array = NDArray[Any]
Truth = Callable[[Transform], tuple[Array, Array]]
"""From a result to (n, rank) fixed points, LPS mm, and their errors, mm."""

MOST_POINTS = 2000
THICK = 3.0
"""Contours are drawn in slices: across voxels so much longer no boundary is measured."""

HIPPOCAMPUS, HEART, BRAIN, SLICES, CHEST = "hippocampus", "heart", "brain", "slices", "chest"


@dataclass(frozen=True)
class Trial:
    """A pair to register, and how its error is found.

    Args:
        source: the images' data set.
        kind: of truth. name: of the pair.
        calibrates: whether coefficients may be chosen on it.
        preset, fixed, moving, labels: for the run.
        truth: gives the error.
    """

    source: str
    kind: str
    name: str
    calibrates: bool
    preset: str
    fixed: iterreg.Image
    moving: iterreg.Image
    labels: tuple[iterreg.LabelMap, iterreg.LabelMap] | None
    truth: Truth

    @property
    def title(self) -> str:
        """A name that no other trial has."""
        return f"{self.source} {self.kind} {self.name}"


def trials(scratch: Path) -> Iterator[Trial]:
    """Every trial; the chest calibrates nothing.

    Args:
        scratch: folder in which landmarks are kept from one call to the next.
    """
    yield from hippocampi()
    yield from slices()
    yield from hearts()
    yield from brains()
    yield from chests(scratch)


# Truths ----------------------------------------------------------------------------------------


def by_landmarks(fixed: Points, moving: Points) -> Truth:
    """The landmark error."""
    return lambda transform: (fixed.lps, tre_mm(fixed, moving, transform.map_points))


def by_field(known: Transform, where: torch.Tensor) -> Truth:
    """The error of the field at some of the voxels of a mask."""
    places = some(np.argwhere(where.numpy()))

    def truth(transform: Transform) -> tuple[Array, Array]:
        errors = field_error_mm(transform, known).numpy()
        points = apply_affine(known.grid.index_to_lps, places.astype(float))
        return points, errors[tuple(places.T)]

    return truth


def by_boundaries(fixed: iterreg.LabelMap, moving: iterreg.LabelMap) -> Truth:
    """How far the fixed boundary of each label lands from the moving one."""
    values = [v for v in fixed.values if v in moving.values]
    faces = {v: some(faces_of(fixed, v), MOST_POINTS // len(values)) for v in values}

    def truth(transform: Transform) -> tuple[Array, Array]:
        points, errors = [], []
        for value, index in faces.items():
            own = apply_affine(fixed.grid.index_to_lps, index)
            landed = transform.map_points(Points(own)).lps
            there = apply_affine(moving.grid.lps_to_index, landed)
            away = signed_distance_mm(moving, value)
            errors.append(np.abs(map_coordinates(away, there.T, order=1, mode="nearest")))
            points.append(own)
        return np.vstack(points), np.concatenate(errors)

    return truth


def faces_of(labels: iterreg.LabelMap, value: int) -> Array:
    """(n, rank): indices half-way between a voxel of a label and a neighbour that is not."""
    mask, spacing = labels.data.numpy() == value, labels.grid.spacing_zyx_mm
    found = []
    for axis, s in enumerate(spacing):
        if s < THICK * min(spacing):
            at = np.argwhere(np.diff(mask.astype(np.int8), axis=axis)).astype(float)
            at[:, axis] += 0.5
            found.append(at)
    return np.vstack(found)


def signed_distance_mm(labels: iterreg.LabelMap, value: int) -> Array:
    """Distance to a label's boundary, negative inside, 0 half-way between two voxels."""
    mask, spacing = labels.data.numpy() == value, labels.grid.spacing_zyx_mm
    half = min(spacing) / 2
    outside, inside = (distance_transform_edt(m, spacing) for m in (~mask, mask))
    result: Array = np.where(mask, half - inside, outside - half)
    return result


def some(rows: Array, most: int = MOST_POINTS) -> Array:
    """At most so many rows, drawn with a fixed seed."""
    return rows[np.random.default_rng(0).permutation(len(rows))[:most]]


# Sources ---------------------------------------------------------------------------------------


def boundaries(
    source: str,
    name: str,
    calibrates: bool,
    preset: str,
    images: tuple[iterreg.Image, iterreg.Image],
    maps: tuple[iterreg.LabelMap, iterreg.LabelMap],
) -> Trial:
    """A pair whose error is that of the boundaries of labels that the run does not see."""
    measured = by_boundaries(*maps)
    return Trial(source, "boundaries", name, calibrates, preset, *images, None, measured)


def phantoms(
    source: str,
    calibrates: bool,
    preset: str,
    image: iterreg.Image,
    labels: iterreg.LabelMap | None = None,
    **made: Any,
) -> Iterator[Trial]:
    """A phantom, with a larger and a smaller motion, the images alone; with labels too if any."""
    small = np.ptp(image.grid.corners_lps_mm, axis=0).max()
    for seed, share in ((1, 0.04), (2, 0.08)):
        amplitude_mm = min(20.0, share * small)
        phantom = iterreg.make_phantom(
            image, labels, amplitude_mm=amplitude_mm, noise=0.03, seed=seed, **made
        )
        where = structured(phantom.fixed)
        for guided in {False, phantom.labels is not None and bool(made)}:
            yield Trial(
                source,
                "phantom",
                f"{image.name.rpartition('/')[2]} {seed}{' labels' * guided}",
                calibrates,
                preset,
                phantom.fixed,
                phantom.moving,
                phantom.labels if guided else None,
                by_field(phantom.transform, where),
            )


def structured(image: iterreg.Image) -> torch.Tensor:
    """(*shape) bool: what is not the background."""
    data = image.data.mean(0)
    low, high = (float(np.percentile(data.numpy(), p)) for p in (1, 99))
    return data > low + 0.1 * (high - low)


def hippocampi() -> Iterator[Trial]:
    """Pairs of different people, one half of whom calibrate."""
    files = sorted((DATA / "hippocampus_msd").glob("*_img.nii.gz"))
    images = [iterreg.read_image(f) for f in files]
    maps = [iterreg.read_label_map(str(f).replace("_img", "_seg")) for f in files]
    for first in range(0, len(files), 6):
        for i, j in ((0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0)):
            i, j = first + i, first + j
            way = (images[i], images[j]), (maps[i], maps[j])
            yield boundaries(HIPPOCAMPUS, f"{i}-{j}", first == 0, "hippocampus", *way)
        for i in (first, first + 3):
            yield from phantoms(HIPPOCAMPUS, first == 0, "hippocampus", images[i])


def slices() -> Iterator[Trial]:
    """Phantoms of pictures, half of which calibrate; the lung's slices are of two patients."""
    kept = {"prostate_mr": ("image2", "image4"), "abdomen_ct": ("image2",)}
    kept["lung_ct"] = ("ct_scan_a2_s125", "ct_scan_a2_s96")
    files = sorted((DATA / "samreg2d" / "prostate_mr").glob("image*.png"))
    files += sorted((DATA / "samreg2d" / "abdomen_ct").glob("image*.png"))
    files += sorted((DATA / "samreg2d" / "lung_ct").glob("ct_scan*.png"))
    for file in files:
        name = f"{file.parent.name} {file.stem}"
        image = replace(small(grey(iterreg.read_image(file))), name=name)
        calibrates = file.stem not in kept[file.parent.name]
        yield from phantoms(SLICES, calibrates, "general", image)


def hearts() -> Iterator[Trial]:
    """Two phases of two patients, one of whom calibrates."""
    for patient, other, calibrates in (("067", "10", True), ("068", "12", False)):
        stems = [DATA / "acdc" / f"patient{patient}_frame{frame}" for frame in ("01", other)]
        images = [iterreg.read_image(f"{stem}.nii.gz") for stem in stems]
        maps = [iterreg.read_label_map(f"{stem}_gt.nii.gz") for stem in stems]
        for i, j in ((0, 1), (1, 0)):
            way = (images[i], images[j]), (maps[i], maps[j])
            yield boundaries(HEART, f"{patient} {i}-{j}", calibrates, "cardiac", *way)
        yield from phantoms(HEART, calibrates, "cardiac", images[0])


def brains() -> Iterator[Trial]:
    """Two people's brains at 2 mm; they calibrate."""
    images, maps = [], []
    for person in "AB":
        stem = DATA / "brain_vxm_pair" / f"subj{person}"
        image = iterreg.read_image(f"{stem}_t1.nii.gz")
        labels = iterreg.read_label_map(f"{stem}_aseg.nii.gz")
        whole = Side(image.data, labels.data, torch.ones_like(labels.data) > 0, image.grid).at(2.0)
        images.append(replace(image, data=whole.image, grid=whole.grid))
        maps.append(replace(labels, data=whole.labels, grid=whole.grid))
    for i, j in ((0, 1), (1, 0)):
        way = (images[i], images[j]), (maps[i], maps[j])
        yield boundaries(BRAIN, f"{i}-{j}", True, "brain", *way)
    yield from phantoms(BRAIN, True, "brain", images[0])


def chests(scratch: Path) -> Iterator[Trial]:
    """One patient breathing, and phantoms whose lungs slide; with and without label maps."""
    ends = landmarks(scratch)
    for folder in ("thorax4dct_mini", "thorax4dct"):
        images = [iterreg.read_image(DATA / folder / f"{s}.nii.gz") for s in ("fixed", "moving")]
        maps = [
            iterreg.read_label_map(
                DATA / folder / f"{side}_labels.nii.gz", {1: "body", 2: "lung", 3: "bone"}
            )
            for side in ("fixed", "moving")
        ]
        ways = ((0, 1), (1, 0)) if folder.endswith("mini") else ((0, 1),)
        for i, j in ways:
            for guided in (False, True):
                yield Trial(
                    CHEST,
                    "landmarks",
                    f"{folder} {i}-{j}{' labels' * guided}",
                    False,
                    "thorax",
                    images[i],
                    images[j],
                    (maps[i], maps[j]) if guided else None,
                    by_landmarks(ends[i], ends[j]),
                )
        if folder.endswith("mini"):
            yield from phantoms(CHEST, False, "thorax", images[0], maps[0], slide=["lung"])


def landmarks(scratch: Path) -> tuple[Points, Points]:
    """Automatic landmarks of the 4D-CT pair."""
    file = scratch / "landmarks.npy"
    if not file.is_file():
        np.save(file, landmarks_of(DATA / "thorax4dct")[0])
    both = np.load(file)
    return Points(both[:, :3]), Points(both[:, 3:])
