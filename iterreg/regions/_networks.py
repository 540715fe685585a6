"""What all segmenters with a network share."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator

from iterreg.errors import ImageContentError, IterregError, SegmentationError, is_out_of_memory
from iterreg.image import Image
from iterreg.texts import one_line


def require_volume(image: Image, network: str) -> None:
    """Refuse pictures and images with several channels.

    Args:
        image: to segment.
        network: what messages call it.

    Raises:
        ImageContentError: naming both.
    """
    if image.grid.rank != 3 or image.data.shape[0] != 1:
        raise ImageContentError(
            f"{image.name}: {network}: expected a volume with one channel, got "
            f"{image.data.shape[0]} channels of {image.grid!r}"
        )


@contextlib.contextmanager
def foreign_code(name: str, network: str) -> Iterator[None]:
    """Run code of another package: silent, and whatever it raises becomes one line.

    Args:
        name: of the image or file, for messages.
        network: what messages call the package.

    Raises:
        SegmentationError: for any exception but ours and those of memory.
    """
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    except IterregError:
        raise
    except (Exception, SystemExit) as error:  # a network's package may raise anything
        if is_out_of_memory(error):
            raise
        what = one_line(f"{type(error).__name__}: {error}")
        raise SegmentationError(f"{name}: {network} failed: {what}") from error
