"""MetaImage and NRRD headers that lie: refused before ITK sees them, in one line."""

from __future__ import annotations

import bz2
import gzip
import os
import subprocess
import sys
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from iterreg.errors import GeometryError, ImageReadError, IterregError
from iterreg.io import GeometryWarning, grid_of_file, read_channels, read_image

VALUES = np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5)

META = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False",
    "TransformMatrix": "1 0 0 0 1 0 0 0 1",
    "Offset": "1 2 3",
    "ElementSpacing": "2 3 4",
    "DimSize": "5 4 3",
    "ElementType": "MET_SHORT",
    "ElementDataFile": "LOCAL",
}

NRRD = {
    "type": "short",
    "dimension": "3",
    "space": "left-posterior-superior",
    "sizes": "5 4 3",
    "space directions": "(2,0,0) (0,3,0) (0,0,4)",
    "kinds": "domain domain domain",
    "endian": "little",
    "encoding": "raw",
    "space origin": "(1,2,3)",
}


def meta(path: Path, data: bytes | None = None, **changes: str) -> Path:
    """A MetaImage with some fields changed."""
    fields = META | changes
    fields["ElementDataFile"] = fields.pop("ElementDataFile")  # The last one of any header.
    lines = "".join(f"{k} = {v}\n" for k, v in fields.items())
    path.write_bytes(lines.encode("latin-1") + (VALUES.tobytes() if data is None else data))
    return path


def nrrd(path: Path, data: bytes | None = None, **changes: str) -> Path:
    """A NRRD file with some fields changed; ``_`` stands for a blank."""
    end = changes.pop("end", "\n")
    fields = NRRD | {k.replace("_", " "): v for k, v in changes.items()}
    lines = "NRRD0005\n" + "".join(f"{k}: {v}\n" for k, v in fields.items()) + end
    path.write_bytes(lines.encode("latin-1") + (VALUES.tobytes() if data is None else data))
    return path


def refused(path: Path, *words: str, kind: type[IterregError] = ImageReadError) -> None:
    """It is refused in one line, for its grid too; nothing is printed by ITK."""
    for read in (read_image, grid_of_file):
        with pytest.raises(kind) as error:
            read(path)
        message = str(error.value)
        assert str(path) in message and "\n" not in message
        assert all(word in message for word in words), message


def is_read(path: Path) -> None:
    """It is read as ITK reads it."""
    image = read_image(path)
    np.testing.assert_array_equal(image.data[0].numpy(), VALUES)
    assert image.grid.spacing_xyz_mm == (2, 3, 4) and image.grid.origin_lps_mm == (1, 2, 3)
    assert grid_of_file(path).same_space(image.grid)


def test_good_meta_images_are_read(tmp_path):
    is_read(meta(tmp_path / "a.mha"))
    packed = zlib.compress(VALUES.tobytes())
    is_read(meta(tmp_path / "b.mha", packed, CompressedData="True"))
    (tmp_path / "c.raw").write_bytes(bytes(7) + VALUES.tobytes())
    is_read(meta(tmp_path / "c.mhd", b"", ElementDataFile="c.raw", HeaderSize="7"))
    is_read(meta(tmp_path / "d.mhd", b"", ElementDataFile="c.raw", HeaderSize="-1"))
    text = " ".join(map(str, VALUES.flat)).encode()
    is_read(meta(tmp_path / "e.mha", text, BinaryData="False"))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 5), (3, 4, 5, 2)])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint32, np.int64, np.float32, np.float64])
def test_what_simpleitk_writes(tmp_path, kind, shape, packed):
    vectors = len(shape) == 4
    values = np.random.default_rng(2).integers(0, 100, shape).astype(kind)
    image = sitk.GetImageFromArray(values, isVector=vectors)
    rank = image.GetDimension()
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(rank, rank)))[0]
    image.SetDirection(turn.ravel())
    image.SetSpacing((0.5, 2.0, 3.0)[:rank])
    image.SetOrigin((-7.0, 8.0, 9.0)[:rank])
    for suffix in ("mha", "mhd"):
        path = tmp_path / f"w.{suffix}"
        sitk.WriteImage(image, str(path), packed)
        back = read_channels(path)
        truth = np.moveaxis(values, -1, 0) if vectors else values[None]
        np.testing.assert_array_equal(back.data.numpy(), truth)
        assert grid_of_file(path) == back.grid
        np.testing.assert_allclose(back.grid.direction_lps, turn, atol=1e-9)
        assert back.grid.spacing_xyz_mm == image.GetSpacing()
        assert back.grid.origin_lps_mm == image.GetOrigin()


def test_big_endian_meta_images(tmp_path):
    swapped = VALUES.astype(">i2").tobytes()
    is_read(meta(tmp_path / "a.mha", swapped, BinaryDataByteOrderMSB="True"))


