"""Chains of transforms in ANTs' order, and options that take one value."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner, Result
from programs import RAS_LPS, affine_ras, image_of, points_ras, smooth_ras, write_points_csv

from iterreg.cli import iterreg
from iterreg.errors import ExitCode
from iterreg.geometry import Points
from iterreg.io import read_image, read_points


def run(*arguments: object) -> Result:
    return CliRunner().invoke(iterreg, [str(a) for a in arguments])


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A pair, and a field, an affine and a spline as ANTs and SimpleITK write them."""
    fixed = image_of(tmp_path, "fixed", "LPS", (30, 28, 26), (2.0, 2.0, 2.0))
    moving = image_of(tmp_path, "moving", "RAS", (28, 30, 24), (2.2, 2.1, 2.3))
    reference = sitk.ReadImage(str(fixed))
    vectors = np.ascontiguousarray((smooth_ras(fixed, 1.5) * RAS_LPS).transpose(2, 1, 0, 3))
    warp = sitk.GetImageFromArray(vectors, isVector=True)
    warp.CopyInformation(reference)
    flip = np.diag([*RAS_LPS, 1.0])
    matrix = flip @ affine_ras() @ flip
    affine = sitk.AffineTransform(3)
    affine.SetMatrix(matrix[:3, :3].ravel().tolist())
    affine.SetTranslation(matrix[:3, 3].tolist())
    spline = sitk.BSplineTransformInitializer(reference, [4, 4, 4])
    random = np.random.default_rng(0)
    spline.SetParameters(random.normal(size=len(spline.GetParameters())).tolist())
    found = {name: tmp_path / name for name in ("warp.nii.gz", "affine.mat", "spline.tfm")}
    sitk.WriteImage(warp, str(found["warp.nii.gz"]))
    sitk.WriteTransform(affine, str(found["affine.mat"]))
    sitk.WriteTransform(spline, str(found["spline.tfm"]))
    return found | {"fixed": fixed, "moving": moving, "folder": tmp_path}


def itk(files: dict[str, Path], *names: str) -> sitk.CompositeTransform:
    """The same chain in SimpleITK, whose composites apply the last one first."""
    parts: list[sitk.Transform] = []
    for name in names:
        if name == "warp.nii.gz":
            image = sitk.ReadImage(str(files[name]), sitk.sitkVectorFloat64)
            parts.insert(0, sitk.DisplacementFieldTransform(image))
        else:
            parts.insert(0, sitk.ReadTransform(str(files[name])))
    return sitk.CompositeTransform(parts)


CHAINS = [
    ("warp.nii.gz", "affine.mat"),
    ("affine.mat", "warp.nii.gz"),
    ("warp.nii.gz", "affine.mat", "affine.mat"),
    ("spline.tfm", "affine.mat"),
    ("affine.mat", "spline.tfm", "warp.nii.gz"),
    ("warp.nii.gz", "warp.nii.gz"),
    ("spline.tfm",),
]


def options(files: dict[str, Path], chain: tuple[str, ...]) -> list[object]:
    return [word for name in chain for word in ("--transform", files[name])]


@pytest.mark.parametrize("chain", CHAINS, ids="+".join)
def test_points_go_through_the_first_one_first(
    files: dict[str, Path], chain: tuple[str, ...]
) -> None:
    ras = points_ras(files["fixed"])
    points = write_points_csv(files["folder"] / "p.csv", ras)
    out = files["folder"] / "o.csv"
    result = run("apply", *options(files, chain), "--points", points, "--out", out)
    assert result.exit_code == 0, result.output
    expected = [itk(files, *chain).TransformPoint(p) for p in (ras * RAS_LPS).tolist()]
    np.testing.assert_allclose(read_points(out).lps, expected, atol=1e-3)


