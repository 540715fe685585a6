"""Linear transforms in text files: what their readers share."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from iterreg.errors import TransformError
from iterreg.formats.loaded import Loaded
from iterreg.geometry import Grid, Matrix

RAS_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Between RAS and LPS, in both directions."""


def numbers_of(path: Path, text: str, count: int | None = None) -> list[float]:
    """Return the numbers of a text, all of it.

    Args:
        path: for messages.
        text: numbers between spaces, commas or line ends.
        count: how many are expected; None for any.

    Raises:
        TransformError: something is no finite number, or their count differs.
    """
    words = [word for word in re.split(r"[\s,;]+", text) if word]
    try:
        numbers = [float(word) for word in words]
    except ValueError as error:
        raise TransformError(f"{path}: expected numbers, got {str(error)[-60:]!a}") from error
    if not np.isfinite(numbers).all():
        raise TransformError(f"{path}: expected finite numbers, got NaN or infinite ones")
    if count is not None and len(numbers) != count:
        raise TransformError(f"{path}: expected {count} numbers, got {len(numbers)}")
    return numbers


def without_comments(text: str) -> str:
    """Return a text without what follows # on its lines."""
    return "\n".join(line.partition("#")[0] for line in text.splitlines())


def is_matrix(text: str, rows: int = 4) -> bool:
    """Whether a text is a matrix of numbers with four columns, and nothing else.

    Example:
        >>> is_matrix("1 0 0 12\\n0 1 0 -8\\n0 0 1 4\\n0 0 0 1\\n")
        True
    """
    lines = [line.split() for line in without_comments(text).splitlines() if line.strip()]
    number = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
    return len(lines) == rows and all(
        len(line) == 4 and all(number.fullmatch(word) for word in line) for line in lines
    )


def matrix_of(path: Path, numbers: list[float]) -> Matrix:
    """Return 12 or 16 numbers, row by row, as a homogeneous matrix.

    Raises:
        TransformError: the last row is not 0 0 0 1, or the matrix cannot be inverted.
    """
    matrix = np.eye(4)
    matrix[: len(numbers) // 4] = np.asarray(numbers).reshape(-1, 4)
    if not np.allclose(matrix[3], (0, 0, 0, 1), atol=1e-6):
        raise TransformError(f"{path}: expected a last row of 0 0 0 1, got {matrix[3].tolist()}")
    if abs(np.linalg.det(matrix)) < 1e-12:
        raise TransformError(f"{path}: expected an affine that can be inverted, got a singular one")
    return matrix


def linear_in_ras(path: Path, ras: Matrix) -> Loaded:
    """Return a matrix between points in RAS mm as a linear transform."""
    return Loaded(str(path), 3, np.asarray(RAS_LPS @ ras @ RAS_LPS, np.float64))


def lps_to_ijk(grid: Grid) -> Matrix:
    """Return the matrix from LPS mm to an index with x first, nibabel's order."""
    return np.asarray(np.linalg.inv(grid.ijk_to_ras) @ RAS_LPS, np.float64)
