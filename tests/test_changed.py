"""Changed tissue, such as a resection, no longer pulls in what lies around it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, map_coordinates

from iterreg import Grid, Image, optimize_pair
from iterreg.displacement import total_displacement_vox
from iterreg.energy.changed import changed_tissue

AXES = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
SHAPE = (40, 44, 40)
GRID = Grid(SHAPE, (2.0, 2.0, 2.0), (0.0, 0.0, 0.0), AXES)
SETTINGS = {
    "start.affine": "none",
    "start.search_mm": 0.0,
    "levels.spacing_mm": [4.0, 2.0],
    "levels.steps": [12, 10],
}


def from_middle_mm() -> np.ndarray:
    """Distance of every voxel from the middle of the image."""
    middle = np.array(SHAPE).reshape(3, 1, 1, 1) / 2
    return 2.0 * np.linalg.norm(np.indices(SHAPE) - middle, axis=0)


def pair() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fixed and moving tissue in a dark surround, and the motion between them in voxels."""
    random = np.random.default_rng(3)
    moving = gaussian_filter(random.normal(size=SHAPE), 2.0)
    moving = (1.0 + 0.4 * moving / np.abs(moving).max()) * (from_middle_mm() < 36)
    motion = np.stack([gaussian_filter(random.normal(size=SHAPE), 7) for _ in range(3)])
    motion *= 1.5 / np.abs(motion).max()
    fixed = map_coordinates(moving, np.indices(SHAPE) + motion, order=1, mode="nearest")
    return fixed, moving, motion


def found_vox(fixed: np.ndarray, moving: np.ndarray, changed_at: float) -> np.ndarray:
    """The motion that the brain preset finds."""
    images = [Image(torch.from_numpy(data).float()[None], GRID) for data in (fixed, moving)]
    kind: dict[str, object] = {
        "similarity.kind": "mse",
        "similarity.weight": 20.0,
        "similarity.changed_at": changed_at,
    }
    run = optimize_pair(*images, preset="brain", overrides=SETTINGS | kind)
    return total_displacement_vox(run.transform).numpy()


def test_the_ring_around_a_resection_is_not_crushed() -> None:
    fixed, moving, motion = pair()
    distance_mm = from_middle_mm()
    fixed[distance_mm < 14] = moving.min()
    ring = (distance_mm > 15) & (distance_mm < 25)
    error_mm = {
        at: 2 * float(np.linalg.norm(found_vox(fixed, moving, at) - motion, axis=0)[ring].mean())
        for at in (0.0, 0.2)
    }
    assert error_mm[0.2] < 0.6 * error_mm[0.0]


def test_without_changed_tissue_nothing_changes() -> None:
    fixed, moving, motion = pair()
    errors = [
        2 * np.linalg.norm(found_vox(fixed, moving, at) - motion, axis=0)[8:-8, 8:-8, 8:-8].mean()
        for at in (0.0, 0.2)
    ]
    assert errors[1] < 1.05 * errors[0]


@pytest.mark.parametrize("rank", [2, 3])
def test_sheets_are_misaligned_and_blocks_have_changed(rank: int) -> None:
    shape = (30, 30, 30) if rank == 3 else (1, 30, 30)
    place = torch.cartesian_prod(*[torch.arange(n) for n in shape])
    apart = (place - place.float().mean(0).round()).abs()
    block = apart.amax(1) < 6
    near = changed_tissue(block, place, shape, (2.0, 2.0, 2.0))
    assert bool(near[block].all()) and float(near.float().mean()) < 0.9
    sheet = apart[:, 1] < 2
    assert not bool(changed_tissue(sheet, place, shape, (2.0, 2.0, 2.0)).any())
