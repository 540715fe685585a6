"""Learn2Reg: tasks, fields, the evaluator's numbers, the zip, and whole submissions."""

from __future__ import annotations

import gzip
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import surface_distance
import torch
from click.testing import CliRunner, Result
from scipy.ndimage import gaussian_filter, map_coordinates

from iterreg.cli import iterreg
from iterreg.config import preset_names
from iterreg.displacement import DisplacementField, Transform, warp_labels
from iterreg.errors import ConfigError, ExitCode, ImageContentError, ImageReadError, OutputError
from iterreg.formats.itk_objects import transform_to_itk
from iterreg.formats.learn2reg import l2r_to_transform, transform_to_l2r
from iterreg.formats.learn2reg_files import check_field, read_field, write_field
from iterreg.geometry import Grid
from iterreg.image import LabelMap
from iterreg.io import read_image, read_label_map
from iterreg.learn2reg import register as register_module
from iterreg.learn2reg import scores
from iterreg.learn2reg.archive import check_zip, write_zip
from iterreg.learn2reg.evaluate import CaseScores, Scores, TrueFolds, evaluate_task
from iterreg.learn2reg.records import finished_record, sha256_of, write_record
from iterreg.learn2reg.regions import find_regions, load_regions
from iterreg.learn2reg.rules import RULES, Evaluation, Method, evaluation_of, preset_of
from iterreg.learn2reg.task import pair_of, read_task
from iterreg.metrics import folding
from iterreg.pair import optimize_pair

SHAPE = (20, 18, 16)
"""Of the small tasks, nibabel's order."""

FAST = (
    "--set",
    "levels.spacing_mm=[4.0, 2.0]",
    "--set",
    "levels.steps=[3, 2]",
    "--set",
    "start.search_mm=0.0",
    "--threads",
    "1",
)

Fields = dict[str, np.ndarray]


def run(*arguments: object) -> Result:
    """The command, its exit code not looked at."""
    return CliRunner().invoke(iterreg, ["learn2reg", *(str(a) for a in arguments)])


def blob(shape: tuple[int, ...], centre: tuple[float, ...], radius: float) -> np.ndarray:
    """A ball, 1 inside."""
    index = np.indices(shape) - np.reshape(centre, (3, 1, 1, 1))
    return (np.square(index).sum(0) < radius**2).astype(np.uint8)


def save(array: np.ndarray, path: Path, affine: np.ndarray | None = None) -> None:
    """Write with nibabel, which this package's writer is no part of."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


def make_task(folder: Path, subjects: tuple[str, ...] = ("0001", "0002")) -> Path:
    """A HippocampusMR of small blobs: labels 1 and 2, one modality, moving a voxel aside."""
    rng = np.random.default_rng(0)
    pairs = []
    for n, subject in enumerate(subjects):
        ends = (subject, f"{int(subject) + 10:04d}")
        for k, end in enumerate(ends):
            labels = blob(SHAPE, (9 + k, 9, 8), 5) + blob(SHAPE, (9 + k, 9, 8), 2.5 + 0.3 * n)
            image = gaussian_filter(labels * 100.0, 0.8) + rng.normal(0, 1, SHAPE)
            name = f"HippocampusMR_{end}_0000.nii.gz"
            save(image.astype(np.float32), folder / "imagesTr" / name)
            save(labels, folder / "labelsTr" / name)
        pairs.append(
            {
                s: f"./imagesTr/HippocampusMR_{e}_0000.nii.gz"
                for s, e in zip(("fixed", "moving"), ends, strict=True)
            }
        )
    write_dataset(folder, "HippocampusMR", pairs)
    return folder


def write_dataset(folder: Path, name: str, listed: list[Any], **more: Any) -> None:
    """The task's JSON."""
    content = {
        "name": name,
        "provided_data": {"0": ["image", "label"]},
        "tensorImageShape": {"0": list(SHAPE)},
        "numRegistration_val": len(listed),
        "registration_val": listed,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}_dataset.json").write_text(json.dumps(content | more))


@pytest.fixture
def task_dir(tmp_path: Path) -> Path:
    """A task of two cases."""
    return make_task(tmp_path / "task")


def wavy(seed: int, shape: tuple[int, ...] = SHAPE, size: float = 1.5) -> np.ndarray:
    """A smooth random field (I, J, K, 3), float32."""
    noise = np.random.default_rng(seed).normal(0, 1, (3, *shape))
    smooth = np.stack([gaussian_filter(c, 2) for c in noise])
    return np.moveaxis(smooth / smooth.std() * size, 0, -1).astype(np.float32)


# The task -------------------------------------------------------------------------------------


def test_every_form_of_a_pair_is_read(tmp_path: Path) -> None:
    ends = ["./imagesTr/NLST_0101_0000.nii.gz", "imagesTr/NLST_0101_0001.nii.gz"]
    forms = [
        dict(zip(("fixed", "moving"), ends, strict=True)),
        ends,
        {"fixed": {"image": ends[0]}, "moving": {"image": ends[1]}},
    ]
    for number, form in enumerate(forms):
        write_dataset(tmp_path / str(number), "NLST", [form])
        (pair,) = read_task(tmp_path / str(number)).pairs
        assert pair.case == "0101_0000<--0101_0001"
        assert pair.file_names == (
            "disp_0101_0101.npz",
            "disp_0101_0101.nii.gz",
            "disp_0101_0000_0101_0001.npz",
            "disp_0101_0000_0101_0001.nii.gz",
        )
    write_dataset(tmp_path / "p", "NLST", [], pairs={"val": [forms[0]], "test": [ends]})
    assert [len(read_task(tmp_path / "p", split).pairs) for split in ("val", "test")] == [1, 1]


def test_the_short_name_stands_for_fixed_0000_and_moving_0001_alone() -> None:
    pair = pair_of("imagesTr/T_0011_0001.nii.gz", "imagesTr/T_0011_0000.nii.gz", Path("x"))
    assert pair.short_name is None
    assert pair.file_names == ("disp_0011_0001_0011_0000.npz", "disp_0011_0001_0011_0000.nii.gz")


