"""The whole figure: a row of three panels per plane, headings and a legend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from iterreg.figures.lattice import RegionOnPlane, draw_lattice, draw_outline, lattice_step
from iterreg.figures.planes import Bools, Picture, Plane
from iterreg.figures.shown import shown_figure
from iterreg.figures.style import (
    BACKGROUND,
    FAINT_INK,
    FIXED_BRIGHTER,
    INK,
    MOVING_BRIGHTER,
    WIDTH_INCH,
    region_colour,
    round_below,
    write,
)
from iterreg.geometry import Grid
from iterreg.image import LabelMap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GAP, LEFT, HEAD, FOOT = 0.10, 0.10, 0.78, 0.62
"""Inches between panels, at both sides, above and below them."""

TALLEST_INCH = 10.0
"""A taller stack of planes is shrunk to this height, so that it fits a screen."""

LEGEND_ENTRIES = 10

NOT_SEEN = "not seen by both"

NOT_SEEN_BRIGHTNESS = 0.55
"""The fixed image is darkened by this factor if there is nothing to compare it with."""


@dataclass(frozen=True)
class Captions:
    """The words that depend on the run.

    Args:
        before: what "before" means.
        unit: of lengths.
    """

    before: str
    unit: str


@dataclass(frozen=True)
class Windows:
    """Intensities shown as black and as white, for each image."""

    fixed: tuple[float, float]
    moving: tuple[float, float]

    @classmethod
    def of(cls, planes: list[Plane]) -> Windows:
        """1st to 99th percentile of each image in the fixed body that both images see."""
        fixed = np.concatenate([p.fixed[p.body] for p in planes])
        moving = np.concatenate([p.after[p.body & p.seen_after] for p in planes])

        def ends(values: Picture) -> tuple[float, float]:
            if not values.size:
                return 0.0, 1.0
            low, high = np.percentile(values, (1, 99))
            return float(low), float(max(high, low + 1e-6))

        return cls(ends(fixed), ends(moving))


def draw_panels(
    planes: list[Plane], labels: LabelMap, values: list[int], captions: Captions
) -> Figure:
    """Draw three columns of equal width; each row is as high as its plane, all at one scale.

    Args:
        planes: from top to bottom.
        labels: the fixed regions, for their names.
        values: the labels that occur in the volume.
        captions: words of the headings.
    """
    widest_mm = max(p.size_mm[1] for p in planes)
    stack_mm = sum(p.size_mm[0] for p in planes)
    column = (WIDTH_INCH - 2 * LEFT - 2 * GAP) / 3
    inch_per_mm = min(column / widest_mm, TALLEST_INCH / stack_mm)
    column = inch_per_mm * widest_mm
    width = 3 * column + 2 * GAP + 2 * LEFT
    height = HEAD + FOOT + inch_per_mm * stack_mm + GAP * (len(planes) - 1)
    figure = shown_figure()(figsize=(width, height), facecolor=BACKGROUND)
    windows, step_mm = Windows.of(planes), lattice_step(planes)
    top = height - HEAD
    for plane in planes:
        tall, wide = (inch_per_mm * size for size in plane.size_mm)
        top -= tall
        row = []
        for k in range(3):
            x = LEFT + k * (column + GAP) + (column - wide) / 2
            axes = figure.add_axes((x / width, top / height, wide / width, tall / height))
            _prepare(axes, plane)
            row.append(axes)
        _draw_row(row, plane, windows, step_mm, values)
        if plane is planes[0]:
            _scale_bar(row[1], plane, captions.unit)
        top -= GAP
    jump = "; a jump is sliding" if values else ""
    lattice = f"lines {step_mm:g} {captions.unit} apart in the moving image{jump}"
    _headings(figure, column, (captions.before, "grey where both agree", lattice))
    _legend(figure, planes, labels, values)
    return figure


def length_unit(grid: Grid) -> str:
    """``mm``, or ``px`` for a picture without a spacing."""
    return "px" if grid.rank == 2 and set(grid.spacing_xyz_mm) == {1.0} else "mm"


def two_colours(fixed: Picture, moving: Picture, windows: Windows) -> Picture:
    """Blend two images to RGB: agreement is grey, brighter fixed blue, brighter moving orange.

    The green channel is the mean, so the difference shows as hue at equal brightness, which is safe
    for colour-blind eyes.
    """
    a, b = _windowed(fixed, windows.fixed), _windowed(moving, windows.moving)
    return np.stack([b, (a + b) / 2, a], -1)


def draw_deformation(
    axes: Axes, plane: Plane, windows: Windows, step_mm: float, values: list[int]
) -> None:
    """Draw the warped image, darkened, with the lattice and the outline of each region."""
    grey = 0.5 * _windowed(plane.after, windows.moving)
    _show(axes, plane, np.repeat(grey[..., None], 3, -1))
    _hatch(axes, plane, ~plane.seen_after)
    for value in [0, *values]:
        mask = (plane.labels == value) & plane.body
        if not mask.any():
            continue
        colour = FAINT_INK if value == 0 else region_colour(value, values)
        region = RegionOnPlane.of(plane, mask)
        draw_lattice(axes, plane, region, step_mm, colour)
        if value != 0:
            draw_outline(axes, region, colour)


def _draw_row(
    row: list[Axes], plane: Plane, windows: Windows, step_mm: float, values: list[int]
) -> None:
    before, after, deformation = row
    _show_difference(before, plane, plane.before, plane.seen_before, windows)
    if plane.title:
        write(before, 0.016, 0.975, plane.title, ha="left", va="top", fontsize=11, weight="bold")
    _show_difference(after, plane, plane.after, plane.seen_after, windows)
    draw_deformation(deformation, plane, windows, step_mm, values)


def _show_difference(
    axes: Axes, plane: Plane, moved: Picture, seen: Bools, windows: Windows
) -> None:
    """Show both images in two colours; where one sees nothing the fixed image, grey and hatched."""
    rgb = two_colours(plane.fixed, moved, windows)
    grey = _windowed(plane.fixed, windows.fixed)
    rgb[~seen] = NOT_SEEN_BRIGHTNESS * grey[~seen, None]
    _show(axes, plane, rgb)
    _hatch(axes, plane, ~seen)


def _hatch(axes: Axes, plane: Plane, mask: Bools) -> None:
    """Hatch the pixels of a mask."""
    if not mask.any():
        return
    # A rim around the plane lets the contour run along its border.
    padded = np.pad(mask, 1, mode="edge").astype(np.float32)
    rows, columns = (
        (np.arange(-1, n + 1) + 0.5) * spacing
        for n, spacing in zip(mask.shape, plane.spacing_mm, strict=True)
    )
    hatched = axes.contourf(
        columns, rows, padded, levels=[0.5, 1.5], colors="none", hatches=["////"]
    )
    hatched.set_edgecolor(FAINT_INK)
    hatched.set_linewidth(0.0)


def _prepare(axes: Axes, plane: Plane) -> None:
    """Set millimetre axes without ticks, rows downwards, and write the anatomical letters."""
    height, width = plane.size_mm
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    places = (
        (0.012, 0.5, "left", "center"),
        (0.988, 0.5, "right", "center"),
        (0.5, 0.985, "center", "top"),
        (0.5, 0.015, "center", "bottom"),
    )
    for letter, (x, y, ha, va) in zip(plane.letters, places, strict=False):
        write(axes, x, y, letter, ha=ha, va=va, fontsize=8.5)


def _windowed(values: Picture, window: tuple[float, float]) -> Picture:
    """Intensities scaled to 0 (black) ... 1 (white)."""
    low, high = window
    scaled: Picture = np.clip((values - low) / (high - low), 0, 1).astype(np.float32)
    return scaled


def _show(axes: Axes, plane: Plane, rgb: Picture) -> None:
    height, width = plane.size_mm
    axes.imshow(rgb, extent=(0, width, height, 0), interpolation="bilinear", aspect="auto")


def _scale_bar(axes: Axes, plane: Plane, unit: str) -> None:
    """One bar serves all panels, because they share one scale."""
    height, width = plane.size_mm
    length = round_below(width / 4)
    y, x = height * 0.972, width * 0.985
    axes.plot([x - length, x], [y, y], color=INK, linewidth=1.6, solid_capstyle="butt")
    write(axes, 0.985, 0.04, f"{length:g} {unit}", ha="right", va="bottom", fontsize=8)


def _headings(figure: Figure, column: float, subtitles: tuple[str, str, str]) -> None:
    width, height = figure.get_size_inches()
    titles = ("Before", "After", "Deformation")
    for k, (title, subtitle) in enumerate(zip(titles, subtitles, strict=True)):
        x = (LEFT + k * (column + GAP) + 0.04) / width
        figure.text(x, 1 - 0.36 / height, title, color=INK, fontsize=14, weight="bold", va="center")
        figure.text(x, 1 - 0.62 / height, subtitle, color=FAINT_INK, fontsize=9.5, va="center")


def _legend(figure: Figure, planes: list[Plane], labels: LabelMap, values: list[int]) -> None:
    """Name the colours and the hatching on one line at the foot."""
    width, height = figure.get_size_inches()
    entries = [("brighter in fixed", FIXED_BRIGHTER), ("brighter in moving", MOVING_BRIGHTER)]
    if any((~p.seen_before | ~p.seen_after).any() for p in planes):
        entries.append((NOT_SEEN, FAINT_INK))
    on_planes = {int(v) for p in planes for v in np.unique(p.labels)}
    entries += [
        (labels.title(v).replace("_", " "), region_colour(v, values))
        for v in values
        if v in on_planes
    ]
    rest = len(entries) - LEGEND_ENTRIES
    if rest > 0:
        entries = [*entries[:LEGEND_ENTRIES], (f"and {rest} more", FAINT_INK)]
    x, y = 0.16, 0.30
    for text, colour in entries:
        mark = "▨" if text == NOT_SEEN else "●"
        figure.text(x / width, y / height, mark, color=colour, fontsize=10, va="center")
        figure.text((x + 0.17) / width, y / height, text, color=INK, fontsize=9, va="center")
        x += 0.17 + 0.066 * len(text) + 0.3
    if planes[0].letters:
        note = "radiological: the patient's right is on your left"
        place = (1 - 0.12 / width, 0.11 / height)
        figure.text(*place, note, color=FAINT_INK, fontsize=9, ha="right", va="center")
