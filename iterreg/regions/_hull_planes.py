"""Planes on the outside of the content of an image: the large facets of its convex hull.

Seen along the axis nearest to its normal, a plane is a height that rises evenly over the lines of
the image. Content that it cuts begins on each line at the plane, to within a voxel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Doubles = NDArray[np.float64]

STAIR_VOX = 1.25
"""Content that is cut begins at most one voxel behind the plane; the rest is for rounding."""

REACHES_VOX = (4.0, 3.0, 2.0, 1.5, 1.25, 1.25, 1.25)
"""A plane is turned to the content this far behind it, again and again."""

LEAST_FACETS = 0.02
"""Facets of nearly one direction that together take less of the face of the image are no plane."""

AROUND = tuple(float(np.cos(np.deg2rad(degrees))) for degrees in (0.01, 1.0, 4.0))
"""A plane of voxels is many facets. Its direction is first the largest's, then the mean of those
within so many degrees."""

MOST_DIRECTIONS = 8
"""So many are tried of each face."""

SIDE_POINTS = 128
MOST_LINES = 20_000
"""The hull is of at most so many points along each side of a face; a plane is fitted to so many
lines."""


@dataclass(frozen=True)
class Face:
    """The content as it is seen from one side of the image.

    Args:
        axis: of the array, along which it is seen. far: from the end with high indices.
        length: of this axis, voxels.
        height: (*other axes) float, the first content along each line; NaN on an empty line.
    """

    axis: int
    far: bool
    length: int
    height: Doubles

    @classmethod
    def all_of(cls, content: Bools) -> Iterator[Face]:
        """The content from every side."""
        for axis, length in enumerate(content.shape):
            some = content.any(axis)
            for far in (False, True):
                seen = np.flip(content, axis) if far else content
                yield cls(axis, far, length, np.where(some, seen.argmax(axis), np.nan))

    def index(self, height: Doubles, places: NDArray[Any]) -> tuple[Doubles, ...]:
        """Array indices of heights over places, (other axes, ...)."""
        index: list[NDArray[Any]] = list(places)
        index.insert(self.axis, self.length - 1 - height if self.far else height)
        return tuple(index)

    @property
    def points(self) -> Doubles:
        """(N, rank): some of the first content, array indices."""
        step = tuple(slice(None, None, max(1, n // SIDE_POINTS)) for n in self.height.shape)
        places = np.indices(self.height.shape)[(slice(None), *step)].reshape(len(step), -1)
        height = self.height[step].ravel()
        points = np.stack(self.index(height, places.astype(np.float64)), 1)
        return np.asarray(points[np.isfinite(height)])


@dataclass(frozen=True, eq=False)
class Plane:
    """A plane over one face: height = offset + slope . place, in voxels."""

    face: Face
    slope: Doubles
    offset: float

    @property
    def rise(self) -> Doubles:
        """(*other axes): its height over each line."""
        shape = self.face.height.shape
        height = np.full(shape, self.offset)
        for slope, place in zip(self.slope, np.ogrid[tuple(map(slice, shape))], strict=True):
            height += slope * place
        return height

    @property
    def behind(self) -> Doubles:
        """(*other axes): how far behind it the content begins; infinite on empty lines."""
        behind = self.face.height - self.rise
        return np.where(np.isnan(behind), np.inf, behind)

    @property
    def index(self) -> tuple[Doubles, ...]:
        """Array indices, each (*other axes), of the plane over each line."""
        rise = self.rise
        return self.face.index(rise, np.indices(rise.shape).astype(np.float64))

    def normal_mm(self, spacing_mm: tuple[float, ...]) -> Doubles:
        """Its unit normal along the axes of the array; positive along its own axis."""
        normal = np.insert(-self.slope, self.face.axis, 1.0) / spacing_mm
        return np.asarray(normal / np.linalg.norm(normal))

    def depth(self, index: tuple[Doubles, ...]) -> Doubles:
        """How far behind the plane places of the array lie, voxels along its axis."""
        along = index[self.face.axis]
        along = self.face.length - 1 - along if self.face.far else along
        others = [at for k, at in enumerate(index) if k != self.face.axis]
        rise = sum((s * at for s, at in zip(self.slope, others, strict=True)), start=self.offset)
        return np.asarray(along - rise)

    def is_near(self, other: Plane) -> bool:
        """Whether two planes of one face are within two voxels of each other."""
        return bool(np.abs(self.rise - other.rise).max() < 2)


def hull_planes(content: Bools, spacing_mm: tuple[float, ...]) -> list[Plane]:
    """Find the slanted planes that touch the content from outside with much of its hull.

    Args:
        content: (*shape), rank 2 or 3.
        spacing_mm: along the array's axes.

    Returns:
        A few for each side of the image; all content lies behind each.
    """
    from scipy.spatial import ConvexHull, QhullError

    faces = list(Face.all_of(content))
    try:
        hull = ConvexHull(np.concatenate([face.points for face in faces]))
    except (QhullError, ValueError):  # no content, or all of it in one plane
        return []
    normals = hull.equations[:, :-1]
    corners = hull.points[hull.simplices]
    sides = corners[:, 1:] - corners[:, :1]
    area = np.sqrt(np.maximum(np.linalg.det(sides @ sides.transpose(0, 2, 1)), 0))
    area /= 1 if content.ndim == 2 else 2
    main = np.abs(normals / spacing_mm).argmax(1)
    found: list[Plane] = []
    for face in faces:
        outward = normals[:, face.axis] * (1 if face.far else -1)
        ours = (main == face.axis) & (outward > 0) & (outward < 1 - 1e-9)
        least = LEAST_FACETS * face.height.size
        planes: list[Plane] = []
        for starts in _directions(normals[ours], area[ours], least):
            slopes = np.delete(starts, face.axis, 1) / np.abs(starts[:, [face.axis]])
            plane = _fitted(face, slopes)
            if plane is not None and not any(plane.is_near(other) for other in planes):
                planes.append(plane)
        found += planes
    return found


def _directions(normals: Doubles, area: Doubles, least: float) -> Iterator[Doubles]:
    """For each group of large facets a few mean normals, (len(AROUND), rank), any length."""
    left = area.copy()
    for _ in range(MOST_DIRECTIONS):
        if left.sum() < least:
            return
        alike = normals @ normals[left.argmax()]
        around = [np.where(alike >= cosine, area, 0.0) for cosine in AROUND]
        left[alike >= AROUND[1]] = 0
        if around[-1].sum() >= least:
            yield np.array([weight @ normals for weight in around])


def _fitted(face: Face, slopes: Doubles) -> Plane | None:
    """The plane of about one of the slopes, before all content, at which most content begins."""
    known = np.isfinite(face.height)
    places, height = np.argwhere(known).astype(np.float64), face.height[known]
    some = slice(None, None, max(1, len(places) // MOST_LINES))
    terms = np.column_stack([places, np.ones(len(places))])[some]
    inside = height[some] >= 1  # before the content on other lines there is no padding
    best, most = None, 0.0
    for first in slopes:
        slope = first
        for reach in REACHES_VOX:
            behind = height[some] - terms[:, :-1] @ slope
            behind -= behind.min()
            # Of two planes near as much content, the one nearer to it is better.
            score = float((STAIR_VOX - behind[inside]).clip(0).sum())
            if score > most:
                best, most = slope, score
            near = inside & (behind <= reach)
            if near.sum() <= 3 * len(slope):
                break
            slope = np.linalg.lstsq(terms[near], height[some][near], rcond=None)[0][:-1]
    if best is None:
        return None
    return Plane(face, best, float((height - places @ best).min()))
