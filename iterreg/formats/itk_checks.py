"""ITK's transform files, checked before ITK reads them.

ITK believes the sizes that such a file states. A wrong count of B-spline parameters damages the
memory of the process, and a small HDF5 file can ask for any amount of memory. So every count is
held against its kind and its grid, and against the size of the file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from iterreg.errors import GeometryError, TransformError
from iterreg.formats.hdf5_checks import HDF5_SUFFIXES, MOST_FIXED, Part, hdf5_parts
from iterreg.geometry import Grid
from iterreg.io import extension_of

TEXT_SUFFIXES = (".tfm", ".txt")
TEXT_START = b"#Insight Transform File"

PIECE_BYTES = 1 << 20
LINEAR: dict[str, Callable[[int], int]] = {
    "IdentityTransform": lambda rank: 0,
    "TranslationTransform": lambda rank: rank,
    "ScaleTransform": lambda rank: rank,
    "ScaleLogarithmicTransform": lambda rank: rank,
    "AffineTransform": lambda rank: rank * (rank + 1),
    "MatrixOffsetTransformBase": lambda rank: rank * (rank + 1),
    "CenteredAffineTransform": lambda rank: rank * (rank + 2),
    "ScalableAffineTransform": lambda rank: rank * (rank + 1),
    "FixedCenterOfRotationAffineTransform": lambda rank: rank * (rank + 1),
    "Rigid2DTransform": lambda rank: 3,
    "Euler2DTransform": lambda rank: 3,
    "CenteredRigid2DTransform": lambda rank: 5,
    "CenteredEuler3DTransform": lambda rank: 9,
    "Similarity2DTransform": lambda rank: 4,
    "CenteredSimilarity2DTransform": lambda rank: 6,
    "Euler3DTransform": lambda rank: 6,
    "VersorTransform": lambda rank: 3,
    "VersorRigid3DTransform": lambda rank: 6,
    "QuaternionRigidTransform": lambda rank: 7,
    "Similarity3DTransform": lambda rank: 7,
    "ScaleVersor3DTransform": lambda rank: 9,
    "ScaleSkewVersor3DTransform": lambda rank: 15,
    "ComposeScaleSkewVersor3DTransform": lambda rank: 12,
}
"""How many parameters the linear kinds have, by rank."""

ON_A_GRID = ("BSplineTransform", "BSplineDeformableTransform", "DisplacementFieldTransform")
COMPOSITE = "CompositeTransform"

_KIND = re.compile(r"(\w+?)_(?:double|float)_([23])_\2(?:_(\d))?")
_MATLAB_HEADER = 20

LONGEST = 1e6
"""No axis of a grid has more nodes."""

FARTHEST_MM, SHORTEST_MM = 1e7, 1e-7
"""No lattice lies farther away, and none is finer."""


def check_itk_file(path: Path) -> None:
    """Refuse a transform file whose parts do not fit each other.

    Args:
        path: .h5, .tfm, .txt or .mat, in ITK's form.

    Raises:
        TransformError: cut, damaged, of an unknown kind, or larger than its content explains.
    """
    suffix = extension_of(path)
    if suffix in HDF5_SUFFIXES:
        parts = hdf5_parts(path)
    elif suffix == ".mat":
        parts = _matlab_parts(path)
    else:
        parts = _text_parts(path)
    for part in parts:
        _require_fit(path, part)
    if len(parts) > 1 and not parts[0].kind.startswith(COMPOSITE):
        raise TransformError(
            f"{path}: expected one transform or a composite, got {len(parts)} transforms without a "
            "word on their order: write each into a file, and give them as a chain"
        )
    if not parts or all(part.kind.startswith(COMPOSITE) for part in parts):
        raise TransformError(f"{path}: expected a transform, got a file without one; it may be cut")


def _require_fit(path: Path, part: Part) -> None:
    named = _KIND.fullmatch(part.kind)
    kind = named[1] if named else ""
    if named is None or kind not in (*LINEAR, *ON_A_GRID, COMPOSITE):
        raise TransformError(
            f"{path}: expected a linear transform, a B-spline or a displacement field of rank 2 or "
            f"3, got {part.kind[:80]!a}"
        )
    if kind == COMPOSITE:
        return
    rank = int(named[2])
    if part.count is None or not part.has_fixed:
        raise TransformError(
            f"{path}: expected parameters and fixed parameters of {kind}, got a file that ends "
            "before them: it is cut"
        )
    if not np.isfinite(part.fixed).all():
        raise TransformError(f"{path}: expected finite fixed parameters of {kind}, got others")
    if kind in LINEAR:
        expected = LINEAR[kind](rank)
    else:
        order = int(named[3] or 3) if kind.startswith("BSpline") else 0
        expected = rank * lattice_voxels(path, kind, order + 1, part.fixed)
    if part.count != expected:
        raise TransformError(
            f"{path}: expected {expected} parameters of {kind}, got {part.count}; the file is cut "
            "or damaged"
        )


def lattice_voxels(path: Path, kind: str, least: int, fixed: Sequence[float]) -> int:
    """Return how many nodes a lattice has: ITK may search for ever in one that is none.

    Args:
        path, kind: whose it is, for messages.
        least: nodes that every axis needs.
        fixed: size, origin, spacing and direction by rows, x first.

    Raises:
        TransformError: it is none.
    """
    rank = {10: 2, 18: 3}.get(len(fixed), 0)
    size, origin, spacing = (fixed[n * rank : (n + 1) * rank] for n in range(3))
    in_range = all(least <= n <= LONGEST and n == int(n) for n in size)
    placed = all(abs(x) <= FARTHEST_MM for x in origin)
    stepped = all(SHORTEST_MM <= s <= FARTHEST_MM for s in spacing)
    if not (rank and in_range and placed and stepped):
        raise TransformError(
            f"{path}: expected size, origin, spacing and direction of {kind} in 10 or 18 fixed "
            f"parameters, got {len(fixed)} or a size or spacing out of range"
        )
    axes = np.asarray(fixed[3 * rank :]).reshape(rank, rank)
    try:
        grid = Grid(
            tuple(int(n) for n in reversed(size)),
            tuple(spacing),
            tuple(origin),
            tuple(tuple(row) for row in axes.tolist()),
        )
    except GeometryError as error:
        raise TransformError(f"{path}: {kind}: {error}") from error
    return math.prod(grid.shape_zyx)


def _text_parts(path: Path) -> list[Part]:
    with path.open("rb") as file:
        if not file.read(len(TEXT_START)).startswith(TEXT_START):
            raise TransformError(f"{path}: expected ITK's first line {TEXT_START.decode()} V1.0")
    parts: list[Part] = []
    with path.open("rb") as file:
        for key, pieces in _text_lines(file):
            if key == b"Transform":
                parts.append(Part(b"".join(pieces)[:200].decode("latin-1").strip()))
            elif key in (b"Parameters", b"FixedParameters"):
                if not parts:
                    raise TransformError(f"{path}: expected a line Transform before {key.decode()}")
                _take_numbers(path, parts[-1], key == b"FixedParameters", pieces)
    return parts


def _text_lines(file: IO[bytes]) -> Iterator[tuple[bytes, Iterator[bytes]]]:
    """Yield the key of each line and its value, in pieces that end between numbers."""
    while line := file.readline(PIECE_BYTES):
        key, _, value = line.partition(b":")
        pieces = _pieces(file, value)
        yield key.strip(), pieces
        for _ in pieces:
            pass


def _pieces(file: IO[bytes], value: bytes) -> Iterator[bytes]:
    while value and not value.endswith(b"\n"):
        more = file.readline(PIECE_BYTES)
        if not more:
            break
        whole, _, rest = value.rpartition(b" ")
        if whole:
            yield whole
        value = rest + more
        if len(value) > 4 * PIECE_BYTES:
            break
    yield value


def _take_numbers(path: Path, part: Part, is_fixed: bool, pieces: Iterator[bytes]) -> None:
    count = 0
    for piece in pieces:
        try:
            values = np.array(piece.split(), np.float64)
        except ValueError as error:
            raise TransformError(
                f"{path}: expected numbers as parameters, got {str(error)[-80:]!a}"
            ) from error
        if not np.isfinite(values).all():
            kind = "finite fixed parameters" if is_fixed else "finite parameters"
            raise TransformError(f"{path}: expected {kind}, got NaN or infinite ones")
        count += len(values)
        if is_fixed:
            part.fixed += values[: MOST_FIXED + 1].tolist()
            part.has_fixed = True
            if len(part.fixed) > MOST_FIXED:
                raise TransformError(f"{path}: expected at most {MOST_FIXED} fixed parameters")
        else:
            part.count = count


def _matlab_parts(path: Path) -> list[Part]:
    """The matrices of a MATLAB file of level 4, as ANTs writes it: parameters, then fixed ones."""
    length = path.stat().st_size
    parts: list[Part] = []
    with path.open("rb") as file:
        while header := file.read(_MATLAB_HEADER):
            numbers = np.frombuffer(header.ljust(_MATLAB_HEADER, b"\xff"), "<i4")
            kind, rows, columns, imaginary, letters = numbers.tolist()
            size = {0: 8, 10: 4}.get(kind, 0)
            room = length - file.tell() - letters
            if not size or imaginary or not 0 < letters < 200 or min(rows, columns) < 0:
                raise TransformError(f"{path}: expected an ITK transform in MATLAB's level 4 form")
            if rows * columns * size > room:
                raise TransformError(
                    f"{path}: expected {rows} x {columns} numbers, got a file that is cut"
                )
            name = file.read(letters).rstrip(b"\0").decode("latin-1")
            count = rows * columns
            values = np.frombuffer(file.read(count * size), "<f8" if size == 8 else "<f4")
            if name != "fixed":
                parts.append(Part(name, count))
            elif parts:
                parts[-1].fixed, parts[-1].has_fixed = values[:MOST_FIXED].tolist(), True
    return parts
