"""Transform files that would damage or flood the process are refused before ITK sees them."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner

from iterreg.cli import iterreg
from iterreg.errors import ExitCode, ImageReadError, TransformError
from iterreg.formats.itk_checks import LINEAR, check_itk_file
from iterreg.formats.reading import read_transform
from iterreg.geometry import Grid, Points

START = "#Insight Transform File V1.0\n#Transform 0\n"
UNIT = "0 0 0 1 1 1 1 0 0 0 1 0 0 0 1"
FIELD = "DisplacementFieldTransform_double_3_3"
SPLINE = "BSplineTransform_double_3_3"


def text(kind: str, parameters: str, fixed: str | None) -> str:
    last = "" if fixed is None else f"FixedParameters: {fixed}\n"
    return f"{START}Transform: {kind}\nParameters: {parameters}\n{last}"


REFUSED = {
    "spline.tfm": (text(SPLINE, "0", f"2000 2000 2000 {UNIT}"), "24000000000 parameters"),
    "short spline.tfm": (text(SPLINE, "0 " * 191, f"4 4 4 {UNIT}"), "expected 192 parameters"),
    "long spline.txt": (text(SPLINE, "0 " * 193, f"4 4 4 {UNIT}"), "expected 192 parameters"),
    "old spline.tfm": (
        text("BSplineDeformableTransform_double_3_3", "0 0", f"4 4 4 {UNIT}"),
        "expected 192 parameters",
    ),
    "float spline.tfm": (
        text("BSplineTransform_float_2_2", "0", "5 5 0 0 1 1 1 0 0 1"),
        "50 param",
    ),
    "coarse spline.tfm": (text(SPLINE, "0 0 0", f"1 1 1 {UNIT}"), "out of range"),
    "no grid.tfm": (text(SPLINE, "0 0 0", "4 4 4"), "18 fixed parameters, got 3"),
    "turned.tfm": (text(FIELD, "0 0 0", "1 1 1 0 0 0 1 1 1 9 0 0 0 1 0 0 0 1"), "orthonormal"),
    "far grid.tfm": (text(FIELD, "0 0 0", "1 1 1 1e300 0 0 1 1 1 1 0 0 0 1 0 0 0 1"), "range"),
    "half a voxel.tfm": (text(FIELD, "0 0 0", f"1.5 1 1 {UNIT}"), "18 fixed parameters"),
    "field.tfm": (text(FIELD, "0 0 0", f"1000000 1000000 1000000 {UNIT}"), "0 parameters of Displ"),
    "infinite.tfm": (text(FIELD, "0 0 0", f"inf 1 1 {UNIT}"), "finite fixed parameters"),
    "euler.tfm": (text("Euler3DTransform_double_3_3", "0", "0 0 0"), "expected 6 parameters"),
    "affine.tfm": (text("AffineTransform_double_3_3", "1 0 0", "0 0 0"), "expected 12 parameters"),
    "cut.tfm": (text("AffineTransform_double_3_3", "1 0 0 0 1 0 0 0 1 0 0 0", None), "it is cut"),
    "nan.tfm": (text("TranslationTransform_double_3_3", "nan 0 0", ""), "finite parameters"),
    "words.tfm": (text("AffineTransform_double_3_3", "1 0 zero", "0 0 0"), "expected numbers"),
    "escape.tfm": (text("AffineTransform_double_3_3", "1 \x1b[2J 0", "0 0 0"), "\\x1b[2J"),
    "velocity.tfm": (
        text("TimeVaryingVelocityFieldTransform_double_3_3", "0", "0 0 0"),
        "expected a linear transform, a B-spline or a displacement field",
    ),
    "kernel.tfm": (text("ThinPlateSplineKernelTransform_double_3_3", "0", "0"), "got 'ThinPlate"),
    "escaped kind.tfm": (text("\x1b[2JTransform", "0", "0"), "got '\\x1b[2JTransform'"),
    "four axes.tfm": (text("TranslationTransform_double_4_4", "0 0 0 0", ""), "of rank 2 or 3"),
    "no parts.tfm": (START + "Transform: CompositeTransform_double_3_3\n", "without one"),
    "two.tfm": (
        text("TranslationTransform_double_3_3", "1 2 3", "")
        + text("TranslationTransform_double_3_3", "1 2 3", "").partition("V1.0\n")[2],
        "got 2 transforms without a word on their order",
    ),
    "nothing.tfm": (START, "without one"),
    "numbers first.tfm": (START + "Parameters: 0 0\n", "a line Transform before Parameters"),
    "many fixed.tfm": (
        text("TranslationTransform_double_3_3", "0 0 0", "0 " * 9999),
        "at most 1000",
    ),
}


def require_refused(path: Path, phrase: str) -> None:
    """The command refuses it in one line, and reads little of it."""
    points = path.parent / "points.csv"
    points.write_text("x,y,z\n1,2,3\n")
    given = ["apply", "--transform", str(path), "--points", str(points), "--out"]
    result = CliRunner().invoke(iterreg, [*given, str(path.parent / "o.csv")])
    assert result.exit_code == ExitCode.TRANSFORM, result.output
    (line,) = result.stderr.splitlines()
    assert str(path) in line and phrase in line and line.isprintable()
    assert len(line) < 500
    assert not (path.parent / "o.csv").exists()


@pytest.mark.parametrize("name", REFUSED)
def test_text_that_does_not_fit(tmp_path: Path, name: str) -> None:
    content, phrase = REFUSED[name]
    (tmp_path / name).write_text(content)
    require_refused(tmp_path / name, phrase)


def smooth_field(size: int = 12) -> sitk.DisplacementFieldTransform:
    vectors = np.random.default_rng(0).normal(size=(size, size, size, 3))
    return sitk.DisplacementFieldTransform(sitk.GetImageFromArray(vectors, isVector=True))


@pytest.mark.parametrize("suffix", [".tfm", ".h5", ".mat"])
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.7, 0.99, 0.999])
def test_a_cut_file_is_named(tmp_path: Path, suffix: str, kept: float) -> None:
    whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    sitk.WriteTransform(smooth_field(), str(whole))
    content = whole.read_bytes()
    cut.write_bytes(content[: int(kept * len(content))])
    require_refused(cut, "cut.")
    assert read_transform(whole).grid.voxel_count == 12**3


def hdf5(path: Path, kind: str, parameters: object, fixed: object, **options: object) -> Path:
    """An HDF5 file in ITK's layout; a number of parameters makes a dataset without content."""
    with h5py.File(path, "w") as file:
        group = file.create_group("TransformGroup/0")
        group["TransformType"] = np.array([kind], h5py.string_dtype())
        group["TransformFixedParameters"] = np.asarray(fixed, np.float64)
        if isinstance(parameters, int):
            shape = (parameters,)
            group.create_dataset("TransformParameters", shape, np.float64, **options)
        else:
            group["TransformParameters"] = parameters
    return path