@pytest.mark.parametrize(
    "bad",
    [
        ["../../etc/T_0001_0000.nii.gz", "imagesTr/T_0001_0001.nii.gz"],
        ["/T_0001_0000.nii.gz", "imagesTr/T_0001_0001.nii.gz"],
        ["imagesTr/T_1.nii.gz", "imagesTr/T_0001_0001.nii.gz"],
        ["imagesTr/T_0001_0000.nii.gz"],
        {"fixed": 1, "moving": 2},
    ],
)
def test_bad_pairs_are_refused(tmp_path: Path, bad: Any) -> None:
    write_dataset(tmp_path, "T", [bad])
    with pytest.raises(ConfigError):
        read_task(tmp_path)


def test_bad_tasks_are_refused_by_name(tmp_path: Path, task_dir: Path) -> None:
    with pytest.raises(ImageReadError, match=r"dataset\.json"):
        read_task(tmp_path)
    with pytest.raises(ConfigError, match="registration_test"):
        read_task(task_dir, "test")
    with pytest.raises(ConfigError, match="0042"):
        read_task(task_dir, cases=["0042"])
    (task_dir / "B_dataset.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"B_dataset\.json"):
        read_task(task_dir)
    with pytest.raises(ConfigError, match="name"):
        read_task(task_dir / "B_dataset.json")


def test_a_wrong_count_is_told_and_cases_are_chosen(task_dir: Path) -> None:
    listed = json.loads((task_dir / "HippocampusMR_dataset.json").read_text())
    write_dataset(task_dir, "HippocampusMR", listed["registration_val"], numRegistration_val=9)
    assert "9" in read_task(task_dir).notes[0]
    chosen = read_task(task_dir, cases=["0002_0000"])
    assert [p.fixed_subject for p in chosen.pairs] == ["0002"]
    assert chosen.is_part


def test_keypoints_of_two_modalities_lie_in_a_folder_of_the_two(tmp_path: Path) -> None:
    pairs = [
        [f"imagesTr/T_0011_{m}.nii.gz", "imagesTr/T_0011_0000.nii.gz"] for m in ("0001", "0002")
    ]
    write_dataset(tmp_path, "T", pairs)
    task = read_task(tmp_path)
    for kind in ("keypoints01Tr", "keypoints00000002Tr", "keypointsTr"):
        for modality in ("0000", "0001", "0002"):
            (tmp_path / kind).mkdir(exist_ok=True)
            (tmp_path / kind / f"T_0011_{modality}.csv").write_text("1,2,3\n")
    found = [task.keypoints(pair) for pair in task.pairs]
    assert [f[0].parent.name for f in found if f] == ["keypoints01Tr", "keypoints00000002Tr"]


def test_every_task_has_a_preset_that_loads() -> None:
    for name, rules in RULES.items():
        preset, overrides = preset_of(rules)
        assert preset in preset_names(), name
        assert set(overrides) <= {"levels.spacing_mm", "start.search_mm"}


# Orientation ----------------------------------------------------------------------------------


def rotation(degrees: float) -> np.ndarray:
    """About an oblique axis."""
    axis = np.array([1.0, 2.0, 3.0]) / np.sqrt(14)
    cross = np.cross(np.eye(3), axis)
    a = np.radians(degrees)
    return np.eye(3) * np.cos(a) + np.sin(a) * cross + (1 - np.cos(a)) * np.outer(axis, axis)


def oblique(
    codes: str, shape: tuple[int, int, int], spacing: tuple[float, ...], degrees: float
) -> np.ndarray:
    """nibabel's matrix of a grid around the origin, with axes near to ``codes``."""
    order = nibabel.orientations.axcodes2ornt(codes)
    linear = np.zeros((3, 3))
    for axis, (row, sign) in enumerate(order):
        linear[int(row), axis] = sign * spacing[axis]
    linear = rotation(degrees) @ linear
    affine = np.eye(4)
    affine[:3, :3] = linear
    affine[:3, 3] = -linear @ ((np.array(shape) - 1) / 2) + [3, -2, 1]
    return affine


ORIENTATIONS = [("LPS", "LPS"), ("RAS", "LPS"), ("LPS", "RAS"), ("PIR", "ASL"), ("SRA", "LAI")]


@pytest.mark.parametrize(("fixed_codes", "moving_codes"), ORIENTATIONS)
def test_written_voxels_move_labels_where_the_transform_does(
    tmp_path: Path, fixed_codes: str, moving_codes: str
) -> None:
    """Header by nibabel, field by scipy, transform by SimpleITK: none of this package's code."""
    shapes = ((22, 20, 18), (19, 24, 21))
    affines = (
        oblique(fixed_codes, shapes[0], (1.0, 1.2, 1.5), 12.0),
        oblique(moving_codes, shapes[1], (1.3, 0.9, 1.1), -7.0),
    )
    labels = (blob(shapes[1], (9, 12, 10), 6) + blob(shapes[1], (12, 10, 8), 3)).astype(np.int32)
    paths = [tmp_path / f"{side}.nii.gz" for side in ("fixed", "moving")]
    save(np.random.default_rng(0).normal(size=shapes[0]).astype(np.float32), paths[0], affines[0])
    save(labels, paths[1], affines[1])
    fixed, moving = read_image(paths[0]), read_label_map(paths[1])
    transform = known_transform(fixed.grid)
    write_field(transform_to_l2r(transform, moving.grid), tmp_path / "disp.nii.gz", affines[0])

    d = np.asarray(nibabel.load(tmp_path / "disp.nii.gz").dataobj)
    assert d.shape == (*shapes[0], 3)
    assert d.dtype == np.float32
    itk = transform_to_itk(transform)
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    rng = np.random.default_rng(1)
    for index in rng.integers(0, shapes[0], (40, 3)):
        ras = affines[0] @ [*index, 1.0]
        lands = itk.TransformPoint((flip @ ras)[:3].tolist())
        theirs = affines[1] @ [*(index + d[tuple(index)]), 1.0]
        np.testing.assert_allclose((flip @ theirs)[:3], lands, atol=2e-4)

    at = np.indices(shapes[0]) + np.moveaxis(d, -1, 0)
    by_scipy = map_coordinates(labels, at, order=0)
    reference = sitk.ReadImage(str(paths[0]))
    warped = sitk.Resample(sitk.ReadImage(str(paths[1])), reference, itk, sitk.sitkNearestNeighbor)
    by_itk = sitk.GetArrayFromImage(warped).transpose(2, 1, 0)
    assert (by_itk > 0).sum() > 300
    assert (by_scipy != by_itk).sum() <= 2, "a voxel that lands half way between two may differ"
    ours = warp_labels(moving, transform).data.numpy().transpose(2, 1, 0)
    assert (by_scipy != ours).sum() <= 2
    plain = map_coordinates(
        labels,
        np.indices(shapes[0]) + transform.field.vox.numpy().transpose(0, 3, 2, 1)[::-1],
        order=0,
    )
    assert (plain != by_itk).sum() > 100, "the internal field, transposed, would be wrong"


def known_transform(grid: Grid) -> Transform:
    """A smooth field of some millimetres, then a small rotation, scaling and shift."""
    vox = torch.from_numpy(np.stack([wavy(k, grid.shape_zyx, 0.8)[..., k] for k in range(3)]))
    affine = np.eye(4)
    affine[:3, :3] = rotation(4.0) * 1.03
    affine[:3, 3] = (1.0, -0.7, 0.4)
    return Transform(affine, DisplacementField(vox.float(), grid))


@pytest.mark.parametrize(("fixed_codes", "moving_codes"), ORIENTATIONS)
def test_a_field_read_back_is_the_same_transform(fixed_codes: str, moving_codes: str) -> None:
    grids = [grid_from(codes, 5.0) for codes in (fixed_codes, moving_codes)]
    transform = known_transform(grids[0])
    back = l2r_to_transform(transform_to_l2r(transform, grids[1]), *grids)
    for index in ((3, 4, 5), (10, 12, 9)):
        point = (grids[0].index_to_lps @ [*index, 1.0])[:3].tolist()
        np.testing.assert_allclose(
            transform_to_itk(back).TransformPoint(point),
            transform_to_itk(transform).TransformPoint(point),
            atol=1e-4,
        )
    zero = transform_to_l2r(Transform(np.eye(4), DisplacementField.zero(grids[0])), grids[0])
    assert np.abs(zero).max() < 1e-6


def grid_from(codes: str, degrees: float) -> Grid:
    """A grid near to nibabel's codes."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ oblique(codes, (16, 17, 18), (1, 1.2, 1.5), degrees)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    return Grid(
        (18, 17, 16),
        tuple(spacing.tolist()),
        tuple(affine[:3, 3].tolist()),
        tuple(map(tuple, (affine[:3, :3] / spacing).tolist())),
    )


def test_the_itk_field_and_the_learn2reg_field_of_one_run_agree(tmp_path: Path) -> None:
    folder = tmp_path / "task"
    affines = [oblique("LIP", SHAPE, (1.0, 1.1, 1.2), 6.0), oblique("RAS", SHAPE, (1, 1, 1.3), -4)]
    names = ["T_0001_0001.nii.gz", "T_0001_0000.nii.gz"]
    for name, affine, codes in zip(names, affines, ("LIP", "RAS"), strict=True):
        ras = np.einsum("ij,jabc->iabc", affine[:3, :3], np.indices(SHAPE))
        ras += affine[:3, 3].reshape(3, 1, 1, 1)
        shift = 1.5 if codes == "RAS" else 0.0
        ball = np.exp(-((ras[0] - 3 - shift) ** 2 + (ras[1] + 2) ** 2 + (ras[2] - 1) ** 2) / 30)
        save((100 * ball).astype(np.float32), folder / "imagesTr" / name, affine)
    write_dataset(folder, "T", [[f"imagesTr/{name}" for name in names]])
    out = tmp_path / "out.zip"
    result = run("submit", "--task", folder, "--out", out, *FAST)
    assert result.exit_code == 0, result.output
    settings = {"levels.spacing_mm": [4.0, 2.0], "levels.steps": [3, 2], "start.search_mm": 0.0}
    registration = optimize_pair(
        folder / "imagesTr" / names[0],
        folder / "imagesTr" / names[1],
        preset="general",
        overrides=settings,
        threads=1,
        device="cpu",
    )
    itk = transform_to_itk(registration.transform)
    d = read_field(tmp_path / "out_fields" / "disp_0001_0001_0001_0000.nii.gz", SHAPE)
    assert np.abs(d).max() > 0.5
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    for index in np.random.default_rng(0).integers(0, SHAPE, (30, 3)):
        lands = itk.TransformPoint((flip @ affines[0] @ [*index, 1.0])[:3].tolist())
        theirs = flip @ affines[1] @ [*(index + d[tuple(index)]), 1.0]
        np.testing.assert_allclose(theirs[:3], lands, atol=1e-3)


# Files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["disp.nii.gz", "disp.npz"])
def test_fields_come_back_and_equal_fields_are_equal_files(tmp_path: Path, name: str) -> None:
    field = wavy(0)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_field(field, tmp_path / folder / name, np.diag([2.0, 2.0, 2.0, 1.0]))
    np.testing.assert_array_equal(read_field(tmp_path / "a" / name, SHAPE), field)
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert check_field(tmp_path / "a" / name) == pytest.approx(float(np.abs(field).max()))


def test_float16_is_for_npz_alone(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="float16"):
        write_field(wavy(0), tmp_path / "d.nii.gz", np.eye(4), "float16")
    write_field(wavy(0), tmp_path / "d.npz", np.eye(4), "float16")
    with np.load(tmp_path / "d.npz") as arrays:
        assert [arrays[k].dtype for k in arrays.files] == [np.float16]
    with pytest.raises(ImageContentError, match="NaN or infinite"):
        write_field(wavy(0) * 1e6, tmp_path / "e.npz", np.eye(4), "float16")
    assert [p.name for p in tmp_path.iterdir()] == ["d.npz"], "nothing is left of the other"


def nan_field() -> np.ndarray:
    """One NaN."""
    field = wavy(0)
    field[3, 3, 3, 1] = np.nan
    return field


BAD_FIELDS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "NaN": ("d.npz", lambda p: np.savez(p, nan_field()), "NaN"),
    "shape": ("d.npz", lambda p: np.savez(p, wavy(0)[:-1]), "expected 20 x 18 x 16 x 3"),
    "channels first": ("d.npz", lambda p: np.savez(p, wavy(0).transpose(3, 0, 1, 2)), "3 x 20"),
    "two arrays": ("d.npz", lambda p: np.savez(p, a=wavy(0), b=wavy(0)), "one array"),
    "pickled": ("d.npz", lambda p: np.savez(p, np.array([{}], object)), "pickled"),
    "words": ("d.npz", lambda p: np.savez(p, np.full((*SHAPE, 3), "x")), "real numbers"),
    "no zip": ("d.npz", lambda p: p.write_bytes(b"x" * 99), "cannot be read"),
    "no gzip": ("d.nii.gz", lambda p: p.write_bytes(b"x" * 999), "cannot be read"),
    "no NIfTI": ("d.nii.gz", lambda p: p.write_bytes(gzip.compress(b"x" * 999)), "NIfTI"),
    "NaN NIfTI": ("d.nii.gz", lambda p: save(nan_field(), p), "NaN"),
    "ITK": ("d.nii.gz", lambda p: save(wavy(0)[:, :, :, None], p), "ITK"),
    "scalar": ("d.nii.gz", lambda p: save(wavy(0)[..., 0], p), "20 x 18 x 16"),
    "cut": (
        "d.nii.gz",
        lambda p: (save(wavy(0), p), p.write_bytes(p.read_bytes()[:-5000])),
        "cannot be read",
    ),
}


@pytest.mark.parametrize("case", BAD_FIELDS)
def test_bad_fields_are_refused_by_name(tmp_path: Path, case: str) -> None:
    name, write, reason = BAD_FIELDS[case]
    write(tmp_path / name)
    with pytest.raises((ImageContentError, ImageReadError), match=reason) as caught:
        check_field(tmp_path / name, SHAPE)
    assert str(caught.value).startswith(name)


# The evaluator's numbers ----------------------------------------------------------------------


def test_sdlogj_of_a_field_worked_out_by_hand() -> None:
    """d = c i^2 along the first axis: central differences give det J = 1 + 2 c i, exactly."""
    field = np.zeros((*SHAPE, 3), np.float32)
    i = np.arange(SHAPE[0])
    field[..., 0] = (0.02 * i**2)[:, None, None]
    expected = np.log(1 + 2 * 0.02 * i[2:-2] + 3).std()
    assert scores.score_sdlogj_l2r(field, None) == pytest.approx(expected, abs=1e-6)
    mask = np.zeros(SHAPE, bool)
    mask[2:6] = True
    expected = np.log(4 + 0.04 * i[2:6]).std()
    assert scores.score_sdlogj_l2r(field, mask) == pytest.approx(expected, abs=1e-6)


def test_sdlogj_of_any_field_by_numpy() -> None:
    field = wavy(3, size=3.0)
    jacobian = np.stack(
        [np.gradient(field[..., c].astype(float), axis=(0, 1, 2)) for c in range(3)]
    )
    matrix = np.moveaxis(jacobian, (0, 1), (-2, -1)) + np.eye(3)
    det = np.linalg.det(matrix)[2:-2, 2:-2, 2:-2]
    expected = np.log((det + 3).clip(1e-9, 1e9)).std()
    assert (det < 0).any(), "it folds, and nobody sees it"
    assert scores.score_sdlogj_l2r(field, None) == pytest.approx(expected, abs=1e-6)


def test_tre_by_hand_and_by_a_spline() -> None:
    fixed = np.array([[4.0, 5.0, 6.0], [8.0, 8.0, 8.0]])
    field = np.zeros((*SHAPE, 3))
    field[4, 5, 6] = (1.0, 2.0, 2.0)  # the spline goes through the voxels' values
    moving = fixed + np.array([[1.0, 2.0, 2.0], [0.0, 0.0, 3.0]])
    tre = scores.score_tre(fixed, moving, field, (1.0, 1.0, 2.0))
    np.testing.assert_allclose(tre, [0.0, 6.0], atol=1e-9)
    smooth, points = wavy(1), np.random.default_rng(0).uniform(3, 12, (9, 3))
    by_scipy = [map_coordinates(smooth[..., c], points.T, order=3) for c in range(3)]
    expected = np.linalg.norm(np.stack(by_scipy, 1) * [1.0, 1.0, 2.0], axis=1)
    tre = scores.score_tre(points, points, smooth, (1.0, 1.0, 2.0))
    np.testing.assert_allclose(tre, expected, atol=1e-9)
    outside = np.array([[-1.0, 5.0, 5.0]])
    assert scores.score_tre(outside, outside + 2, smooth, (1, 1, 1))[0] == pytest.approx(12**0.5)


def test_overlap_by_scipy_and_deepmind() -> None:
    fixed = (blob(SHAPE, (9, 9, 8), 6) + blob(SHAPE, (9, 9, 8), 3)).astype(np.int32)
    moving = (blob(SHAPE, (11, 8, 8), 5) + blob(SHAPE, (11, 8, 8), 3)).astype(np.int32)
    field = wavy(2)
    warped = scores.warp_labels_l2r(moving, field)
    expected = map_coordinates(moving, np.indices(SHAPE) + np.moveaxis(field, -1, 0), order=0)
    np.testing.assert_array_equal(warped, expected)
    dice = scores.score_dice(fixed, moving, warped, (1, 2, 7))
    hd95 = scores.score_hd95(fixed, moving, warped, (1, 2, 7))
    for k, value in enumerate((1, 2)):
        a, b = fixed == value, expected == value
        assert dice[k] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()), abs=1e-12)
        distances = surface_distance.compute_surface_distances(a, b, np.ones(3))
        theirs = surface_distance.compute_robust_hausdorff(distances, 95.0)
        assert hd95[k] == pytest.approx(theirs, abs=1e-9)
    assert np.isnan([dice[2], hd95[2]]).all()


def test_a_label_warped_out_of_sight_is_infinitely_far() -> None:
    labels = blob(SHAPE, (9, 9, 8), 4).astype(np.int32)
    lost = np.zeros_like(labels)
    assert scores.score_dice(labels, labels, lost, [1]) == [0.0]
    assert scores.score_hd95(labels, labels, lost, [1]) == [np.inf]
    assert np.isnan(scores.score_dice(labels, lost, lost, [1])).all()


def test_quantiles_over_cases_take_the_bad_end() -> None:
    methods = (Method("LogJacDetStd", "sdlogj"), Method("DSC", "dice", (1,)))
    folds = folding(torch.zeros(3, 4, 4, 4), torch.zeros(4, 4, 4, dtype=torch.int32))
    true_folds = TrueFolds(folds, 0.0, 0.0, "-")
    cases = tuple(
        CaseScores(
            f"000{n}_0000<--0009_0000",
            {"LogJacDetStd": (n / 10, n / 10), "DSC": (n / 10, [n / 10])},
            true_folds,
        )
        for n in range(11)
    )
    found = Scores("T", methods, cases).aggregates()
    assert found["LogJacDetStd"]["30"] == pytest.approx(0.7)
    assert found["DSC"]["30"] == pytest.approx(0.3)
    assert found["DSC"]["mean"] == pytest.approx(0.5)
    assert found["DSC"]["std"] == pytest.approx(np.sqrt(0.1))


def write_fields(folder: Path, task_dir: Path, name: str = "{}.nii.gz") -> list[Path]:
    """A wavy field for each case."""
    folder.mkdir(exist_ok=True)
    paths = []
    for seed, pair in enumerate(read_task(task_dir).pairs):
        paths.append(folder / name.format(pair.long_name))
        write_field(wavy(seed), paths[-1], np.eye(4))
    return paths


def test_the_json_has_the_evaluators_layout(task_dir: Path, tmp_path: Path) -> None:
    write_fields(tmp_path / "fields", task_dir)
    out = tmp_path / "scores.json"
    result = run("evaluate", tmp_path / "fields", "--task", task_dir, "--json", out)
    assert result.exit_code == 0, result.output
    assert "0001_0000<--0011_0000" in result.stdout
    again = run("evaluate", tmp_path / "fields", "--task", task_dir, "--json", out)
    assert again.exit_code == ExitCode.OUTPUT
    tables = json.loads(out.read_text())
    assert set(tables) == {"name", "aggregates", "cases", "eval_version", "iterreg"}
    case = tables["cases"]["0001_0000<--0011_0000"]
    assert set(case) == {"LogJacDetStd", "num_foldings", "DSC", "HD95"}
    assert set(case["DSC"]) == {"mean", "detailed"}
    assert len(case["DSC"]["detailed"]) == 2
    assert case["num_foldings"]["mean"] == 0
    assert set(tables["aggregates"]["HD95"]) == {"mean", "std", "30"}
    assert tables["iterreg"]["0001_0000<--0011_0000"]["folds_interior"] >= 0


def test_masks_and_keypoints_are_used_where_the_task_has_them(
    task_dir: Path, tmp_path: Path
) -> None:
    task = read_task(task_dir, cases=["0001"])
    (pair,) = task.pairs
    write_fields(tmp_path / "fields", task_dir)
    methods = (Method("S", "sdlogj"), Method("T", "tre", points="keypoints"))
    evaluation = Evaluation(methods, SHAPE, task.pairs, masked=True)
    bare = evaluate_task(task, evaluation, tmp_path / "fields").cases[0]
    assert set(bare.values) == {"S"}
    assert len(bare.notes) == 2
    mask = np.zeros(SHAPE, np.uint8)
    mask[4:9, 4:9, 4:9] = 1
    mask[9:12] = 2  # not 1, so outside, as the evaluator has it
    save(mask, task.companion(pair.fixed, "masks"))
    for image in (pair.fixed, pair.moving):
        path = task.companion(image, "keypoints", ".csv")
        path.parent.mkdir(exist_ok=True)
        path.write_text("5,6,7\n8,8,8\n")
    full = evaluate_task(task, evaluation, tmp_path / "fields").cases[0]
    expected = scores.score_sdlogj_l2r(wavy(0), mask == 1)
    assert full.values["S"][0] == pytest.approx(expected, abs=1e-12)
    expected = np.linalg.norm(wavy(0)[[5, 8], [6, 8], [7, 8]], axis=1)
    np.testing.assert_allclose(full.values["T"][1], expected, atol=1e-5)


def test_keypoints_guide_when_asked(task_dir: Path, tmp_path: Path) -> None:
    task = read_task(task_dir, cases=["0001"])
    (pair,) = task.pairs
    ours, theirs = np.array([[9.0, 8.0, 7.0], [12.0, 10.0, 9.0]]), [2.0, -1.0, 1.0]
    for image, points in ((pair.fixed, ours), (pair.moving, ours + theirs)):
        path = task.companion(image, "keypoints", ".csv")
        path.parent.mkdir(exist_ok=True)
        np.savetxt(path, points, delimiter=",")
    errors = {}
    for flag in ("--no-masks", "--use-keypoints"):
        out = tmp_path / f"s{flag}.zip"
        assert (
            submit(
                task_dir,
                out,
                "--cases",
                "0001",
                flag,
                "--set",
                "landmarks.weight=100.0",
                "--set",
                "landmarks.radius_mm=1.5",
            ).exit_code
            == 0
        )
        fields = tmp_path / f"s{flag}_fields"
        field = read_field(next(fields.glob("disp_*.nii.gz")))
        z, y, x = ours.astype(int).T
        errors[flag] = np.linalg.norm(field[z, y, x] - theirs, axis=1).mean()
        record = next(fields.glob("disp_*.json")).read_text()
        assert ("the task's" in json.loads(record)["used"]["keypoints"]) == (flag[2] == "u")
    assert errors["--use-keypoints"] < 0.5 < errors["--no-masks"]


def test_folds_are_told_although_the_evaluator_counts_none(task_dir: Path, tmp_path: Path) -> None:
    task = read_task(task_dir, cases=["0001"])
    field = np.zeros((*SHAPE, 3), np.float32)
    field[9, 9, 8, 0] = 1.5  # overtakes its neighbour, deep inside label 2
    (tmp_path / "f").mkdir()
    write_field(field, tmp_path / "f" / "disp_0001_0000_0011_0000.npz", np.eye(4))
    found = evaluate_task(task, evaluation_of(task), tmp_path / "f").cases[0]
    assert found.true_folds.folding.interior_folds > 0
    assert found.true_folds.folding.interface_folds == 0


def test_the_evaluators_own_configuration_is_read(task_dir: Path, tmp_path: Path) -> None:
    task = read_task(task_dir)
    config = {
        "task_name": "HippocampusMR",
        "evaluation_methods": [{"name": "D", "metric": "dice", "labels": ["2"]}],
        "expected_shape": [*SHAPE, 3],
        "eval_pairs": [{"fixed": str(p.fixed), "moving": str(p.moving)} for p in task.pairs],
        "masked_evaluation": True,
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    found = evaluation_of(task, path)
    assert (found.methods[0].labels, found.masked, len(found.pairs)) == ((2,), True, 2)
    assert len(evaluation_of(read_task(task_dir, cases=["0002"]), path).pairs) == 1
    dice = {"name": "D", "metric": "dice"}
    for key, value in (
        *(("expected_shape", v) for v in ([1, 2, 3], [1, "2", 3, 3], [1, True, 3, 3], "1233")),
        *(("eval_pairs", v) for v in ("pairs.csv", ["a"], 7, [{"fixed": 1}])),
        *(("evaluation_methods", v) for v in ("dice", ["dice"], [dice | {"metric": []}])),
        *(("evaluation_methods", [dice | {"labels": v}]) for v in (1, ["x"], [None], ["9" * 5000])),
    ):
        path.write_text(json.dumps(config | {key: value}))
        with pytest.raises(ConfigError, match="config") as caught:
            evaluation_of(task, path)
        assert len(str(caught.value)) < 400 + len(str(path))


def test_missing_fields_are_named_before_anything_is_scored(task_dir: Path, tmp_path: Path) -> None:
    write_fields(tmp_path / "fields", task_dir)[1].unlink()
    result = run("evaluate", tmp_path / "fields", "--task", task_dir)
    assert result.exit_code == 3
    assert "disp_0002_0000_0012_0000" in result.stderr


# The zip --------------------------------------------------------------------------------------


def test_a_good_zip_is_flat_reproducible_and_accepted(task_dir: Path, tmp_path: Path) -> None:
    paths = write_fields(tmp_path / "fields", task_dir)
    for name in ("a.zip", "b.zip"):
        write_zip(paths, tmp_path / name)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as packed:
        assert packed.namelist() == [path.name for path in paths]
        assert packed.testzip() is None
    result = run("check", tmp_path / "a.zip", "--task", task_dir)
    assert result.exit_code == 0, result.output
    assert "2 fields" in result.stdout
    assert run("evaluate", tmp_path / "a.zip", "--task", task_dir, "--quiet").exit_code == 0


Edit = Callable[[zipfile.ZipFile, list[Path]], object]


def keep(packed: zipfile.ZipFile, paths: list[Path]) -> None:
    """Both fields as they should be."""
    for path in paths:
        packed.write(path, path.name)


def link(packed: zipfile.ZipFile, paths: list[Path]) -> None:
    """A field that is a symbolic link."""
    entry = zipfile.ZipInfo(paths[0].name)
    entry.external_attr = 0o120777 << 16
    packed.writestr(entry, "/etc/hostname")
    packed.write(paths[1], paths[1].name)


BAD_ZIPS: dict[str, tuple[Edit, str]] = {
    "slip": (lambda z, p: (keep(z, p), z.writestr("../up.nii.gz", b"")), r"\.\./up.nii.gz"),
    "absolute": (lambda z, p: (keep(z, p), z.writestr("/up.nii.gz", b"")), "/up.nii.gz"),
    "backslash": (lambda z, p: (keep(z, p), z.writestr("..\\up.npz", b"")), "leaves the folder"),
    "drive": (lambda z, p: (keep(z, p), z.writestr("C:up.npz", b"")), "leaves the folder"),
    "link": (link, "symbolic link"),
    "missing": (lambda z, p: keep(z, p[:1]), "0002_0000<--0012_0000: missing"),
    "folder": (lambda z, p: [z.write(x, f"sub/{x.name}") for x in p], "lies in a folder"),
    "short": (
        lambda z, p: [z.write(p[0], p[0].name), z.write(p[1], "disp_0002_0012.nii.gz")],
        "short name",
    ),
    "text": (lambda z, p: [z.writestr(x.name, b"hello" * 99) for x in p], "cannot be read"),
    "large": (lambda z, p: [z.writestr(x.name, bytes(2_000_000)) for x in p], "larger than"),
}


@pytest.mark.parametrize("case", BAD_ZIPS)
def test_bad_zips_are_refused_by_name(task_dir: Path, tmp_path: Path, case: str) -> None:
    edit, reason = BAD_ZIPS[case]
    paths = write_fields(tmp_path / "fields", task_dir)
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as packed:
        edit(packed, paths)
    result = run("check", tmp_path / "bad.zip", "--task", task_dir)
    assert result.exit_code == 1
    assert_refused(result, reason)
    assert not (tmp_path.parent / "up.nii.gz").exists()


def assert_refused(result: Result, reason: str) -> None:
    """A line of its own tells the reason."""
    import re

    assert re.search(f"refused: .*{reason}", result.stderr), result.stderr


@pytest.mark.parametrize("case", BAD_FIELDS)
def test_bad_fields_in_a_zip_are_refused_by_name(task_dir: Path, tmp_path: Path, case: str) -> None:
    name, write, _ = BAD_FIELDS[case]
    write(tmp_path / name)
    stem = "disp_0001_0000_0011_0000"
    paths = write_fields(tmp_path / "fields", task_dir)
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as packed:
        packed.write(tmp_path / name, stem + name.removeprefix("d"))
        packed.write(paths[1], paths[1].name)
    result = run("check", tmp_path / "bad.zip", "--task", task_dir)
    assert_refused(result, stem)
    assert "1 reason" in result.stderr


def test_damaged_and_odd_zips(task_dir: Path, tmp_path: Path) -> None:
    paths = write_fields(tmp_path / "fields", task_dir)
    write_zip(paths, tmp_path / "a.zip")
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[2000] ^= 0xFF
    (tmp_path / "flipped.zip").write_bytes(content)
    (tmp_path / "cut.zip").write_bytes(content[:5000])
    task = read_task(task_dir)
    for name, word in (("flipped.zip", "CRC"), ("cut.zip", "not a zip")):
        report = check_zip(tmp_path / name, evaluation_of(task), lambda pair: SHAPE)
        assert not report.is_accepted
        assert word in report.refusals[0] or "cannot be read" in report.refusals[0]
    with zipfile.ZipFile(tmp_path / "odd.zip", "w") as packed:
        keep(packed, paths)
        packed.writestr("__MACOSX/._disp", b"")
        packed.writestr("readme.txt", b"")
    report = check_zip(tmp_path / "odd.zip", evaluation_of(task), lambda pair: SHAPE)
    assert report.is_accepted
    assert report.warnings == ("readme.txt: belongs to no case of the task",)


# Submissions ----------------------------------------------------------------------------------


def submit(task_dir: Path, out: Path, *more: object) -> Result:
    """Submit quickly."""
    return run("submit", "--task", task_dir, "--out", out, *FAST, *more)


def test_a_submission_is_resumed_and_verified(task_dir: Path, tmp_path: Path) -> None:
    out, fields = tmp_path / "s.zip", tmp_path / "s_fields"
    first = submit(task_dir, out, "--cases", "0001")
    assert first.exit_code == 0, first.output
    assert not out.exists(), "a case is missing"
    record = json.loads((fields / "disp_0001_0000_0011_0000.json").read_text())
    assert record["used"]["regions"] == "segmenter none"
    assert record["config"]["name"] == "hippocampus"
    second = submit(task_dir, out)
    assert second.exit_code == 0, second.output
    assert second.stdout.count("kept; ok") == 1
    assert out.exists()
    assert run("check", out, "--task", task_dir).exit_code == 0
    assert submit(task_dir, out).exit_code == 7, "a zip is there: --overwrite"

    damaged = fields / "disp_0002_0000_0012_0000.nii.gz"
    good = damaged.read_bytes()
    damaged.write_bytes(good[:-100])
    third = submit(task_dir, out, "--overwrite")
    assert third.stdout.count("kept; ok") == 1
    assert damaged.read_bytes() == good, "made again, the same"
    other = submit(
        task_dir, out, "--overwrite", "--set", "smoothness.weight=0.5", "--format", ".npz"
    )
    assert "kept" not in other.stdout, "other settings"
    files = (path.suffix for path in fields.iterdir() if path.is_file())
    assert sorted(files) == [".json", ".json", ".npz", ".npz"]


def test_a_case_that_fails_is_told_and_the_others_go_on(task_dir: Path, tmp_path: Path) -> None:
    (task_dir / "imagesTr" / "HippocampusMR_0011_0000.nii.gz").unlink()
    result = submit(task_dir, tmp_path / "s.zip")
    assert result.exit_code == 1
    assert "FAILED" in result.stdout
    assert "HippocampusMR_0011_0000.nii.gz: no such file" in result.stdout
    assert "1 of 2 cases failed" in result.stderr
    assert not (tmp_path / "s.zip").exists()
    kept = sorted(p.name for p in (tmp_path / "s_fields").iterdir() if p.is_file())
    assert kept == ["disp_0002_0000_0012_0000.json", "disp_0002_0000_0012_0000.nii.gz"]


def test_what_would_fail_every_case_is_told_before_any_begins(
    task_dir: Path, tmp_path: Path
) -> None:
    nowhere = submit(task_dir, tmp_path / "no" / "s.zip")
    assert (nowhere.exit_code, (tmp_path / "no").exists()) == (7, False)
    out = tmp_path / "s.zip"
    assert submit(task_dir, out, "--preset", "nosuch").exit_code == 6
    assert submit(task_dir, out, "--dtype", "float16").exit_code == 7
    assert submit(task_dir, out, "--device", "tpu").exit_code == 8
    assert submit(task_dir, tmp_path / "s.tar").exit_code == 2
    assert list(tmp_path.iterdir()) == [task_dir]


def test_an_image_of_another_shape_fails(task_dir: Path, tmp_path: Path) -> None:
    save(
        np.random.default_rng(0).normal(size=(9, 9, 9)),
        task_dir / "imagesTr" / "HippocampusMR_0001_0000.nii.gz",
    )
    result = submit(task_dir, tmp_path / "s.zip", "--cases", "0001")
    assert "expected 20 x 18 x 16 as the task says, got 9 x 9 x 9" in result.stdout


def test_an_interruption_leaves_nothing_half_written(
    task_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(field: np.ndarray, path: Path, *more: object) -> None:
        from iterreg.atomic import write_aside

        def half(target: Path) -> None:
            target.write_bytes(b"half")
            raise KeyboardInterrupt

        write_aside(path, half)

    monkeypatch.setattr(register_module, "write_field", interrupted)
    result = submit(task_dir, tmp_path / "s.zip")
    assert result.exit_code == 130
    assert [p.name for p in (tmp_path / "s_fields").iterdir()] == ["regions"]
    assert "run the same command to continue" in result.stderr


def test_jobs_give_the_same_fields(task_dir: Path, tmp_path: Path) -> None:
    assert submit(task_dir, tmp_path / "one.zip").exit_code == 0
    result = submit(task_dir, tmp_path / "two.zip", "--jobs", 2)
    assert result.exit_code == 0, result.output
    one, two = (packed_fields(tmp_path / name) for name in ("one.zip", "two.zip"))
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name], two[name]) for name in one)


def packed_fields(path: Path) -> Fields:
    """The fields of a zip, by file name."""
    folder = path.with_suffix(".unpacked")
    with zipfile.ZipFile(path) as packed:
        packed.extractall(folder)
    return {file.name: read_field(file) for file in sorted(folder.rglob("disp_*"))}


def test_regions_and_masks_are_used_and_recorded(task_dir: Path, tmp_path: Path) -> None:
    for end in ("0001", "0011"):
        labels = blob(SHAPE, (9, 9, 8), 5)
        save(labels, tmp_path / "regions" / f"HippocampusMR_{end}_0000.nii.gz")
        save(np.ones(SHAPE, np.uint8), task_dir / "masksTr" / f"HippocampusMR_{end}_0000.nii.gz")
    result = submit(
        task_dir, tmp_path / "s.zip", "--cases", "0001", "--regions", tmp_path / "regions"
    )
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "s_fields" / "disp_0001_0000_0011_0000.json").read_text())
    assert record["used"]["masks"] == "the task's"
    assert str(tmp_path / "regions") in record["used"]["regions"]
    found = run("evaluate", tmp_path / "s_fields", "--task", task_dir, "--cases", "0001")
    assert f"regions for the folds: {tmp_path / 's_fields' / 'regions'}" in found.stdout
    assert "0001_0000<--0011_0000" in found.stdout
    missing = submit(
        task_dir, tmp_path / "t.zip", "--cases", "0002", "--regions", tmp_path / "regions"
    )
    assert missing.exit_code == 1
    assert "expected the regions of HippocampusMR_0002_0000.nii.gz" in missing.stdout


def test_totalsegmentators_names_are_read_from_the_header(tmp_path: Path) -> None:
    labels = np.zeros((6, 6, 6), np.uint8)
    labels[:3], labels[3:5] = 10, 52
    image = nibabel.Nifti1Image(labels, np.eye(4))
    rows = (
        '<Label Key="10" Red="0"><![CDATA[lung_upper_lobe_left]]></Label>'
        '<Label Key="52" Red="0"><![CDATA[aorta]]></Label>'
    )
    xml = f"<?xml version='1.0'?><CaretExtension><LabelTable>{rows}</LabelTable></CaretExtension>"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("ignore", xml.encode()))
    path = tmp_path / "T_0001_0000.nii.gz"
    nibabel.save(image, path)
    pair = pair_of("imagesTr/T_0001_0000.nii.gz", "imagesTr/T_0001_0001.nii.gz", Path("x"))
    loaded, told = load_regions(find_regions(tmp_path, pair.fixed), None, "thorax13")
    assert isinstance(loaded, LabelMap)
    assert {loaded.title(v) for v in loaded.values} == {"lung", "aorta"}
    assert "thorax13" in told
    with pytest.raises(ImageReadError, match="T_0001_0001"):
        find_regions(tmp_path, pair.moving)


def test_real_hippocampus_pair_from_the_benchmark_script(tmp_path: Path) -> None:
    data = Path(os.environ.get("ITERREG_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (data / "hippocampus_msd").is_dir():
        pytest.skip(f"no real images at {data}: set ITERREG_DATA")
    import subprocess
    import sys

    script = Path(__file__).parents[1] / "benchmarks" / "make_learn2reg_task.py"
    subprocess.run(
        [sys.executable, script, "hippocampus", tmp_path / "task"],
        check=True,
        env=os.environ | {"ITERREG_DATA": str(data)},
    )
    out = tmp_path / "s.zip"
    result = run(
        "submit", "--task", tmp_path / "task", "--out", out, "--cases", "0007", "--threads", "1"
    )
    assert result.exit_code == 0, result.output
    fields = tmp_path / "s_fields"
    found = run(
        "evaluate",
        fields,
        "--task",
        tmp_path / "task",
        "--cases",
        "0007",
        "--json",
        tmp_path / "s.json",
    )
    assert found.exit_code == 0, found.output
    assert json.loads((tmp_path / "s.json").read_text())["aggregates"]["DSC"]["mean"] > 0.7


def test_a_record_is_kept_where_memory_cannot_be_measured(tmp_path: Path) -> None:
    target = tmp_path / "disp_0001_0001_0001_0000.nii.gz"
    target.write_bytes(b"field")
    record = {"made_from": "d", "sha256": sha256_of(target), "status": "fine"}
    write_record(target, record | {"seconds": 1.0, "peak_mb": float("nan"), "used": {}})
    kept = finished_record(target, "d")
    assert kept is not None
    assert np.isnan(kept["peak_mb"])
