"""Pictures of any format: the same pixels as a viewer shows, on a lattice of pixels.

Pillow, OpenCV and SimpleITK write the files.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner
from PIL import Image as Pillow
from PIL import ImageOps

from iterreg.cli import iterreg
from iterreg.errors import ImageContentError, ImageReadError
from iterreg.io import GeometryWarning, grid_of_file, read_image, reading_with

CASES = Path(__file__).parent / "data" / "odd_inputs" / "pictures"
SIZE = (7, 5)
RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, SIZE, dtype=np.uint8)
COLOUR = RANDOM.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
DEEP = RANDOM.integers(0, 65536, SIZE, dtype=np.uint16)
DEEP_COLOUR = RANDOM.integers(0, 65536, (*SIZE, 3), dtype=np.uint16)


def channels(path: Path) -> np.ndarray:
    """What is read, as (Y, X) or (Y, X, C)."""
    data = read_image(path).data.numpy()
    return data[0] if len(data) == 1 else np.moveaxis(data, 0, -1)


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


@pytest.mark.parametrize("name", ["f.png", "m_dpi300.jpg", "m_exif6.jpg", "m_la.png"])
def test_all_pictures_lie_on_pixels(name):
    image = read_image(CASES / name)
    assert image.grid.spacing_xyz_mm == (1, 1) and image.grid.origin_lps_mm == (0, 0)
    assert image.grid.shape_zyx == (284, 496)
    with reading_with(pixel_mm=0.25):
        assert read_image(CASES / name).grid.spacing_xyz_mm == (0.25, 0.25)
        assert grid_of_file(CASES / name).spacing_xyz_mm == (0.25, 0.25)


def test_the_same_scene_in_four_formats():
    jpeg, exif, grey_alpha = (
        channels(CASES / name) for name in ("m_dpi300.jpg", "m_exif6.jpg", "m_la.png")
    )
    assert jpeg.shape == grey_alpha.shape == exif.shape[:2]
    assert correlation(jpeg, exif[..., 0]) > 0.99
    assert correlation(jpeg, grey_alpha) > 0.99


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "deep.png"])
def test_orientations(tmp_path, orientation, suffix):
    path = tmp_path / f"o.{suffix}"
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    if suffix == "deep.png":
        ok, plain = cv2.imencode(".png", DEEP_COLOUR[..., ::-1])
        assert ok
        content = plain.tobytes()
        chunk = exif.tobytes()[6:]
        import struct
        import zlib

        block = struct.pack(">I", len(chunk)) + b"eXIf" + chunk
        block += struct.pack(">I", zlib.crc32(b"eXIf" + chunk))
        end = content.index(b"IDAT") - 4
        path.write_bytes(content[:end] + block + content[end:])
        truth = np.stack(
            [
                np.asarray(ImageOps.exif_transpose(_with(Pillow.fromarray(c), orientation)))
                for c in np.moveaxis(DEEP_COLOUR.astype(np.int32), -1, 0)
            ],
            -1,
        )
    else:
        picture = Pillow.fromarray(np.kron(GREY, np.ones((8, 8), np.uint8)))
        picture.save(path, exif=exif, **({"quality": 95} if suffix == "jpg" else {}))
        # Of a TIFF's file Pillow makes a turned one itself, in some versions twice.
        stored = Pillow.open(path) if suffix == "jpg" else _with(picture, orientation)
        truth = np.asarray(ImageOps.exif_transpose(stored))
    np.testing.assert_array_equal(channels(path), truth)


def _with(picture: Pillow.Image, orientation: int) -> Pillow.Image:
    picture.getexif()[0x0112] = orientation
    return picture


@pytest.mark.parametrize("dpi", [(72, 72), (300, 150)])
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp"])
def test_dots_per_inch_are_no_geometry(tmp_path, suffix, dpi):
    path = tmp_path / f"d.{suffix}"
    Pillow.fromarray(GREY).save(path, dpi=dpi)
    assert read_image(path).grid.spacing_xyz_mm == (1, 1)
    assert grid_of_file(path).spacing_xyz_mm == (1, 1)


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
@pytest.mark.parametrize("values", [GREY, COLOUR], ids=["grey", "colour"])
def test_values_are_kept(tmp_path, suffix, values):
    path = tmp_path / f"v.{suffix}"
    Pillow.fromarray(values).save(path)
    np.testing.assert_array_equal(channels(path), values)
    assert read_image(path).dtype == "uint8"


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "jpg"])
def test_sizes_that_look_like_bits(tmp_path, suffix):
    """1632 x 32 pixels of 8 bits."""
    values = np.kron(RANDOM.integers(0, 256, (4, 204, 3), dtype=np.uint8), np.ones((8, 8, 1)))
    Pillow.fromarray(values.astype(np.uint8)).save(tmp_path / f"s.{suffix}")
    read = channels(tmp_path / f"s.{suffix}")
    if suffix == "jpg":
        assert correlation(read, values) > 0.9
    else:
        np.testing.assert_array_equal(read, values)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("values", [DEEP, DEEP_COLOUR], ids=["grey", "colour"])
def test_sixteen_bits_are_kept(tmp_path, suffix, values):
    path = tmp_path / f"deep.{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(values, isVector=values.ndim == 3), str(path))
    np.testing.assert_array_equal(channels(path), values)
    assert read_image(path).dtype == "uint16"


@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_tiff_of_wide_numbers(tmp_path, dtype):
    values = (DEEP.astype(np.float64) - 30000.5).astype(dtype)
    Pillow.fromarray(values).save(tmp_path / "w.tif")
    np.testing.assert_array_equal(channels(tmp_path / "w.tif"), values)


@pytest.mark.parametrize("vectors", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f4"])
def test_tiff_of_any_numbers(tmp_path, dtype, vectors):
    """From the smallest to the largest, as SimpleITK writes them."""
    kind = np.dtype(dtype)
    low, high = (-1e6, 1e6) if kind.kind == "f" else (np.iinfo(kind).min, np.iinfo(kind).max)
    shape = (*SIZE, 3) if vectors else SIZE
    values = np.linspace(low, float(high) * 0.999, int(np.prod(shape))).astype(kind).reshape(shape)
    sitk.WriteImage(sitk.GetImageFromArray(values, isVector=vectors), str(tmp_path / "n.tif"))
    np.testing.assert_array_equal(channels(tmp_path / "n.tif"), values.astype(np.float32))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_palettes(tmp_path, suffix):
    colours = Pillow.fromarray(np.kron(COLOUR // 128 * 255, np.ones((4, 4, 1), np.uint8)))
    picture = colours.convert("P", palette=Pillow.Palette.ADAPTIVE)
    picture.save(tmp_path / f"p.{suffix}")
    np.testing.assert_array_equal(channels(tmp_path / f"p.{suffix}"), np.asarray(colours))
    grey = Pillow.fromarray(GREY // 64 * 80).convert("P")
    grey.save(tmp_path / f"g.{suffix}")
    np.testing.assert_array_equal(channels(tmp_path / f"g.{suffix}"), GREY // 64 * 80)


def test_black_and_white(tmp_path):
    Pillow.fromarray(GREY > 100).save(tmp_path / "b.png")
    np.testing.assert_array_equal(channels(tmp_path / "b.png"), (GREY > 100) * 255)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_is_left_out(tmp_path, mode):
    path = tmp_path / "a.png"
    values = GREY if mode == "LA" else COLOUR
    for alpha, notes in ((np.full(SIZE, 255, np.uint8), 0), (GREY, 1)):
        picture = Pillow.fromarray(np.dstack((values, alpha)), mode)
        picture.save(path)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", GeometryWarning)
            image = read_image(path)
        assert len(image.notes) == notes
        assert sum(w.category is GeometryWarning for w in caught) == notes
        np.testing.assert_array_equal(np.moveaxis(image.data.numpy(), 0, -1).squeeze(), values)


def test_grey_of_sixteen_bits_with_alpha_stays_grey(tmp_path):
    """Pillow does not write this kind of PNG."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", SIZE[1], SIZE[0], 16, 4, 0, 0, 0)
    rows = np.dstack((DEEP, np.full(SIZE, 65535, np.uint16))).astype(">u2")
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b""))
    content = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)
    (tmp_path / "a.png").write_bytes(content)
    np.testing.assert_array_equal(channels(tmp_path / "a.png"), DEEP)


