"""Worlds whose motion breaks along a surface, with noise: no label tells where.

``blocks``: the halves of a textured block slide along their common plane. ``ellipsoid``: an organ
with texture moves along the body inside a wall that stands still, as a liver below the ribs; the
tissue around it is squeezed and stretched.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

import iterreg
from iterreg.geometry import Grid

SPACING_MM = 2.0
BLOCKS_SHAPE, ELLIPSOID_SHAPE = (36, 48, 56), (64, 56, 64)
SLIDE_MM = 5.0
"""Each block moves so far, so the jump is twice this."""
ORGAN_MM, BODY_MM = np.array([34.0, 26.0, 30.0]), np.array([200.0, 44.0, 52.0])
"""Half axes, (z, y, x)."""
DEPTH_MM = 14.0
"""How far the organ moves."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """A pair, its regions, and its true motion (*shape, 3), LPS mm."""

    name: str
    fixed: iterreg.Image
    moving: iterreg.Image
    labels: iterreg.LabelMap
    moving_labels: iterreg.LabelMap
    field_lps: NDArray[np.float32]
    where: NDArray[np.bool_]


def blocks(seed: int, noise: float) -> World:
    """Two halves of one texture that slide past each other; the plane is oblique to no axis."""
    random = np.random.default_rng(seed)
    wide = tuple(n + 24 for n in BLOCKS_SHAPE)
    textures = [texture(wide, random, 3.0) for _ in range(2)]
    index = np.indices(BLOCKS_SHAPE).astype(float)
    upper = index[1] >= BLOCKS_SHAPE[1] / 2
    moving, fixed = np.zeros(BLOCKS_SHAPE), np.zeros(BLOCKS_SHAPE)
    field = np.zeros((*BLOCKS_SHAPE, 3))
    for block, way in ((0, -1.0), (1, 1.0)):
        inside = upper if block else ~upper
        step = way * SLIDE_MM * np.array([0.6, 0.0, 0.8])  # (z, y, x)
        fixed[inside] = at(textures[block], index + 12, inside)
        back = index + 12 - (step / SPACING_MM).reshape(3, 1, 1, 1)
        moving[inside] = at(textures[block], back, inside)
        field[inside] = step[::-1]
    labels = 1 + upper.astype(np.int32)
    return world("blocks", (fixed, moving), (labels, labels), field, labels > 0, (random, noise))


def ellipsoid(seed: int, noise: float) -> World:
    """An organ that moves along z below a wall that stands still."""
    random = np.random.default_rng(seed + 100)
    shape = ELLIPSOID_SHAPE
    wall, organ, tissue = (texture(shape, random, s) for s in (3.0, 2.5, 3.5))
    index = np.indices(shape).astype(float)
    place = (index - (np.array(shape).reshape(3, 1, 1, 1) - 1) / 2) * SPACING_MM
    body = radius(place, BODY_MM) < 1
    depth = np.array([DEPTH_MM, 0.0, 0.0])
    images, maps = [], []
    for shift in (-0.5, 0.5):
        moved = place - (depth * shift).reshape(3, 1, 1, 1)
        inside = (radius(moved, ORGAN_MM) < 1) & body
        data = wall + 2.0
        # Around the organ the tissue follows it less and less, along z; beside it it stands still.
        follow = np.exp(-(np.maximum(radius(moved, ORGAN_MM) - 1, 0) ** 2) / 0.5)
        drawn = index.copy()
        drawn[0] -= shift * DEPTH_MM / SPACING_MM * follow
        data = np.where(body, at(tissue, drawn) - 1.0, data)
        own = index.copy()
        own[0] -= shift * DEPTH_MM / SPACING_MM
        data = np.where(inside, at(organ, own) + 0.5, data)
        images.append(data)
        maps.append(np.where(inside, 2, np.where(body, 1, 3)).astype(np.int32))
    field = np.zeros((*shape, 3))
    field[maps[0] == 2] = depth[::-1]
    # The tissue between is not judged: what it does there is nobody's truth.
    judged = (maps[0] == 2) | (maps[0] == 3)
    return world(
        "ellipsoids", (images[0], images[1]), (maps[0], maps[1]), field, judged, (random, noise)
    )


def world(
    name: str,
    images: tuple[Array, Array],
    labels: tuple[NDArray[np.int32], NDArray[np.int32]],
    field: Array,
    where: NDArray[np.bool_],
    noise: tuple[np.random.Generator, float],
) -> World:
    """Images with noise, on one grid."""
    random, sigma = noise
    half = tuple(-(n - 1) / 2 * SPACING_MM for n in images[0].shape[::-1])
    eye = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    grid = Grid(images[0].shape, (SPACING_MM,) * 3, half, eye)
    spread = float(images[0].std())
    noisy = [100 * (i + sigma * spread * random.normal(size=i.shape)) for i in images]
    made = [iterreg.Image(torch.from_numpy(i).float().unsqueeze(0), grid) for i in noisy]
    maps = [iterreg.LabelMap(torch.from_numpy(m), grid) for m in labels]
    return World(name, *made, *maps, field.astype(np.float32), where)


def texture(shape: tuple[int, ...], random: np.random.Generator, sigma: float) -> Array:
    """Smoothed noise of deviation 1."""
    waves: Array = gaussian_filter(random.normal(size=shape), sigma, mode="wrap")
    return waves / waves.std()


def at(volume: Array, index: Array, where: NDArray[np.bool_] | None = None) -> Array:
    """The volume at places (3, *shape), all of them or those of a mask."""
    places = index if where is None else index[:, where]
    found: Array = map_coordinates(volume, places, order=3, mode="grid-wrap")
    return found


def radius(place: Array, half_mm: Array) -> Array:
    """1 on the surface of an ellipsoid."""
    found: Array = np.sqrt(((place / half_mm.reshape(3, 1, 1, 1)) ** 2).sum(0))
    return found
