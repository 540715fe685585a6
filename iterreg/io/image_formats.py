"""The image formats: one row for each. Reading, writing and messages go by this table."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from iterreg.errors import ImageReadError
from iterreg.tables import load

if TYPE_CHECKING:
    import SimpleITK as sitk


@dataclass(frozen=True)
class Layer:
    """A segment of a file that holds several label maps on top of each other.

    Args:
        layer: the label map.
        value: its label there.
        name: of the segment.
    """

    layer: int
    value: int
    name: str


@dataclass(frozen=True)
class Stored:
    """Facts about a stored image that a SimpleITK image does not hold.

    Args:
        dtype: of the voxels; empty if SimpleITK tells it.
        slope, intercept: the intensity scale.
        notes: what the user should know about how it was read.
        names: names of labels, by number.
        layers: segments, if each voxel holds several labels.
        series: which of the volumes of a DICOM folder it is, as it can be asked for again.
    """

    dtype: str = ""
    slope: float = 1.0
    intercept: float = 0.0
    notes: tuple[str, ...] = ()
    names: dict[int, str] = field(default_factory=dict)
    layers: tuple[Layer, ...] = ()
    series: str = ""


@dataclass(frozen=True)
class ImageFormat:
    """A format that is read and written.

    Args:
        name: as its authors call it.
        suffixes: in lower case.
        keeps_geometry: whether it stores spacing, origin and direction; if not, it is a
            picture of rank 2.
        loader: reference of a function of the path that returns the image and what was found out
            about it.
        grid: reference of a function of the path that returns the grid from the header alone;
            empty if there is none.
    """

    name: str
    suffixes: tuple[str, ...]
    keeps_geometry: bool = False
    loader: str = "iterreg.io.pictures:load_picture"
    grid: str = ""


def _volumes(name: str, suffixes: tuple[str, ...], module: str) -> ImageFormat:
    """The row of a format with geometry; its module has ``load`` and ``read_grid``."""
    where = f"iterreg.io.{module}"
    return ImageFormat(name, suffixes, True, f"{where}:load", f"{where}:read_grid")


IMAGE_FORMATS = (
    _volumes("NIfTI", (".nii", ".nii.gz"), "nifti"),
    _volumes("MetaImage", (".mha", ".mhd"), "meta_image"),
    _volumes("NRRD", (".nrrd", ".nhdr"), "nrrd"),
    ImageFormat("PNG", (".png",)),
    ImageFormat("JPEG", (".jpg", ".jpeg")),
    ImageFormat("TIFF", (".tif", ".tiff")),
    ImageFormat("BMP", (".bmp",)),
)

_TO_NIFTI = "convert it to .nii.gz"
WAYS = {
    **dict.fromkeys((".dcm", ".ima"), "for DICOM give the folder of the series"),
    **dict.fromkeys((".hdr", ".img"), f"ANALYZE or NIfTI in two files: {_TO_NIFTI}"),
    **dict.fromkeys((".mgz", ".mgh"), "FreeSurfer's: mri_convert IN OUT.nii.gz"),
    ".mnc": f"MINC's: {_TO_NIFTI}, with mnc2nii",
    **dict.fromkeys((".par", ".rec"), f"Philips' scanners: {_TO_NIFTI}, with dcm2niix"),
    **dict.fromkeys((".bz2", ".xz", ".zst", ".zip", ".gz"), "unpack it first"),
}
"""What to do with files of other formats, by their extension."""

VOLUME_EXTENSIONS = tuple(s for f in IMAGE_FORMATS if f.keeps_geometry for s in f.suffixes)
PICTURE_EXTENSIONS = tuple(s for f in IMAGE_FORMATS if not f.keeps_geometry for s in f.suffixes)


def extension_of(path: str | Path) -> str:
    """The extension in lower case, ``.nii.gz`` counted as one."""
    name = Path(path).name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def format_of(path: Path) -> ImageFormat:
    """The format of a file, by its extension.

    Raises:
        ImageReadError: no row of the table has this extension.
    """
    extension = extension_of(path)
    for row in IMAGE_FORMATS:
        if extension in row.suffixes:
            return row
    hint = WAYS.get(extension, "")
    raise ImageReadError(
        f"{path}: expected one of {' '.join(VOLUME_EXTENSIONS + PICTURE_EXTENSIONS)}, "
        f"got {extension or 'no extension'}{hint and f'; {hint}'}"
    )


def load_file(path: Path) -> tuple[sitk.Image, Stored]:
    """Read a file by the loader of its format."""
    loaded: tuple[sitk.Image, Stored] = load(format_of(path).loader)(path)
    return loaded
