"""Cut the planes that a picture shows from the pair, its transforms and its labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from iterreg.displacement import Transform
from iterreg.figures.canonical_pair import Background, CanonicalPair, find_background
from iterreg.geometry import apply_affine, fixed_to_moving_index
from iterreg.neighbourhood import bounding_box
from iterreg.sampling import sample, sample_nearest

Picture = NDArray[np.float32]
Bools = NDArray[np.bool_]

MOTION_SAMPLES = 64
"""The planes are chosen on a grid thinned to about this many nodes per axis."""

MARGIN_MM = 8.0
"""Around the body on a plane of a volume. Pictures without anatomy are kept whole."""


@dataclass(frozen=True)
class Plane:
    """One plane of the fixed grid as it is shown: rows downwards, columns rightwards.

    Args:
        title: its name in plain words.
        letters: what lies at the left, right, top and bottom edge; empty without anatomy.
        spacing_mm: of rows and columns.
        fixed, before, after: intensities.
        seen_before, seen_after: pixels of the fixed field of view that land in the moving one.
        landed_mm: (2, rows, columns), where each pixel lands, along rows and columns.
        labels: the fixed regions; 0 is background.
        body: pixels that are not the images' background.
    """

    title: str
    letters: str
    spacing_mm: tuple[float, float]
    fixed: Picture
    before: Picture
    after: Picture
    seen_before: Bools
    seen_after: Bools
    landed_mm: NDArray[np.float64]
    labels: NDArray[np.int32]
    body: Bools

    @property
    def size_mm(self) -> tuple[float, float]:
        """Height and width."""
        rows, columns = self.fixed.shape
        return rows * self.spacing_mm[0], columns * self.spacing_mm[1]

    def cropped(self) -> Plane:
        """The plane without most of its empty surroundings; a picture is kept whole."""
        whole = max(self.body.shape)
        margins = [round(MARGIN_MM / s) if self.letters else whole for s in self.spacing_mm]
        box = padded_box(self.body, margins)
        return replace(
            self,
            fixed=self.fixed[box],
            before=self.before[box],
            after=self.after[box],
            seen_before=self.seen_before[box],
            seen_after=self.seen_after[box],
            landed_mm=self.landed_mm[(slice(None), *box)],
            labels=self.labels[box],
            body=self.body[box],
        )


def cut_planes(pair: CanonicalPair) -> list[Plane]:
    """The planes to show: the picture itself, or one plane across each axis of a volume."""
    background = find_background(pair.fixed)
    if pair.grid.rank == 2:
        return [_cut(pair, None, 0, background)]
    positions = plane_positions(pair, background)
    return [_cut(pair, axis, positions[axis], background) for axis in range(3)]


def plane_positions(pair: CanonicalPair, background: Background) -> list[int]:
    """For each axis the plane with most motion, apart from the motion all of the body shares.

    What one image does not see does not count.
    """
    from scipy.ndimage import gaussian_filter1d

    grid = pair.grid
    steps = [max(1, n // MOTION_SAMPLES) for n in grid.shape_zyx]
    thin = tuple(slice(None, None, s) for s in steps)
    body = (pair.fixed[thin] - background.value).abs() > background.threshold
    body |= pair.labels.data[thin] != 0
    if not bool(body.any()):
        body |= True
    nodes = [np.arange(0, n, s) for n, s in zip(grid.shape_zyx, steps, strict=True)]
    index = np.stack(np.meshgrid(*nodes, indexing="ij"), -1)
    u = pair.transform.field.vox[(slice(None), *thin)].permute(1, 2, 3, 0).numpy()
    matrix = fixed_to_moving_index(grid, pair.transform.affine_lps, grid)
    total_mm = (apply_affine(matrix, index + u) - index) * grid.spacing_zyx_mm
    to_moving = fixed_to_moving_index(grid, pair.transform.affine_lps, pair.moving.grid)
    at = torch.from_numpy(np.moveaxis(apply_affine(to_moving, index + u), -1, 0)).float()
    seen = body & sample_nearest(pair.moving_fov, at) & pair.fixed_fov[thin]
    inside = (seen if bool(seen.any()) else body).numpy()
    motion = np.square(total_mm - np.median(total_mm[inside], axis=0)).sum(-1) * inside
    positions = []
    for axis, step in enumerate(steps):
        others = tuple(a for a in range(3) if a != axis)
        # A small share of the body's area picks a central plane if nothing moves.
        profile = motion.sum(others) + 1e-3 * inside.sum(others)
        profile = gaussian_filter1d(profile, max(1.0, len(profile) / 20), mode="constant")
        positions.append(min(int(np.argmax(profile)) * step, grid.shape_zyx[axis] - 1))
    return positions


def padded_box(mask: Bools, margins: list[int]) -> tuple[slice, slice]:
    """Rows and columns of the box around a mask, with a margin along each axis.

    Args:
        mask: (rows, columns), not empty.
        margins: pixels along rows and columns.
    """
    box = bounding_box(torch.from_numpy(np.ascontiguousarray(mask)))
    assert box is not None
    rows, columns = (
        slice(max(0, s.start - margin), min(n, s.stop + margin))
        for s, margin, n in zip(box, margins, mask.shape, strict=True)
    )
    return rows, columns


def _cut(pair: CanonicalPair, axis: int | None, position: int, background: Background) -> Plane:
    """Resample everything on one plane, and turn it as it is shown."""
    grid = pair.grid
    nodes = [
        np.arange(n) if a != axis else np.array([position]) for a, n in enumerate(grid.shape_zyx)
    ]
    index = np.stack(np.meshgrid(*nodes, indexing="ij"), -1)
    where = tuple(
        slice(position, position + 1) if a == axis else slice(None) for a in range(grid.rank)
    )
    in_plane = [a for a in range(grid.rank) if a != axis]
    upwards = axis in (1, 2)  # rows of coronal and sagittal planes run towards the head

    def turned(array: NDArray[Any]) -> NDArray[Any]:
        plane = array if axis is None else array.squeeze(axis)
        return plane[::-1] if upwards else plane

    def pull(transform: Transform) -> tuple[Picture, Bools]:
        to_moving = fixed_to_moving_index(grid, transform.affine_lps, pair.moving.grid)
        landed = apply_affine(to_moving, index + _displacement(transform, where))
        at = torch.from_numpy(np.moveaxis(landed, -1, 0)).float()
        values = sample(pair.moving.data, at, outside=pair.lowest)
        seen = sample_nearest(pair.moving_fov, at) & pair.fixed_fov[where]
        return turned(values[0].numpy()), turned(seen.numpy())

    to_fixed = fixed_to_moving_index(grid, pair.transform.affine_lps, grid)
    landed = apply_affine(to_fixed, index + _displacement(pair.transform, where))
    fixed = turned(pair.fixed[where].numpy())
    labels = turned(pair.labels.data[where].numpy())
    (before, seen_before), (after, seen_after) = pull(pair.start), pull(pair.transform)
    return Plane(
        title={None: "", 0: "Axial", 1: "Coronal", 2: "Sagittal"}[axis],
        letters={None: "", 0: "RLAP", 1: "RLSI", 2: "APSI"}[axis],
        spacing_mm=(grid.spacing_zyx_mm[in_plane[0]], grid.spacing_zyx_mm[in_plane[1]]),
        fixed=fixed,
        before=before,
        after=after,
        seen_before=seen_before,
        seen_after=seen_after,
        landed_mm=np.stack([turned(landed[..., a]) * grid.spacing_zyx_mm[a] for a in in_plane]),
        labels=labels,
        body=_body(fixed, labels, background),
    )


def _displacement(transform: Transform, where: tuple[slice, ...]) -> NDArray[np.float64]:
    vox = transform.field.vox[(slice(None), *where)].numpy()
    return np.moveaxis(vox, 0, -1).astype(np.float64)


def _body(fixed: Picture, labels: NDArray[np.int32], background: Background) -> Bools:
    """Pixels unlike the background, without specks and holes, and those with a label."""
    from scipy.ndimage import binary_fill_holes, binary_opening

    body: Bools = binary_fill_holes(np.abs(fixed - background.value) > background.threshold)
    if body.all():
        return body
    opened = binary_opening(body, iterations=2)
    body = (opened if opened.any() else body) | (labels != 0)
    # If hardly anything differs from the border, there is no background to leave out.
    return body if body.mean() > 0.05 else np.ones_like(body)