def test_good_nrrd_files_are_read(tmp_path):
    plain = VALUES.tobytes()
    is_read(nrrd(tmp_path / "a.nrrd"))
    is_read(nrrd(tmp_path / "b.nrrd", gzip.compress(plain), encoding="gzip"))
    (tmp_path / "c.raw").write_bytes(bytes(7) + plain)
    is_read(nrrd(tmp_path / "c.nhdr", b"", data_file="c.raw", byte_skip="7"))
    is_read(nrrd(tmp_path / "d.nhdr", b"", data_file="c.raw", byte_skip="-1"))
    is_read(nrrd(tmp_path / "e.nrrd", " ".join(map(str, VALUES.flat)).encode(), encoding="ascii"))


@pytest.mark.parametrize("axes", ["-1", "0", "5", "99", "3 3", "x", "", "1e1"])
def test_meta_image_with_odd_axes(tmp_path, axes):
    refused(meta(tmp_path / "a.mha", NDims=axes), "NDims")


@pytest.mark.parametrize(
    "name", ["x%s%n%n 1 99999999 1", "%s%n%s.raw 1 16 1", "a%03d.raw 1 3 1", "100%.raw"]
)
def test_a_pattern_of_data_files(tmp_path, name):
    refused(meta(tmp_path / "a.mhd", ElementDataFile=name), "pattern")
    refused(nrrd(tmp_path / "a.nhdr", data_file=name), "pattern")


@pytest.mark.parametrize("name", ["LIST", "LIST 2", "list", "LIST 2D"])
def test_a_list_of_data_files(tmp_path, name):
    """With its files it is read; without them, or with others, it is refused."""
    refused(meta(tmp_path / "a.mhd", b"", ElementDataFile=name), "LIST of 3 data files")
    for z, plane in enumerate(VALUES):
        (tmp_path / f"s{z}.raw").write_bytes(plane.tobytes())
    files = b"s0.raw\ns1.raw\ns2.raw\n"
    is_read(meta(tmp_path / "b.mhd", files, ElementDataFile=name))
    refused(meta(tmp_path / "c.mhd", files[:14], ElementDataFile=name), "LIST of 3", "got 2")
    refused(meta(tmp_path / "d.mhd", b"s0.raw\n%n.raw\nx", ElementDataFile=name), "pattern")
    refused(meta(tmp_path / "e.mhd", files, ElementDataFile="LIST %n"), "LIST")
    if "D" not in name and name.isupper():
        is_read(nrrd(tmp_path / "b.nhdr", files, data_file=name, end=""))
        refused(nrrd(tmp_path / "c.nhdr", files[:14], data_file=name, end=""), "LIST of 3")
    (tmp_path / "s1.raw").write_bytes(b"short")
    refused(tmp_path / "b.mhd", "truncated")


def test_a_data_file_that_is_missing(tmp_path):
    refused(meta(tmp_path / "a.mhd", b"", ElementDataFile="none.raw"), "none.raw")
    refused(nrrd(tmp_path / "a.nhdr", b"", data_file="none.raw"), "none.raw")


def test_data_that_are_not_packed_although_the_header_says_so(tmp_path):
    refused(meta(tmp_path / "a.mha", CompressedData="True"), "zlib")
    refused(nrrd(tmp_path / "a.nrrd", encoding="gzip"), "zlib")
    refused(nrrd(tmp_path / "b.nrrd", encoding="bzip2"), "bzip2")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_packed_data_that_are_cut(tmp_path, share):
    big = np.random.default_rng(0).integers(0, 999, (40, 40, 40), dtype=np.int16).tobytes()
    for path, pack in (
        (tmp_path / "a.mha", zlib.compress),
        (tmp_path / "b.nrrd", gzip.compress),
        (tmp_path / "c.nrrd", bz2.compress),
    ):
        packed = pack(big)
        encoding = "bzip2" if pack is bz2.compress else "gzip"
        cut = packed[: int(share * len(packed))]
        if path.suffix == ".mha":
            meta(path, cut, CompressedData="True", DimSize="40 40 40")
        else:
            nrrd(path, cut, encoding=encoding, sizes="40 40 40")
        refused(path, "truncated")


@pytest.mark.parametrize(
    "sizes", ["4294967296 4294967296 3", "5 4 0", "5 4 -3", "5 4", "5 4 3 2", "5 4 nan", "5 4 1e9"]
)
def test_sizes_that_cannot_be(tmp_path, sizes):
    refused(meta(tmp_path / "a.mha", DimSize=sizes))
    refused(nrrd(tmp_path / "a.nrrd", sizes=sizes))


