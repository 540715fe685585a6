"""Points: every way of writing them down, and points that are not of their image."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner, Result

from iterreg.cli import iterreg
from iterreg.errors import ExitCode, GeometryError, ImageReadError, OutputError
from iterreg.geometry import Grid, Points
from iterreg.io import read_points, write_points
from iterreg.landmarks import PointsWarning, check_inside, check_landmarks

LPS = [[-60.0, 10.0, -20.0], [70.0, 20.5, 30.0], [0.0, 40.0, 10.0]]
SHIFT = np.array([12.0, -8.0, 4.0])
SLICER = "# Markups fiducial file version = 4.11\n# CoordinateSystem = {}\n# columns = {}\n"
COLUMNS = "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"


def lines(*rows: str) -> str:
    return "\n".join(rows) + "\n"


def slicer(system: str, sign: float = 1.0, columns: str = COLUMNS) -> str:
    """3D Slicer's older file, whose labels may hold commas."""
    rows = (
        f'{n},{sign * x},{sign * y},{z},0,0,0,1,1,1,0,"F,{n}",,' for n, (x, y, z) in enumerate(LPS)
    )
    return SLICER.format(system, columns) + lines(*rows)


def markups(system: str, sign: float = 1.0, **changes: object) -> str:
    """3D Slicer's newer file."""
    controls = [
        {"id": str(n), "label": f"F-{n}", "position": [sign * x, sign * y, z]}
        for n, (x, y, z) in enumerate(LPS)
    ]
    markup = {"type": "Fiducial", "coordinateSystem": system, "controlPoints": controls}
    return json.dumps({"markups": [markup | changes]})


WRITTEN = {
    "plain.csv": lines("x,y,z", "-60,10,-20", "70,20.5,30", "0,40,10"),
    "semicolons.csv": lines("x;y;z", "-60;10;-20", "70;20.5;30", "0;40;10"),
    "decimal commas.csv": lines("x;y;z", "-60;10;-20", "70;20,5;30", "0;40;10"),
    "excel.csv": lines("sep=;", "id;X;Y;Z", "a;-60;10;-20", "b;70;20,5;30", "c;0;40;10"),
    "tabs.tsv": lines("\tx\ty\tz", "0\t-60\t10\t-20", "1\t70\t20.5\t30", "2\t0\t40\t10"),
    "spaces.txt": lines("# x y z", "-60 10  -20", " 70 20.5 30", "0 40 10"),
    "units.csv": lines("name,x_mm,y_mm,z_mm", "a,-60,10,-20", "b,70,20.5,30", "c,0,40,10"),
    "brackets.csv": lines("z [mm],y [mm],x [mm]", "-20,10,-60", "30,20.5,70", "10,40,0"),
    "voxels beside mm.csv": lines(
        "x_vox,x,y,z,x_mm,y_mm,z_mm", "1,2,2,2,-60,10,-20", "1,3,3,3,70,20.5,30", "1,4,4,4,0,40,10"
    ),
    "positions.csv": lines(
        '"Pos X [mm]","Pos Y [mm]","Pos Z [mm]",', "-60,10,-20,", "70,20.5,30,", "0,40,10,"
    ),
    "coordinates.csv": lines(
        "X-coordinate LPS (mm);Y-coordinate LPS (mm);Z-coordinate LPS (mm)",
        "-60;10;-20",
        "70;20.5;30",
        "0;40;10",
    ),
    "ras columns.csv": lines("x_ras,y_ras,z_ras", "60,-10,-20", "-70,-20.5,30", "-0,-40,10"),
    "slicer export.csv": lines(
        "label,r,a,s,defined,selected",
        "F-1,60,-10,-20,1,1",
        "F-2,-70,-20.5,30,1,1",
        "F-3,0,-40,10,1,1",
    ),
    "slicer export lps.csv": lines(
        "label,l,p,s,defined", "F-1,-60,10,-20,1", "F-2,70,20.5,30,1", "F-3,0,40,10,1"
    ),
    "a comment.csv": lines(
        "# CoordinateSystem = RAS", "x,y,z", "60,-10,-20", "-70,-20.5,30", "0,-40,10"
    ),
    "lps.fcsv": slicer("LPS"),
    "ras.fcsv": slicer("RAS", -1),
    "0.fcsv": slicer("0", -1),
    "1.fcsv": slicer("1"),
    "renamed.csv": slicer("RAS", -1),
    "lps.mrk.json": markups("LPS"),
    "ras.mrk.json": markups("RAS", -1),
    "curve.json": markups(
        "LPS", type="Curve", coordinateUnits=["[mm]", "mm", "millimeter", "UCUM"]
    ),
}


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16"])
def test_points_are_read_as_they_were_written(tmp_path: Path, name: str, coding: str) -> None:
    if name.endswith(".json") and coding != "utf-8":
        pytest.skip("JSON is UTF-8")
    path = tmp_path / name
    path.write_bytes(WRITTEN[name].replace("\n", "\r\n").encode(coding))
    np.testing.assert_allclose(read_points(path).lps, LPS, atol=1e-12)
    assert not np.signbit(read_points(path).lps[2, 0])


