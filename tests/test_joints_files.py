"""What the commands write and do, judged by SimpleITK, nibabel and SciPy.

One run by command on oblique grids that differ in everything; all files of it are compared.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from click.testing import CliRunner
from scipy.ndimage import map_coordinates
from synthetic import (
    BALL,
    CENTRE_MM,
    INTENSITIES,
    NAMES,
    SLIDING,
    UPPER,
    Array,
    Pair,
    World,
    fixed_grid,
    inner,
    moving_grid,
    places_lps,
    save,
)

from iterreg import Grid, LabelMap
from iterreg.cli import iterreg

FILL = -777.0


def ok(*arguments: object) -> str:
    """Run a command that should succeed; what it printed."""
    result = CliRunner().invoke(iterreg, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def settings(values: dict[str, object]) -> list[str]:
    """As options."""
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


@dataclass(frozen=True)
class Files:
    """What one run by command took and wrote."""

    folder: Path
    pair: Pair
    printed: str
    words: tuple[object, ...]

    @property
    def out(self) -> Path:
        """The folder of results."""
        return self.folder / "out"

    def given(self, name: str) -> Path:
        """A file that the run was given."""
        return self.folder / f"{name}.nii.gz"

    def itk(self, name: str, kind: int = sitk.sitkFloat64) -> sitk.Image:
        """A file of either folder as SimpleITK reads it."""
        path = self.out / f"{name}.nii.gz"
        return sitk.ReadImage(str(path if path.exists() else self.given(name)), kind)

    @property
    def transform(self) -> sitk.Transform:
        """The transform as SimpleITK reads it."""
        return sitk.ReadTransform(str(self.out / "transform.h5"))

    @property
    def record(self) -> dict[str, object]:
        """``run.json``."""
        return json.loads((self.out / "run.json").read_text())


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The sliding pair by command: names from a table, an affine start, a value outside."""
    folder = tmp_path_factory.mktemp("joints")
    pair = Pair.of(World(shift_mm=(1.0, -0.5, 1.5)))
    paths = save(folder, **pair.images, **pair.labels)
    table = folder / "names.json"
    table.write_text(json.dumps({str(value): name for value, name in NAMES.items()}))
    start = sitk.AffineTransform(3)
    start.SetMatrix([1.01, 0.0, 0.01, 0.0, 0.99, 0.0, -0.01, 0.0, 1.0])
    start.SetCenter(CENTRE_MM[3].tolist())
    sitk.WriteTransform(start, str(folder / "start.tfm"))
    given = [part for name, path in paths.items() for part in ("--" + name.replace("_", "-"), path)]
    given += ["--label-table", table, "--initial-transform", folder / "start.tfm"]
    given += ["--fill", FILL, "--device", "cpu", "--seed", 5, "--threads", 1, "--save-jacobian"]
    options = [*settings(SLIDING), "--set", 'smoothness.sliding=[["lower*", "*"]]']
    words = ("--preset", "general", *given, *options)
    printed = ok("register", *words, "--out", folder / "out")
    return Files(folder, pair, printed, words)


def array(image: sitk.Image) -> Array:
    """Its voxels, (z, y, x) and components last."""
    return sitk.GetArrayFromImage(image).astype(np.float64)


# One transform, three files -------------------------------------------------------------------


def test_the_displacement_and_the_transform_say_the_same(files):
    field = array(files.itk("displacement_mm", sitk.sitkVectorFloat64))
    places = places_lps(fixed_grid())
    some = np.random.default_rng(0).integers(0, places[..., 0].size, 400)
    for at in zip(*np.unravel_index(some, places.shape[:3]), strict=True):
        landed = files.transform.TransformPoint(places[at].tolist())
        np.testing.assert_allclose(landed - places[at], field[at], atol=2e-3)


def test_the_field_precision_holds_in_every_file_and_stands_in_the_run_file(files, tmp_path):
    """What is rounded lies within half a step of what is not, components and all."""
    rounded = ["--field-precision", 0.1, "--save-inverse", "--out", tmp_path / "out"]
    ok("register", *files.words, *rounded)
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["config"]["field_step_mm"] == 0.1
    for name in ("displacement_mm", "inverse_displacement_mm"):
        image = sitk.ReadImage(str(tmp_path / "out" / f"{name}.nii.gz"), sitk.sitkVectorFloat64)
        steps = array(image) / 0.0625
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-5)
        if name == "displacement_mm":
            exact = array(files.itk(name, sitk.sitkVectorFloat64))
            np.testing.assert_allclose(array(image), exact, atol=0.0625 / 2 + 1e-4)


def test_the_displacement_is_the_true_one(files):
    """With its affine part: this is what a reader who adds nothing gets."""
    field = array(files.itk("displacement_mm", sitk.sitkVectorFloat64))
    wrong = np.linalg.norm(field - files.pair.truth_mm(), axis=-1)
    assert wrong[inner(wrong.shape)].mean() < 0.8