def test_sizes_beyond_the_data(tmp_path):
    refused(meta(tmp_path / "a.mha", DimSize="50000 50000 50000"), "truncated")
    packed = zlib.compress(VALUES.tobytes())
    changes = {"CompressedData": "True", "DimSize": "50000 50000 50000"}
    refused(meta(tmp_path / "b.mha", packed, **changes), "truncated")


@pytest.mark.parametrize("spacing", ["1e200 1 1", "1e-200 1 1", "1 1 2000", "0.001 50 1"])
def test_spacings_that_no_image_has(tmp_path, spacing):
    refused(meta(tmp_path / "a.mha", ElementSpacing=spacing), "spacing", kind=IterregError)
    a, b, c = spacing.split()
    directions = f"({a},0,0) (0,{b},0) (0,0,{c})"
    refused(nrrd(tmp_path / "a.nrrd", space_directions=directions), kind=IterregError)


@pytest.mark.parametrize("origin", ["1e200 0 0", "nan 0 0", "inf 0 0", "1 2"])
def test_origins_that_no_image_has(tmp_path, origin):
    refused(meta(tmp_path / "a.mha", Offset=origin), kind=GeometryError)


@pytest.mark.parametrize("kind", ["MET_STRING", "MET_FLOAT_ARRAY", "MET_OTHER", "short", ""])
def test_types_that_are_no_numbers(tmp_path, kind):
    refused(meta(tmp_path / "a.mha", ElementType=kind), "ElementType")
    refused(nrrd(tmp_path / "a.nrrd", type="block"), "type")


def test_fields_twice_and_lines_without_end(tmp_path):
    path = meta(tmp_path / "a.mha")
    path.write_bytes(b"NDims = 2\n" + path.read_bytes())
    refused(path, "twice")
    refused(meta(tmp_path / "b.mha", Comment="x" * 100_000))
    path.write_bytes(b"ObjectType = Image\nNDims = 3\n")
    refused(path, "ElementDataFile")


def test_what_a_header_leaves_open_is_told(tmp_path):
    open_axes = ("space", "space directions", "space origin", "kinds")
    for number, (left_out, more, told) in enumerate(
        (
            (open_axes, {"spacings": "2 3 4"}, "which way its axes run .*left and right"),
            (("space directions",), {}, "how large its voxels are: taken as 1 mm"),
            ((), {"space": "scanner-xyz"}, "which way its axes run"),
        )
    ):
        fields = {k: v for k, v in NRRD.items() if k not in left_out} | more
        lines = "NRRD0005\n" + "".join(f"{k}: {v}\n" for k, v in fields.items()) + "\n"
        path = tmp_path / f"{number}.nrrd"
        path.write_bytes(lines.encode() + VALUES.tobytes())
        for read in (read_image, grid_of_file):
            with pytest.warns(GeometryWarning, match=told):
                read(path)
    for key, taken in (
        ("ElementSpacing", "voxels of 1 mm"),
        ("TransformMatrix", "LPS axes"),
        ("Offset", "the origin 0"),
    ):
        lines = "".join(f"{k} = {v}\n" for k, v in META.items() if k != key)
        (tmp_path / "a.mha").write_bytes(lines.encode() + VALUES.tobytes())
        for read in (read_image, grid_of_file):
            with pytest.warns(GeometryWarning, match=f"where the voxels are: taken as {taken}$"):
                read(tmp_path / "a.mha")


def test_units_and_scales_of_a_meta_image(tmp_path):
    path = meta(tmp_path / "a.mha", DistanceUnits="um")
    with pytest.warns(GeometryWarning, match="um: taken as 0.001 mm"):
        grid = read_image(path).grid
    np.testing.assert_allclose(grid.spacing_xyz_mm, (0.002, 0.003, 0.004))
    np.testing.assert_allclose(grid.origin_lps_mm, (0.001, 0.002, 0.003))
    is_read(meta(tmp_path / "b.mha", DistanceUnits="mm"))
    path = meta(tmp_path / "c.mha", ElementToIntensityFunctionSlope="2")
    with pytest.warns(GeometryWarning, match="a scale of intensities, which is not applied"):
        np.testing.assert_array_equal(read_image(path).data[0].numpy(), VALUES)
    is_read(meta(tmp_path / "d.mha", ElementToIntensityFunctionSlope="1"))


def test_units_of_a_nrrd_file(tmp_path):
    path = nrrd(tmp_path / "a.nrrd", space_units='"um" "um" "um"')
    with pytest.warns(GeometryWarning, match="um: taken as 0.001 mm"):
        grid = read_image(path).grid
    np.testing.assert_allclose(grid.spacing_xyz_mm, (0.002, 0.003, 0.004))
    np.testing.assert_allclose(grid.origin_lps_mm, (0.001, 0.002, 0.003))
    with pytest.warns(GeometryWarning, match="um: taken as 0.001 mm"):
        assert grid_of_file(path).same_space(grid)
    is_read(nrrd(tmp_path / "b.nrrd", space_units='"mm" "mm" "mm"'))


