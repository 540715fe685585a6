"""The affine start of images alone: each start is judged where it leads, and a crop by its middle.

Textures are sums of waves, so that every place has a value and the truth is exact.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from iterreg import Grid, load_config
from iterreg.optimize.affine import AffineStart, find_affine
from iterreg.optimize.pair import Interfaces, Pair
from iterreg.optimize.problem import middle_of
from iterreg.optimize.side import Side

SHAPE, SPACING_MM = (16, 18, 17), 3.0
SETTINGS = {"similarity.kind": "mse", "similarity.weight": 20.0, "start.affine": "rigid"}


def test_each_start_is_judged_where_it_leads():
    """The moving file lies 20 mm off and its patient 12 mm off its middle: neither start is near.

    For seed 5 the images agree better where the headers put them than with centres together, and
    from there the rungs lead astray.
    """
    for seed in (4, 5, 7):
        fixed = side(waves(places(), seed), 0.0)
        moving = side(waves(places() - [12.0, 0.0, 0.0], seed), 20.0)
        assert moved(started(fixed, moving)) == pytest.approx([20.0, 0.0, 12.0], abs=0.5)


def test_a_crop_is_started_by_its_middle():
    """The middle moves by 4 mm along x and its surroundings stay: the start follows the middle."""
    at = places()
    apart = ((at - at.reshape(-1, 3).mean(0)) / at.reshape(-1, 3).max(0)) * 2
    inside = np.linalg.norm(apart, axis=-1, keepdims=True) < 0.75
    fixed = side(waves(at), 0.0)
    moving = side(waves(at - np.where(inside, [0.0, 0.0, 4.0], 0.0)), 0.0)
    by_all, by_middle = (
        abs(moved(started(fixed, moving, {"start.middle": share}))[0] - 4.0) for share in (1.0, 0.7)
    )
    assert by_middle < 1.0 < by_all


def test_the_middle_is_an_ellipsoid():
    inside = middle_of(torch.zeros(1, 10, 20), 1.0)
    assert inside[0, 5, 0] and inside[0, 0, 10] and not inside[0, 0, 0]
    assert torch.equal(inside, inside.flip(1)) and torch.equal(inside, inside.flip(2))
    assert int(middle_of(torch.zeros(20, 20, 20), 0.5).sum()) == pytest.approx(524, rel=0.06)


def started(fixed: Side, moving: Side, settings: dict[str, object] | None = None) -> AffineStart:
    """The start of a pair without regions."""
    config = load_config("general", SETTINGS | (settings or {}))
    return find_affine(config, Pair(fixed, moving, Interfaces.glued(1)))


def moved(start: AffineStart) -> np.ndarray:
    """Where the middle goes, relative to itself: LPS mm."""
    middle = np.append(places().reshape(-1, 3).mean(0)[::-1], 1.0)
    return (start.affine_lps @ middle - middle)[:3]


def side(values: np.ndarray, origin_x_mm: float) -> Side:
    """An image without regions."""
    rows = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    grid = Grid(SHAPE, (SPACING_MM,) * 3, (origin_x_mm, 0.0, 0.0), rows)
    fov = torch.ones(SHAPE, dtype=torch.bool)
    return Side(torch.from_numpy(values).float()[None], torch.zeros(SHAPE).int(), fov, grid)


def places() -> np.ndarray:
    """(*SHAPE, 3), z, y, x of every voxel, mm from the first."""
    axes = [np.arange(n) * SPACING_MM for n in SHAPE]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1)


def waves(at: np.ndarray, seed: int = 0) -> np.ndarray:
    """A texture of 0 to about 1 with waves of 16 to 40 mm."""
    random = np.random.default_rng(seed)
    direction = random.normal(size=(40, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    phases = random.uniform(0, 2 * np.pi, 40)
    total = np.cos(2 * np.pi * (at @ direction.T) / random.uniform(16, 40, 40) + phases).sum(-1)
    return 0.5 + 0.15 * total / np.sqrt(20)
