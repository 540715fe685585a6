"""What a result does next: warping, points, the way back, measures, files and pictures."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from html import escape
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from click.testing import CliRunner
from synthetic import LOWER, NAMES, ONE_LEVEL, SLIDING, Pair, World, places_lps, save, to_itk

import iterreg
from iterreg import Grid, Image, LabelMap, Points, Registration, RigidMotion, Transform
from iterreg.cli import iterreg as command
from iterreg.displacement import DisplacementField
from iterreg.errors import ExitCode, GeometryError, ImageContentError, ImageReadError, OutputError
from iterreg.evaluation import measure
from iterreg.geometry import apply_linear
from iterreg.progress import Progress, ShowProgress
from iterreg.regions.field_of_view import field_of_view


@pytest.fixture(scope="module")
def pair() -> Pair:
    return Pair.of(World())


@pytest.fixture(scope="module")
def run(pair: Pair) -> Registration:
    """A short run: anisotropic, oblique, two grids that differ, blocks that slide."""
    return iterreg.optimize_pair(
        **pair.images, **pair.labels, preset="general", overrides=SLIDING | ONE_LEVEL
    )


@pytest.fixture(scope="module")
def folder(run: Registration, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run, saved."""
    return run.save(tmp_path_factory.mktemp("run") / "out", save_inverse=True, report=False)


