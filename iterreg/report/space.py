"""Draw both images in space: boxes and fields of view in LPS mm. Put their headers in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from iterreg.geometry import Grid, apply_affine
from iterreg.image import Image
from iterreg.report.source import Source
from iterreg.report.words import NOT_RECORDED, by_times, is_number, short, table

Floats = NDArray[np.float64]

VIEWS = (
    ("Axial", "from below", (0, 1), (1, 1), ("R", "L", "A", "P")),
    ("Coronal", "from the front", (0, 2), (1, -1), ("R", "L", "S", "I")),
    ("Sagittal", "from the left", (1, 2), (1, -1), ("A", "P", "S", "I")),
)
"""Name, side, axes (across, down), their signs on paper, letters at left, right, top and bottom."""

VIEW_SIZE = 250.0
"""Side of the square, in units of the drawing, into which the largest view fits."""

MARGIN = 34.0

OUTLINE_NODES = 48
"""A field of view is outlined from about this many nodes per axis."""


@dataclass(frozen=True)
class Outline:
    """One polygon.

    Args:
        kind: ``fixed box``, ``moving view``, and so on: the classes of the style sheet.
        points: of an SVG polygon.
    """

    kind: str
    points: str


@dataclass(frozen=True)
class View:
    """One drawing.

    Args:
        name, side: what it shows, and from where.
        width, height: of the drawing.
        outlines: from back to front.
        letters: x, y and text.
        bar: x, y, length on paper, and text of the scale bar.
        description: for people who do not see it.
    """

    name: str
    side: str
    width: float
    height: float
    outlines: tuple[Outline, ...]
    letters: tuple[tuple[float, float, str], ...]
    bar: tuple[float, float, float, str]
    description: str


def draw_space(source: Source) -> tuple[View, ...]:
    """Both boxes from three sides, pictures from one side; empty without images."""
    if source.images is None or source.fovs is None:
        return ()
    corners = [box_corners(image.grid) for image in source.images]
    clouds = [
        _fov_points(image, fov) for image, fov in zip(source.images, source.fovs, strict=True)
    ]
    rank = source.images[0].grid.rank
    views = (
        VIEWS if rank == 3 else (("Plane", "of the pictures", (0, 1), (1, 1), ("", "", "", "")),)
    )
    every = np.concatenate(corners)
    scale = VIEW_SIZE / max(float(np.ptp(every[:, a])) for a in range(rank))
    return tuple(_view(view, corners, clouds, scale) for view in views)


def box_corners(grid: Grid) -> Floats:
    """The corners of the outermost voxels, (2 ** rank, rank), LPS mm."""
    ends = [(-0.5, n - 0.5) for n in grid.shape_zyx]
    index = np.stack(np.meshgrid(*ends, indexing="ij"), -1).reshape(-1, grid.rank)
    return apply_affine(grid.index_to_lps, index)


def describe_images(source: Source) -> list[tuple[str, str, str]]:
    """Rows of name, fixed and moving: the headers and what was found in the images."""
    sides = [_facts(source, k) for k in range(2)]
    names = dict.fromkeys((*sides[0], *sides[1]))
    fixed, moving = ({n: side.get(n, NOT_RECORDED) for n in names} for side in sides)
    return [(name, fixed[name], moving[name]) for name in names]


def describe_position(source: Source) -> str:
    """One sentence on how the headers place the images, empty without images."""
    if source.images is None:
        return ""
    fixed, moving = (image.grid for image in source.images)
    apart = float(np.linalg.norm(fixed.centre_lps_mm - moving.centre_lps_mm))
    same = " Both images have the same grid." if fixed.same_space(moving) else ""
    return f"By the files' headers, the centres of the images are {apart:.1f} mm apart.{same}"


def _facts(source: Source, side: int) -> dict[str, str]:
    name = ("fixed", "moving")[side]
    recorded = table(source.tables, name)
    image = None if source.images is None else source.images[side]
    view = table(source.tables, "field_of_view").get(name)
    facts = {"File": str(recorded.get("file") or (image.name if image else NOT_RECORDED))}
    if image is not None:
        grid = image.grid
        extent = [n * s for n, s in zip(grid.shape_zyx[::-1], grid.spacing_xyz_mm, strict=True)]
        values = image.data
        facts |= {
            "Size (x, y, z)": f"{by_times(grid.shape_zyx[::-1])} voxels",
            "Spacing": f"{by_times([float(s) for s in grid.spacing_xyz_mm])} mm",
            "Extent": f"{by_times(extent, 1)} mm",
            "Origin (LPS)": _point(grid.origin_lps_mm),
            "Axes point to": grid.orientation,
            "Stored as": image.dtype,
            "Intensities": f"{short(float(values.min()))} to {short(float(values.max()))}",
        }
    elif recorded:
        facts |= {
            "Size (x, y, z)": f"{by_times(_list(recorded, 'size_xyz'))} voxels",
            "Spacing": f"{by_times(_list(recorded, 'spacing_xyz_mm'))} mm",
            "Extent": NOT_RECORDED,
            "Origin (LPS)": _point(recorded.get("origin_lps_mm") or ()),
            "Axes point to": str(recorded.get("axes", NOT_RECORDED)),
            "Stored as": NOT_RECORDED,
            "Intensities": NOT_RECORDED,
        }
    if view is None and image is not None and source.fovs is not None:
        view = f"{100 * float(source.fovs[side].float().mean()):.0f} % of the image"
    return facts | {"Field of view": str(view or NOT_RECORDED)}


def _list(tables: Mapping[str, Any], name: str) -> list[Any]:
    found = tables.get(name)
    return found if isinstance(found, list) else []


def _point(values: Any) -> str:
    if not isinstance(values, list | tuple) or not values or not all(map(is_number, values)):
        return NOT_RECORDED
    return f"({', '.join(f'{float(v):.1f}' for v in values)}) mm"


def _fov_points(image: Image, fov: torch.Tensor) -> Floats | None:
    """Points of the field of view, LPS mm; None if the whole image is seen."""
    if bool(fov.all()):
        return None
    steps = [max(1, n // OUTLINE_NODES) for n in image.grid.shape_zyx]
    thin = fov[tuple(slice(None, None, s) for s in steps)]
    index = thin.nonzero().numpy() * np.asarray(steps)
    return apply_affine(image.grid.index_to_lps, index) if len(index) else None


def _view(view: Any, corners: list[Floats], clouds: list[Floats | None], scale: float) -> View:
    name, side, axes, signs, letters = view
    on_paper = [points[:, axes] * signs * scale for points in corners]
    low, high = np.concatenate(on_paper).min(0), np.concatenate(on_paper).max(0)
    shift = MARGIN - low
    outlines = []
    for k, kind in enumerate(("fixed", "moving")):
        cloud = clouds[k]
        if cloud is not None:
            hull = _hull(cloud[:, axes] * signs * scale + shift)
            outlines.append(Outline(f"{kind} view", _svg_points(hull)))
        hull = _hull(on_paper[k] + shift)
        outlines.append(Outline(f"{kind} box", _svg_points(hull)))
    width, height = high - low + 2 * MARGIN
    places = (
        (MARGIN / 3, height / 2),
        (width - MARGIN / 3, height / 2),
        (width / 2, MARGIN / 2),
        (width / 2, height - MARGIN / 3),
    )
    bar_mm = _round_below(0.4 * VIEW_SIZE / scale)
    bar = (MARGIN, height - MARGIN / 3, bar_mm * scale, f"{bar_mm:g} mm")
    spans = " and ".join(
        f"the {kind} image spans {_span(points, axes)}"
        for kind, points in zip(("fixed", "moving"), corners, strict=True)
    )
    return View(
        name,
        side,
        float(width),
        float(height),
        tuple(outlines),
        tuple((x, y, text) for (x, y), text in zip(places, letters, strict=True) if text),
        bar,
        f"{name} view: {spans}, LPS mm.",
    )


def _span(points: Floats, axes: tuple[int, int]) -> str:
    parts = [f"{points[:, a].min():.0f} to {points[:, a].max():.0f} along {'xyz'[a]}" for a in axes]
    return ", ".join(parts)


def _hull(points: Floats) -> Floats:
    """The convex hull of points on paper, in order around it."""
    from scipy.spatial import ConvexHull, QhullError

    try:
        vertices: Floats = points[ConvexHull(points).vertices]
        return vertices
    except QhullError:  # all points on one line
        return points[[int(points.sum(1).argmin()), int(points.sum(1).argmax())]]


def _svg_points(points: Floats) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _round_below(limit: float) -> float:
    from iterreg.figures.style import round_below

    return round_below(limit)


def notes_of(tables: Mapping[str, Any]) -> list[str]:
    """Every note and warning of a run."""
    found = []
    for key in ("warnings", "notes"):
        values = tables.get(key)
        found += [str(v) for v in values] if isinstance(values, list | tuple) else []
    return found
