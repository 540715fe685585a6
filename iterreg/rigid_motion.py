"""A rigid motion in the numbers that a treatment couch takes: a shift in mm, turns in degrees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iterreg.errors import TransformError
from iterreg.geometry import Matrix

TOLERANCE = 1e-4
"""A matrix is rigid if no length changes by more than this share."""


@dataclass(frozen=True)
class RigidMotion:
    """A turn about a centre, then a shift: ``x -> R (x - centre) + centre + translation``.

    Args:
        translation_mm: along x, y, z (LPS), of the centre.
        rotation_deg: about x, y, z (LPS) through the centre, positive by the right-hand rule; the
            turn about x comes first, so ``R = Rz Ry Rx``. In 2-D one turn, from x towards y.
        centre_lps_mm: the isocentre, x, y, z.

    Example:
        >>> turn = np.array([[0.0, -1.0, 0.0, 5.0], [1.0, 0.0, 0.0, 0.0],
        ...                  [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
        >>> RigidMotion.of(turn, (1.0, 0.0, 0.0)).words
        'x +4.0, y +1.0, z +0.0 mm; turned x +0.0, y +0.0, z +90.0 deg about (1.0, 0.0, 0.0)'
    """

    translation_mm: tuple[float, ...]
    rotation_deg: tuple[float, ...]
    centre_lps_mm: tuple[float, ...]

    @classmethod
    def of(cls, matrix_lps: Matrix, centre_lps_mm: ArrayLike) -> RigidMotion:
        """Take a rigid matrix apart.

        Args:
            matrix_lps: homogeneous, (rank + 1, rank + 1), LPS mm.
            centre_lps_mm: where the turns are taken about, x, y(, z).

        Raises:
            TransformError: the matrix stretches or mirrors, or the centre is no point of its rank.
        """
        from scipy.spatial.transform import Rotation

        rank = len(matrix_lps) - 1
        centre = _point(centre_lps_mm, rank)
        turn = matrix_lps[:rank, :rank]
        if not is_rigid(matrix_lps):
            change = stretch(matrix_lps)
            raise TransformError(f"expected a rigid matrix, got one that stretches by {change:.2g}")
        angles = (
            Rotation.from_matrix(turn).as_euler("xyz")
            if rank == 3
            else [math.atan2(turn[1, 0], turn[0, 0])]
        )
        shift = turn @ centre + matrix_lps[:rank, rank] - centre
        return cls(
            tuple(shift.tolist()), tuple(np.degrees(angles).tolist()), tuple(centre.tolist())
        )

    @property
    def matrix_lps(self) -> Matrix:
        """The motion as a homogeneous matrix, LPS mm.

        Example:
            >>> RigidMotion((1.0, 2.0), (0.0,), (5.0, 5.0)).matrix_lps.tolist()
            [[1.0, 0.0, 1.0], [0.0, 1.0, 2.0], [0.0, 0.0, 1.0]]
        """
        from scipy.spatial.transform import Rotation

        rank = len(self.centre_lps_mm)
        angles = self.rotation_deg if rank == 3 else (0.0, 0.0, *self.rotation_deg)
        turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()[:rank, :rank]
        centre = np.asarray(self.centre_lps_mm)
        matrix = np.eye(rank + 1)
        matrix[:rank, :rank] = turn
        matrix[:rank, rank] = centre + self.translation_mm - turn @ centre
        return matrix

    @property
    def words(self) -> str:
        """All numbers on one line."""
        # Adding 0.0 turns a rounded -0.0 into 0.0.
        shift = _signed("xyz", self.translation_mm)
        turns = _signed("xyz" if len(self.rotation_deg) == 3 else "z", self.rotation_deg)
        centre = ", ".join(f"{c:.1f}" for c in self.centre_lps_mm)
        return f"{shift} mm; turned {turns} deg about ({centre})"


def _point(given: ArrayLike, rank: int) -> NDArray[np.float64]:
    try:
        point = np.asarray(given, np.float64)
    except (TypeError, ValueError):
        point = np.empty(0)
    if point.shape != (rank,) or not np.isfinite(point).all():
        raise TransformError(f"centre: expected {rank} coordinates in mm, got {given!r:.80}")
    return point


def _signed(axes: str, values: Sequence[float]) -> str:
    # Adding 0.0 turns a rounded -0.0 into 0.0.
    return ", ".join(f"{a} {round(v, 1) + 0.0:+.1f}" for a, v in zip(axes, values, strict=False))


def is_rigid(matrix_lps: Matrix) -> bool:
    """Whether a homogeneous matrix keeps all lengths.

    Example:
        >>> is_rigid(np.eye(4)), is_rigid(np.diag([1.0, 1.0, -1.0, 1.0]))
        (True, False)
    """
    return stretch(matrix_lps) <= TOLERANCE


def stretch(matrix_lps: Matrix) -> float:
    """Return the largest share by which a matrix changes a length; 2 or more if it mirrors.

    Args:
        matrix_lps: homogeneous.

    Example:
        >>> stretch(np.diag([1.0, 1.0, 1.25, 1.0]))
        0.25
    """
    linear = np.asarray(matrix_lps)[:-1, :-1]
    change = float(np.abs(np.linalg.svd(linear, compute_uv=False) - 1).max())
    return change + 2.0 if np.linalg.det(linear) < 0 else change
