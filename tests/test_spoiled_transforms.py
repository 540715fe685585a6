"""Spoiled transforms and points, by kind: each is read or refused in one line, and nothing ends."""

from __future__ import annotations

import gzip
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel
import nitransforms.linear
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from programs import affine_ras, grid_of, image_of, smooth_ras
from test_elastix import spline, written
from test_points import WRITTEN

from iterreg.errors import IterregError
from iterreg.formats.itk_objects import map_points
from iterreg.formats.reading import load_transform
from iterreg.formats.types import Sides
from iterreg.geometry import Points
from iterreg.io import read_points

Files = dict[str, Path]
INSERTED = (
    b"[" * 5000,
    b"9" * 5000,
    b"1e999",
    b"nan",
    b"-1",
    bytes(30),
    b"\x1b[2J",
    b"%s%n",
    b"\xff\xfe",
    b"99999999999 ",
    b"\n\n",
    b"x" * 100_001,
)
NUMBERS = (
    b"0",
    b"-1",
    b"1e308",
    b"nan",
    b"inf",
    b"100000000",
    b"2147483648",
    b"abc",
    b"",
    b"1e-300",
    b"9" * 400,
)
INTEGERS = (b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\0\0\xc0\x7f", b"\xff\xff\xff\xff", b"\0\0\0\0")


def cut(content: bytes, at: int, which: int) -> bytes:
    return content[: at % (len(content) + 1)]


def flip(content: bytes, at: int, which: int) -> bytes:
    spoiled = bytearray(content)
    spoiled[at % len(content)] = which % 256
    return bytes(spoiled)


def flip_in_the_header(content: bytes, at: int, which: int) -> bytes:
    return flip(content, at % min(len(content), 540), which)


def remove(content: bytes, at: int, which: int) -> bytes:
    at %= len(content)
    return content[:at] + content[at + 1 + which % 40 :]


def insert(content: bytes, at: int, which: int) -> bytes:
    at %= len(content)
    return content[:at] + INSERTED[which % len(INSERTED)] + content[at:]


def change_a_number(content: bytes, at: int, which: int) -> bytes:
    found = list(re.finditer(rb"-?\d+\.?\d*", content))
    if not found:
        return content
    place = found[at % len(found)]
    new = NUMBERS[which % len(NUMBERS)]
    return content[: place.start()] + new + content[place.end() :]


def change_an_integer(content: bytes, at: int, which: int) -> bytes:
    at %= len(content)
    return content[:at] + INTEGERS[which % len(INTEGERS)] + content[at + 4 :]


def append(content: bytes, at: int, which: int) -> bytes:
    return content + bytes(which % 256 for _ in range(at % 2000))


def repeat(content: bytes, at: int, which: int) -> bytes:
    at %= len(content)
    return content[: at + 64] + content[at:]


KINDS: tuple[Callable[[bytes, int, int], bytes], ...] = (
    cut,
    flip,
    flip_in_the_header,
    remove,
    insert,
    change_a_number,
    change_an_integer,
    append,
    repeat,
)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[Files, Files, Sides]:
    """One good file of every format, of points too, and the two images."""
    folder = tmp_path_factory.mktemp("good")
    fixed = image_of(folder, "fixed", "LAS")
    moving = image_of(folder, "moving", "RAS", (15, 11, 9), (2.0, 3.0, 4.5))
    sides = Sides(grid_of(fixed), grid_of(moving))
    u, affine = smooth_ras(fixed).astype(np.float32), nibabel.load(fixed).affine
    intents = {
        "itk": (1007, ""),
        "niftyreg": (1007, "NREG_TRANS"),
        "ras": (1006, ""),
        "spm": (1007, "Mapping"),
        "fsl": (2006, ""),
    }
    for name, (code, intent) in intents.items():
        image = nibabel.Nifti1Image(u if name == "fsl" else u[:, :, :, None], affine)
        image.header.set_intent(code, name=intent, allow_unknown=True)
        image.header["intent_p1"] = float(name == "niftyreg")
        for suffix in (".nii", ".nii.gz"):
            nibabel.save(image, folder / f"{name}{suffix}")
    vectors = sitk.GetImageFromArray(np.ones((5, 5, 5, 3)), isVector=True)
    for suffix in (".nrrd", ".mha"):
        sitk.WriteImage(vectors, str(folder / f"vectors{suffix}"))
    field = sitk.DisplacementFieldTransform(vectors)
    splines = sitk.BSplineTransformInitializer(sitk.Image(9, 9, 9, sitk.sitkFloat32), [2, 2, 2])
    for suffix in (".tfm", ".h5", ".mat"):
        sitk.WriteTransform(field, str(folder / f"field{suffix}"))
        if suffix != ".mat":
            both = sitk.CompositeTransform([sitk.AffineTransform(3), splines])
            sitk.WriteTransform(both, str(folder / f"composite{suffix}"))
    np.savetxt(folder / "flirt.mat", np.eye(4))
    (folder / "a.aff12.1D").write_text("1 0 0 12 0 1 0 -8 0 0 1 4\n")
    (folder / "a.xfm").write_text(
        "MNI Transform File\nTransform_Type = Linear;\nLinear_Transform =\n"
        "1 0 0 1\n0 1 0 2\n0 0 1 3;\n"
    )
    linear = nitransforms.linear.Affine(affine_ras(), reference=fixed)
    linear.to_filename(folder / "r.lta", fmt="fs", moving=moving)
    itk, told = spline()
    written(folder / "splines.txt", "BSplineTransform", itk.GetParameters(), **told)
    written(folder / "shift.txt", "TranslationTransform", [1, 2, 3])
    images = (fixed.name, moving.name)
    transforms = {p.name: p for p in sorted(folder.iterdir()) if p.name not in images}
    (folder / "points").mkdir()
    points = {name: folder / "points" / name for name in WRITTEN}
    for name, path in points.items():
        path.write_text(WRITTEN[name])
    return transforms, points, sides


def require_answered(path: Path, read: Callable[[], object]) -> None:
    """Read, or refused in one printable line that names the file."""
    try:
        read()
    except IterregError as error:
        text = str(error)
        assert path.name in text and text.isprintable() and len(text) < 700, text


SPOILED = {
    "which": st.integers(0, 999),
    "kind": st.sampled_from(KINDS),
    "at": st.integers(0, 10**6),
    "value": st.integers(0, 255),
}
BOUNDED = settings(
    max_examples=250,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@BOUNDED
@given(**SPOILED, inside=st.booleans())
@example(which=0, kind=cut, at=0, value=0, inside=False)
def test_spoiled_transforms(
    good: tuple[Files, Files, Sides],
    tmp_path: Path,
    which: int,
    kind: Callable[[bytes, int, int], bytes],
    at: int,
    value: int,
    inside: bool,
) -> None:
    transforms, _, sides = good
    name = list(transforms)[which % len(transforms)]
    content = transforms[name].read_bytes()
    if inside and name.endswith(".gz"):
        content = gzip.compress(kind(gzip.decompress(content), at, value), 1)
    else:
        content = kind(content, at, value)
    path = tmp_path / name
    path.write_bytes(content)

    def read() -> None:
        loaded = load_transform(path, sides)
        map_points(loaded, Points(np.full((1, loaded.rank), 3.0)))

    require_answered(path, read)


@BOUNDED
@given(**SPOILED)
def test_spoiled_points(
    good: tuple[Files, Files, Sides],
    tmp_path: Path,
    which: int,
    kind: Callable[[bytes, int, int], bytes],
    at: int,
    value: int,
) -> None:
    points = good[1]
    name = list(points)[which % len(points)]
    path = tmp_path / name
    path.write_bytes(kind(points[name].read_bytes(), at, value))
    require_answered(path, lambda: read_points(path))


def test_the_good_files_are_read(good: tuple[Files, Files, Sides], tmp_path: Path) -> None:
    """Otherwise the two tests above would hold because nothing is read at all."""
    transforms, points, sides = good
    read = []
    for name, path in transforms.items():
        copy = Path(shutil.copy(path, tmp_path / name))
        if not name.startswith("spm"):  # these displacements are no positions
            read.append(load_transform(copy, sides).rank)
    assert read == [3] * (len(transforms) - 2) and len(read) > 18
    assert all(len(read_points(path)) == 3 for path in points.values())