@pytest.mark.parametrize("chain", CHAINS, ids="+".join)
def test_images_are_sampled_at_the_end_of_the_chain(
    files: dict[str, Path], chain: tuple[str, ...]
) -> None:
    out = files["folder"] / "o.nii.gz"
    given = "--reference", files["fixed"], "--image", files["moving"], "--out", out, "--fill", -9
    result = run("apply", *options(files, chain), *given)
    assert result.exit_code == 0, result.output
    images = (sitk.ReadImage(str(files[side])) for side in ("moving", "fixed"))
    warped = sitk.Resample(*images, itk(files, *chain), sitk.sitkLinear, -9.0)
    difference = np.abs(sitk.GetArrayFromImage(warped) - read_image(out).data[0].numpy())
    assert np.quantile(difference, 0.98) < 1e-2


@pytest.mark.parametrize("chain", CHAINS[:4] + CHAINS[5:6], ids="+".join)
def test_the_inverse_leads_back(files: dict[str, Path], chain: tuple[str, ...]) -> None:
    folder = files["folder"]
    loaded = nibabel.load(files["fixed"])
    index = np.random.default_rng(4).integers(9, np.array(loaded.shape) - 9, (20, 3))
    ras = nibabel.affines.apply_affine(loaded.affine, index)
    there = np.array([itk(files, *chain).TransformPoint(p) for p in (ras * RAS_LPS).tolist()])
    points = write_points_csv(folder / "there.csv", there * RAS_LPS)
    given = "--points", points, "--out", folder / "back.csv", "--inverse"
    if "spline.tfm" in chain:
        given = (*given, "--reference", files["fixed"])
    result = run("apply", *options(files, chain), *given)
    assert result.exit_code == 0, result.output
    np.testing.assert_allclose(read_points(folder / "back.csv").lps, ras * RAS_LPS, atol=0.05)
    rows = (folder / "back.csv").read_text().splitlines()[1:]
    assert all(float(row.split(",")[-1]) < 0.05 for row in rows)


def test_ranks_are_not_mixed(files: dict[str, Path]) -> None:
    sitk.WriteTransform(sitk.TranslationTransform(2, (1, 2)), str(files["folder"] / "flat.tfm"))
    given = "--transform", files["affine.mat"], "--transform", files["folder"] / "flat.tfm"
    (files["folder"] / "p.csv").write_text("x,y,z\n1,2,3\n")
    out = files["folder"] / "o.csv"
    result = run("apply", *given, "--points", files["folder"] / "p.csv", "--out", out)
    assert result.exit_code == ExitCode.TRANSFORM
    (line,) = result.stderr.splitlines()
    assert "flat.tfm: expected a 3-D transform as" in line and not out.exists()


REPEATED = [
    ("apply", "--reference"),
    ("apply", "--out"),
    ("convert", "--out"),
    ("evaluate", "--known-field"),
    ("register", "--fixed"),
    ("thorax", "--out"),
    ("samreg", "--preset"),
    ("phantom", "--out"),
    ("merge-labels", "--out"),
]


@pytest.mark.parametrize(("command", "option"), REPEATED, ids=" ".join)
def test_an_option_that_takes_one_value_refuses_a_second(command: str, option: str) -> None:
    result = run(command, option, "a", f"{option}=b")
    assert result.exit_code == ExitCode.USAGE, result.output
    assert f"{option} takes one value, and was given 2" in result.stderr


def test_a_command_of_a_group_refuses_too(tmp_path: Path) -> None:
    result = run("learn2reg", "submit", "--task", "a", "--task", "b")
    assert result.exit_code == ExitCode.USAGE
    assert "--task takes one value" in result.stderr


def test_contradicting_switches_are_refused() -> None:
    result = run("samreg", "--fit", "--no-fit")
    assert "takes one value" in result.stderr and result.exit_code == ExitCode.USAGE


def test_what_can_be_repeated_still_can() -> None:
    result = run("thorax", "--set", "a=1", "--set", "b=2", "--quiet", "--quiet")
    assert "takes one value" not in result.stderr


