"""The exceptions that iterreg raises on purpose, and the exit code of each.

The tree::

    IterregError                 1   anything else
    ├── ImageReadError           3   missing, truncated, not an image, unsupported format
    ├── ImageContentError        4   4-D, NaN, constant, empty label map, empty mask
    ├── GeometryError            5   different spaces, no overlap, bad spacing or direction
    ├── ConfigError              6   unknown preset, unknown key, value out of range
    ├── OutputError              7   not writable, exists already
    ├── DeviceError              8   the requested device is not available
    ├── OutOfMemoryError         9   the pair does not fit into the device's memory
    ├── SegmentationError       10   the segmenter did not find the anatomy
    ├── MissingDependencyError  11   an optional package is not installed
    ├── TransformError          12   a transform that cannot be read, or of an unknown kind
    ├── WeightsError            13   weights missing, damaged, or of another model
    └── NoRoiPairsError         14   no two regions of interest are similar enough

Exit code 2 stands for a mistake in the command line itself, 130 for Ctrl-C. Each message is one
line that names the file or argument, what was expected, and what was found.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the ``iterreg`` command.

    Example:
        >>> int(ExitCode.GEOMETRY), ExitCode(130).name
        (5, 'INTERRUPTED')
    """

    OK = 0
    ERROR = 1
    USAGE = 2
    IMAGE_READ = 3
    IMAGE_CONTENT = 4
    GEOMETRY = 5
    CONFIG = 6
    OUTPUT = 7
    DEVICE = 8
    OUT_OF_MEMORY = 9
    SEGMENTATION = 10
    MISSING_DEPENDENCY = 11
    TRANSFORM = 12
    WEIGHTS = 13
    NO_ROI_PAIRS = 14
    INTERRUPTED = 130


class IterregError(Exception):
    """Base of every error that iterreg raises on purpose.

    Example:
        >>> import iterreg
        >>> try:
        ...     iterreg.read_image("missing.nii.gz")
        ... except IterregError as error:
        ...     print(f"{error} (exit code {error.exit_code})")
        missing.nii.gz: no such file or folder (exit code 3)
    """

    exit_code = ExitCode.ERROR


class ImageReadError(IterregError):
    """A file is missing, truncated, or not an image that can be read."""

    exit_code = ExitCode.IMAGE_READ


class ImageContentError(IterregError):
    """An image was read, but its content cannot be registered."""

    exit_code = ExitCode.IMAGE_CONTENT


class GeometryError(IterregError):
    """Two values do not share a space, or a grid is not valid."""

    exit_code = ExitCode.GEOMETRY


class ConfigError(IterregError):
    """A preset or an override is unknown or out of range."""

    exit_code = ExitCode.CONFIG


class OutputError(IterregError):
    """An output cannot be written."""

    exit_code = ExitCode.OUTPUT


class DeviceError(IterregError):
    """The requested device is not available."""

    exit_code = ExitCode.DEVICE


class OutOfMemoryError(IterregError):
    """The pair does not fit into the device's memory."""

    exit_code = ExitCode.OUT_OF_MEMORY


class SegmentationError(IterregError):
    """The segmenter did not find the anatomy that the preset expects."""

    exit_code = ExitCode.SEGMENTATION


class MissingDependencyError(IterregError):
    """An optional package is needed and is not installed."""

    exit_code = ExitCode.MISSING_DEPENDENCY


class TransformError(IterregError):
    """A transform cannot be read, or is of a kind that iterreg cannot use."""

    exit_code = ExitCode.TRANSFORM


class WeightsError(IterregError):
    """A model's weights are missing, damaged, of another model, or cannot be fetched."""

    exit_code = ExitCode.WEIGHTS


class NoRoiPairsError(IterregError):
    """Matching ran, but no two regions of interest are similar enough to form a pair."""

    exit_code = ExitCode.NO_ROI_PAIRS