def test_names_of_another_alphabet_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes("näme;x;y;z\nÄ;1;2;3\n".encode("latin-1"))
    assert read_points(tmp_path / "latin.csv").lps.tolist() == [[1, 2, 3]]


REFUSED = {
    "index.pts": ("index\n1\n3 4 5\n", "voxel indices of elastix"),
    "few.pts": ("point\n3\n1 2 3\n", "expected '3' points, as it says, got 1"),
    "ragged.txt": ("point\n2\n1 2 3\n1 2\n", "line 4: expected 3 numbers, got 2"),
    "four.txt": ("point\n1\n1 2 3 4\n", "line 3: expected 2 or 3 numbers"),
    "words.pts": ("point\n1\n1 2 x\n", "line 3: expected finite numbers"),
    "digits.pts": ("point\n" + "9" * 5000 + "\n1 2 3\n", "as it says, got 1"),
    "outputpoints.txt": (
        "Point\t0\t; InputIndex = [ 1 2 3 ]\t; OutputPoint = [ 1 2 3 ]\n",
        "what transformix says",
    ),
    "no header.csv": ("1,2,3\n4,5,6\n", "voxel indices"),
    "voxels.csv": ("x_vox,y_vox,z_vox\n1,2,3\n", "expected a header with columns x,y,z"),
    "metres.csv": ("x_m,y_m,z_m\n1,2,3\n", "expected a header with columns x,y,z"),
    "two sets.csv": ("fixed_x,fixed_y,fixed_z\n1,2,3\n", "expected a header with columns"),
    "twice.csv": ("x,x,y,z\n1,2,3,4\n", "expected a header"),
    "empty.csv": ("", "empty file"),
    "header.csv": ("x,y,z\n", "a header alone"),
    "text.csv": ("x,y,z\n1,2,three\n", "line 2: expected finite numbers"),
    "nan.csv": ("x,y,z\n1,2,nan\n", "line 2: expected finite numbers"),
    "far.csv": ("x,y,z\n1,2,1e300\n", "line 2: expected finite numbers"),
    "underscore.csv": ("x,y,z\n1,2,1_0\n", "line 2: expected finite numbers"),
    "short.csv": ("x,y,z\n\n1,2\n", "line 3: expected finite numbers"),
    "escape.csv": ("x,y,z\n1,2,\x1b[2J\n", "\\x1b[2J"),
    "letters.csv": ("x,y,z\n" + "9" * 200_000, "line 2: expected a row"),
    "undefined.csv": ("label,r,a,s,defined\na,1,2,3,1\nb,0,0,0,0\n", "line 3: expected a point"),
    "no system.fcsv": (
        SLICER.format("x", COLUMNS).replace("# CoordinateSystem = x\n", ""),
        "add the one",
    ),
    "ijk.fcsv": (slicer("2"), "LPS or RAS, got '2'"),
    "no points.fcsv": (SLICER.format("LPS", COLUMNS), "at least one point"),
    "deep.json": ("[" * 100_000, "nested more than"),
    "cut.mrk.json": (markups("LPS")[:-20], "expected JSON"),
    "digits.mrk.json": (markups("LPS").replace("70.0", "7" * 5000), "expected JSON"),
    "infinite.mrk.json": (markups("LPS").replace("70.0", "Infinity"), "finite numbers"),
    "flat.mrk.json": (markups("LPS").replace("-60.0, ", ""), "control point 1 ('F-0')"),
    "missing.mrk.json": (
        markups("LPS", controlPoints=[{"positionStatus": "missing", "position": [0, 0, 0]}]),
        "not defined",
    ),
    "metres.mrk.json": (markups("LPS", coordinateUnits="m"), "expected coordinates in mm"),
    "ijk.mrk.json": (markups("IJK"), "LPS or RAS, got 'IJK'"),
    "box.mrk.json": (markups("LPS", type="ROI"), "expected a list of points"),
    "other.json": ('{"a": 1}', "got other JSON"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_points_are_one_line_that_names_the_file(tmp_path: Path, name: str) -> None:
    content, phrase = REFUSED[name]
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ImageReadError) as caught:
        read_points(path)
    text = str(caught.value)
    assert text.startswith(str(path)) and phrase in text
    assert text.isprintable() and len(text) < len(str(path)) + 250


def test_a_binary_file_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "image.csv").write_bytes(bytes(range(256)) * 20)
    with pytest.raises(ImageReadError, match="got a binary one"):
        read_points(tmp_path / "image.csv")


