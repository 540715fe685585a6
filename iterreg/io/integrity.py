"""Damage that ITK lets through: cut JPEG files, and text headers with a spacing of 0 or less."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from iterreg.errors import GeometryError, ImageReadError
from iterreg.io.image_formats import Stored
from iterreg.io.itk import load_itk

if TYPE_CHECKING:
    import SimpleITK as sitk


def load_text_header(path: Path) -> tuple[sitk.Image, Stored]:
    """Read a MetaImage or NRRD file.

    A spacing that is not positive is refused: ITK turns it into a flip of the axis.
    """
    with path.open("rb") as file:
        start = file.read(8192)
    for line in start.split(b"\n"):
        key, _, value = line.decode("latin-1").replace(":", "=", 1).partition("=")
        if key.strip() in ("ElementSpacing", "ElementSize", "spacings"):
            try:
                spacing = [float(v) for v in value.split()]
            except ValueError:
                continue
            if any(s <= 0 for s in spacing):
                raise GeometryError(f"{path}: expected a positive spacing, got {value.strip()} mm")
        if key.strip() == "ElementDataFile" or not key.strip():
            break
    return load_itk(path)


def load_jpeg(path: Path) -> tuple[sitk.Image, Stored]:
    """Read a JPEG.

    One without its end marker is refused: the library would fill the missing part with grey.
    """
    content = path.read_bytes()
    if content[:2] == b"\xff\xd8" and b"\xff\xd9" not in content[-65536:]:
        raise ImageReadError(f"{path}: truncated: the JPEG end marker is missing")
    return load_itk(path)
