"""A transform as its file holds it, before it is put on a grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from iterreg.displacement import DisplacementField, Transform
from iterreg.errors import TransformError
from iterreg.geometry import Grid, Matrix

LARGEST = 1e7
"""No affine of a person's images holds a larger number, and no voxel moves so far."""

SMALLEST_DETERMINANT = 1e-12


@dataclass(frozen=True)
class Loaded:
    """The map A(x + u(x)) of a file, or one that has to be sampled.

    Args:
        name: what messages call it, such as its file.
        rank: 2 or 3.
        affine_lps: A, homogeneous, LPS mm.
        field: u on its own grid; None if the map is linear or has to be sampled.
        sampled: makes the transform on a grid; None if nothing has to be sampled.
        kinds: what has to be sampled, in words.
        itk: SimpleITK's transform that is sampled.
    """

    name: str
    rank: int
    affine_lps: Matrix
    field: DisplacementField | None = None
    sampled: Callable[[Grid], Transform] | None = None
    kinds: str = ""
    itk: Any = None

    def __post_init__(self) -> None:
        if not bool((np.abs(self.affine_lps) <= LARGEST).all()):
            raise TransformError(
                f"{self.name}: expected an affine in mm, got numbers that are not finite or above "
                f"{LARGEST:g}"
            )
        if abs(np.linalg.det(self.affine_lps)) < SMALLEST_DETERMINANT:
            raise TransformError(
                f"{self.name}: expected an affine that can be inverted, got a singular one"
            )
        if self.field is not None and not bool((self.field.vox.abs() <= LARGEST).all()):
            raise TransformError(
                f"{self.name}: expected displacements in mm, got some that are not finite or above "
                f"{LARGEST:g} voxels"
            )

    @classmethod
    def identity(cls, rank: int) -> Loaded:
        """Return the map that leaves every point where it is."""
        return cls("the identity", rank, np.eye(rank + 1))

    @property
    def is_linear(self) -> bool:
        """Whether the map is an affine, which needs no grid."""
        return self.field is None and self.sampled is None

    def inverted(self) -> Loaded:
        """Return the inverse of a linear map.

        Raises:
            TransformError: the map is not linear.
        """
        if not self.is_linear:
            raise TransformError(
                f"{self.name}: expected a linear transform to invert within a chain, got a field: "
                "iterreg convert --direction moving-to-fixed inverts it first"
            )
        return Loaded(self.name, self.rank, np.asarray(np.linalg.inv(self.affine_lps), np.float64))

    def on(self, reference: Grid | None) -> Transform:
        """Return the transform; a field keeps its own grid, others take the reference.

        Raises:
            TransformError: the rank differs, or a reference is needed and None.
        """
        if reference is not None and reference.rank != self.rank:
            raise TransformError(
                f"{self.name}: expected a {reference.rank}-D transform, got {self.rank}-D"
            )
        if self.field is not None:
            return Transform(self.affine_lps, self.field)
        if reference is None:
            needed = "a reference grid, because a linear transform has none"
            if self.sampled is not None:
                needed = (
                    "linear transforms and one displacement field applied first, or a reference "
                    f"grid to sample on, got {self.kinds}"
                )
            raise TransformError(f"{self.name}: expected {needed}")
        if self.sampled is not None:
            return self.sampled(reference)
        return Transform(self.affine_lps, DisplacementField.zero(reference))

    def for_points(self, reference: Grid | None = None) -> Transform:
        """Return the transform as points need it: a linear one takes any grid.

        Raises:
            TransformError: as :meth:`on`.

        Example:
            >>> Loaded("a shift", 2, np.array([[1, 0, 4], [0, 1, 0], [0, 0, 1.0]])).for_points()
            Transform(affine_lps=array([[1., 0., 4.],
                   [0., 1., 0.],
                   [0., 0., 1.]]), field=DisplacementField(Grid(2 x 2 voxels (x first) of \
1 x 1 mm, axes LP), longest 0 mm))
        """
        if reference is None and self.is_linear:
            axes = tuple(tuple(row) for row in np.eye(self.rank).tolist())
            sizes = (2,) * self.rank, (1.0,) * self.rank, (0.0,) * self.rank
            reference = Grid(*sizes, axes)
        return self.on(reference)
