"""elastix: parameter files ``TransformParameters.*.txt``, from fixed to moving points, LPS mm."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iterreg.errors import TransformError
from iterreg.formats.headers import first_bytes
from iterreg.formats.itk_checks import LINEAR, lattice_voxels
from iterreg.formats.itk_objects import itk_to_loaded, one_line
from iterreg.formats.loaded import Loaded
from iterreg.formats.matrices import numbers_of
from iterreg.formats.types import Sides, TransformFormat

if TYPE_CHECKING:
    import SimpleITK as sitk

LARGEST_BYTES = 500_000_000
LONGEST_CHAIN = 20

NONE = "NoInitialTransform"
KINDS = {
    "TranslationTransform": "TranslationTransform",
    "EulerTransform": "Euler",
    "SimilarityTransform": "Similarity",
    "AffineTransform": "AffineTransform",
    "BSplineTransform": "BSplineTransform",
    "RecursiveBSplineTransform": "BSplineTransform",
}
"""elastix's kinds that are read, and their classes in ITK."""

_ENTRY = re.compile(r"^\s*\((\w+)\s+(.*?)\)\s*(?://.*)?$", re.MULTILINE)


def _recognises(path: Path) -> bool:
    return re.search(rb'^\s*\(Transform\s+"', first_bytes(path), re.MULTILINE) is not None


def _load(path: Path, sides: Sides) -> Loaded:
    parts = _chain(path, ())
    import SimpleITK as sitk

    return itk_to_loaded(sitk.CompositeTransform(parts), str(path))


def _chain(path: Path, seen: tuple[Path, ...]) -> list[sitk.Transform]:
    """The transforms of a file and of those that it names; the last one is applied first."""
    table = _entries(path)
    own = _transform(path, table)
    initial = ""
    for key in ("InitialTransformParameterFileName", "InitialTransformParametersFileName"):
        initial = table.get(key, "").strip('"') or initial
    if not initial or initial == NONE:
        return [own]
    if table.get("HowToCombineTransforms", '"Compose"').strip('"') != "Compose":
        raise TransformError(
            f"{path}: expected transforms that are composed (HowToCombineTransforms), got others: "
            "transformix -def all writes the sum as a displacement field"
        )
    candidates = [Path(initial), path.parent / Path(initial).name]
    before = next((file for file in candidates if os.path.isfile(file)), None)
    if before is None or before.resolve() in seen or len(seen) >= LONGEST_CHAIN:
        raise TransformError(
            f"{path}: expected its initial transform {initial[:200]!a}, got no such file beside it"
        )
    return [own, *_chain(before, (*seen, path.resolve()))]


def _entries(path: Path) -> dict[str, str]:
    if path.stat().st_size > LARGEST_BYTES:
        raise TransformError(f"{path}: expected elastix's parameters, got a file of that size")
    text = path.read_bytes().decode("latin-1")
    table = {key: value.strip() for key, value in _ENTRY.findall(text)}
    if "Transform" not in table or "TransformParameters" not in table:
        raise TransformError(
            f"{path}: expected elastix's Transform and TransformParameters; the file may be cut"
        )
    return table


def _transform(path: Path, table: dict[str, str]) -> sitk.Transform:
    import SimpleITK as sitk

    kind = table["Transform"].strip('"')
    rank = _rank(path, table)
    if table.get("UseDirectionCosines", '"true"').strip('"').lower() != "true":
        raise TransformError(
            f"{path}: expected elastix to have used the images' directions (UseDirectionCosines), "
            "got a transform that leaves them out"
        )
    if kind not in KINDS:
        raise TransformError(
            f"{path}: expected elastix's {', '.join(KINDS)}, got {kind[:60]!a}: transformix -def "
            "all writes it as a displacement field (deformationField), which iterreg reads"
        )
    parameters = numbers_of(path, table["TransformParameters"])
    if KINDS[kind] == "BSplineTransform":
        return _spline(path, table, rank, parameters)
    name = KINDS[kind]
    if not name.endswith("Transform"):
        name = f"{name}{rank}DTransform"
    expected = LINEAR[name](rank)
    if len(parameters) != expected:
        raise TransformError(f"{path}: expected {expected} parameters, got {len(parameters)}")
    general = name in ("TranslationTransform", "AffineTransform")
    make: Any = getattr(sitk, name)
    itk: Any = make(rank) if general else make()
    if name != "TranslationTransform":
        itk.SetCenter(_numbers(path, table, "CenterOfRotationPoint", rank))
    if name == "Euler3DTransform":
        itk.SetComputeZYX(table.get("ComputeZYX", '"false"').strip('"').lower() == "true")
    itk.SetParameters(parameters)
    moved: sitk.Transform = itk
    return moved


def _spline(
    path: Path, table: dict[str, str], rank: int, parameters: list[float]
) -> sitk.Transform:
    import SimpleITK as sitk

    if table.get("UseCyclicTransform", "").strip('"').lower() == "true":
        raise TransformError(f"{path}: expected splines that are not cyclic (UseCyclicTransform)")
    size = _numbers(path, table, "GridSize", rank)
    spacing, origin = (_numbers(path, table, f"Grid{k}", rank) for k in ("Spacing", "Origin"))
    start = _numbers(path, table, "GridIndex", rank) if "GridIndex" in table else [0.0] * rank
    direction = _numbers(path, table, "GridDirection", rank * rank)
    (order,) = _numbers(path, table, "BSplineTransformSplineOrder", 1) or [3.0]
    if any(start):
        raise TransformError(f"{path}: expected a grid of splines that starts at 0 0 0 (GridIndex)")
    if order not in (1, 2, 3):
        raise TransformError(f"{path}: expected splines of order 1, 2 or 3, got {order:g}")
    # elastix writes its direction by columns, ITK by rows.
    rows = [direction[rank * k + r] for r in range(rank) for k in range(rank)]
    fixed = [*size, *origin, *spacing, *rows]
    count = rank * lattice_voxels(path, "BSplineTransform", int(order) + 1, fixed)
    if len(parameters) != count:
        raise TransformError(
            f"{path}: expected {count} parameters for its grid of splines, got {len(parameters)}"
        )
    itk = sitk.BSplineTransform(rank, int(order))
    with one_line(path):
        itk.SetFixedParameters(fixed)
        itk.SetParameters(parameters)
    return itk


def _rank(path: Path, table: dict[str, str]) -> int:
    sides = [
        numbers_of(path, table.get(f"{side}ImageDimension", "0")) for side in ("Fixed", "Moving")
    ]
    if sides not in ([[2.0], [2.0]], [[3.0], [3.0]]):
        raise TransformError(
            f"{path}: expected FixedImageDimension and MovingImageDimension 2 or 3"
        )
    return int(sides[0][0])


def _numbers(path: Path, table: dict[str, str], key: str, count: int) -> list[float]:
    if key not in table:
        if key == "BSplineTransformSplineOrder":
            return [3.0]
        raise TransformError(f"{path}: expected elastix's {key}; the file may be cut")
    return numbers_of(path, table[key], count)


ELASTIX = TransformFormat(
    meaning="elastix parameter file (mm, LPS)",
    read_suffixes=(".txt",),
    write_suffixes=(),
    recognises=_recognises,
    load=_load,
)
