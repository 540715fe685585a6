"""Pictures: PNG, JPEG, TIFF and BMP, as viewers show them, in pixels.

What a printer would need (dots per inch) says nothing about the object, so it is left aside. Pillow
reads; OpenCV reads what Pillow would round to 8 bits.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from iterreg.errors import ImageContentError, ImageReadError, IterregError
from iterreg.io.bounded import BoundedFile
from iterreg.io.choices import reading_choices
from iterreg.io.image_formats import Stored

if TYPE_CHECKING:
    import SimpleITK as sitk
    from PIL import Image as Pillow

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "DIB")
"""Pillow's names of what is read."""

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""How a TIFF begins. Some have number types that Pillow does not know."""

BITS_PER_SAMPLE, SAMPLE_FORMAT = 258, 339
UNSIGNED, SIGNED = 1, 2
"""Tags of TIFF, and values of the second one."""

MOST_RATIO = 2000
"""Pixels for a byte of a file; the strongest compression of grey values reaches half of it."""

MODES = {
    "1": "L",
    "L": "L",
    "LA": "LA",
    "La": "LA",
    "RGB": "RGB",
    "RGBA": "RGBA",
    "RGBa": "RGBA",
    "RGBX": "RGB",
    "CMYK": "RGB",
    "YCbCr": "RGB",
    "LAB": "RGB",
    "HSV": "RGB",
    "I;16": "I;16",
    "I;16B": "I;16B",
    "I": "I",
    "F": "F",
}
"""The mode of Pillow into which each of its modes is turned."""


def load_picture(path: Path) -> tuple[sitk.Image, Stored]:
    """Read a picture; a file with several becomes a volume.

    Raises:
        ImageReadError: damaged, or not a picture.
        ImageContentError: pictures of several sizes or kinds in one file.
    """
    import SimpleITK as sitk

    pages = _pages(path)
    if len({(page.shape, page.dtype) for page in pages}) > 1:
        raise ImageContentError(f"{path}: expected pictures of one size and kind, got several")
    notes: list[str] = []
    pages = [_without_alpha(path, page, notes) for page in pages]
    array = pages[0] if len(pages) == 1 else np.stack(pages)
    if array.dtype.itemsize == 4 and array.dtype.kind == "f" and not np.isfinite(array).all():
        notes.append(f"{path}: it has pixels without a value")
    rank = 2 if len(pages) == 1 else 3
    image = sitk.GetImageFromArray(np.ascontiguousarray(array), isVector=array.ndim > rank)
    size = reading_choices().pixel_mm
    if size is not None:
        image.SetSpacing([size] * rank)
    return image, Stored(notes=tuple(dict.fromkeys(notes)))


def _pages(path: Path) -> list[NDArray[Any]]:
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    with warnings.catch_warnings():
        # Pillow warns of large pictures and of odd metadata; neither changes what is read.
        warnings.simplefilter("ignore")
        try:
            with BoundedFile(path) as file, Pillow.open(file, formats=FORMATS) as picture:
                _require_end(path, picture.format or "")
                _require_plausible(path, picture)
                count = getattr(picture, "n_frames", 1) if picture.format == "TIFF" else 1
                pages = []
                for number in range(count):
                    picture.seek(number)
                    pages.append(_page(path, picture, count))
                return pages
        except UnidentifiedImageError as error:
            with path.open("rb") as start:
                if start.read(4) in TIFF_MAGIC:
                    return [_by_opencv(path)]
            raise ImageReadError(
                f"{path}: expected an image, but its content is not one"
            ) from error
        except Pillow.DecompressionBombError as error:
            raise ImageReadError(f"{path}: expected a picture that fits, got {error}") from error
        except (IterregError, MemoryError):
            raise
        except Exception as error:  # Damaged files make Pillow raise nearly anything.
            told = " ".join(str(error).split())[:200]
            raise ImageReadError(f"{path}: expected a whole picture, got: {told}") from error


def _page(path: Path, picture: Pillow.Image, count: int) -> NDArray[Any]:
    """One page as (Y, X) or (Y, X, C), turned as its orientation says."""
    from PIL import ImageOps

    deep = _is_deep(picture) and picture.mode in ("RGB", "RGBA", "LA", "RGBX")
    if deep or _is_odd_tiff(picture):
        if count > 1:
            raise ImageContentError(
                f"{path}: expected one picture of its number type in a file, got {count}"
            )
        is_grey = any(mode.startswith("LA") for mode in _raw_modes(picture))
        array = _by_opencv(path)
        return array[..., [0, 3]] if is_grey else array  # OpenCV repeats the grey beside alpha.
    picture.load()
    turned = ImageOps.exif_transpose(picture)
    if turned.mode in ("P", "PA"):
        turned = _without_palette(turned)
    mode = MODES.get(turned.mode)
    if mode is None:
        raise ImageContentError(f"{path}: expected a grey or colour picture, got {turned.mode}")
    if mode != turned.mode:
        turned = turned.convert(mode)
    array = np.asarray(turned)
    return array.astype(array.dtype.newbyteorder("="))


def _is_deep(picture: Pillow.Image) -> bool:
    """Whether the channels of a file have more than 8 bits, of which Pillow keeps 8."""
    return any(";16" in mode or ";32" in mode for mode in _raw_modes(picture))


def _raw_modes(picture: Pillow.Image) -> list[str]:
    """How the file stores its pixels, in Pillow's words; before they are loaded."""
    arguments = [tile[3] for tile in getattr(picture, "tile", ())]
    return [str(a if isinstance(a, str) else a[0] if a else "") for a in arguments]


