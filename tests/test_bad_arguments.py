"""What Python is given and cannot use is refused in one line that names the argument."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import iterreg
from iterreg import DisplacementField, Image, LabelMap, Points, Transform
from iterreg.errors import ConfigError, GeometryError, ImageContentError, OutOfMemoryError

NOISE = np.random.default_rng(0).random((6, 7, 8))
IMAGE = Image.from_array(NOISE, axes="zyx", spacing_xyz_mm=(2, 2, 2))
LABELS = LabelMap.from_array(NOISE > 0.5, axes="zyx", grid=IMAGE)
BOTH = {"fixed_labels": LABELS, "moving_labels": LABELS}
NONE = Points(np.zeros((0, 3)))
HOLED = Image.from_array(np.where(NOISE > 0.9, np.nan, NOISE), axes="zyx", grid=IMAGE)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"fixed": None}, TypeError, "fixed: expected a path, .*got NoneType"),
        ({"moving": HOLED}, ImageContentError, "moving: expected finite intensities"),
        ({"fixed_mask": IMAGE}, ImageContentError, "mask of fixed: expected labels"),
        ({"preset": None}, TypeError, "preset: expected a name, .*got NoneType"),
        ({"overrides": ["a"]}, TypeError, "overrides: expected a dict, got list"),
        ({"overrides": {"similarity.kind": np.mean}}, ConfigError, "kind: .*register_similarity"),
        ({"seed": None}, TypeError, "seed: expected a whole number, got None"),
        ({"seed": 0.5}, TypeError, "seed: expected a whole number, got 0.5"),
        ({"threads": "2"}, TypeError, "threads: expected a whole number, got '2'"),
        ({"memory_gb": "2"}, TypeError, "memory_gb: expected a number, got '2'"),
        ({"memory_gb": float("nan")}, OutOfMemoryError, "memory nan GB: this pair needs"),
        ({"roi_pairs": [1]}, TypeError, "roi_pairs: expected a path or .*got int"),
        ({"label_table": ["liver"]}, TypeError, "label_table: expected a name, .*got list"),
        (BOTH | {"label_table": {5: "liver"}}, ImageContentError, r"fixed.*names \(5\), got 1$"),
        (
            {"fixed_landmarks": NONE, "moving_landmarks": NONE},
            ImageContentError,
            "fixed_landmarks: expected points",
        ),
    ],
)
def test_registering_refuses(given: dict[str, Any], error: type[Exception], words: str) -> None:
    arguments = {"fixed": IMAGE, "moving": IMAGE, "preset": "general"} | given
    with pytest.raises(error, match=words) as caught:
        iterreg.optimize_pair(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", ["abc", None, [["x", "y", "z"]], [[1.0], [1.0, 2.0]]])
def test_points_are_numbers(given: Any) -> None:
    with pytest.raises(GeometryError, match="points: expected"):
        Points(given)


def test_writing_takes_what_registering_takes(tmp_path: Path) -> None:
    iterreg.write_image(IMAGE.to_nibabel(), tmp_path / "image.nii.gz")
    assert np.allclose(iterreg.read_image(tmp_path / "image.nii.gz").to_array("zyx"), NOISE)
    iterreg.write_label_map(LABELS.to_simpleitk(), tmp_path / "labels.nii.gz")
    labels = iterreg.read_label_map(tmp_path / "labels.nii.gz")
    assert np.array_equal(labels.to_array("zyx"), NOISE > 0.5)


@pytest.mark.parametrize(
    ("write", "value", "error", "words"),
    [
        (iterreg.write_image, NOISE, GeometryError, "image: .*from_array"),
        (iterreg.write_image, LABELS, ImageContentError, "image: expected an image with inten"),
        (iterreg.write_label_map, IMAGE, ImageContentError, "labels: expected labels, got an im"),
        (iterreg.write_points, NOISE[0], GeometryError, "points: expected points that say whether"),
        (iterreg.write_transform, np.eye(4), TypeError, "transform: expected a Transform, got nda"),
        (iterreg.write_transform, SimpleNamespace(transform=1), TypeError, "give its .transform"),
    ],
)
def test_writing_refuses(
    tmp_path: Path, write: Any, value: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        write(value, tmp_path / "file.nii.gz")
    assert not [*tmp_path.iterdir()]


def test_names_are_of_numbers() -> None:
    with pytest.raises(ImageContentError, match=r"names: expected a dict .*'liver': 1"):
        LabelMap(LABELS.data, LABELS.grid, {"liver": 1})  # type: ignore[dict-item]


def test_values_of_arrays_are_refused_with_the_way() -> None:
    array, grid = np.zeros((1, *IMAGE.grid.shape_zyx), np.float32), IMAGE.grid
    with pytest.raises(TypeError, match=r"image: expected a torch tensor, got numpy.*from_array"):
        Image(array, grid)
    with pytest.raises(TypeError, match="labels: expected a torch tensor"):
        LabelMap(array[0].astype(np.int32), grid)
    with pytest.raises(TypeError, match="displacement field: expected a torch tensor"):
        DisplacementField(array, grid)
    with pytest.raises(TypeError, match=r"registration: expected an iterreg\.Reg.*got Image"):
        iterreg.expected_error_mm(IMAGE)
    with pytest.raises(GeometryError, match="axes: expected the letters 'zyx', got ''"):
        IMAGE.to_array(None)


def test_an_affine_is_a_finite_matrix() -> None:
    field = DisplacementField.zero(IMAGE.grid)
    assert np.array_equal(Transform(np.eye(4).tolist(), field).affine_lps, np.eye(4))
    for matrix, words in ((np.full((4, 4), np.nan), "a finite matrix"), ("abc", "numbers")):
        with pytest.raises(GeometryError, match=f"transform: affine: expected {words}"):
            Transform(matrix, field)


def test_a_phantom_takes_what_registering_takes() -> None:
    phantom = iterreg.make_phantom(IMAGE.to_nibabel(), LABELS.to_simpleitk(), amplitude_mm=1.0)
    assert phantom.labels is not None and phantom.fixed.grid.same_space(IMAGE.grid)
    for length, words in ((1e6, "from 0 to 100, got"), (np.nan, "got nan")):
        with pytest.raises(ConfigError, match=f"amplitude_mm: .*{words}"):
            iterreg.make_phantom(IMAGE, amplitude_mm=length)


def test_values_that_hold_arrays_are_equal_to_themselves_alone() -> None:
    field = DisplacementField.zero(IMAGE.grid)
    points = Points([[1.0, 2.0, 3.0]])
    for value in (IMAGE, LABELS, field, Transform(np.eye(4), field), points):
        twin = replace(value)
        assert value == value and value != twin and value not in [None, twin]
        assert len({value, twin}) == 2


def test_numbers_of_numpy_are_numbers() -> None:
    overrides = {
        "levels.steps": np.array([2]),
        "levels.spacing_mm": np.array([4.0], np.float32),
        "smoothness.weight": np.float32(0.5),
    }
    config = iterreg.load_config("general", overrides)
    assert (config.levels.steps, config.levels.spacing_mm) == ((2,), (4.0,))
    assert config.smoothness.weight == 0.5 and type(config.smoothness.weight) is float


def test_labels_that_the_table_does_not_name_are_told() -> None:
    two = LabelMap.from_array((NOISE > 0.5) + 1, axes="zyx", grid=IMAGE)
    measures = iterreg.evaluate(
        fixed_labels=two, moving_labels=two, label_table={1: "liver", 9: "spleen"}
    )
    assert "fixed_labels: the label table has no name for 2" in measures.notes
    assert [region.name for region in measures.regions] == ["liver", "label 2"]
