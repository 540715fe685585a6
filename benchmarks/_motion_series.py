"""Series with a known course: phases made from one image by the field of a real pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from iterreg.config import Config
from iterreg.displacement import DisplacementField, Transform, total_displacement_vox, warp_image
from iterreg.geometry import Points, apply_affine
from iterreg.image import Image, LabelMap
from iterreg.inverse import invert_to_grid
from iterreg.io import read_image, read_label_map
from iterreg.motion import Phase
from iterreg.pair import optimize_pair


@dataclass(frozen=True)
class Series:
    """A series whose motion is known.

    Args:
        name: of the series.
        phases: in time; the first is the image that all are made from.
        truth: the first phase to each.
        landmarks: in the first phase.
        labels: of the first phase.
    """

    name: str
    phases: tuple[Phase, ...]
    truth: tuple[Transform, ...]
    landmarks: Points
    labels: LabelMap


@dataclass(frozen=True)
class Course:
    """How far each phase is along a field, and along a second one across it.

    Args:
        along: of each phase, 0 at the first and about 1 at the end of the motion.
        across_mm: of each phase, along a soft random field whose root mean square is 1 mm: the way
            back is another than the way there.
    """

    along: NDArray[np.float64]
    across_mm: NDArray[np.float64]

    @classmethod
    def of(cls, kind: str, phases: int) -> Course:
        """``even``: there and back alike; ``uneven``: there in a third of the time, and back by
        another way."""
        t = np.arange(phases) / phases
        if kind == "even":
            return cls((1 - np.cos(2 * np.pi * t)) / 2, np.zeros(phases))
        bent = np.where(t < 1 / 3, 1.5 * t, 0.5 + 0.75 * (t - 1 / 3))
        return cls((1 - np.cos(2 * np.pi * bent)) / 2, 1.5 * np.sin(2 * np.pi * t))


def soft_field(image: Image) -> torch.Tensor:
    """A random displacement in voxels that changes over 25 mm, 1 mm in the root mean square."""
    from scipy.ndimage import gaussian_filter

    grid, random_numbers = image.grid, np.random.default_rng(2)
    sigma = [25.0 / mm for mm in grid.spacing_zyx_mm]
    field = np.stack(
        [
            gaussian_filter(random_numbers.normal(size=grid.shape_zyx), sigma, mode="wrap")
            for _ in range(3)
        ]
    )
    field /= np.sqrt(np.square(field).sum(0).mean())
    return torch.from_numpy(field / np.reshape(grid.spacing_zyx_mm, (3, 1, 1, 1))).float()


def make_series(
    name: str, files: Sequence[Path], config: Config, course: Course, noise: float
) -> Series:
    """Make a series.

    Args:
        name: of the series.
        files: fixed and moving image, fixed and moving labels.
        config: registers the pair once; its field, times the course, is the truth.
        course: of all phases.
        noise: standard deviation, as a share of the image's.
    """
    image, moving = (read_image(file) for file in files[:2])
    labels = read_label_map(files[2])
    run = optimize_pair(
        image,
        moving,
        fixed_labels=labels,
        moving_labels=read_label_map(files[3]),
        preset=config,
        threads=1,
    )
    field, across = total_displacement_vox(run.transform), soft_field(image)
    random_numbers = np.random.default_rng(0)
    phases, truth = [], []
    for number, (share, mm) in enumerate(zip(course.along, course.across_mm, strict=True)):
        moved = field * float(share) + across * float(mm)
        there = Transform(np.eye(4), DisplacementField(moved, image.grid))
        made = image
        if number:
            back, _ = invert_to_grid(there, image.grid)
            made = warp_image(image, back, float(image.data.min()))
        spread = noise * float(image.data.std())
        shaken = made.data + torch.from_numpy(
            random_numbers.normal(0, spread, made.data.shape).astype(np.float32)
        )
        phases.append(Phase(f"{number}", Image(shaken, image.grid, name=f"{name} {number}")))
        truth.append(there)
    return Series(name, tuple(phases), tuple(truth), landmarks_of(image, labels), labels)


def landmarks_of(image: Image, labels: LabelMap) -> Points:
    """Points with structure inside the labels, at random with a seed."""
    data = image.data[0].numpy()
    slope = np.sqrt(sum(np.square(g) for g in np.gradient(data)))
    inside = labels.data.numpy() > 0
    inside &= slope > np.quantile(slope[inside], 0.6)
    index = np.argwhere(inside).astype(float)
    chosen = np.random.default_rng(1).choice(len(index), min(400, len(index)), replace=False)
    return Points(apply_affine(image.grid.index_to_lps, index[chosen]))
