"""Draw matched ROIs, each pair in one colour.

Pictures are shown side by side; of volumes, fixed slices are shown above their partners.
"""

from __future__ import annotations

import colorsys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from iterreg.figures.style import BACKGROUND, DPI, INK, WIDTH_INCH
from iterreg.image import Image
from iterreg.samreg.candidates import Candidates
from iterreg.samreg.pairing import RoiMatching
from iterreg.samreg.rle import decode_mask

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Bools = NDArray[np.bool_]

MOST_SLICES = 8
"""Most slices that are shown, evenly spread over those with pairs."""

ROI_OPACITY = 0.35

LONGEST_SIDE_PX = 800
"""Larger pictures are thinned to at most this."""


def draw_roi_pairs(found: RoiMatching, images: tuple[Image, Image], path: str | Path) -> None:
    """Draw ROI pairs on their images, and write the picture.

    Args:
        found: the matching; without pairs only the images are shown.
        images: fixed and moving.
        path: the PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = _columns(found)
    flat = found.fixed.stack.axis is None
    rows, count = (1, 2) if flat else (2, len(columns))
    width = WIDTH_INCH * min(1.0, max(0.5, count / 4))
    tall, wide = np.multiply(found.fixed.stack.slice_shape, found.fixed.stack.pixel_mm)
    height = min(2 * WIDTH_INCH, rows * width / count * tall / wide + 0.8)
    figure = Figure(figsize=(width, height), facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    grid: Any = figure.subplots(rows, count, squeeze=False)
    for column, numbers in enumerate(columns):
        for side, number in enumerate(numbers):
            axes = grid[0][side] if flat else grid[side][column]
            _draw(axes, (found.fixed, found.moving)[side], number, _masks_on(found, side, number))
            where = "" if flat else f" {number}"
            axes.set_title(("fixed", "moving")[side] + where, color=INK, fontsize=8)
    figure.suptitle(_title(found, images), color=INK, fontsize=9)
    top = 1 - 0.55 / height
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=top, wspace=0.03, hspace=0.1)
    figure.savefig(path, format="png", dpi=DPI, facecolor=BACKGROUND)


def _title(found: RoiMatching, images: tuple[Image, Image]) -> str:
    names = " and ".join(Path(image.name).name for image in images)
    matches = sum(len(chain) for chain in found.chains)
    return f"{names}: {len(found.pairs)} ROI pairs, {matches} matched regions of slices"


def _columns(found: RoiMatching) -> list[tuple[int, int]]:
    """Choose fixed slices, and for each the moving slice that holds most of its partners."""
    if found.fixed.stack.axis is None:
        return [(0, 0)]
    partners: dict[int, list[int]] = {}
    for chain in found.chains:
        for match in chain:
            ours = int(found.fixed.slices[match.fixed])
            partners.setdefault(ours, []).append(int(found.moving.slices[match.moving]))
    if not partners:
        middle = [len(side.stack.pixels) // 2 for side in (found.fixed, found.moving)]
        return [(middle[0], middle[1])]
    slices = sorted(partners)
    chosen = np.unique(np.linspace(0, len(slices) - 1, MOST_SLICES).round().astype(int))
    return [(slices[k], int(np.bincount(partners[slices[k]]).argmax())) for k in chosen]


def _masks_on(found: RoiMatching, row: int, number: int) -> list[tuple[int, Bools]]:
    """(pair, mask) of each matched ROI on one slice, the largest first."""
    side = (found.fixed, found.moving)[row]
    masks = {
        (pair, chosen): decode_mask(side.masks[chosen])
        for pair, chain in enumerate(found.chains)
        for chosen in [m.fixed if row == 0 else m.moving for m in chain]
        if side.slices[chosen] == number
    }
    return [(k[0], m) for k, m in sorted(masks.items(), key=lambda item: -int(item[1].sum()))]


def _draw(axes: Axes, side: Candidates, number: int, masks: list[tuple[int, Bools]]) -> None:
    rows, columns = side.stack.slice_shape
    picture = side.stack.pixels[number]
    step = max(1, -(-max(rows, columns) // LONGEST_SIDE_PX))
    grey = np.zeros((rows, columns, 3)) if picture is None else picture.numpy() / 255.0
    tall, wide = side.stack.pixel_mm
    extent = (0.0, columns * wide, rows * tall, 0.0)
    shrink = max(1, -(-max(grey.shape[:2]) // LONGEST_SIDE_PX))
    axes.imshow(grey[::shrink, ::shrink], extent=extent, interpolation="bilinear")
    for pair, mask in masks:
        thin, colour = mask[::step, ::step], _colour(pair)
        layer = np.zeros((*thin.shape, 4))
        layer[thin] = (*colour, ROI_OPACITY)
        axes.imshow(layer, extent=extent, interpolation="nearest")
        y = (np.arange(thin.shape[0]) + 0.5) * step * tall
        x = (np.arange(thin.shape[1]) + 0.5) * step * wide
        if min(thin.shape) > 1:
            axes.contour(x, y, thin.astype(float), levels=[0.5], colors=[colour], linewidths=0.9)
        centre = [
            float(line[where].mean()) for line, where in zip((y, x), np.nonzero(thin), strict=True)
        ]
        axes.text(
            centre[1], centre[0], str(pair + 1), color=INK, fontsize=6, ha="center", va="center"
        )
    axes.set_facecolor(BACKGROUND)
    axes.set_xlim(extent[:2])
    axes.set_ylim(extent[2:])
    axes.set_aspect("equal")
    axes.axis("off")


def _colour(pair: int) -> tuple[float, float, float]:
    """A hue per pair, golden angles apart, so that neighbours in the list differ."""
    return colorsys.hls_to_rgb((0.08 + 0.618034 * pair) % 1.0, 0.58, 0.85)