@pytest.mark.parametrize("by", ["transform.h5", "displacement_mm.nii.gz"])
def test_the_warped_image_is_the_one_that_itk_resamples(files, by):
    transform = files.transform
    if by != "transform.h5":
        field = files.itk("displacement_mm", sitk.sitkVectorFloat64)
        transform = sitk.DisplacementFieldTransform(field)
    theirs = sitk.Resample(
        files.itk("moving"), files.itk("fixed"), transform, sitk.sitkLinear, FILL
    )
    ours, theirs = array(files.itk("warped")), array(theirs)
    near_the_edge = (ours == FILL) != (theirs == FILL)
    assert near_the_edge.mean() < 0.01
    assert 0 < (ours == FILL).mean() < 0.4
    np.testing.assert_allclose(ours[~near_the_edge], theirs[~near_the_edge], atol=1.0)


def test_the_warped_regions_are_those_that_itk_resamples(files):
    theirs = sitk.Resample(
        files.itk("moving_labels"), files.itk("fixed"), files.transform, sitk.sitkNearestNeighbor
    )
    ours = array(files.itk("warped_regions"))
    assert (ours == array(theirs)).mean() > 0.995, "but for ties"
    for name in ("fixed", "moving"):
        assert np.array_equal(
            array(files.itk(f"{name}_regions")), array(files.itk(f"{name}_labels"))
        )


def test_the_jacobian_is_that_of_the_displacement(files):
    field = files.itk("displacement_mm", sitk.sitkVectorFloat64)
    # ITK differentiates along the image's axes; the field has to be given along them too.
    axes = np.asarray(fixed_grid().direction_lps)
    turned = sitk.GetImageFromArray(array(field) @ axes, isVector=True)
    turned.SetSpacing(field.GetSpacing())
    theirs = array(sitk.DisplacementFieldJacobianDeterminant(turned))
    ours = array(files.itk("jacobian"))
    calm = inner(ours.shape) & (files.pair.fixed_labels.data.numpy() == UPPER)
    assert np.abs(ours - theirs)[calm].mean() < 0.03
    assert np.corrcoef(ours[calm], theirs[calm])[0, 1] > 0.9


def test_the_record_says_what_the_run_was_given(files):
    record = files.record
    assert (record["seed"], record["device"]) == (5, "cpu")
    assert record["verdict"]["status"] == "ok" and record["verdict"]["reasons"] == []
    assert record["config"]["fill"] == FILL
    assert record["config"]["similarity"]["kind"] == "mse"
    assert record["regions"] == {str(value): name for value, name in NAMES.items()}
    assert str(record["start"]).startswith("given initial transform")
    for side, grid in (("fixed", fixed_grid()), ("moving", moving_grid())):
        about = record[side]
        assert tuple(about["size_xyz"]) == grid.shape_zyx[::-1]
        np.testing.assert_allclose(about["spacing_xyz_mm"], grid.spacing_xyz_mm, rtol=1e-5)
        np.testing.assert_allclose(about["origin_lps_mm"], grid.origin_lps_mm, atol=1e-3)
    assert files.printed.startswith("register: ok")
    for region in record["measures"]["regions"]:
        assert region["dice_after"] > max(0.9, region["dice_before"] - 0.02)


def test_the_first_run_of_a_process_keeps_to_the_threads_it_was_given(tmp_path):
    """Also where it is the first to load the compiled loops, which start threads of their own."""
    pair = Pair.of(World(slide_mm=0.0))
    paths = save(tmp_path, **pair.images)
    images = ("--fixed", paths["fixed"], "--moving", paths["moving"], "--out", tmp_path / "out")
    quick = INTENSITIES | {"levels.spacing_mm": [2.0], "levels.steps": [1]}
    given = (*images, *settings(quick), "--threads", 1, "--device", "cpu", "--quiet")
    command = [sys.executable, "-m", "iterreg", "register", "--preset", "general", *map(str, given)]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[1])
    assert json.loads((tmp_path / "out" / "run.json").read_text())["threads"] == 1


def test_names_from_a_table_decide_what_slides(files):
    """The lower block slides, so the displacement jumps by most of 5 mm between neighbours."""
    field = array(files.itk("displacement_mm", sitk.sitkVectorFloat64))
    along = (field @ files.pair.world.along)[2:-2, :, 4:-4].mean((0, 2))
    assert np.ptp(along) > 3.0
    assert np.abs(np.diff(along)).max() > 2.0


# apply ----------------------------------------------------------------------------------------


def applied(files: Files, tmp_path: Path, *options: object, suffix: str = ".nii.gz") -> Path:
    """The file that ``iterreg apply`` writes."""
    out = tmp_path / f"applied{suffix}"
    ok("apply", "--transform", files.out / "transform.h5", *options, "--out", out)
    return out


