"""From an image to what a Segment Anything model sees: 8-bit RGB pictures, one per slice.

How intensities become grey levels is stated per kind of image, and recorded: CT by a window in HU,
8-bit pictures and photographs as they are, everything else (MR, 16-bit) by percentiles of the whole
image, so that slices stay comparable and an empty slice stays empty.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iterreg.errors import GeometryError, ImageContentError
from iterreg.geometry import AxisOrder, Grid, apply_affine
from iterreg.image import Image

AXES = ("z", "y", "x")
"""Slices across z are axial, across y coronal, across x sagittal: the axis nearest to that one."""

CT_WINDOW_HU = (-160.0, 240.0)
"""Soft tissue, the window with which MedSAM's authors show CT; lung and bone saturate, and their
outlines stay."""

PERCENTILES = (1.0, 99.0)
AIR_HU = -500.0
"""An image of signed numbers that reaches below this, and above ``TISSUE_HU``, is a CT."""
TISSUE_HU = 100.0

THICK = 1.5
"""Without a named axis slices are cut across the axis whose voxels are this much longer."""

LEAST_PIXELS = 16
"""A patch of the vision transformer; a picture smaller than one shows it nothing."""

BLANK_LEVELS = 8
"""A slice with no more contrast than this (of 255) is blank, and is not encoded."""


@dataclass(frozen=True)
class Window:
    """How intensities became grey levels: clipped to low ... high, or kept."""

    kind: str
    low: float
    high: float


@dataclass(frozen=True)
class PictureStack:
    """An image as pictures, in canonical axis order.

    Args:
        pixels: one (H, W, 3) uint8 per slice, pixels square; None where the slice is blank.
        slice_shape: rows and columns of a slice's voxels, which masks are made for.
        axis: array axis of the canonical image across which slices are cut; None for a picture.
        grid: of the canonical image.
        order: from the image's own axes to the canonical ones.
        window: how grey levels were made.
    """

    pixels: tuple[Tensor | None, ...]
    slice_shape: tuple[int, int]
    axis: int | None
    grid: Grid
    order: AxisOrder
    window: Window

    @property
    def pixel_mm(self) -> tuple[float, float]:
        """Height and width of a slice's voxel."""
        spacing = [s for k, s in enumerate(self.grid.spacing_zyx_mm) if k != self.axis]
        return spacing[0], spacing[1]

    @property
    def positions_lps_mm(self) -> NDArray[np.float64]:
        """(slices, rank), the middle of each slice."""
        middle = (np.asarray(self.grid.shape_zyx, np.float64) - 1) / 2
        index = np.repeat(middle[None], len(self.pixels), 0)
        if self.axis is not None:
            index[:, self.axis] = np.arange(len(self.pixels))
        return apply_affine(self.grid.index_to_lps, index)

    @property
    def normal_lps(self) -> NDArray[np.float64]:
        """Unit vector from one slice to the next; zero for a picture."""
        if self.axis is None:
            return np.zeros(self.grid.rank)
        column = self.grid.rank - 1 - self.axis
        return np.asarray(self.grid.direction_lps)[:, column]


def cut_axis(fixed: Image, moving: Image, wanted: str | None) -> int | None:
    """The canonical array axis across which both images are cut into slices.

    Args:
        fixed, moving: of one rank.
        wanted: z, y or x; None takes the axis of the thickest voxels, z where they are alike.

    Returns:
        0 for z, 1 for y, 2 for x; None for pictures.

    Raises:
        GeometryError: an axis that is not one of these.
    """
    if fixed.grid.rank == 2:
        return None
    if wanted is not None:
        if wanted not in AXES:
            raise GeometryError(f"axis: expected one of {', '.join(AXES)}, got {wanted}")
        return AXES.index(wanted)
    for image in (fixed, moving):
        spacing = np.asarray(image.to_canonical()[0].grid.spacing_zyx_mm)
        thickest = int(spacing.argmax())
        if spacing[thickest] >= THICK * np.delete(spacing, thickest).max():
            return thickest
    return 0


def cut_pictures(
    image: Image, axis: int | None, window: tuple[float, float] | None = None
) -> PictureStack:
    """Cut an image into pictures.

    Args:
        image: rank 2 (1 or 3 channels) or rank 3.
        axis: as :func:`cut_axis` gives it.
        window: intensities shown black and white; None decides by the kind of image.

    Returns:
        The pictures.

    Raises:
        ImageContentError: pictures smaller than a patch.
    """
    turned, order = image.to_canonical()
    shown = _window(turned, window)
    grey = _grey_levels(turned.data, shown)
    slices = [grey] if axis is None else list(grey.unbind(1 + axis))
    stack = PictureStack(
        (), (slices[0].shape[1], slices[0].shape[2]), axis, turned.grid, order, shown
    )
    pixels = tuple(_picture(levels, stack.pixel_mm) for levels in slices)
    size = _square_size(stack.slice_shape, stack.pixel_mm)
    if min(size) < LEAST_PIXELS:
        raise ImageContentError(
            f"{image.name}: expected pictures of at least {LEAST_PIXELS} x {LEAST_PIXELS} pixels, "
            f"got {size[1]} x {size[0]}"
        )
    return replace(stack, pixels=pixels)


def _window(image: Image, wanted: tuple[float, float] | None) -> Window:
    data = image.data
    low, high = float(data.min()), float(data.max())
    if wanted is not None:
        return Window("given", *wanted)
    if image.grid.rank == 2 and image.dtype == "uint8":
        return Window("as stored", 0.0, 255.0)
    if len(data) == 1 and low <= AIR_HU and high >= TISSUE_HU:
        return Window("CT window, HU", *CT_WINDOW_HU)
    few, most = np.percentile(data.numpy(), PERCENTILES)
    few, most = (float(few), float(most)) if most > few else (low, high)
    return Window(f"percentiles {PERCENTILES[0]:g} to {PERCENTILES[1]:g}", few, most)


def _grey_levels(data: Tensor, window: Window) -> Tensor:
    """(C, *shape) uint8."""
    width = max(window.high - window.low, 1e-6)
    return ((data - window.low) * (255 / width)).round().clamp(0, 255).to(torch.uint8)


def _picture(levels: Tensor, pixel_mm: tuple[float, float]) -> Tensor | None:
    """(H, W, 3) with square pixels, or None where there is nothing to see."""
    spread = int(levels.max()) - int(levels.min())
    if spread <= BLANK_LEVELS:
        return None
    size = _square_size((levels.shape[1], levels.shape[2]), pixel_mm)
    if size != tuple(levels.shape[1:]):
        smooth = torch.nn.functional.interpolate(
            levels[None].float(), size, mode="bilinear", align_corners=False
        )
        levels = smooth[0].round().to(torch.uint8)
    return levels.expand(3, -1, -1).permute(1, 2, 0).contiguous()


def _square_size(shape: tuple[int, int], pixel_mm: tuple[float, float]) -> tuple[int, int]:
    """Rows and columns once pixels are as fine both ways as they are the finer way."""
    fine = min(pixel_mm)
    if max(pixel_mm) < 1.01 * fine:
        return shape
    return round(shape[0] * pixel_mm[0] / fine), round(shape[1] * pixel_mm[1] / fine)
