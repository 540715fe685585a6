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


def make_series(
    name: str, files: Sequence[Path], config: Config, course: NDArray[np.float64], noise: float
) -> Series:
    """Make a series.

    Args:
        name: of the series.
        files: fixed and moving image, fixed and moving labels.
        config: registers the pair once; its field, times the course, is the truth.
        course: of each phase, 0 at the first.
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
    field = total_displacement_vox(run.transform)
    random_numbers = np.random.default_rng(0)
    phases, truth = [], []
    for number, share in enumerate(course):
        there = Transform(np.eye(4), DisplacementField(field * float(share), image.grid))
        made = image
        if share:
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
