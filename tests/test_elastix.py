"""elastix's parameter files, held against SimpleITK's transforms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from iterreg.errors import TransformError
from iterreg.formats.itk_objects import map_points
from iterreg.formats.reading import load_transform
from iterreg.geometry import Points

CENTRE = (4.0, -3.0, 2.0)


def written(path: Path, kind: str, numbers: object, rank: int = 3, **entries: object) -> Path:
    """A file as elastix writes it."""
    values = {
        "Transform": f'"{kind}"',
        "NumberOfParameters": np.size(numbers),
        "TransformParameters": " ".join(repr(float(v)) for v in np.ravel(numbers)),
        "InitialTransformParametersFileName": '"NoInitialTransform"',
        "UseBinaryFormatForTransformationParameters": '"false"',
        "HowToCombineTransforms": '"Compose"',
        "FixedImageDimension": rank,
        "MovingImageDimension": rank,
        "CenterOfRotationPoint": " ".join(map(str, CENTRE[:rank])),
    } | entries
    lines = (f"({key} {value})\n" for key, value in values.items() if value is not None)
    path.write_text(
        "".join(lines) + '\n// Image specific\n(Spacing 1 1 1)\n(UseDirectionCosines "true")\n'
    )
    return path


def linear_kinds() -> list[tuple[str, sitk.Transform]]:
    random = np.random.default_rng(0)
    made = []
    for kind, itk in (
        ("TranslationTransform", sitk.TranslationTransform(3)),
        ("TranslationTransform", sitk.TranslationTransform(2)),
        ("EulerTransform", sitk.Euler3DTransform()),
        ("EulerTransform", sitk.Euler2DTransform()),
        ("SimilarityTransform", sitk.Similarity3DTransform()),
        ("SimilarityTransform", sitk.Similarity2DTransform()),
        ("AffineTransform", sitk.AffineTransform(3)),
        ("AffineTransform", sitk.AffineTransform(2)),
    ):
        if kind != "TranslationTransform":
            itk.SetCenter(CENTRE[: itk.GetDimension()])
        start = np.asarray(itk.GetParameters())
        itk.SetParameters((start + 0.1 * random.normal(size=start.shape)).tolist())
        made.append((kind, itk))
    return made


def require_same(path: Path, itk: sitk.Transform) -> None:
    rank = itk.GetDimension()
    points = np.random.default_rng(1).uniform(-20, 20, (30, rank))
    found = map_points(load_transform(path), Points(points)).lps
    expected = [itk.TransformPoint(p) for p in points.tolist()]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(("kind", "itk"), linear_kinds())
def test_linear_kinds(tmp_path: Path, kind: str, itk: sitk.Transform) -> None:
    require_same(written(tmp_path / "T.0.txt", kind, itk.GetParameters(), itk.GetDimension()), itk)


def spline(order: int = 3) -> tuple[sitk.BSplineTransform, dict[str, object]]:
    """A spline on a turned grid, and what elastix writes about the grid: directions by columns."""
    turned = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    size, spacing, origin = (6, 7, 8), (9.0, 8.0, 7.0), (32.0, -30.0, -28.0)
    itk = sitk.BSplineTransform(3, order)
    itk.SetFixedParameters([*size, *origin, *spacing, *turned.ravel()])
    itk.SetParameters(np.random.default_rng(2).normal(size=3 * 6 * 7 * 8).tolist())
    told = {
        "GridSize": "6 7 8",
        "GridIndex": "0 0 0",
        "GridSpacing": "9 8 7",
        "GridOrigin": "32 -30 -28",
        "GridDirection": " ".join(map(str, turned.T.ravel())),
        "BSplineTransformSplineOrder": order,
    }
    return itk, told


@pytest.mark.parametrize("order", [1, 2, 3])
def test_splines(tmp_path: Path, order: int) -> None:
    itk, told = spline(order)
    path = written(tmp_path / "T.0.txt", "BSplineTransform", itk.GetParameters(), **told)
    require_same(path, itk)


def test_a_chain_is_found_beside_the_file(tmp_path: Path) -> None:
    itk, told = spline()
    affine = sitk.AffineTransform(3)
    affine.SetCenter(CENTRE)
    affine.Rotate(0, 1, 0.1)
    written(tmp_path / "T.0.txt", "AffineTransform", affine.GetParameters())
    told |= {"InitialTransformParametersFileName": '"/gone/run/T.0.txt"'}
    last = written(tmp_path / "T.1.txt", "BSplineTransform", itk.GetParameters(), **told)
    require_same(last, sitk.CompositeTransform([itk, affine]))
    written(
        tmp_path / "T.1.txt",
        "BSplineTransform",
        itk.GetParameters(),
        **told | {"HowToCombineTransforms": '"Add"'},
    )
    with pytest.raises(TransformError, match="transformix -def all"):
        load_transform(last)
    (tmp_path / "T.0.txt").unlink()
    written(tmp_path / "T.1.txt", "BSplineTransform", itk.GetParameters(), **told)
    with pytest.raises(TransformError, match=r"T.1.txt: expected its initial transform"):
        load_transform(last)


def test_a_file_that_names_itself(tmp_path: Path) -> None:
    itself = {"InitialTransformParametersFileName": '"T.0.txt"'}
    path = written(tmp_path / "T.0.txt", "TranslationTransform", [1, 2, 3], **itself)
    with pytest.raises(TransformError, match="expected its initial transform"):
        load_transform(path)


@pytest.mark.parametrize(
    ("kind", "numbers", "entries", "phrase"),
    [
        ("SplineKernelTransform", [1], {}, "transformix -def all"),
        ("TranslationTransform", [1, 2], {}, "expected 3 parameters, got 2"),
        ("TranslationTransform", [1, 2, 3], {"FixedImageDimension": 4}, "Dimension 2 or 3"),
        ("TranslationTransform", [1, 2, 3], {"TransformParameters": None}, "may be cut"),
        ("AffineTransform", range(12), {"CenterOfRotationPoint": None}, "CenterOfRotationPoint"),
        ("AffineTransform", [0.0] * 12, {}, "can be inverted"),
        ("TranslationTransform", [1, 2, np.inf], {}, "finite numbers"),
        ("BSplineTransform", [1, 2], spline()[1], "expected 1008 parameters for its grid"),
        ("BSplineTransform", [0] * 1008, spline()[1] | {"GridSize": "1e9 1e9 1e9"}, "out of range"),
        (
            "BSplineTransform",
            [0] * 1008,
            spline()[1] | {"GridSpacing": "1e300 8 7"},
            "out of range",
        ),
        ("BSplineTransform", [0] * 1008, spline()[1] | {"GridOrigin": "1e300 8 7"}, "out of range"),
        (
            "BSplineTransform",
            [0] * 1008,
            spline()[1] | {"GridDirection": "1e9 0 0 0 1 0 0 0 1"},
            "orthonormal",
        ),
        (
            "BSplineTransform",
            [0] * 1008,
            spline()[1] | {"UseCyclicTransform": '"true"'},
            "UseCyclicTransform",
        ),
        ("BSplineTransform", [0] * 1008, spline()[1] | {"GridIndex": "1 0 0"}, "GridIndex"),
    ],
)
def test_what_does_not_fit_is_one_line(
    tmp_path: Path, kind: str, numbers: object, entries: dict[str, object], phrase: str
) -> None:
    path = written(tmp_path / "T.0.txt", kind, list(numbers), **entries)
    with pytest.raises(TransformError) as caught:
        load_transform(path)
    assert str(caught.value).startswith(f"{path}: ") and phrase in str(caught.value)


def test_directions_that_were_left_out(tmp_path: Path) -> None:
    path = written(tmp_path / "T.0.txt", "TranslationTransform", [1, 2, 3])
    path.write_text(path.read_text().replace('Cosines "true"', 'Cosines "false"'))
    with pytest.raises(TransformError, match="UseDirectionCosines"):
        load_transform(path)