@pytest.fixture(scope="module")
def files(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The pair as files."""
    return save(tmp_path_factory.mktemp("pair"), **pair.images, **pair.labels)


def of_command(*words: object) -> str:
    """Run a command that has to write its results, whatever the verdict on them."""
    result = CliRunner().invoke(command, [str(word) for word in words])
    assert result.exit_code in (ExitCode.OK, ExitCode.DOUBTFUL, ExitCode.FAILED), result.output
    return result.output


def itk_resampled(run: Registration, folder: Path, image: Image, order: int, fill: float) -> object:
    """The oracle: SimpleITK's resampling through the transform's file."""
    transform = sitk.ReadTransform(str(folder / "transform.h5"))
    found = sitk.Resample(to_itk(image), to_itk(run.fixed), transform, order, fill)
    return sitk.GetArrayFromImage(found)


def test_warping_pulls_moving_onto_fixed_as_simpleitk_does(run, folder, pair):
    fill = float(pair.moving.data.min())
    expected = itk_resampled(run, folder, pair.moving, sitk.sitkLinear, fill)
    warped = run.warp()
    assert warped.grid.same_space(pair.fixed.grid)
    apart = np.abs(warped.data[0].numpy() - expected)
    assert np.percentile(apart, 99) < 0.5 and float(warped.data.std()) > 50
    of_other = run.warp(
        nibabel.Nifti1Image(pair.moving.to_array("xyz"), pair.moving.grid.ijk_to_ras)
    )
    assert torch.allclose(of_other.data, warped.data, atol=0.05)
    assert float(run.warp(fill=-7777.0).data.min()) == -7777.0


def test_warped_labels_keep_their_names(run, folder, pair):
    expected = itk_resampled(run, folder, pair.moving_labels, sitk.sitkNearestNeighbor, 0)
    warped = run.warp_labels(pair.moving_labels)
    assert warped.names == NAMES and warped.grid.same_space(pair.fixed.grid)
    assert (warped.data.numpy() == expected).mean() > 0.999
    assert torch.equal(run.warp_labels().data, warped.data)
    assert set(run.warp_labels(to_itk(pair.moving_labels)).values) == {1, 2, 3}


def test_a_result_can_lie_on_another_grid(run, pair):
    grid = pair.fixed.grid.pooled((1, 2, 2))
    warped = run.warp(onto=grid)
    assert warped.grid is not None and warped.grid.same_space(grid)
    labels = run.warp_labels(onto=Image(torch.zeros(1, *grid.shape_zyx), grid))
    assert labels.grid.same_space(grid)


def test_points_go_from_fixed_to_moving_and_back(run, folder, tmp_path):
    points = Points(places_lps(run.fixed.grid)[3:-3, 8:-8:4, 8:-8:4].reshape(-1, 3))
    there = run.map_points(points)
    oracle = sitk.ReadTransform(str(folder / "transform.h5"))
    expected = np.array([oracle.TransformPoint(p) for p in points.lps.tolist()])
    np.testing.assert_allclose(there.lps, expected, atol=1e-3)
    iterreg.write_points(points, tmp_path / "points.csv")
    np.testing.assert_allclose(run.map_points(tmp_path / "points.csv").lps, there.lps, atol=1e-4)
    back = run.inverse().map_points(there)
    ok = np.array([status.name == "OK" for status in back.status])
    assert ok.mean() > 0.5
    apart = np.linalg.norm(back.points.lps - points.lps, axis=1)[ok]
    assert np.percentile(apart, 95) < 0.3


def test_the_inverse_takes_fixed_images_to_the_moving_grid(run, folder, pair):
    inverse = run.inverse()
    transform, status = inverse
    assert inverse.transform is transform and inverse.status is status
    assert transform.grid.same_space(pair.moving.grid)
    warped = inverse.warp(pair.fixed)
    itk = sitk.ReadTransform(str(folder / "inverse_transform.h5"))
    fill = float(pair.fixed.data.min())
    expected = sitk.Resample(to_itk(pair.fixed), to_itk(pair.moving), itk, sitk.sitkLinear, fill)
    apart = np.abs(warped.data[0].numpy() - sitk.GetArrayFromImage(expected))
    assert np.percentile(apart, 99) < 0.5
    labels = inverse.warp_labels(pair.fixed_labels)
    ok = status == 0
    agree = (labels.data == pair.moving_labels.data)[ok].float().mean()
    assert agree > 0.9 and labels.names == NAMES
    assert sum(inverse.shares.values()) == pytest.approx(1) and "% ok" in inverse.in_words
    assert inverse.residual.ok.max_mm < 0.3


def test_the_isocentre_may_be_an_array(run):
    isocentre = np.array([3.0, -20.0, 40.0])
    matrix = RigidMotion((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), (0.0, 0.0, 0.0)).matrix_lps
    turned = replace(run, transform=replace(run.transform, affine_lps=matrix))
    assert turned.rigid_motion(isocentre) == turned.rigid_motion(isocentre.tolist())
    assert turned.rigid_motion(isocentre).centre_lps_mm == (3.0, -20.0, 40.0)
    assert turned.rigid_motion().centre_lps_mm == tuple(run.fixed.grid.centre_lps_mm)


def test_bare_points_are_refused(run):
    with pytest.raises(GeometryError, match=r"points: expected .* LPS or RAS, got a bare array"):
        run.map_points(np.zeros((2, 3)))
    with pytest.raises(GeometryError, match="2-D"):
        run.map_points(Points(np.zeros((2, 2))))
    with pytest.raises(GeometryError, match=r"got a bare list: iterreg.Points\(array\)"):
        run.inverse().map_points([[1.0, 2.0, 3.0]])
    with pytest.raises(TypeError, match=r"points: expected a path or iterreg.Points, got int"):
        run.map_points(3)


def test_a_picture_does_not_go_through_a_transform_of_volumes(run):
    picture = Image.from_array(np.zeros((4, 5)), axes="yx", spacing_xyz_mm=(1, 1), name="slide")
    with pytest.raises(GeometryError, match="slide: expected rank 3 as the transform, got 2"):
        run.warp(picture)


def test_measures_are_those_of_run_json(run, folder):
    measures = run.measure()
    stored = json.loads((folder / "run.json").read_text())["measures"]
    assert json.loads(json.dumps(measures.to_dict())) == stored
    assert [region.name for region in measures.regions] == list(NAMES.values())
    text = str(measures)
    assert "lower block" in text and "folding" in text and "Dice" in text


def test_what_the_edge_of_the_moving_image_cuts_is_no_error(pair):
    labels = pair.fixed_labels
    *rows, columns = labels.grid.shape_zyx
    grid = replace(labels.grid, shape_zyx=(*rows, columns - 5))
    cut = LabelMap(labels.data[..., :-5].contiguous(), grid, labels.names)
    image = Image(pair.fixed.data[..., :-5].contiguous(), grid)
    still = Transform(np.eye(4), DisplacementField.zero(labels.grid))
    views = tuple(field_of_view(i).mask for i in (pair.fixed, image))
    counted = measure(still, labels, cut, fovs=views)
    assert {region.dice_after for region in counted.regions} == {1.0}
    assert {region.hd95_after_mm for region in counted.regions} == {0.0}
    assert min(region.dice_after for region in measure(still, labels, cut).regions) < 0.95
    run = iterreg.optimize_pair(
        pair.fixed,
        image,
        fixed_labels=labels,
        moving_labels=cut,
        preset="general",
        overrides=ONE_LEVEL,
    )
    assert min(region.dice_after for region in run.measure().regions) > 0.98


def test_measures_of_labels_and_landmarks_that_did_not_guide(run, pair, folder, files, tmp_path):
    inside = places_lps(pair.fixed.grid)[3:-3:3, 6:-6:7, 8:-8:12].reshape(-1, 3)
    truth = pair.truth_mm()[3:-3:3, 6:-6:7, 8:-8:12].reshape(-1, 3)
    landmarks = {"fixed_landmarks": Points(inside), "moving_landmarks": Points(inside + truth)}
    unnamed = LabelMap(pair.moving_labels.data, pair.moving_labels.grid)
    measures = run.measure(
        fixed_labels=to_itk(pair.fixed_labels),
        moving_labels=unnamed,
        label_table={LOWER: "below"},
        **landmarks,
    )
    names = {region.value: region.name for region in measures.regions}
    assert names[LOWER] == "below"
    error = np.linalg.norm(run.map_points(Points(inside)).lps - inside - truth, axis=1)
    assert measures.tre_after.mean_mm == pytest.approx(error.mean(), rel=1e-5)
    assert measures.tre_before.mean_mm == pytest.approx(2.5, rel=1e-3)
    for name, points in landmarks.items():
        iterreg.write_points(points, tmp_path / f"{name}.csv")
    of_command(
        "evaluate", "--transform", folder / "transform.h5", "--quiet",
        "--fixed-labels", files["fixed_labels"], "--moving-labels", files["moving_labels"],
        "--fixed-landmarks", tmp_path / "fixed_landmarks.csv",
        "--moving-landmarks", tmp_path / "moving_landmarks.csv",
        "--json", tmp_path / "numbers.json",
    )  # fmt: skip
    stored = json.loads((tmp_path / "numbers.json").read_text())
    assert stored["tre_after"]["mean_mm"] == pytest.approx(measures.tre_after.mean_mm, abs=1e-3)
    for row, region in zip(stored["regions"], measures.regions, strict=True):
        assert row["dice_after"] == pytest.approx(region.dice_after, abs=1e-6)


def test_a_known_field_is_measured(run, pair):
    vox = apply_linear(pair.fixed.grid.lps_to_index, np.moveaxis(pair.truth_mm(), -1, 0))
    true = Transform(np.eye(4), DisplacementField(torch.from_numpy(vox).float(), pair.fixed.grid))
    measures = run.measure(known_field=true)
    moved = run.map_points(Points(places_lps(pair.fixed.grid).reshape(-1, 3))).lps
    error = moved - places_lps(pair.fixed.grid).reshape(-1, 3) - pair.truth_mm().reshape(-1, 3)
    found = measures.field_error_after.overall.mean_mm
    assert found == pytest.approx(np.linalg.norm(error, axis=1).mean(), rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "evaluate: nothing to measure"),
        ({"fixed_labels": 1}, "moving_labels: expected fixed_labels and moving_labels, or neither"),
        ({"moving": 1}, "fixed: expected fixed and moving, or neither"),
    ],
)
def test_evaluate_says_what_is_missing(arguments, words):
    with pytest.raises(ImageContentError, match=words):
        iterreg.evaluate(**arguments)


def test_the_command_writes_what_the_methods_return(run, folder, files, tmp_path):
    out = tmp_path / "warped.nii.gz"
    common = "--transform", folder / "transform.h5", "--quiet", "--out"
    of_command("apply", *common, out, "--image", files["moving"], "--reference", files["fixed"])
    written = iterreg.read_image(out)
    apart = (written.data - run.warp(files["moving"]).data).abs().flatten()
    assert float(apart.quantile(0.999)) < 0.01  # a voxel on the very edge may fall either way
    back = tmp_path / "back.nii.gz"
    words = "--inverse", "--labels", files["fixed_labels"], "--reference", files["moving"]
    of_command("apply", *common, back, *words)
    again = iterreg.read_label_map(back)
    same = again.data == run.inverse().warp_labels(files["fixed_labels"]).data
    assert float(same.float().mean()) > 0.999


def test_a_saved_run_holds_what_the_command_writes(run, folder, pair, tmp_path):
    names = {path.name for path in folder.iterdir()}
    assert {"warped.nii.gz", "transform.h5", "overlay.png", "run.json"} <= names
    assert "inverse_transform.h5" in names and "report.html" not in names
    assert torch.allclose(
        iterreg.read_image(folder / "warped.nii.gz").data, run.warp().data, atol=0.01
    )
    assert np.array_equal(
        iterreg.read_transform(folder).affine_lps,
        iterreg.read_transform(folder / "transform.h5").affine_lps,
    )
    read = iterreg.read_transform(folder)
    assert torch.allclose(read.warp(pair.moving).data, run.warp().data, atol=0.05)
    with pytest.raises(OutputError, match="empty folder"):
        run.save(folder)


def test_a_start_and_landmarks_come_back_in_the_measures(pair):
    start = Transform(np.eye(4), DisplacementField.zero(pair.fixed.grid))
    start.affine_lps[:3, 3] = (1.0, 0.5, -0.5)
    points = Points(places_lps(pair.fixed.grid)[5:7, 10:14:2, 10:30:5].reshape(-1, 3))
    moved = Points(points.lps + np.array([1.0, 0.5, -0.5]))
    run = iterreg.optimize_pair(
        **pair.images,
        initial_transform=start,
        fixed_landmarks=points,
        moving_landmarks=moved,
        preset="general",
        overrides={"levels.steps": [0], "levels.spacing_mm": [4.0], "start.affine": "none"},
    )
    measures = run.measure()
    assert measures.before == "the initial transform"
    assert measures.tre_before.mean_mm == pytest.approx(0, abs=1e-3)
    assert run.landmarks is not None and run.initial_transform is not None


def test_the_picture_is_that_of_the_run(run, folder, tmp_path):
    figure = run.plot(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes() == (folder / "overlay.png").read_bytes()
    assert len(figure.axes) >= 9
    with pytest.raises(OutputError, match=r"missing"):
        run.plot(tmp_path / "missing" / "picture.png")


def tags(html: str) -> Iterator[str]:
    """The names of the elements that are opened."""
    return (found[1] for found in re.finditer(r"<([a-z]+)[ >]", html))


def test_a_notebook_shows_verdict_notes_and_picture(run):
    html = run._repr_html_()
    assert run.verdict.headline in html and "lower block" in html
    assert "data:image/png;base64," in html
    assert set(tags(html)) <= {"div", "p", "table", "tr", "td", "img"}
    assert run.plot()._repr_png_().startswith(b"\x89PNG")
    measures = run.measure(fixed_labels=run.fixed_labels, moving_labels=run.moving_labels)
    assert measures._repr_html_() == f"<pre>{escape(str(measures))}</pre>"


def test_a_saved_run_is_read_back(run, folder, pair):
    again = iterreg.load_run(folder, fixed=pair.fixed, moving=to_itk(pair.moving))
    for name in ("verdict", "start", "config", "notes", "history", "field_of_view", "versions"):
        # As text: NaN does not equal itself.
        assert str(getattr(again, name)) == str(getattr(run, name)), name
    assert again.fixed_labels.names == NAMES
    assert torch.allclose(again.warp().data, run.warp().data, atol=0.05)
    points = Points(places_lps(pair.moving.grid)[5, 10:20:3, 10:20:3].reshape(-1, 3))
    ours, theirs = (r.inverse().map_points(points).points.lps for r in (again, run))
    np.testing.assert_allclose(ours, theirs, atol=1e-2)
    regions = again.measure().regions
    for ours, theirs in zip(regions, run.measure().regions, strict=True):
        assert ours.dice_after == pytest.approx(theirs.dice_after, abs=1e-3)
    with pytest.raises(ImageReadError, match=r"fixed image is not where .*give fixed="):
        iterreg.load_run(folder)


def test_a_run_of_the_command_is_read_back_with_its_images(files, pair, tmp_path):
    points = places_lps(pair.fixed.grid)[5:7, 10:14:2, 10:30:5].reshape(-1, 3)
    iterreg.write_points(Points(points), tmp_path / "here.csv")
    iterreg.write_points(Points(points + 0.5), tmp_path / "there.csv")
    of_command(
        "register", "--preset", "general", "--no-report", "--quiet", "--out", tmp_path / "out",
        "--fixed", files["fixed"], "--moving", files["moving"], "--set", "levels.steps=[1, 1, 1]",
        "--fixed-landmarks", tmp_path / "here.csv", "--moving-landmarks", tmp_path / "there.csv",
    )  # fmt: skip
    run = iterreg.load_run(tmp_path / "out")
    assert torch.allclose(run.fixed.data, pair.fixed.data)
    assert run.measure().tre_before.mean_mm == pytest.approx(0.5 * 3**0.5, rel=1e-3)
    (tmp_path / "here.csv").unlink()
    again = iterreg.load_run(tmp_path / "out")
    assert again.landmarks is None and "here.csv" in again.notes[-1]


def test_a_run_is_of_its_own_images(folder, pair):
    other = Image(torch.rand(1, 4, 4, 4), Grid((4, 4, 4), (9, 9, 9), (0, 0, 0), np.eye(3)))
    with pytest.raises(GeometryError, match=r"moving: expected the space of .*moving_regions"):
        iterreg.load_run(folder, fixed=pair.fixed, moving=other)


def test_an_inverse_has_a_grid_of_its_rank(run, pair):
    assert run.inverse(pair.fixed).grid == pair.fixed.grid
    with pytest.raises(GeometryError, match=r"moving_grid: expected rank 3 .*got 2"):
        run.inverse(Grid((4, 4), (1, 1), (0, 0), np.eye(2)))


def test_odd_values_in_run_json_are_refused(folder, pair, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    stored = json.loads((copy / "run.json").read_text())
    for key, value in (("verdict", 3), ("history", [{"a": 1}]), ("timings_s", None), ("seed", {})):
        (copy / "run.json").write_text(json.dumps(stored | {key: value}))
        with pytest.raises(ImageReadError, match="values of another kind") as caught:
            iterreg.load_run(copy, fixed=pair.fixed, moving=pair.moving)
        assert "\n" not in str(caught.value)


def test_progress_is_shown_where_there_is_no_notebook(pair, capsys):
    overrides = {"levels.steps": [1], "levels.spacing_mm": [8.0], "start.affine": "none"}
    iterreg.optimize_pair(**pair.images, preset="general", overrides=overrides, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "  0 %  reading" and lines[-1] == "100 %  registered"
    iterreg.optimize_pair(**pair.images, preset="general", overrides=overrides, progress=False)
    assert capsys.readouterr().err == ""


def test_a_notebook_gets_one_bar_that_is_redrawn(monkeypatch):
    shown: list[str] = []
    handle = SimpleNamespace(update=shown.append)
    display = SimpleNamespace(
        HTML=str, display=lambda html, display_id: shown.append(html) or handle
    )
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(
        sys.modules, "IPython", SimpleNamespace(display=display, get_ipython=lambda: shell)
    )
    show = ShowProgress()
    show(Progress("read", 0.0, "reading"))
    show(Progress("level 1", 0.25, "level 1 <8 mm>"))
    show(Progress("level 1", 0.26, "level 1 <8 mm>"))
    assert len(shown) == 2 and "value='0.250'" in shown[1] and "&lt;8 mm&gt;" in shown[1]


def test_the_expected_error_knows_its_pair(run, pair):
    ours = iterreg.expected_error_mm(run)
    assert torch.equal(ours.data, iterreg.expected_error_mm(run, pair.fixed, pair.moving).data)
