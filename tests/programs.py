"""Images of different axes, and smooth maps between them, for tests of other programs' files."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from iterreg.geometry import Grid

Array = NDArray[np.float64]
RAS_LPS = np.array([-1.0, -1.0, 1.0])

AXES = {
    "RAS": np.diag([1.0, 1.0, 1.0]),
    "LAS": np.diag([-1.0, 1.0, 1.0]),
    "LPS": np.diag([-1.0, -1.0, 1.0]),
    "PIR": np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]),
}


def image_of(
    folder: Path,
    name: str,
    axes: str,
    shape: tuple[int, ...] = (12, 14, 10),
    spacing: tuple[float, ...] = (3.0, 2.5, 4.0),
    turned: bool = False,
) -> Path:
    """Write an image whose axes are those, off the middle; turned by some degrees on request."""
    direction = AXES[axes]
    if turned:
        c, s = np.cos(0.2), np.sin(0.2)
        direction = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ direction
    affine = np.eye(4)
    affine[:3, :3] = direction * spacing
    affine[:3, 3] = (7.0, -11.0, 5.0) - affine[:3, :3] @ (np.array(shape) - 1) / 2
    data = np.random.default_rng(len(name)).normal(size=shape).astype(np.float32)
    image = nibabel.Nifti1Image(data, affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    path = folder / f"{name}.nii.gz"
    nibabel.save(image, path)
    return path


def affine_ras() -> Array:
    """Some affine between points in RAS mm."""
    matrix = np.eye(4)
    matrix[:3, :3] += 0.1 * np.random.default_rng(3).normal(size=(3, 3))
    matrix[:3, 3] = (3.0, -2.0, 1.5)
    return matrix


def points_ras(image: Path, count: int = 20) -> Array:
    """The positions of some voxels of an image away from its border, RAS mm."""
    loaded = nibabel.load(image)
    index = np.random.default_rng(1).integers(1, np.array(loaded.shape[:3]) - 1, (count, 3))
    return nibabel.affines.apply_affine(loaded.affine, index)


def smooth_ras(image: Path, size: float = 3.0) -> Array:
    """Smooth displacements on an image's grid, (I, J, K, 3) RAS mm."""
    shape = nibabel.load(image).shape
    noise = np.random.default_rng(2).normal(size=(3, *shape))
    smooth = np.stack([gaussian_filter(c, 2) for c in noise], -1)
    return smooth / smooth.std() * size


def write_points_csv(path: Path, ras: Array) -> Path:
    """Write points in LPS, as iterreg takes them."""
    rows = "".join(f"{x!r},{y!r},{z!r}\n" for x, y, z in (ras * RAS_LPS).tolist())
    path.write_text("x,y,z\n" + rows)
    return path


def grid_of(image: Path) -> Grid:
    """The grid of an image, as iterreg reads it."""
    from iterreg.io import grid_of_file

    return grid_of_file(image)
