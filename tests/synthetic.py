"""A small pair whose motion is known: anisotropic voxels, oblique axes, two grids that differ.

Two blocks meet at a plane and slide along it in opposite directions. A ball lies in the upper
block and moves with it. Every place has a value, not only the lattice, so both images are exact.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from iterreg import Grid, Image, LabelMap, Points, Registration
from iterreg.geometry import apply_affine

Array = NDArray[np.float64]

LOWER, UPPER, BALL = 1, 2, 3
NAMES = {LOWER: "lower block", UPPER: "upper block", BALL: "ball"}
CENTRE_MM = {2: np.array([20.0, -35.0]), 3: np.array([20.0, -35.0, 110.0])}
BALL_RADIUS_MM = 8.0
BALL_ABOVE_MM = 10.0
SLIDE_MM = 2.5
"""Each block moves so far, so the jump is twice this."""

LOCAL = {"segmenter": "none", "start.affine": "none", "start.search_mm": 0.0}
"""Neither affine nor search: the solver alone."""

INTENSITIES = LOCAL | {"similarity.kind": "mse", "similarity.weight": 20.0}
"""Squared differences, which find the motion of this pair best."""

SLIDING = INTENSITIES | {"smoothness.sliding": [["lower*", "upper*"], ["lower*", "ball"]]}
"""The blocks slide; the ball is glued to the block that it lies in."""

ONE_LEVEL = {"levels.spacing_mm": [1.0], "levels.steps": [8]}
"""Full resolution alone, where voxels are anisotropic."""


def rotation(*degrees: float) -> Array:
    """Turns about x, y and z, one after the other; a single angle turns a picture."""
    angles = np.deg2rad(degrees)
    if len(angles) == 1:
        c, s = np.cos(angles[0]), np.sin(angles[0])
        return np.array([[c, -s], [s, c]])
    whole = np.eye(3)
    for axis, angle in enumerate(angles):
        c, s = np.cos(angle), np.sin(angle)
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[a, a], turn[a, b], turn[b, a], turn[b, b] = c, -s, s, c
        whole = turn @ whole
    return whole


def grid_around(
    centre_mm: Array, shape_zyx: tuple[int, ...], spacing_xyz_mm: tuple[float, ...], axes: Array
) -> Grid:
    """The grid of that size whose middle lies at a point."""
    half = (np.array(shape_zyx[::-1]) - 1) / 2 * np.array(spacing_xyz_mm)
    origin = centre_mm - axes @ half
    return Grid(shape_zyx, spacing_xyz_mm, tuple(origin.tolist()), tuple(map(tuple, axes.tolist())))


def fixed_grid(rank: int = 3) -> Grid:
    """Voxels of 1 x 1.5 x 3 mm, oblique; in the plane 1 x 1.5 mm."""
    if rank == 2:
        return grid_around(CENTRE_MM[2], (26, 40), (1.0, 1.5), rotation(20))
    return grid_around(CENTRE_MM[3], (13, 26, 40), (1.0, 1.5, 3.0), rotation(20, -15, 10))


def moving_grid(rank: int = 3) -> Grid:
    """Another size, spacing and origin; its axes are turned, permuted and one of them reversed."""
    if rank == 2:
        return grid_around(CENTRE_MM[2] + 1.3, (44, 28), (1.5, 1.1), rotation(80))
    axes = rotation(-10, 12, 25)[:, [1, 0, 2]] * [1, 1, -1]
    return grid_around(CENTRE_MM[3] + [1.3, -0.8, 0.9], (15, 42, 30), (1.5, 1.1, 2.8), axes)


def texture(points: Array, seed: int, waves: int = 50) -> Array:
    """A texture with waves of 8 to 24 mm; mean 0, standard deviation 1."""
    random = np.random.default_rng(seed)
    direction = random.normal(size=(waves, points.shape[-1]))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    wave_mm = random.uniform(8, 24, waves)
    phase = random.uniform(0, 2 * np.pi, waves)
    return np.cos(2 * np.pi * (points @ direction.T) / wave_mm + phase).sum(-1) / np.sqrt(waves / 2)


def places_lps(grid: Grid) -> Array:
    """(*shape, rank), the centre of every voxel in LPS mm."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape_zyx], indexing="ij"), -1)
    return apply_affine(grid.index_to_lps, index)