def test_apply_warps_an_image_as_the_run_did(files, tmp_path):
    given = ("--image", files.given("moving"), "--reference", files.given("fixed"))
    out = applied(files, tmp_path, *given, "--fill", FILL)
    # float32 places of a texture with 100 a voxel
    np.testing.assert_allclose(
        array(sitk.ReadImage(str(out))), array(files.itk("warped")), atol=5e-3
    )
    lowest = applied(files, tmp_path, *given, "--overwrite")
    outside = array(files.itk("warped")) == FILL
    assert np.all(
        array(sitk.ReadImage(str(lowest)))[outside]
        == pytest.approx(float(files.pair.moving.data.min()), abs=0.01)
    )


def test_apply_warps_labels_without_new_values(files, tmp_path):
    given = ("--labels", files.given("moving_labels"), "--reference", files.given("fixed"))
    out = applied(files, tmp_path, *given)
    assert np.array_equal(array(sitk.ReadImage(str(out))), array(files.itk("warped_regions")))


def written_points(path: Path, points: Array) -> Path:
    """A CSV file."""
    np.savetxt(path, points, delimiter=",", header="x,y,z", comments="", fmt="%.6f")
    return path


def read_columns(path: Path) -> dict[str, list[str]]:
    """A CSV file's columns by name."""
    head, *rows = [line.split(",") for line in path.read_text().split()]
    return dict(zip(head, map(list, zip(*rows, strict=True)), strict=True))


def coordinates(path: Path) -> Array:
    """The points of a CSV file."""
    columns = read_columns(path)
    return np.array([columns[name] for name in "xyz"], np.float64).T


@pytest.fixture(scope="session")
def points(files: Files) -> Array:
    """Centres of voxels inside the upper block, away from its ball and from the plane."""
    labels = files.pair.fixed_labels.data.numpy()
    calm = (labels == UPPER) & inner(labels.shape, 3)
    calm &= np.roll(labels, 3, 1) == UPPER
    return places_lps(fixed_grid())[calm][::7]


def test_apply_takes_fixed_points_to_moving_ones(files, points, tmp_path):
    source = written_points(tmp_path / "points.csv", points)
    landed = coordinates(applied(files, tmp_path, "--points", source, suffix=".csv"))
    theirs = [files.transform.TransformPoint(point.tolist()) for point in points]
    np.testing.assert_allclose(landed, theirs, atol=2e-3)


def test_apply_inverse_takes_moving_points_back(files, points, tmp_path):
    landed = np.array([files.transform.TransformPoint(point.tolist()) for point in points])
    source = written_points(tmp_path / "points.csv", landed)
    out = applied(files, tmp_path, "--points", source, "--inverse", suffix=".csv")
    np.testing.assert_allclose(coordinates(out), points, atol=0.02)
    columns = read_columns(out)
    assert set(columns["status"]) == {"ok"}
    assert max(map(float, columns["residual_mm"])) < 0.01


def back_lps(files: Files) -> tuple[Array, Array]:
    """Moving indices (n, 3) and the fixed points that land on their centres, by iteration."""
    index = np.argwhere(files.pair.moving_labels.data.numpy() == BALL)[::5]
    goal = places_lps(moving_grid())[tuple(index.T)]
    here = goal.copy()
    for _ in range(20):
        landed = np.array([files.transform.TransformPoint(p.tolist()) for p in here])
        here += goal - landed
    arrived = np.linalg.norm(landed - goal, axis=1) < 1e-3
    return index[arrived], here[arrived]


@pytest.mark.parametrize("kind", ["image", "labels"])
def test_apply_inverse_brings_the_fixed_image_onto_the_moving_grid(files, tmp_path, kind):
    name = "fixed" if kind == "image" else "fixed_labels"
    reference = ("--reference", files.given("moving"), "--inverse")
    out = applied(files, tmp_path, f"--{kind}", files.given(name), *reference)
    found = sitk.ReadImage(str(out), sitk.sitkFloat64)
    assert found.GetSize() == files.itk("moving").GetSize()
    np.testing.assert_allclose(found.GetDirection(), files.itk("moving").GetDirection(), atol=1e-5)
    index, here = back_lps(files)
    assert len(index) > 50
    rule = sitk.sitkLinear if kind == "image" else sitk.sitkNearestNeighbor
    fixed = files.itk(name)
    theirs = np.array([fixed.EvaluateAtPhysicalPoint(p.tolist(), rule) for p in here])
    ours = array(found)[tuple(index.T)]
    if kind == "labels":
        assert (ours == theirs).mean() > 0.97
    else:
        assert np.median(np.abs(ours - theirs)) < 1.0
        assert np.corrcoef(ours, theirs)[0, 1] > 0.99


