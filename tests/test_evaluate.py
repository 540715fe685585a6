"""``iterreg evaluate`` with label maps, landmarks or a known field, alone and together."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from click.testing import CliRunner, Result
from synthetic import Pair, World, places_lps, save

from iterreg.cli import iterreg
from iterreg.displacement import DisplacementField, Transform, displacement_vox_to_mm
from iterreg.errors import ExitCode
from iterreg.formats.itk import write_transform
from iterreg.geometry import Points, apply_linear
from iterreg.io import write_points

SHIFT_MM = (1.0, -2.0, 2.0)
LENGTH_MM = 3.0


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A pair with its true field, landmarks, and transforms that miss the truth by 3 mm."""
    folder = tmp_path_factory.mktemp("evaluate")
    pair = Pair.of(World(slide_mm=1.5))
    grid = pair.fixed.grid
    true_vox = apply_linear(grid.lps_to_index, np.moveaxis(pair.truth_mm(), -1, 0))
    true = torch.from_numpy(true_vox).float()
    found = save(folder, **pair.images, **pair.labels)
    for name, offset in (("true", (0.0,) * 3), ("missed", SHIFT_MM)):
        affine = np.eye(4)
        affine[:3, 3] = offset
        found[name] = folder / f"{name}.h5"
        write_transform(Transform(affine, DisplacementField(true, grid)), found[name])
    inside = places_lps(grid)[3:-3:3, 6:-6:7, 8:-8:12].reshape(-1, 3)
    moved = inside + pair.truth_mm()[3:-3:3, 6:-6:7, 8:-8:12].reshape(-1, 3)
    for name, points in (("here", inside), ("there", moved), ("shifted", inside + SHIFT_MM)):
        found[name] = folder / f"{name}.csv"
        write_points(Points(points), found[name])
    found["shift"] = folder / "shift.tfm"
    sitk.WriteTransform(sitk.TranslationTransform(3, SHIFT_MM), str(found["shift"]))
    assert float(displacement_vox_to_mm(true, grid).norm(dim=0).max()) > 1
    return found


def evaluate(*arguments: object) -> Result:
    return CliRunner().invoke(iterreg, ["evaluate", *(str(a) for a in arguments)])


def numbers(folder: Path, *arguments: object) -> dict[str, Any]:
    """What a call that succeeds writes as JSON; it writes a page too."""
    result = evaluate(*arguments, "--json", folder / "n.json", "--html", folder / "page.html")
    assert result.exit_code == 0, result.output
    assert "Registration report" in (folder / "page.html").read_text("utf-8")
    tables: dict[str, Any] = json.loads((folder / "n.json").read_text(), parse_constant=pytest.fail)
    return tables


def parts(files: dict[str, Path]) -> dict[str, list[object]]:
    """The options of each thing to evaluate with."""
    return {
        "labels": [
            "--fixed-labels",
            files["fixed_labels"],
            "--moving-labels",
            files["moving_labels"],
        ],
        "landmarks": ["--fixed-landmarks", files["here"], "--moving-landmarks", files["there"]],
        "known": ["--known-field", files["true"]],
    }


KINDS = ("labels", "landmarks", "known")
SETS = [s for n in (1, 2, 3) for s in itertools.combinations(KINDS, n)]


@pytest.mark.parametrize("kinds", SETS, ids="+".join)
def test_any_of_them_in_any_combination(
    files: dict[str, Path], tmp_path: Path, kinds: tuple[str, ...]
) -> None:
    options = [o for kind in kinds for o in parts(files)[kind]]
    found = numbers(tmp_path, "--transform", files["missed"], *options)
    assert bool(found["regions"]) == ("labels" in kinds)
    assert (found["sdlogj_l2r"] is not None) == ("labels" in kinds)
    assert (found["tre_after"] is not None) == ("landmarks" in kinds)
    assert (found["field_error_after"] is not None) == ("known" in kinds)
    assert found["folding"]["interior_voxels"] > 0 and found["sdlogj"] is not None
    if "landmarks" in kinds:
        assert found["tre_after"]["mean_mm"] == pytest.approx(LENGTH_MM, abs=1e-3)
    if "known" in kinds:
        after = found["field_error_after"]
        assert after["overall"]["max_mm"] == pytest.approx(LENGTH_MM, abs=1e-3)
        assert set(after["by_label"]) == ({"1", "2", "3"} if "labels" in kinds else set())
        assert found["field_error_before"]["overall"]["mean_mm"] == pytest.approx(1.5, abs=1e-3)


def test_without_a_transform_the_identity_is_measured(
    files: dict[str, Path], tmp_path: Path
) -> None:
    found = numbers(tmp_path, *parts(files)["known"], *parts(files)["labels"])
    assert found["transform"] is None and "identity" in found["notes"][0]
    assert found["field_error_after"] == found["field_error_before"]
    for region in found["regions"]:
        assert region["dice_after"] == region["dice_before"] < 1


