"""Chains of transforms, as the command line names them: in ANTs' order, with ANTs' inverses."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from iterreg.formats.itk_objects import chain, require_one_rank
from iterreg.formats.loaded import Loaded
from iterreg.formats.reading import load_transform
from iterreg.formats.types import Sides

_INVERSE = re.compile(r"\[(.+),\s*([01])\]")


def with_inverse(path: Path) -> tuple[Path, bool]:
    """Take ANTs' way of writing an inverse apart.

    Example:
        >>> with_inverse(Path("[affine.mat,1]"))[1], with_inverse(Path("affine.mat"))[1]
        (True, False)
    """
    found = _INVERSE.fullmatch(str(path))
    if found is None or os.path.exists(path):
        return path, False
    return Path(found[1]), found[2] == "1"


def load_links(paths: Sequence[Path], sides: Sides | None = None) -> list[Loaded]:
    """Read the transforms of a chain, in the order given.

    Args:
        paths: the files; ``[FILE,1]`` is the inverse of a linear transform.
        sides: the grids of both images, where they are known.

    Raises:
        TransformError: a file cannot be used, or the ranks differ.
    """
    links = []
    for given in paths:
        path, is_inverse = with_inverse(given)
        link = load_transform(path, sides)
        links.append(link.inverted() if is_inverse else link)
    require_one_rank(links)
    return links


def load_chain(paths: Sequence[Path], sides: Sides | None = None) -> Loaded:
    """Read a chain as one transform; the first one is applied to a point first.

    Args:
        paths, sides: as in :func:`load_links`.

    Raises:
        TransformError: as :func:`load_links`.
    """
    return chain(load_links(paths, sides))