UNITS = [float(v) for v in UNIT.split()]


@pytest.mark.parametrize(
    "options", [{}, {"chunks": (1000,)}, {"chunks": (1 << 20,), "compression": "gzip"}]
)
@pytest.mark.parametrize("side", [1000, 700])
def test_a_file_without_its_numbers(tmp_path: Path, options: dict[str, object], side: int) -> None:
    path = hdf5(tmp_path / "sparse.h5", FIELD, 3 * side**3, [side] * 3 + UNITS, **options)
    assert path.stat().st_size < 3_000_000
    tracemalloc.start()
    require_refused(path, "sparse.h5: expected parameters that are stored")
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()


def test_a_gzip_bomb(tmp_path: Path) -> None:
    path = tmp_path / "bomb.h5"
    with h5py.File(hdf5(path, FIELD, [0.0], [300, 300, 300, *UNITS]), "a") as file:
        group = file["TransformGroup/0"]
        del group["TransformParameters"]
        options = {"chunks": (3 * 300 * 300 * 30,), "compression": "gzip", "compression_opts": 9}
        bomb = group.create_dataset("TransformParameters", (3 * 300**3,), np.float64, **options)
        for first in range(0, bomb.size, bomb.chunks[0]):
            bomb[first : first + bomb.chunks[0]] = 0.0
    assert path.stat().st_size < 2_000_000
    require_refused(path, "bomb.h5: expected parameters that are stored, got 0.6 GB")


def test_hdf5_that_does_not_fit(tmp_path: Path) -> None:
    cases = {
        "sizes.h5": (FIELD, np.zeros(24), [10**6] * 3 + UNITS, "got 24"),
        "spline.h5": (SPLINE, np.zeros(5), [4.0, 4, 4, *UNITS], "expected 192 parameters"),
        "fixed.h5": (FIELD, np.zeros(3), np.zeros(5000), "at most 1000 fixed"),
        "kind.h5": ("Nothing_double_3_3", np.zeros(3), [0.0], "got 'Nothing_double_3_3'"),
        "words.h5": (FIELD, np.zeros(3, "S5"), [1.0, 1, 1, *UNITS], "a list of numbers"),
        "flat.h5": (FIELD, np.zeros((3, 1)), [1.0, 1, 1, *UNITS], "a list of numbers"),
    }
    for name, (kind, parameters, fixed, phrase) in cases.items():
        require_refused(hdf5(tmp_path / name, kind, parameters, fixed), phrase)


