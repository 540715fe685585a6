"""Pictures made comparable: illumination removed, the surround left out, at one working size.

A lamp, a camera or a stain changes brightness over centimetres; structure changes it over
millimetres. So the local mean is subtracted and the rest divided by the local contrast. Of a colour
picture the channel with the most structure is taken: green for a fundus photograph.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iterreg.geometry import Matrix
from iterreg.regions.picture_view import picture_view
from iterreg.samreg.pictures import PictureStack

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

COARSE_PX = 256
"""Longer side at which whole structures are compared. Serial sections, or pictures that a lens
bends, agree in their structures and not in their grain."""

FINE_PX = 1024
"""Longer side at which an alignment is refined, and that of the encoder's input."""

LOCAL_SHARE = 0.1
FINE_LOCAL_SHARE = 0.05
ENCODED_LOCAL_SHARE = 0.03
"""Standard deviation of the Gaussian that illumination is measured with, as a share of the longer
side: for the two sizes above, and for what the encoder and the keypoints see."""

NOISE_LEVELS = 3.0
"""Contrast (of 255) below which a neighbourhood counts as flat, and is not blown up to full
contrast."""

CHANNEL_ADVANTAGE = 1.25
"""A single colour replaces the mean of all if it shows this many times more structure."""

DARK_LEVELS = 16.0
"""Added to the brightness that structure is measured against: a nearly black channel is noise."""

GREY, GAIN = 128.0, 42.0
"""Level of what is flat in an evened picture, and levels of one local standard deviation."""


@dataclass(frozen=True)
class Plane:
    """A picture to compare with another.

    Args:
        grey: (h, w) evened: local mean 0, local standard deviation about 1.
        inside: (h, w), where the picture shows something: not the surround of a round view.
        px_to_lps: homogeneous (3, 3), from a pixel's centre (x, y) to LPS mm.
    """

    grey: Floats
    inside: Bools
    px_to_lps: Matrix

    @cached_property
    def lps_to_px(self) -> Matrix:
        """The inverse of ``px_to_lps``."""
        return np.asarray(np.linalg.inv(self.px_to_lps), np.float64)

    @property
    def cell_px(self) -> float:
        """Side of a cell of the encoder's grid."""
        return float(max(self.grey.shape)) / 64

    @property
    def pixel_mm(self) -> float:
        """Side of a pixel."""
        return float(np.sqrt(abs(np.linalg.det(self.px_to_lps[:2, :2]))))


def is_coloured(picture: Tensor) -> bool:
    """Whether a picture (H, W, 3) has colours."""
    return bool((picture != picture[..., :1]).any())


def pick_channel(pictures: tuple[Tensor, Tensor]) -> int | None:
    """The channel in which two pictures show most structure: 0, 1, 2, or None for their mean.

    Args:
        pictures: (H, W, 3) uint8 each.
    """
    if not all(is_coloured(picture) for picture in pictures):
        return None
    structure = np.zeros(4)
    for picture in pictures:
        small, inside = _resized(picture, COARSE_PX)
        channels = [small.mean(2), *np.moveaxis(small, 2, 0)]
        structure += [_structure(np.ascontiguousarray(c), inside) for c in channels]
    best = int(structure[1:].argmax())
    return best if structure[best + 1] > CHANNEL_ADVANTAGE * structure[0] else None


def plane_of(stack: PictureStack, channel: int | None, side_px: int, local_share: float) -> Plane:
    """Make the plane of a picture.

    Args:
        stack: of one picture.
        channel: from :func:`pick_channel`.
        side_px: longer side; a smaller picture is not enlarged.
        local_share: see ``LOCAL_SHARE``.
    """
    picture = stack.pixels[0]
    assert picture is not None, "a blank picture has no plane"
    small, inside = _resized(picture, side_px)
    grey = small.mean(2) if channel is None else small[..., channel]
    grey = even_out(np.ascontiguousarray(grey), inside, local_share * max(grey.shape))
    return Plane(grey, inside, _px_to_lps(stack, inside.shape))


def evened_picture(picture: Tensor, channel: int | None) -> tuple[Tensor, Bools]:
    """A picture without illumination as the encoder takes it, and what of it is inside.

    Args:
        picture: (H, W, 3) uint8.
        channel: from :func:`pick_channel`.

    Returns:
        (h, w, 3) uint8 with a longer side of at most ``FINE_PX``, and (h, w).
    """
    small, inside = _resized(picture, FINE_PX)
    grey = np.ascontiguousarray(small.mean(2) if channel is None else small[..., channel])
    grey = even_out(grey, inside, ENCODED_LOCAL_SHARE * max(grey.shape))
    levels = np.clip(GREY + GAIN * grey, 0, 255).astype(np.uint8)
    return torch.from_numpy(levels)[..., None].repeat(1, 1, 3), inside


def even_out(grey: Floats, inside: Bools, sigma_px: float) -> Floats:
    """Subtract the local mean and divide by the local contrast; 0 outside.

    Args:
        grey: (h, w) of 0 to 255.
        inside: (h, w); what is outside plays no part.
        sigma_px: of the Gaussian.

    Example:
        >>> columns = np.arange(64, dtype=np.float32)
        >>> ramp = np.tile(columns, (64, 1))
        >>> evened = even_out(ramp, np.ones((64, 64), bool), 4.0)
        >>> bool(abs(evened[:, 24:40]).max() < 0.02)
        True
    """
    import cv2

    def local(values: Floats) -> Floats:
        return np.asarray(cv2.GaussianBlur(values, (0, 0), sigma_px), np.float32)

    weight = inside.astype(np.float32)
    total = local(weight) + 1e-3
    rest = (grey - local(grey * weight) / total) * weight
    contrast = np.sqrt(local(rest * rest) / total)
    return np.asarray(rest / (contrast + NOISE_LEVELS), np.float32)


def _resized(picture: Tensor, side_px: int) -> tuple[Floats, Bools]:
    """A picture (h, w, 3) with a longer side of at most so many pixels, and what is inside."""
    import cv2

    pixels = picture.numpy()
    inside = picture_view(pixels)
    scale = side_px / max(pixels.shape[:2])
    if scale < 1:
        size = tuple(max(1, round(n * scale)) for n in pixels.shape[1::-1])
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        inside = cv2.resize(inside.astype(np.uint8), size, interpolation=cv2.INTER_AREA) > 0
    return np.asarray(pixels, np.float32), np.asarray(inside, bool)


def _structure(channel: Floats, inside: Bools) -> float:
    """Contrast of details relative to the brightness around them, median over the picture."""
    import cv2

    side = max(channel.shape)
    fine, wide = (cv2.GaussianBlur(channel, (0, 0), side / k) for k in (256, 40))
    contrast = np.sqrt(cv2.GaussianBlur((fine - wide) ** 2, (0, 0), side / 20))
    relative = contrast / (wide + DARK_LEVELS)
    return float(np.median(relative[inside])) if inside.any() else 0.0


def _px_to_lps(stack: PictureStack, shape: tuple[int, ...]) -> Matrix:
    """From pixels (x, y) of a resized picture to LPS mm, homogeneous (3, 3)."""
    rows, columns = (n / m for n, m in zip(stack.slice_shape, shape, strict=True))
    to_index = np.array(
        [[0, rows, rows / 2 - 0.5], [columns, 0, columns / 2 - 0.5], [0, 0, 1]], np.float64
    )
    return np.asarray(stack.grid.index_to_lps @ to_index, np.float64)
