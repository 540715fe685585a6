"""The pair that pictures are cut from, with the fixed side on its canonical grid."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from iterreg.displacement import DisplacementField, Transform
from iterreg.geometry import Grid
from iterreg.image import Image, LabelMap, require_same_space
from iterreg.regions.field_of_view import Fovs


@dataclass(frozen=True)
class CanonicalPair:
    """The pair that the planes are cut from, with the fixed side on its canonical grid.

    Args:
        grid: the canonical fixed grid, axes nearest to (S, P, L).
        fixed: (*shape), the fixed image without its channels.
        moving: one channel, on its own grid.
        fixed_fov: (*shape) bool, the fixed image's field of view.
        moving_fov: (*moving shape) bool, the moving image's field of view.
        transform, start: fixed to moving, on the canonical fixed grid.
        labels: the fixed regions on the canonical grid.
        values: the labels that occur, counted once because volumes are large.
    """

    grid: Grid
    fixed: torch.Tensor
    moving: Image
    fixed_fov: torch.Tensor
    moving_fov: torch.Tensor
    transform: Transform
    start: Transform
    labels: LabelMap
    values: list[int]

    @cached_property
    def lowest(self) -> float:
        """What stands for the moving image where it is not seen: its minimum."""
        return float(self.moving.data.min())

    @classmethod
    def of(
        cls,
        images: tuple[Image, Image],
        transform: Transform,
        labels: LabelMap | None = None,
        start: Transform | None = None,
        fovs: Fovs = (None, None),
    ) -> CanonicalPair:
        """Turn a pair to canonical axes.

        Args:
            images: fixed and moving.
            transform: fixed to moving, on the fixed grid.
            labels: the fixed regions; None: none.
            start: the transform to show as "before"; None is the identity.
            fovs: the fields of view, fixed and moving, each bool in its image's shape; None takes
                the whole image.

        Raises:
            GeometryError: the labels lie in another space than the fixed image.
        """
        fixed, moving = images
        if labels is None:
            labels = LabelMap(torch.zeros(fixed.grid.shape_zyx, dtype=torch.int32), fixed.grid)
        else:
            require_same_space(labels, fixed)
        fixed_fov, moving_fov = (
            torch.ones(image.grid.shape_zyx, dtype=torch.bool) if fov is None else fov.cpu()
            for fov, image in zip(fovs, images, strict=True)
        )
        turned, order = fixed.to_canonical()

        def turn(given: Transform) -> Transform:
            vox = order.apply_vectors(given.field.vox.detach().cpu().float())
            return Transform(given.affine_lps, DisplacementField(vox, turned.grid))

        return cls(
            grid=turned.grid,
            fixed=_one_channel(turned)[0],
            moving=replace(moving, data=_one_channel(moving)),
            fixed_fov=order.apply(fixed_fov),
            moving_fov=moving_fov,
            transform=turn(transform),
            start=_identity(turned.grid) if start is None else turn(start),
            labels=replace(labels, data=order.apply(labels.data.cpu()), grid=turned.grid),
            values=labels.values,
        )


def _identity(grid: Grid) -> Transform:
    """The transform that moves nothing; its zeros take no memory."""
    zeros = torch.zeros(()).expand(grid.rank, *grid.shape_zyx)
    return Transform(np.eye(grid.rank + 1), DisplacementField(zeros, grid))


class Background(NamedTuple):
    """The value around the body, and how far from it an intensity of the body is.

    A negative distance means that there is no background: everything is body.
    """

    value: float
    threshold: float


def _one_channel(image: Image) -> torch.Tensor:
    """(1, *shape): the image, or the mean of its channels."""
    data = image.data.detach().cpu()
    return data if len(data) == 1 else data.mean(0, keepdim=True)


def find_background(fixed: torch.Tensor) -> Background:
    """The median of the border, if most of the border is of about that value."""
    faces = [fixed.select(a, k) for a in range(fixed.ndim) for k in (0, -1)]
    border = torch.cat([f.reshape(-1) for f in faces])
    threshold = 0.05 * (float(fixed.max()) - float(fixed.min()))
    value = float(border.median())
    alike = float(((border - value).abs() <= threshold / 10).float().mean())
    return Background(value, threshold if alike > 0.5 else -1.0)