def test_hdf5_reads_no_other_file(tmp_path: Path) -> None:
    hdf5(tmp_path / "good.h5", "TranslationTransform_double_3_3", np.ones(3), [])
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["TransformGroup/0/TransformType"] = h5py.ExternalLink("good.h5", "TransformGroup/0")
    require_refused(tmp_path / "link.h5", "got none or a link")
    with h5py.File(hdf5(tmp_path / "raw.h5", FIELD, [0.0], [1.0, 1, 1, *UNITS]), "a") as file:
        group = file["TransformGroup/0"]
        del group["TransformParameters"]
        outside = [(str(tmp_path / "good.h5"), 0, 24)]
        group.create_dataset("TransformParameters", (3,), np.float64, external=outside)
    require_refused(tmp_path / "raw.h5", "a list of numbers")
    (tmp_path / "text.h5").write_text("no HDF5")
    require_refused(tmp_path / "text.h5", "expected an HDF5 file of ITK")
    with h5py.File(tmp_path / "empty.h5", "w") as file:
        file["a"] = 1
    require_refused(tmp_path / "empty.h5", "expected an ITK transform (a group TransformGroup)")


def kinds() -> list[sitk.Transform]:
    """One of every kind that SimpleITK writes."""
    image = sitk.Image(9, 9, 9, sitk.sitkFloat32)
    both = [
        [c(2), c(3)] for c in (sitk.TranslationTransform, sitk.AffineTransform, sitk.ScaleTransform)
    ]
    flat = [
        sitk.Euler2DTransform(),
        sitk.Similarity2DTransform(),
        sitk.Transform(2, sitk.sitkIdentity),
    ]
    deep = [
        sitk.Euler3DTransform(),
        sitk.VersorTransform(),
        sitk.VersorRigid3DTransform(),
        sitk.Similarity3DTransform(),
        sitk.ScaleVersor3DTransform(),
        sitk.ScaleSkewVersor3DTransform(),
        sitk.BSplineTransformInitializer(image, [2, 3, 4]),
        sitk.BSplineTransformInitializer(image, [2, 2, 2], 2),
        smooth_field(5),
        sitk.Transform(3, sitk.sitkIdentity),
    ]
    several = [sitk.CompositeTransform([sitk.AffineTransform(3), smooth_field(4)])]
    return [t for pair in both for t in pair] + flat + deep + several


@pytest.mark.parametrize("suffix", [".tfm", ".h5", ".mat"])
def test_every_kind_that_simpleitk_writes_is_read(tmp_path: Path, suffix: str) -> None:
    random, read = np.random.default_rng(0), 0
    for number, transform in enumerate(kinds()):
        rank = transform.GetDimension()
        if suffix == ".mat" and transform.GetName() == "CompositeTransform":
            continue
        if transform.GetName() != "CompositeTransform":
            start = np.asarray(transform.GetParameters())
            changed = start + 0.05 * random.normal(size=start.shape)
            transform.SetParameters(changed.tolist())
        path = tmp_path / f"{number}{suffix}"
        sitk.WriteTransform(transform, str(path))
        check_itk_file(path)
        grid = Grid((5,) * rank, (1.0,) * rank, (0.0,) * rank, tuple(map(tuple, np.eye(rank))))
        point = (2.0,) * rank
        mapped = read_transform(path, grid).map_points(Points(np.array([point]))).lps[0]
        np.testing.assert_allclose(mapped, transform.TransformPoint(point), atol=1e-4)
        read += 1
    assert read >= 18
    assert len(LINEAR) > 15


def test_a_kind_that_simpleitk_cannot_read(tmp_path: Path) -> None:
    sitk.WriteTransform(sitk.ComposeScaleSkewVersor3DTransform(), str(tmp_path / "skew.tfm"))
    require_refused(tmp_path / "skew.tfm", "a kind of transform that SimpleITK knows")