@dataclass(frozen=True)
class World:
    """What both images show: which tissue is where, and how it moves from fixed to moving.

    Args:
        rank: 2 or 3.
        slide_mm: each block moves so far along the plane.
        shift_mm: what everything moves beside that, along the fixed grid's axes x, y, z.
        contrast: steps in intensity between the regions, in standard deviations of the texture.
    """

    rank: int = 3
    slide_mm: float = SLIDE_MM
    shift_mm: tuple[float, ...] = (0.0, 0.0, 0.0)
    contrast: float = 2.0

    @property
    def axes(self) -> Array:
        """Columns: where the fixed grid's x, y and z point."""
        return np.asarray(fixed_grid(self.rank).direction_lps)

    @property
    def normal(self) -> Array:
        """Of the plane, from the lower block into the upper one: the fixed grid's y."""
        return self.axes[:, 1]

    @property
    def along(self) -> Array:
        """The direction of sliding; in a volume it crosses the slices."""
        return self.axes[:, 0] if self.rank == 2 else self.axes @ np.array([0.8, 0.0, 0.6])

    def motion_mm(self, value: int) -> Array:
        """How a region moves, LPS mm."""
        way = -1 if value == LOWER else 1
        return self.axes @ np.array(self.shift_mm[: self.rank]) + way * self.slide_mm * self.along

    def labels(self, points: Array, moved: bool) -> NDArray[np.int32]:
        """The region of each point of the fixed image, or of the moving one."""
        apart = points - CENTRE_MM[self.rank]
        found = np.full(points.shape[:-1], LOWER, np.int32)
        upper = apart - self.motion_mm(UPPER) * moved
        found[upper @ self.normal >= 0] = UPPER
        ball = upper - BALL_ABOVE_MM * self.normal
        found[np.linalg.norm(ball, axis=-1) < BALL_RADIUS_MM] = BALL
        return found

    def image(self, grid: Grid, moved: bool, name: str) -> Image:
        """What the scanner sees."""
        points = places_lps(grid)
        labels = self.labels(points, moved)
        data = np.zeros(grid.shape_zyx)
        for value in NAMES:
            own = labels == value
            still = points[own] - self.motion_mm(value) * moved
            data[own] = texture(still, value) + self.contrast * value
        return Image(torch.from_numpy(100 * data).float().unsqueeze(0), grid, name=name)

    def label_map(self, grid: Grid, moved: bool) -> LabelMap:
        """Its regions, by name."""
        return LabelMap(torch.from_numpy(self.labels(places_lps(grid), moved)), grid, dict(NAMES))


@dataclass(frozen=True)
class Pair:
    """Both images of a world with their regions."""

    world: World
    fixed: Image
    moving: Image
    fixed_labels: LabelMap
    moving_labels: LabelMap

    @classmethod
    def of(cls, world: World) -> Pair:
        """Draw both images."""
        ours, theirs = fixed_grid(world.rank), moving_grid(world.rank)
        return cls(
            world,
            world.image(ours, False, "fixed"),
            world.image(theirs, True, "moving"),
            world.label_map(ours, False),
            world.label_map(theirs, True),
        )

    @property
    def images(self) -> dict[str, Image]:
        """As arguments."""
        return {"fixed": self.fixed, "moving": self.moving}

    @property
    def labels(self) -> dict[str, LabelMap]:
        """As arguments."""
        return {"fixed_labels": self.fixed_labels, "moving_labels": self.moving_labels}

    def truth_mm(self) -> Array:
        """(*shape, rank), the true displacement of every fixed voxel, LPS mm."""
        table = np.stack([self.world.motion_mm(max(1, value)) for value in range(4)])
        return table[self.fixed_labels.data.numpy()]


def moved_mm(run: Registration) -> Array:
    """(*shape, rank), the displacement that a run found at every fixed voxel, LPS mm."""
    places = places_lps(run.transform.grid)
    landed = run.transform.map_points(Points(places.reshape(-1, places.shape[-1]))).lps
    return landed.reshape(places.shape) - places


def inner(shape: tuple[int, ...], margin: int = 2) -> NDArray[np.bool_]:
    """Voxels away from the border, where what one image shows has left the other."""
    mask = np.zeros(shape, bool)
    mask[tuple(slice(margin, n - margin) if n > 1 else slice(None) for n in shape)] = True
    return mask


def error_mm(run: Registration, pair: Pair, value: int | None = None) -> float:
    """Mean distance to the truth over inner voxels, or over those of one region."""
    own = inner(run.transform.grid.shape_zyx)
    if value is not None:
        own &= pair.fixed_labels.data.numpy() == value
    return float(np.linalg.norm(moved_mm(run) - pair.truth_mm(), axis=-1)[own].mean())


def to_itk(values: Image | LabelMap) -> sitk.Image:
    """The same voxels for SimpleITK."""
    data = values.data[0].numpy() if isinstance(values, Image) else values.data.numpy()
    image = sitk.GetImageFromArray(data)
    image.SetSpacing(values.grid.spacing_xyz_mm)
    image.SetOrigin(values.grid.origin_lps_mm)
    image.SetDirection(np.asarray(values.grid.direction_lps).flatten().tolist())
    return image


def save(folder: Path, **values: Image | LabelMap) -> dict[str, Path]:
    """Write images and label maps as NIfTI; their paths by the same names."""
    paths = {name: folder / f"{name}.nii.gz" for name in values}
    for name, value in values.items():
        sitk.WriteImage(to_itk(value), str(paths[name]))
    return paths


def noise(grid: Grid, seed: int) -> Image:
    """An image that says nothing about motion."""
    random = torch.Generator().manual_seed(seed)
    return Image(torch.rand(1, *grid.shape_zyx, generator=random), grid)


def ball(grid: Grid, centre_lps: Array, radius_mm: float) -> LabelMap:
    """A label map that is 1 in a ball."""
    apart = np.linalg.norm(places_lps(grid) - centre_lps, axis=-1)
    return LabelMap(torch.from_numpy(apart < radius_mm).int(), grid)


def turned(image: Image | LabelMap, by: Array) -> Any:
    """The same voxels under a header that is moved rigidly in space."""
    grid, rank = image.grid, image.grid.rank
    axes = by[:rank, :rank] @ np.asarray(grid.direction_lps)
    origin = apply_affine(by, np.asarray(grid.origin_lps_mm))
    rows = tuple(map(tuple, axes.tolist()))
    return replace(
        image, grid=Grid(grid.shape_zyx, grid.spacing_xyz_mm, tuple(origin.tolist()), rows)
    )
