"""Turn an image into the input of a Segment Anything model: 8-bit RGB pictures, one per slice.

Grey levels depend on the kind of image, and the choice is recorded: CT uses a window in HU, 8-bit
pictures and photographs stay as they are, and everything else (MR, 16-bit) uses percentiles of the
whole image, so that slices stay comparable and an empty slice stays empty.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iterreg.errors import GeometryError, ImageContentError
from iterreg.geometry import AxisOrder, Grid, Matrix, apply_affine
from iterreg.image import Image
from iterreg.regions.hounsfield import ct_offset

AXES = ("z", "y", "x")
"""Slices across z are axial, across y coronal, across x sagittal; oblique images use the array axis
closest to it."""

CT_WINDOW_HU = (-160.0, 240.0)
"""The soft-tissue window of MedSAM's authors; lung and bone saturate, but keep their outlines."""

PERCENTILES = (1.0, 99.0)
"""Percentiles that become black and white."""

THICK_RATIO = 1.5
"""Slices are cut across the axis along which voxels are at least this much longer."""

MIN_PICTURE_PX = 16
"""Least side of a picture: one patch of the vision transformer."""

BLANK_LEVELS = 8
"""A slice with no more contrast than this (of 255) is blank and is not encoded."""


@dataclass(frozen=True)
class Window:
    """How intensities become grey levels: ``low`` black, ``high`` white; ``kind`` says why."""

    kind: str
    low: float
    high: float


@dataclass(frozen=True)
class PictureStack:
    """An image as pictures, in canonical axis order.

    Args:
        pixels: (H, W, 3) uint8 for each slice, with square pixels; None for a blank slice.
        slice_shape: rows and columns of a slice's voxels, and of its masks.
        axis: array axis of the canonical image across which slices are cut; None for a picture.
        grid: of the canonical image.
        order: takes the image's own axes to the canonical ones.
        window: of the grey levels.
    """

    pixels: tuple[Tensor | None, ...]
    slice_shape: tuple[int, int]
    axis: int | None
    grid: Grid
    order: AxisOrder
    window: Window

    @property
    def shown(self) -> tuple[int, ...]:
        """Numbers of the slices that are not blank."""
        return tuple(k for k, picture in enumerate(self.pixels) if picture is not None)

    @property
    def pixel_mm(self) -> tuple[float, float]:
        """Height and width of a slice's voxels."""
        spacing = [s for k, s in enumerate(self.grid.spacing_zyx_mm) if k != self.axis]
        return spacing[0], spacing[1]

    @property
    def positions_lps_mm(self) -> NDArray[np.float64]:
        """Centre of each slice, (slices, rank)."""
        middle = (np.asarray(self.grid.shape_zyx, np.float64) - 1) / 2
        index = np.repeat(middle[None], len(self.pixels), 0)
        if self.axis is not None:
            index[:, self.axis] = np.arange(len(self.pixels))
        return apply_affine(self.grid.index_to_lps, index)

    @property
    def normal_lps(self) -> NDArray[np.float64]:
        """Unit vector from a slice to the next one, (rank,); zero for a picture."""
        if self.axis is None:
            return np.zeros(self.grid.rank)
        column = self.grid.rank - 1 - self.axis
        return np.asarray(self.grid.direction_lps)[:, column]


def cut_axis(fixed: Image, moving: Image, name: str | None) -> int | None:
    """Choose the canonical array axis across which both images are cut into slices.

    Args:
        fixed, moving: two images of the same rank.
        name: z, y or x; None takes the axis along which voxels are longest, or z if they are about
            cubic.

    Returns:
        0 for z, 1 for y, 2 for x; None for pictures.

    Raises:
        GeometryError: unknown axis.
    """
    if fixed.grid.rank == 2:
        return None
    if name is not None:
        if name not in AXES:
            raise GeometryError(f"axis: expected one of {', '.join(AXES)}, got {name}")
        return AXES.index(name)
    for image in (fixed, moving):
        spacing = np.asarray(image.to_canonical()[0].grid.spacing_zyx_mm)
        thickest = int(spacing.argmax())
        if spacing[thickest] >= THICK_RATIO * np.delete(spacing, thickest).max():
            return thickest
    return 0