def _is_odd_tiff(picture: Pillow.Image) -> bool:
    """Whether a TIFF has numbers that Pillow takes for others: int8 and uint32."""
    tags = getattr(picture, "tag_v2", {})
    bits, kinds = tags.get(BITS_PER_SAMPLE, (1,)), tags.get(SAMPLE_FORMAT, (1,))
    return (8 in bits and SIGNED in kinds) or (32 in bits and UNSIGNED in kinds)


def _without_palette(picture: Pillow.Image) -> Pillow.Image:
    """The colours, or the grey values if all of them are grey."""
    colours = picture.convert("RGBA")
    array = np.asarray(colours)
    grey = bool((array[..., :1] == array[..., :3]).all())
    if (array[..., 3] == 255).all():
        return colours.convert("L" if grey else "RGB")
    return colours.convert("LA") if grey else colours


def _by_opencv(path: Path) -> NDArray[Any]:
    """A picture of more than 8 bits, with the channels in Pillow's order."""
    import cv2
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    shown = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        array = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        array = None
    finally:
        cv2.utils.logging.setLogLevel(shown)
    if array is None:
        raise ImageReadError(f"{path}: expected an image, but its content is not one")
    if array.ndim == 3:
        array = array[..., [2, 1, 0, *range(3, array.shape[2])]]
    try:
        with Pillow.open(path) as picture:
            orientation = picture.getexif().get(0x0112, 1)
    except (UnidentifiedImageError, OSError):
        orientation = 1
    return _turned(array, orientation)


def _turned(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn and mirror as EXIF's orientation 1 to 8 says."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def _without_alpha(path: Path, page: NDArray[Any], notes: list[str]) -> NDArray[Any]:
    """Leave out transparency."""
    if page.ndim == 2 or page.shape[2] in (1, 3):
        return page[..., 0] if page.ndim == 3 and page.shape[2] == 1 else page
    if page.shape[2] not in (2, 4):
        raise ImageContentError(f"{path}: expected 1 or 3 channels, got {page.shape[2]}")
    alpha = page[..., -1]
    if alpha.min() != alpha.max():
        notes.append(f"{path}: it is transparent in places: its colours are taken as they are")
    page = page[..., :-1]
    return page[..., 0] if page.shape[2] == 1 else page


def _require_plausible(path: Path, picture: Pillow.Image) -> None:
    """Refuse a size that no compression explains: damage, which would take all memory."""
    width, height = picture.size
    if picture.mode != "1" and width * height > MOST_RATIO * os.path.getsize(path):
        raise ImageReadError(
            f"{path}: expected {width} x {height} pixels by its header, got a file of "
            f"{os.path.getsize(path)} bytes"
        )


def _require_end(path: Path, name: str) -> None:
    """Refuse a JPEG without its end marker: the missing part would be grey."""
    if name not in ("JPEG", "MPO"):
        return
    content = path.read_bytes()
    if b"\xff\xd9" not in content[-65536:]:
        raise ImageReadError(f"{path}: truncated: the JPEG end marker is missing")
