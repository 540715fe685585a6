"""Errors that iterreg raises on purpose, and the exit code of each.

The tree::

    IterregError                 1   any other error
    ├── ImageReadError           3   missing, truncated, not an image, unsupported format
    ├── ImageContentError        4   4-D, NaN, constant, empty label map, empty mask
    ├── GeometryError            5   different spaces, no overlap, bad spacing or direction
    ├── ConfigError              6   unknown preset, unknown key, value out of range
    ├── OutputError              7   not writable, or exists already
    ├── DeviceError              8   requested device not available
    ├── OutOfMemoryError         9   the pair does not fit into the memory of the device
    ├── SegmentationError       10   the segmenter did not find the anatomy
    ├── MissingDependencyError  11   an optional package is not installed
    ├── TransformError          12   transform file unreadable or of an unknown kind
    ├── WeightsError            13   weights missing, damaged, or for another model
    ├── NoRoiPairsError         14   no two regions of interest are similar enough
    ├── PluginError             17   a plug-in fails, or gives something of a wrong kind
    └── CrashError              23   a library ended the process

Exit codes 15 and 16 are no errors: the results were written, and the verdict on them is doubtful or
failed. Exit code 2 means a wrong command line, 130 means Ctrl-C, SIGTERM or SIGHUP. Each message is
one line that names the file or argument, what was expected, and what was found.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from enum import IntEnum

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""What the system answers if a file cannot be written: numbers of ``OSError``."""

MEMORY_WORDS = (
    "out of memory",
    "not enough memory",
    "defaultcpuallocator",
    "bad_alloc",
    "cannot allocate",
    "failed to allocate",
    "unable to allocate",
    "start new thread",
    "failed to map segment",
    "can't allocate",
)
"""How libraries say that memory ran out, in lower case."""


class ExitCode(IntEnum):
    """Exit codes of the ``iterreg`` command.

    Example:
        >>> ExitCode(7).name
        'OUTPUT'
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
    DOUBTFUL = 15
    FAILED = 16
    PLUGIN = 17
    CRASHED = 23
    INTERRUPTED = 130


class IterregError(Exception):
    """Base of every error that iterreg raises on purpose.

    Example:
        >>> from iterreg.errors import OutputError
        >>> try:
        ...     raise OutputError("result.h5: exists already")
        ... except IterregError as error:
        ...     print(error, int(error.exit_code))
        result.h5: exists already 7
    """

    exit_code = ExitCode.ERROR
    details: tuple[str, ...] = ()
    """More lines, such as one for each row of a table."""


class ImageReadError(IterregError):
    """A file is missing, truncated, or not an image that can be read."""

    exit_code = ExitCode.IMAGE_READ


class ImageContentError(IterregError):
    """An image can be read, but not registered."""

    exit_code = ExitCode.IMAGE_CONTENT


class GeometryError(IterregError):
    """Two inputs do not share a space, or a grid is not valid."""

    exit_code = ExitCode.GEOMETRY


class ConfigError(IterregError):
    """A preset or an override is unknown or out of range."""

    exit_code = ExitCode.CONFIG


class OutputError(IterregError):
    """An output cannot be written. ``is_busy`` tells that another run is writing there."""

    exit_code = ExitCode.OUTPUT
    is_busy = False


class DeviceError(IterregError):
    """The requested device is not available."""

    exit_code = ExitCode.DEVICE


class OutOfMemoryError(IterregError):
    """The pair does not fit into the memory of the device."""

    exit_code = ExitCode.OUT_OF_MEMORY


class SegmentationError(IterregError):
    """The segmenter did not find the anatomy that the preset needs."""

    exit_code = ExitCode.SEGMENTATION


class MissingDependencyError(IterregError):
    """An optional package is needed and is not installed."""

    exit_code = ExitCode.MISSING_DEPENDENCY


class TransformError(IterregError):
    """A transform cannot be read, or iterreg does not support its kind."""

    exit_code = ExitCode.TRANSFORM


class WeightsError(IterregError):
    """A model's weights are missing, damaged, for another model, or cannot be fetched."""

    exit_code = ExitCode.WEIGHTS


class NoRoiPairsError(IterregError):
    """No two regions of interest are similar enough to be a pair."""

    exit_code = ExitCode.NO_ROI_PAIRS


class PluginError(IterregError):
    """A plug-in cannot be imported, fails, or gives something of a wrong kind."""

    exit_code = ExitCode.PLUGIN


class CrashError(IterregError):
    """A library ended the process in which a command ran."""

    exit_code = ExitCode.CRASHED


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that caused it, says that memory ran out.

    Example:
        >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
        True
        >>> is_out_of_memory(ValueError("out of range"))
        False
    """
    return any(map(_says_out_of_memory, _with_causes(error)))


def was_interrupted(error: BaseException | None) -> bool:
    """Whether an error is Ctrl-C, or was made of it on its way.

    Python before 3.12 turns Ctrl-C into a RuntimeError while it makes a class, and a reader that
    answers any error of its library turns it into an error of the file.

    Example:
        >>> try:
        ...     raise KeyboardInterrupt
        ... except KeyboardInterrupt as pressed:
        ...     error = RuntimeError("Error calling __set_name__")
        ...     error.__cause__ = pressed
        >>> was_interrupted(error)
        True
        >>> was_interrupted(ValueError("out of range"))
        False
    """
    return any(isinstance(e, KeyboardInterrupt) for e in _with_causes(error))


def _says_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError | ImportError | OSError) and any(
        words in str(error).lower() for words in MEMORY_WORDS
    )


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what caused it, what caused that, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