@pytest.mark.parametrize("rank", [2, 3])
def test_elastix_points(tmp_path: Path, rank: int) -> None:
    points = np.array(LPS)[:, :rank]
    write_points(Points(points), tmp_path / "a.pts")
    lines = (tmp_path / "a.pts").read_text().splitlines()
    assert lines[:2] == ["point", "3"] and [float(w) for w in lines[2].split()] == list(points[0])
    (tmp_path / "a.pts").rename(tmp_path / "inputPoints.txt")
    np.testing.assert_allclose(read_points(tmp_path / "inputPoints.txt").lps, points)
    with pytest.raises(OutputError, match="holds status too"):
        write_points(Points(points), tmp_path / "b.pts", {"status": ["ok"] * 3})


@pytest.mark.parametrize("name", ["out.csv", "out.fcsv", "out.mrk.json"])
def test_what_is_written_is_read_back(tmp_path: Path, name: str) -> None:
    write_points(Points(np.array(LPS)), tmp_path / name, {"status": ["ok", "gap", "ok"]})
    np.testing.assert_allclose(read_points(tmp_path / name).lps, LPS)
    assert "gap" in (tmp_path / name).read_text()


def test_points_are_not_written_as_an_image(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"expected a file of points \(.csv"):
        write_points(Points(np.array(LPS)), tmp_path / "out.nii.gz")
    with pytest.raises(OutputError, match="expected 3-D points for 3D Slicer"):
        write_points(Points(np.zeros((1, 2))), tmp_path / "out.fcsv")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(iterreg, [str(a) for a in arguments])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An image that lies off the middle, points, and a shift as a linear map and as a field."""
    noise = np.random.default_rng(0).normal(size=(20, 25, 30)).astype(np.float32)
    image = sitk.GetImageFromArray(noise)
    image.SetSpacing((4.0, 4.0, 4.0))
    image.SetOrigin((20.0, 30.0, -40.0))
    sitk.WriteImage(image, str(tmp_path / "image.nii.gz"))
    vectors = sitk.GetImageFromArray(np.tile(SHIFT, (20, 25, 30, 1)), isVector=True)
    vectors.CopyInformation(image)
    sitk.WriteImage(vectors, str(tmp_path / "field.nii.gz"))
    sitk.WriteTransform(sitk.TranslationTransform(3, SHIFT.tolist()), str(tmp_path / "shift.tfm"))
    inside = [[40.0, 60.0, -20.0], [80.0, 90.0, 0.0], [100.0, 50.0, 20.0]]
    files = {
        "inside.csv": lines("x,y,z", *(f"{x},{y},{z}" for x, y, z in inside)),
        "ras.csv": lines("x,y,z", *(f"{-x},{-y},{z}" for x, y, z in inside)),
        "far.csv": lines("x,y,z", *(f"{x + 1000},{y},{z}" for x, y, z in inside)),
        "voxels.csv": lines("x,y,z", "2,3,4", "10,11,12"),
        "flat.csv": lines("x,y", "40,60"),
        "one out.csv": lines("x,y,z", *(f"{x},{y},{z}" for x, y, z in inside), "40,60,500"),
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    return tmp_path


def require_refused(result: Result, *phrases: str, code: ExitCode = ExitCode.GEOMETRY) -> None:
    assert result.exit_code == code, result.output
    (line,) = result.stderr.splitlines()
    assert all(phrase in line for phrase in phrases), line


@pytest.mark.parametrize("transform", ["shift.tfm", "field.nii.gz"])
def test_points_need_no_reference_grid(folder: Path, transform: str) -> None:
    arguments = "apply", "--transform", folder / transform, "--points", folder / "inside.csv"
    assert run(*arguments, "--out", folder / "there.csv").exit_code == 0
    given, there = (read_points(folder / name).lps for name in ("inside.csv", "there.csv"))
    np.testing.assert_allclose(there, given + SHIFT, atol=1e-4)
    back = "apply", "--transform", folder / transform, "--points", folder / "there.csv", "--inverse"
    assert run(*back, "--out", folder / "back.csv").exit_code == 0
    np.testing.assert_allclose(read_points(folder / "back.csv").lps, given, atol=1e-3)
    assert "ok" in (folder / "back.csv").read_text()


def test_a_linear_map_takes_any_point(folder: Path) -> None:
    arguments = "apply", "--transform", folder / "shift.tfm", "--points", folder / "far.csv"
    assert run(*arguments, "--out", folder / "o.csv").exit_code == 0
    wanted = read_points(folder / "far.csv").lps + SHIFT
    np.testing.assert_allclose(read_points(folder / "o.csv").lps, wanted)


@pytest.mark.parametrize(
    ("points", "phrases"),
    [
        ("far.csv", ("far.csv: expected points inside", "3 of 3 lie outside")),
        ("ras.csv", ("3 of 3 lie outside", "are they RAS instead of LPS?")),
        ("voxels.csv", ("as voxel indices all would lie inside",)),
        ("flat.csv", ("flat.csv: expected 3-D points as the transform", "a column z is missing")),
    ],
)
@pytest.mark.parametrize("reference", [True, False])
def test_points_of_another_image_are_told_at_once(
    folder: Path, points: str, phrases: tuple[str, ...], reference: bool
) -> None:
    extra = ("--reference", folder / "image.nii.gz") if reference else ()
    out = folder / "o.csv"
    given = "--transform", folder / "field.nii.gz", "--points", folder / points, "--out", out
    require_refused(run("apply", *given, *extra), *phrases)
    assert not out.exists()


def test_a_flat_list_is_told_for_linear_maps_too(folder: Path) -> None:
    given = "--transform", folder / "shift.tfm", "--points", folder / "flat.csv"
    require_refused(run("apply", *given, "--out", folder / "o.csv"), "expected 3-D points")
    landmarks = "--fixed-landmarks", folder / "flat.csv", "--moving-landmarks", folder / "flat.csv"
    require_refused(
        run("evaluate", "--transform", folder / "shift.tfm", *landmarks), "expected 3-D"
    )


@pytest.mark.filterwarnings("default::iterreg.landmarks.PointsWarning")
def test_a_point_outside_is_a_warning(folder: Path) -> None:
    given = "--transform", folder / "field.nii.gz", "--points", folder / "one out.csv"
    result = run("apply", *given, "--out", folder / "o.csv")
    assert result.exit_code == 0
    assert "iterreg: warning:" in result.stderr and "1 of 4 lies outside" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert len(read_points(folder / "o.csv")) == 4


def pair_of(folder: Path, fixed: str, moving: str) -> tuple[object, ...]:
    return "--fixed-landmarks", folder / fixed, "--moving-landmarks", folder / moving


@pytest.mark.parametrize(
    ("fixed", "moving", "phrase"),
    [
        ("far.csv", "inside.csv", "far.csv: expected points inside the fixed image"),
        ("inside.csv", "far.csv", "far.csv: expected points inside the moving image"),
        ("inside.csv", "ras.csv", "are they RAS instead of LPS?"),
    ],
)
def test_landmarks_are_checked_before_any_work(
    folder: Path, fixed: str, moving: str, phrase: str
) -> None:
    image = folder / "image.nii.gz"
    images = "--fixed", image, "--moving", image
    landmarks = pair_of(folder, fixed, moving)
    out = folder / "out"
    result = run("register", "--preset", "general", *images, *landmarks, "--out", out, "--quiet")
    require_refused(result, phrase)
    assert not out.exists()
    require_refused(run("evaluate", *images, *landmarks), phrase)


def test_landmarks_in_two_systems_are_told_without_any_image(folder: Path) -> None:
    result = run("evaluate", *pair_of(folder, "inside.csv", "ras.csv"))
    require_refused(result, "ras.csv: expected the partners of", "one of the two files is RAS")


def test_a_view_that_is_mirrored_into_itself_still_tells(pair_folder: Path) -> None:
    """The real pair's image holds these points and the mirrored ones, but not as partners."""
    image = nibabel.load(pair_folder / "fixed.nii.gz")
    grid = _grid(image)
    given, turned = np.array(LPS), np.array(LPS) * (-1, -1, 1)
    check_inside(Points(turned), grid, "the image")
    check_landmarks((Points(given), Points(given + SHIFT)), (grid, grid))
    with pytest.raises(GeometryError, match="one of the two files is RAS"):
        check_landmarks((Points(given), Points(turned + SHIFT)), (grid, grid))


