"""One small picture of a result, for pages that list many."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from iterreg.displacement import Transform
from iterreg.figures.canonical_pair import CanonicalPair
from iterreg.figures.panels import NOT_SEEN_BRIGHTNESS, Windows, two_colours
from iterreg.figures.planes import cut_planes
from iterreg.image import Image

LONGEST_PX = 120
QUALITY = 70


def thumbnail(fixed: Image, moving: Image, transform: Transform, path: str | Path) -> None:
    """Draw the first plane after the registration: grey where both agree, blue and orange else.

    Args:
        fixed, moving: the pair, rank 2 or 3.
        transform: fixed to moving, on the fixed grid.
        path: the JPEG to write, at most ``LONGEST_PX`` wide and high.

    Example:
        >>> import tempfile, torch
        >>> from iterreg.displacement import DisplacementField
        >>> from iterreg.geometry import Grid
        >>> grid = Grid((20, 30), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
        >>> image = Image(torch.rand(1, 20, 30), grid)
        >>> identity = Transform(np.eye(3), DisplacementField.zero(grid))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     thumbnail(image, image, identity, Path(folder) / "small.jpg")
        ...     (Path(folder) / "small.jpg").read_bytes()[:2] == bytes([0xFF, 0xD8])
        True
    """
    from PIL import Image as Picture

    pair = CanonicalPair.of((fixed, moving), transform)
    plane = cut_planes(pair)[0].cropped()
    windows = Windows.of([plane])
    rgb = two_colours(plane.fixed, plane.after, windows)
    grey = two_colours(plane.fixed, plane.fixed, windows)[..., 2:]
    rgb[~plane.seen_after] = NOT_SEEN_BRIGHTNESS * grey[~plane.seen_after]
    height_mm, width_mm = plane.size_mm
    scale = LONGEST_PX / max(height_mm, width_mm)
    size = max(1, round(width_mm * scale)), max(1, round(height_mm * scale))
    whole = Picture.fromarray((rgb.clip(0, 1) * 255).astype(np.uint8))
    whole.resize(size, Picture.Resampling.BILINEAR).save(path, "JPEG", quality=QUALITY)