# Learn2Reg ------------------------------------------------------------------------------------


def test_a_learn2reg_field_is_moving_index_minus_fixed_index(files, tmp_path):
    out = tmp_path / "disp.npz"
    images = ("--fixed", files.given("fixed"), "--moving", files.given("moving"))
    ok("convert", "--transform", files.out / "transform.h5", *images, "--out", out)
    with np.load(out) as archive:
        (field,) = archive.values()
    fixed, moving = (nibabel.load(files.given(name)) for name in ("fixed", "moving"))
    assert field.shape == (*fixed.shape, 3)
    ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    for at in np.random.default_rng(1).integers(0, fixed.shape, (200, 3)):
        start = ras @ fixed.affine @ [*at, 1.0]
        landed = [*files.transform.TransformPoint(start[:3].tolist()), 1.0]
        index = np.linalg.inv(ras @ moving.affine) @ landed
        np.testing.assert_allclose(field[tuple(at)], index[:3] - at, atol=5e-3)
    here = np.indices(fixed.shape) + np.moveaxis(field, -1, 0)
    pulled = map_coordinates(moving.get_fdata(), here, order=1, cval=FILL)
    ours = nibabel.load(files.out / "warped.nii.gz").get_fdata()
    seen = (ours != FILL) & (pulled != FILL)  # half a voxel at the edge differs
    assert seen.mean() > 0.6
    assert np.abs(pulled - ours)[seen].mean() < 0.5


# Measures -------------------------------------------------------------------------------------


def evaluated(tmp_path: Path, fixed: LabelMap, moving: LabelMap) -> dict[str, object]:
    """What ``iterreg evaluate`` says of the identity."""
    paths = save(tmp_path, a=fixed, b=moving)
    identity = tmp_path / "identity.tfm"
    sitk.WriteTransform(sitk.AffineTransform(3), str(identity))
    out = tmp_path / "measures.json"
    labels = ("--fixed-labels", paths["a"], "--moving-labels", paths["b"])
    ok("evaluate", "--transform", identity, *labels, "--json", out)
    return json.loads(out.read_text())


def half(grid: Grid, axis: int, start: int) -> LabelMap:
    """Everything from some slice on along an axis."""
    data = torch.zeros(grid.shape_zyx, dtype=torch.int32)
    data.narrow(axis, start, grid.shape_zyx[axis] - start).fill_(1)
    return LabelMap(data, grid)


@pytest.mark.parametrize(("axis", "spacing_mm"), [(0, 3.0), (1, 1.5), (2, 1.0)], ids="zyx")
def test_the_hd95_of_a_shifted_plane_is_its_shift_in_mm(tmp_path, axis, spacing_mm):
    grid = fixed_grid()
    tables = evaluated(tmp_path, half(grid, axis, 6), half(grid, axis, 8))
    (region,) = tables["regions"]
    assert region["hd95_after_mm"] == pytest.approx(2 * spacing_mm, abs=1e-3)
    n = grid.shape_zyx[axis]
    assert region["dice_after"] == pytest.approx(2 * (n - 8) / (2 * n - 14))


def test_the_landmark_error_is_measured_in_mm(files, points, tmp_path):
    landed = np.array([files.transform.TransformPoint(point.tolist()) for point in points])
    here = written_points(tmp_path / "here.csv", points)
    there = written_points(tmp_path / "there.csv", landed + np.array([0.3, 0.0, -0.4]))
    out = tmp_path / "measures.json"
    ok(
        *("evaluate", "--transform", files.out / "transform.h5", "--json", out),
        *("--fixed-labels", files.given("fixed_labels")),
        *("--moving-labels", files.given("moving_labels")),
        *("--fixed-landmarks", here, "--moving-landmarks", there),
    )
    after = json.loads(out.read_text())["tre_after"]
    assert after["mean_mm"] == pytest.approx(0.5, abs=2e-3) and after["count"] == len(points)


# Options that only commands have --------------------------------------------------------------


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_a_mask_given_by_command_counts(tmp_path, side):
    pair = Pair.of(World())
    labels = pair.labels[f"{side}_labels"]
    mask = LabelMap((labels.data == 1).int(), labels.grid)
    paths = save(tmp_path, **pair.images, mask=mask)
    images = ("--fixed", paths["fixed"], "--moving", paths["moving"])
    options = settings(INTENSITIES | {"levels.spacing_mm": [2.0], "levels.steps": [2]})
    given = (f"--{side}-mask", paths["mask"], "--device", "cpu", "--out", tmp_path / "out")
    ok("register", "--preset", "general", *images, *options, *given)
    views = json.loads((tmp_path / "out" / "run.json").read_text())["field_of_view"]
    assert "mask" in views[side]
    assert "mask" not in views["moving" if side == "fixed" else "fixed"]
