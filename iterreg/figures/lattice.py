"""The deformed lattice: lines that are straight in the moving image, drawn region by region."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from iterreg.figures.planes import Bools, Picture, Plane, padded_box
from iterreg.figures.style import round_below

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LARGEST_STEP_MM = 10.0
"""Distance of the lattice lines on a body."""

LATTICE_LINES = 30
"""A small picture gets about this many lines, closer together than LARGEST_STEP_MM."""


@dataclass(frozen=True)
class RegionOnPlane:
    """One region of a plane, in its box, and refined to draw smooth edges.

    Args:
        box: rows and columns of the plane.
        mask: the region in its box.
        factor: refined pixels per pixel.
        fine: the refined mask with smooth edges; above 0.5 is inside.
        rows_mm, columns_mm: coordinates of the refined pixels.
    """

    box: tuple[slice, slice]
    mask: Bools
    factor: int
    fine: Picture
    rows_mm: NDArray[np.float64]
    columns_mm: NDArray[np.float64]

    @classmethod
    def of(cls, plane: Plane, mask: Bools) -> RegionOnPlane:
        """Cut out and refine the region that a mask, not empty, has on a plane."""
        from scipy.ndimage import gaussian_filter

        box = padded_box(mask, [2, 2])
        factor = int(np.clip(round(600 / max(plane.fixed.shape)), 1, 4))
        blocks = np.kron(mask[box], np.ones((factor, factor), np.float32))
        rows, columns = (
            (np.arange(cut.start * factor, cut.stop * factor) + 0.5) / factor * spacing
            for cut, spacing in zip(box, plane.spacing_mm, strict=True)
        )
        fine = gaussian_filter(blocks, 0.6 * factor, mode="nearest")
        return cls(box, mask[box], factor, fine, rows, columns)


def lattice_step(planes: list[Plane]) -> float:
    """A round distance of the lines: 10 mm on a body, less on a smaller picture."""
    longest = max(max(p.size_mm) for p in planes)
    wanted = longest / LATTICE_LINES
    return round_below(min(wanted, LARGEST_STEP_MM) if planes[0].letters else wanted)


def draw_lattice(
    axes: Axes, plane: Plane, region: RegionOnPlane, step_mm: float, colour: str
) -> None:
    """Draw the lines as the transform bends them in one region.

    The map is extended beyond the region before it is refined, and masked afterwards. So no line is
    interpolated across an interface, and each line still reaches the region's edge.
    """
    from scipy.ndimage import distance_transform_edt

    nearest = distance_transform_edt(~region.mask, return_distances=False, return_indices=True)
    own = np.stack(np.meshgrid(*[np.arange(s.start, s.stop) for s in region.box], indexing="ij"))
    base = own * np.asarray(plane.spacing_mm)[:, None, None]
    # landed_mm counts upwards along rows that run to the head; pixels count downwards.
    sign = np.array([-1.0 if plane.letters.endswith("SI") else 1.0, 1.0])[:, None, None]
    u = plane.landed_mm[(slice(None), *region.box)] * sign - base
    u = u[(slice(None), *nearest)]
    for k in range(2):
        landed = _refined(base[k] + u[k], region.factor)
        first, last = np.ceil(landed.min() / step_mm), np.floor(landed.max() / step_mm)
        levels = np.arange(first, last + 1) * step_mm
        if len(levels):
            axes.contour(
                region.columns_mm,
                region.rows_mm,
                np.ma.array(landed, mask=region.fine < 0.5),
                levels=levels,
                colors=colour,
                linewidths=0.65,
                alpha=0.7,
                linestyles="solid",
            )


def draw_outline(axes: Axes, region: RegionOnPlane, colour: str) -> None:
    """Draw the edge of a region."""
    axes.contour(
        region.columns_mm, region.rows_mm, region.fine, levels=[0.5], colors=colour, linewidths=1.2
    )


def _refined(values: NDArray[np.float64], factor: int) -> NDArray[np.float64]:
    """Refine linearly about pixel centres, and extrapolate at the rim."""
    for axis in range(2):
        count = values.shape[axis]
        if count == 1:
            values = np.repeat(values, factor, axis)
            continue
        at = (np.arange(count * factor) + 0.5) / factor - 0.5
        low = np.clip(np.floor(at).astype(int), 0, count - 2)
        share = (at - low).reshape([-1 if a == axis else 1 for a in range(2)])
        values = (1 - share) * values.take(low, axis) + share * values.take(low + 1, axis)
    return values