def test_matlab_of_another_kind(tmp_path: Path) -> None:
    sitk.WriteTransform(sitk.AffineTransform(3), str(tmp_path / "a.mat"))
    content = bytearray((tmp_path / "a.mat").read_bytes())
    content[4:8] = np.int32(2_000_000_000).tobytes()
    (tmp_path / "b.mat").write_bytes(content)
    require_refused(tmp_path / "b.mat", "got a file that is cut")
    (tmp_path / "c.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(500))
    with pytest.raises(TransformError, match="level 4"):
        check_itk_file(tmp_path / "c.mat")


def test_a_damaged_heap_is_not_given_to_the_library(tmp_path: Path) -> None:
    """The HDF5 library would allocate the length that the file states, or search for ever."""
    whole = tmp_path / "whole.h5"
    sitk.WriteTransform(smooth_field(3), str(whole))
    content = whole.read_bytes()
    heap = content.index(b"GCOL")
    with h5py.File(whole) as file:
        named = file["TransformGroup/0/TransformType"].id.get_offset()
    for name, at, damage in (
        ("length.h5", named, b"\xff\xff\xff\x7f"),
        ("address.h5", named + 4, b"\xff\xff\xff\x7f"),
        ("index.h5", named + 12, b"\x63"),
        ("mark.h5", heap, b"X"),
        ("size.h5", heap + 8, b"\xff\xff\xff\x7f"),
        ("object.h5", heap + 24, b"\xff\xff\xff\x7f"),
    ):
        spoiled = bytearray(content)
        spoiled[at : at + len(damage)] = damage
        (tmp_path / name).write_bytes(spoiled)
        require_refused(tmp_path / name, name)


def test_the_older_affine_of_ants(tmp_path: Path) -> None:
    """SimpleITK has no class for it, and shows it as a composite that holds itself."""
    numbers = "0.9 0.1 0 -0.1 1.1 0 0.2 0 1 12 -8 4"
    for kind in ("MatrixOffsetTransformBase_double_3_3", "AffineTransform_float_3_3"):
        path = tmp_path / f"{kind}.txt"
        path.write_text(text(kind, numbers, "5 6 7").replace("\n", "\r\n"))
        affine = read_transform(path, read_transform(_field_file(tmp_path)).grid).affine_lps
        expected = sitk.AffineTransform(3)
        values = [float(v) for v in numbers.split()]
        expected.SetCenter((5, 6, 7))
        expected.SetParameters(values)
        point = np.array([1.0, -2.0, 3.0])
        mapped = affine[:3, :3] @ point + affine[:3, 3]
        np.testing.assert_allclose(mapped, expected.TransformPoint(point.tolist()), atol=1e-5)


def _field_file(folder: Path) -> Path:
    sitk.WriteTransform(smooth_field(3), str(folder / "any.h5"))
    return folder / "any.h5"


def test_a_spline_that_leads_nowhere(tmp_path: Path) -> None:
    numbers, grid = " ".join(["1e308"] * 192), "4 4 4 -150 -150 -150 100 100 100"
    directions = "1 0 0 0 1 0 0 0 1"
    (tmp_path / "far.tfm").write_text(text(SPLINE, numbers, f"{grid} {directions}"))
    require_refused(tmp_path / "far.tfm", "far.tfm")


def test_numbers_that_are_no_millimetres(tmp_path: Path) -> None:
    for name, numbers in (
        ("far.tfm", "1 0 0 0 1 0 0 0 1 1e300 0 0"),
        ("nan.tfm", "1 0 0 0 1 0 0 0 1 nan 0 0"),
        ("flat.tfm", "0 0 0 0 0 0 0 0 0 0 0 0"),
    ):
        (tmp_path / name).write_text(text("AffineTransform_double_3_3", numbers, "0 0 0"))
        require_refused(tmp_path / name, "expected")


@pytest.mark.parametrize("field", ["endian", "kinds", "labels", "space directions", "x" * 9000])
def test_long_lines_of_a_nrrd_header(tmp_path: Path, field: str) -> None:
    """ITK's reader of NRRD ends the process over them."""
    fields = {
        "type": "double",
        "dimension": "4",
        "space": "left-posterior-superior",
        "sizes": "3 2 2 2",
        "space directions": "none (1,0,0) (0,1,0) (0,0,1)",
        "kinds": "vector domain domain domain",
        "endian": "little",
        "encoding": "raw",
        "space origin": "(0,0,0)",
    }
    for length in (0, 600, 5000):
        if not length and len(field) > 500:
            continue
        spoiled = fields | {
            field: fields.get(field, '"a" "b" "c" "d"') + " " * (length > 0) + "9" * length
        }
        header = "NRRD0004\n" + "".join(f"{k}: {v}\n" for k, v in spoiled.items()) + "\n"
        path = tmp_path / "field.nrrd"
        path.write_bytes(header.encode() + bytes(3 * 8 * 8))
        if length:
            with pytest.raises(ImageReadError, match=f"at most 500 letters as '?{field[:15]}"):
                read_transform(path)
        else:
            assert read_transform(path).grid.voxel_count == 8