def cut_pictures(
    image: Image, axis: int | None, window: tuple[float, float] | None = None
) -> PictureStack:
    """Cut an image into pictures.

    Args:
        image: rank 2 (1 or 3 channels) or rank 3.
        axis: from :func:`cut_axis`.
        window: intensities to show as black and white; None chooses by the kind of image.

    Raises:
        ImageContentError: pictures smaller than a patch.
    """
    canonical, order = image.to_canonical()
    used = _window(canonical, window)
    grey = _grey_levels(canonical.data, used)
    slices = [grey] if axis is None else list(grey.unbind(1 + axis))
    stack = PictureStack(
        (), (slices[0].shape[1], slices[0].shape[2]), axis, canonical.grid, order, used
    )
    pixels = tuple(_picture(levels, stack.pixel_mm) for levels in slices)
    size = _square_size(stack.slice_shape, stack.pixel_mm)
    if min(size) < MIN_PICTURE_PX:
        raise ImageContentError(
            f"{image.name}: expected pictures of at least {MIN_PICTURE_PX} x {MIN_PICTURE_PX} "
            f"pixels, got {size[1]} x {size[0]}"
        )
    return replace(stack, pixels=pixels)


def nearest_slices(
    stacks: tuple[PictureStack, PictureStack], affine_lps: Matrix | None = None
) -> NDArray[np.int64]:
    """For each fixed slice the physically nearest moving one.

    Args:
        stacks: fixed and moving, cut across the same axis.
        affine_lps: from fixed to moving points; None for the identity.
    """
    fixed, moving = stacks
    aligned_lps = fixed.positions_lps_mm
    if affine_lps is not None:
        aligned_lps = apply_affine(affine_lps, aligned_lps)
    fixed_mm = aligned_lps @ fixed.normal_lps
    moving_mm = moving.positions_lps_mm @ fixed.normal_lps
    return np.asarray(np.abs(fixed_mm[:, None] - moving_mm[None]).argmin(1), np.int64)


def _window(image: Image, given: tuple[float, float] | None) -> Window:
    data = image.data
    low, high = float(data.min()), float(data.max())
    if given is not None:
        return Window("given", *given)
    if image.grid.rank == 2 and image.dtype == "uint8":
        return Window("as stored", 0.0, 255.0)
    offset = ct_offset(image)
    if offset is not None:
        black, white = (end + offset for end in CT_WINDOW_HU)
        return Window("CT window, HU" + (f" {offset:+g}" if offset else ""), black, white)
    black, white = (float(v) for v in np.percentile(data.numpy(), PERCENTILES))
    black, white = (black, white) if white > black else (low, high)
    return Window(f"percentiles {PERCENTILES[0]:g} to {PERCENTILES[1]:g}", black, white)


def _grey_levels(data: Tensor, window: Window) -> Tensor:
    """Map intensities to (C, *shape) uint8."""
    width = max(window.high - window.low, 1e-6)
    return ((data - window.low) * (255 / width)).round().clamp(0, 255).to(torch.uint8)


def _picture(levels: Tensor, pixel_mm: tuple[float, float]) -> Tensor | None:
    """Make a picture (H, W, 3) with square pixels; None for a blank slice."""
    contrast = int(levels.max()) - int(levels.min())
    if contrast <= BLANK_LEVELS:
        return None
    size = _square_size((levels.shape[1], levels.shape[2]), pixel_mm)
    if size != tuple(levels.shape[1:]):
        resized = torch.nn.functional.interpolate(
            levels[None].float(), size, mode="bilinear", align_corners=False
        )
        levels = resized[0].round().to(torch.uint8)
    return levels.expand(3, -1, -1).permute(1, 2, 0).contiguous()


def _square_size(shape: tuple[int, int], pixel_mm: tuple[float, float]) -> tuple[int, int]:
    """Return rows and columns after resampling to square pixels of the smaller side."""
    side_mm = min(pixel_mm)
    if max(pixel_mm) < 1.01 * side_mm:
        return shape
    return round(shape[0] * pixel_mm[0] / side_mm), round(shape[1] * pixel_mm[1] / side_mm)
