"""Reading and writing images, label maps and points.

SimpleITK and nibabel are imported inside the functions that need them. Geometry is ITK's: LPS mm.
ITK accepts some files that a user would not want (a cut file padded with zeros, a spacing of 0 read
as 1); they are refused here.
"""

from iterreg.io.choices import (
    GEOMETRIES,
    GeometryWarning,
    reading_choices,
    reading_with,
    series_of,
    warn_of,
)
from iterreg.io.image_formats import (
    IMAGE_FORMATS,
    PICTURE_EXTENSIONS,
    VOLUME_EXTENSIONS,
    extension_of,
)
from iterreg.io.itk import GZIP_LEVEL, grid_of, require_exists, silent_itk, to_itk
from iterreg.io.label_reading import as_label_map, as_mask, read_label_map, read_mask
from iterreg.io.nifti import PIECE_BYTES
from iterreg.io.packing import gzip_file, in_steps, shuffled_and_deflated
from iterreg.io.points import (
    AXES,
    as_points,
    read_points,
    read_prompts,
    require_point_suffix,
    write_points,
)
from iterreg.io.reading import as_image, grid_of_file, read_channels, read_image, read_vector_image
from iterreg.io.segments import on_lattice_of
from iterreg.io.writing import write_displacement_mm, write_image, write_label_map, write_scalar

__all__ = [
    "AXES",
    "GEOMETRIES",
    "GZIP_LEVEL",
    "IMAGE_FORMATS",
    "PICTURE_EXTENSIONS",
    "PIECE_BYTES",
    "VOLUME_EXTENSIONS",
    "GeometryWarning",
    "as_image",
    "as_label_map",
    "as_mask",
    "as_points",
    "extension_of",
    "grid_of",
    "grid_of_file",
    "gzip_file",
    "in_steps",
    "on_lattice_of",
    "read_channels",
    "read_image",
    "read_label_map",
    "read_mask",
    "read_points",
    "read_prompts",
    "read_vector_image",
    "reading_choices",
    "reading_with",
    "require_exists",
    "require_point_suffix",
    "series_of",
    "shuffled_and_deflated",
    "silent_itk",
    "to_itk",
    "warn_of",
    "write_displacement_mm",
    "write_image",
    "write_label_map",
    "write_points",
    "write_scalar",
]