@pytest.mark.parametrize("suffix", ["nii.gz", "mha", "nrrd", "png"])
@pytest.mark.parametrize("option", ["--image", "--reference", "--out", "--transform"])
def test_a_name_that_is_not_utf8(tmp_path, suffix, option):
    """The real process: Python gives such names to ITK as text that has no bytes."""
    good = tmp_path / "good.mha"
    sitk.WriteImage(sitk.GetImageFromArray(VALUES), str(good))
    odd = os.fsencode(tmp_path) + b"/caf\xe9." + suffix.encode()
    Path(os.fsdecode(odd)).write_bytes(good.read_bytes())
    words = {"--image": b"good.mha", "--reference": b"good.mha", "--transform": b"t.tfm",
             "--out": b"o.mha", option: odd}  # fmt: skip
    sitk.WriteTransform(sitk.AffineTransform(3), str(tmp_path / "t.tfm"))
    command = [os.fsencode(sys.executable), b"-m", b"iterreg", b"apply"]
    for key, value in words.items():
        command += [key.encode(), value]
    root = str(Path(__file__).parents[1])
    done = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": root, "LC_ALL": "C.UTF-8"},
    )
    assert done.returncode == ImageReadError.exit_code, done.stderr
    assert done.stderr.count(b"\n") == 1 and b"caf\\xe9" in done.stderr


DATA = np.arange(60, dtype="<i2").tobytes()
SKIPS = {
    "byte skip: 6": gzip.compress(b"abcdef" + DATA),
    "line skip: 2": b"one\ntwo\n" + gzip.compress(DATA),
    "line skip: 1\nbyte skip: 2": b"x\n" + gzip.compress(b"ab" + DATA),
}
"""What lies before the voxels: whole lines of the file, then bytes of what is unpacked."""


def skipping(path: Path, skip: str, content: bytes) -> Path:
    header = (
        "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 5 4 3\n"
        "space directions: (1,0,0) (0,1,0) (0,0,1)\nendian: little\n"
        f"encoding: gzip\n{skip}\n\n"
    )
    path.write_bytes(header.encode() + content)
    return path


@pytest.mark.parametrize("skip", SKIPS)
def test_packed_data_behind_something_else(tmp_path: Path, skip: str) -> None:
    whole = skipping(tmp_path / "a.nrrd", skip, SKIPS[skip])
    assert read_image(whole).data.ravel().tolist() == list(range(60))
    short = skipping(tmp_path / "b.nrrd", skip.replace("byte skip: ", "byte skip: 1"), SKIPS[skip])
    if "byte" in skip:
        with pytest.raises(ImageReadError, match="truncated"):
            read_image(short)
    cut = skipping(tmp_path / "c.nrrd", skip, SKIPS[skip].replace(SKIPS[skip][-12:], b""))
    with pytest.raises(ImageReadError, match=r"truncated|gzip|zlib"):
        read_image(cut)


def test_lines_to_skip_that_are_not_there(tmp_path: Path) -> None:
    path = skipping(tmp_path / "a.nrrd", "line skip: 99999999999", b"\n" * 1000)
    with pytest.raises(ImageReadError, match="lines to skip before its data, got 1000"):
        read_image(path)


@pytest.fixture(scope="module")
def nothing() -> bytes:
    """The packed form of 480 million zeros: half a megabyte."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    piece = bytes(1_000_000)
    return b"".join([*(packer.compress(piece) for _ in range(480)), packer.flush()])


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_a_small_file_of_gigabytes_of_nothing(tmp_path: Path, nothing: bytes, suffix: str) -> None:
    """Every number of the header is true, and nobody is helped by unpacking it."""
    path = tmp_path / f"nothing{suffix}"
    size = (600, 500, 800)
    if suffix == ".nrrd":
        nrrd(path, nothing, sizes="600 500 800", encoding="gzip")
    elif suffix == ".mha":
        sizes = {"DimSize": "600 500 800", "CompressedDataSize": str(len(nothing))}
        meta(path, nothing, CompressedData="True", **sizes)
    else:
        header = nibabel.Nifti1Header()
        header.set_data_dtype(np.int16)
        header.set_data_shape(size)
        header.set_sform(np.eye(4), 1)
        header["vox_offset"], header["magic"] = 352, b"n+1"
        path.write_bytes(gzip.compress(header.binaryblock + bytes(4)) + nothing)
    with pytest.raises(ImageReadError, match="without content: expected 480000"):
        read_image(path)