def test_inks_become_colours(tmp_path):
    picture = Pillow.fromarray(np.full((16, 16, 3), (200, 50, 90), np.uint8)).convert("CMYK")
    picture.save(tmp_path / "c.jpg", quality=95)
    np.testing.assert_allclose(channels(tmp_path / "c.jpg").mean((0, 1)), (200, 50, 90), atol=3)


def test_the_pages_of_a_tiff_are_a_volume(tmp_path):
    pages = [Pillow.fromarray(GREY + k) for k in range(3)]
    pages[0].save(tmp_path / "s.tif", save_all=True, append_images=pages[1:])
    image = read_image(tmp_path / "s.tif")
    np.testing.assert_array_equal(image.data[0].numpy(), np.stack([GREY + k for k in range(3)]))
    assert image.grid.spacing_xyz_mm == (1, 1, 1)
    other = Pillow.fromarray(GREY[:4])
    pages[0].save(tmp_path / "t.tif", save_all=True, append_images=[other])
    with pytest.raises(ImageContentError, match="one size"):
        read_image(tmp_path / "t.tif")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "deep.png", "deep.tif"])
@pytest.mark.parametrize("missing", [9, 0.3, 0.9])
def test_cut_pictures_are_refused(tmp_path, suffix, missing):
    path = tmp_path / f"cut.{suffix}"
    if suffix.startswith("deep"):
        values = RANDOM.integers(0, 65536, (60, 80, 3), dtype=np.uint16)
        sitk.WriteImage(sitk.GetImageFromArray(values, isVector=True), str(path))
    else:
        values = RANDOM.integers(0, 256, (60, 80), dtype=np.uint8)
        Pillow.fromarray(values).save(path)
    whole = path.read_bytes()
    lost = missing if missing > 1 else int(missing * len(whole))
    path.write_bytes(whole[:-lost])
    try:
        found = channels(path)
    except ImageReadError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        # What was lost held no pixel: PNG's last chunk, the resolution of a TIFF.
        assert lost == 9
        np.testing.assert_array_equal(found, values)


def test_what_is_no_picture(tmp_path):
    for suffix in ("png", "jpg", "tif", "bmp"):
        path = tmp_path / f"n.{suffix}"
        path.write_bytes(b"no picture at all " * 50)
        with pytest.raises(ImageReadError, match="content is not one"):
            read_image(path)


def test_a_name_does_not_matter(tmp_path):
    path = tmp_path / "really_png.jpg"
    Pillow.fromarray(GREY).save(path, format="PNG")
    np.testing.assert_array_equal(channels(path), GREY)


def test_the_command_line_gives_pixels_a_size(tmp_path):
    transform = tmp_path / "t.tfm"
    sitk.WriteTransform(sitk.AffineTransform(2), str(transform))
    out = tmp_path / "o.mha"
    words = ["apply", "--transform", transform, "--reference", CASES / "f.png", "--image",
             CASES / "m_dpi300.jpg", "--out", out, "--pixel-mm", "0.5"]  # fmt: skip
    done = CliRunner().invoke(iterreg, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    assert sitk.ReadImage(str(out)).GetSpacing() == (0.5, 0.5)