@pytest.mark.parametrize("word", ["[{},1]", "[{}, 1]", "[{},0]"])
def test_ants_way_of_writing_an_inverse(files: dict[str, Path], word: str) -> None:
    ras = points_ras(files["fixed"])
    points, out = write_points_csv(files["folder"] / "p.csv", ras), files["folder"] / "o.csv"
    given = "--transform", files["warp.nii.gz"], "--transform", word.format(files["affine.mat"])
    result = run("apply", *given, "--points", points, "--out", out)
    assert result.exit_code == 0, result.output
    affine = sitk.ReadTransform(str(files["affine.mat"]))
    warp = itk(files, "warp.nii.gz")
    last = affine.GetInverse() if "1" in word else affine
    expected = [last.TransformPoint(warp.TransformPoint(p)) for p in (ras * RAS_LPS).tolist()]
    np.testing.assert_allclose(read_points(out).lps, expected, atol=1e-3)
    field = "--transform", f"[{files['warp.nii.gz']},1]", "--points", points
    result = run("apply", *field, "--out", files["folder"] / "no.csv")
    assert result.exit_code == ExitCode.TRANSFORM
    assert "--direction moving-to-fixed" in result.stderr


@pytest.mark.parametrize("chain", CHAINS[:5], ids="+".join)
def test_a_chain_is_converted_as_a_whole(files: dict[str, Path], chain: tuple[str, ...]) -> None:
    out = files["folder"] / "out.nii.gz"
    words = "--fixed", files["fixed"], "--to", "itk", "--out", out
    result = run("convert", *options(files, chain), *words)
    assert result.exit_code == 0, result.output
    grid = sitk.ReadImage(str(files["fixed"]))
    image = sitk.ReadImage(str(out), sitk.sitkVectorFloat64)
    expected = itk(files, *chain)
    for index in ((8, 9, 10), (20, 14, 7), (15, 20, 18)):
        point = grid.TransformIndexToPhysicalPoint(index)
        there = np.add(point, image[index])
        np.testing.assert_allclose(there, expected.TransformPoint(point), atol=0.01)
    result = run("convert", "--transform", files["warp.nii.gz"], "--transform", "no.h5", *words)
    assert result.exit_code == ExitCode.OUTPUT, "the file is there already"


def test_a_chain_is_evaluated_as_a_whole(files: dict[str, Path]) -> None:
    """Against itself as a known field nothing is wrong, and its files stand in the record."""
    chain = ("warp.nii.gz", "affine.mat")
    whole, record = files["folder"] / "whole.h5", files["folder"] / "record.json"
    run("convert", *options(files, chain), "--fixed", files["fixed"], "--out", whole)
    words = "--known-field", whole, "--json", record
    result = run("evaluate", *options(files, chain), *words)
    assert result.exit_code == 0, result.output
    tables = json.loads(record.read_text())
    assert tables["field_error_after"]["overall"]["max_mm"] < 0.01
    assert tables["field_error_before"]["overall"]["mean_mm"] > 1
    assert tables["transform"] == [str(files[name]) for name in chain]
    assert [n for n in tables["inputs"]] == ["known_field", "transform_1", "transform_2"]


def test_a_registration_starts_from_a_chain(files: dict[str, Path]) -> None:
    from iterreg.cli.pair_request import PairRequest
    from iterreg.cli.register import read_arguments

    given = {"fixed": files["fixed"], "moving": files["moving"]}
    chain = files["warp.nii.gz"], files["affine.mat"]
    request = PairRequest(Path("out"), "general", {}, {**given, "initial_transforms": chain})
    start = read_arguments(request)["initial_transform"]
    point = points_ras(files["fixed"])[0] * RAS_LPS
    expected = itk(files, "warp.nii.gz", "affine.mat").TransformPoint(point.tolist())
    np.testing.assert_allclose(start.map_points(Points([point])).lps[0], expected, atol=0.01)


def test_a_start_of_another_program(files: dict[str, Path]) -> None:
    """The initial transform of a registration is read as in ``apply``."""
    from iterreg.formats.reading import as_transform
    from iterreg.io import grid_of_file

    (files["folder"] / "start.xfm").write_text(
        "MNI Transform File\nTransform_Type = Linear;\nLinear_Transform =\n"
        "1 0 0 -12\n0 1 0 8\n0 0 1 4;\n"
    )
    start = as_transform(files["folder"] / "start.xfm", "start", grid_of_file(files["fixed"]))
    np.testing.assert_allclose(start.affine_lps[:3, 3], (12, -8, 4))