def test_landmarks_under_a_linear_transform_need_no_grid(
    files: dict[str, Path], tmp_path: Path
) -> None:
    points = ["--fixed-landmarks", files["here"], "--moving-landmarks", files["shifted"]]
    found = numbers(tmp_path, "--transform", files["shift"], *points)
    assert found["tre_after"]["max_mm"] == pytest.approx(0, abs=1e-4)
    assert found["tre_before"]["mean_mm"] == pytest.approx(LENGTH_MM)
    assert found["folding"] is None and found["sdlogj"] is None
    told = evaluate("--transform", files["shift"], *points).stdout
    assert "3.00 -> 0.00 mm" in told and "folding" not in told


def test_a_spline_is_not_sampled_on_a_made_up_grid(files: dict[str, Path], tmp_path: Path) -> None:
    fixed = sitk.ReadImage(str(files["fixed"]))
    spline = sitk.BSplineTransformInitializer(fixed, [3, 3, 3])
    spline.SetParameters([1.0] * len(spline.GetParameters()))
    sitk.WriteTransform(spline, str(tmp_path / "spline.tfm"))
    arguments = ["--transform", tmp_path / "spline.tfm", *parts(files)["landmarks"]]
    refused = evaluate(*arguments)
    assert refused.exit_code == ExitCode.TRANSFORM
    assert "add the images (--fixed, --moving)" in refused.stderr
    images = ["--fixed", files["fixed"], "--moving", files["moving"]]
    found = numbers(tmp_path, *arguments, *images)
    points = np.loadtxt(files["here"], delimiter=",", skiprows=1)
    goals = np.loadtxt(files["there"], delimiter=",", skiprows=1)
    apart = [
        np.linalg.norm(np.subtract(spline.TransformPoint(p), q))
        for p, q in zip(points, goals, strict=True)
    ]
    assert found["tre_after"]["mean_mm"] == pytest.approx(np.mean(apart), abs=0.02)


@pytest.mark.parametrize(
    "given", [[], ["--transform", "true"], ["--fixed", "fixed", "--moving", "moving"]]
)
def test_nothing_to_evaluate_is_one_clear_line(files: dict[str, Path], given: list[str]) -> None:
    result = evaluate(*(files.get(word, word) for word in given))
    assert result.exit_code == ExitCode.USAGE
    assert result.stderr.splitlines()[-1].startswith("Error: nothing to evaluate: give")


@pytest.mark.parametrize("wrong", ["--moving", "--moving-labels", "--known-field", "both"])
def test_a_picture_among_volumes_is_told(
    files: dict[str, Path], tmp_path: Path, wrong: str
) -> None:
    sitk.WriteImage(sitk.Image(8, 8, sitk.sitkUInt8), str(tmp_path / "picture.png"))
    sitk.WriteTransform(sitk.TranslationTransform(2), str(tmp_path / "flat.tfm"))
    names = ("fixed", "moving", "fixed_labels", "moving_labels")
    words = {f"--{name.replace('_', '-')}": files[name] for name in names}
    picture = tmp_path / ("flat.tfm" if wrong == "--known-field" else "picture.png")
    for option in ("--fixed-labels", "--moving-labels") if wrong == "both" else (wrong,):
        words[option] = picture
    result = evaluate(*(w for pair in words.items() for w in pair))
    assert result.exit_code == ExitCode.GEOMETRY, result.output
    assert f"{picture}: expected rank 3" in result.stderr and len(result.stderr.splitlines()) == 1


def test_two_results_in_one_file_or_in_a_folder_are_refused(
    files: dict[str, Path], tmp_path: Path
) -> None:
    labels = ["--fixed-labels", files["fixed_labels"], "--moving-labels", files["fixed_labels"]]
    same = ["--json", tmp_path / "same", "--html", tmp_path / "same"]
    for words, told in ((same, "twice"), (["--json", tmp_path, "--overwrite"], "a folder")):
        result = CliRunner().invoke(iterreg, ["evaluate", *map(str, [*labels, *words])])
        assert result.exit_code and told in result.output and "Dice" not in result.output
    assert not (tmp_path / "same").exists()


def test_bad_points_and_files_are_one_line(files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "flat.csv").write_text("x,y\n1,2\n")
    flat = [
        w for side in ("fixed", "moving") for w in (f"--{side}-landmarks", tmp_path / "flat.csv")
    ]
    refused = evaluate("--transform", files["true"], *flat)
    assert (
        refused.exit_code == ExitCode.GEOMETRY and "flat.csv: expected 3-D points" in refused.stderr
    )
    gone = evaluate("--known-field", tmp_path / "gone.h5")
    assert gone.exit_code == ExitCode.TRANSFORM and "gone.h5: no such file" in gone.stderr