def _grid(image: nibabel.Nifti1Image) -> Grid:
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    axes = tuple(tuple(row) for row in (affine[:3, :3] / spacing).tolist())
    shape = tuple(reversed(image.shape))
    return Grid(shape, tuple(spacing.tolist()), tuple(affine[:3, 3].tolist()), axes)


def test_one_of_many_outside_warns(folder: Path) -> None:
    grid = Grid((4, 5), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
    with pytest.warns(PointsWarning, match="1 of 3 lies outside"):
        check_inside(Points(np.array([[1.0, 1.0], [2.0, 2.0], [9.0, 9.0]])), grid, "the picture")


def test_a_flat_image_is_no_volume(folder: Path) -> None:
    sitk.WriteImage(sitk.Image(30, 25, sitk.sitkUInt8), str(folder / "flat.nii.gz"))
    given = "--transform", folder / "field.nii.gz", "--reference", folder / "image.nii.gz"
    for kind in ("image", "labels"):
        result = run(
            "apply", *given, f"--{kind}", folder / "flat.nii.gz", "--out", folder / "o.nii.gz"
        )
        require_refused(result, "flat.nii.gz: expected rank 3")


def test_a_linear_known_field_needs_a_grid(folder: Path) -> None:
    known = "--known-field", folder / "shift.tfm"
    phrase = (
        "expected a known field with a grid to compare on, got a linear transform: add the images"
    )
    require_refused(run("evaluate", *known), "shift.tfm", phrase, code=ExitCode.TRANSFORM)
    result = run(
        "evaluate", *known, "--transform", folder / "field.nii.gz", "--json", folder / "n.json"
    )
    assert result.exit_code == 0, result.output
    error = json.loads((folder / "n.json").read_text())["field_error_after"]["overall"]
    assert error["max_mm"] == pytest.approx(0, abs=1e-4)


def test_a_match_is_not_begun_with_landmarks_of_another_image(folder: Path) -> None:
    """The check comes before the model is loaded, which would end with another code here."""
    image = folder / "image.nii.gz"
    images = "--fixed", image, "--moving", image, "--checkpoint", folder / "none.pth"
    landmarks = pair_of(folder, "far.csv", "far.csv")
    result = run("samreg", *images, *landmarks, "--out", folder / "out", "--quiet")
    require_refused(result, "far.csv: expected points inside the fixed image")


@pytest.mark.filterwarnings("default::iterreg.landmarks.PointsWarning")
def test_a_landmark_outside_is_in_the_record(folder: Path) -> None:
    image = folder / "image.nii.gz"
    landmarks = pair_of(folder, "one out.csv", "one out.csv")
    arguments = "--fixed", image, "--moving", image, *landmarks
    result = run("evaluate", *arguments, "--json", folder / "n.json")
    assert result.exit_code == 0, result.output
    first = json.loads((folder / "n.json").read_text())["notes"][1]
    assert "1 of 4 lies outside" in first and "the fixed image" in first
    quick = "--set", "levels.spacing_mm=[8.0]", "--set", "levels.steps=[2]", "--segmenter", "none"
    given = "--preset", "general", *quick, *arguments, "--out", folder / "out", "--quiet"
    assert run("register", *given, "--no-report").exit_code in (0, 15, 16)
    notes = json.loads((folder / "out" / "run.json").read_text())["notes"]
    assert sum("1 of 4 lies outside" in note for note in notes) == 2
