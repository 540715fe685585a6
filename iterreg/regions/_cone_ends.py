"""The ends of a cone beam's view: two cones that meet the cylinder.

The source is a point. Far from the axis some projections look past what others still see, so the
part that all of them see gets lower with the distance from the axis::

    |z - z_isocentre| <= h (1 - r / R)        h: half height on the axis, R: source to axis

Beyond it projections are missing. What is put together from fewer of them is darker at once,
whatever lies there. So the end is a cone along which solid matter gets darker almost everywhere;
no anatomy looks like that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

SLOPES = np.arange(0.02, 0.26, 0.01)
"""h / R: 0.02 is a panel 60 mm high, 0.25 one of 750 mm, 1.5 m from the source."""

COLUMNS_MM = 6.0
"""The image is looked at along z in columns this far apart, each the mean of its voxels."""

STEP_MM = 3.0
"""A step is the difference of the levels this far inside and outside the cone."""

LEAST_DROP = 0.04
"""Solid matter gets darker by this share of its distance from air, on average. The missing
projections of a half-fan scan take a third at once."""

STILL = 0.01
"""A smaller change is no fall; noise of 40 HU in the mean of 9 voxels makes 0.02."""

LEAST_FALLING = 0.85
"""In this share of the solid columns. Random steps fall in half of them."""

HALF_STEP_VOX = 0.5
"""The view ends this much before the middle of the fall, which the filter of the reconstruction
blurs over a voxel or two."""

SOLID = 0.6
"""Of the way from air to tissue; lungs and air are not looked at."""

DARKER = 0.3
"""Where a body ends, or padding begins, solid matter falls to air. Where projections are missing
it does not, in most columns: it stays above this share of the way."""

LEAST_DARKER = 0.6
"""In this share of the solid columns."""

LEAST_MET = 0.25
"""The part of all columns that the cone meets within the image."""

SAME_SLOPE = 0.02
"""Both cones have the height of one panel; the isocentre lies in its middle."""

MOST_COLUMNS = 700
"""More do not make the cones surer."""

LEAST_COLUMNS = 60
"""As many solid columns must meet the cone."""

LEAST_AREA = 0.15
"""They are this share of all columns of the view that the cone meets; a chin proves nothing."""


@dataclass(frozen=True)
class ConeEnd:
    """One end of the view.

    Args:
        apex_vox: slice at which the cone meets the axis.
        slope: mm along z for each mm from the axis.
        upper: whether it ends the view at high z.
    """

    apex_vox: float
    slope: float
    upper: bool

    def inside(
        self, shape: tuple[int, ...], radius_mm: Doubles, spacing_z_mm: float
    ) -> NDArray[np.bool_]:
        """(*shape) bool, the voxels on the seen side.

        Args:
            shape: (Z, Y, X).
            radius_mm: (Y, X), distance from the axis.
            spacing_z_mm: between slices.
        """
        z = np.arange(shape[0])[:, None, None]
        return self.sees(z, radius_mm / spacing_z_mm)

    def sees(self, z: NDArray[Any], radius: Doubles) -> NDArray[np.bool_]:
        """Whether points are on the seen side; heights and distances in slices."""
        cut = self.slope * radius + HALF_STEP_VOX
        return np.asarray(z <= self.apex_vox - cut if self.upper else z >= self.apex_vox + cut)


def cone_ends(
    volume: Floats, disc: NDArray[np.bool_], radius_mm: Doubles, spacing_mm: tuple[float, ...]
) -> list[ConeEnd]:
    """Find the cones at both ends of a round view.

    Args:
        volume: (Z, Y, X) intensities, canonical axes.
        disc: (Y, X) bool, the round view in the axial plane.
        radius_mm: (Y, X), distance from the axis of the gantry.
        spacing_mm: (z, y, x).

    Returns:
        None, one or two ends. Where no circle cuts the image there is less to go by, and only two
        cones that belong together count.
    """
    columns, radii_mm = _columns(volume, disc, radius_mm, spacing_mm)
    measured = np.ones(columns.shape, bool)
    return ends_of_columns(columns, measured, radii_mm, spacing_mm[0], is_cut=not disc.all())


def ends_of_columns(
    columns: Floats, measured: Bools, radii_mm: Doubles, spacing_z_mm: float, *, is_cut: bool
) -> list[ConeEnd]:
    """Find the cones in columns of the image.

    Args:
        columns: (Z, N) intensities along the axis of the gantry.
        measured: (Z, N), where they are none of what surrounds the scan.
        radii_mm: (N,), their distances from it.
        spacing_z_mm: of their places.
        is_cut: whether a circle cuts the image.

    Returns:
        None, one or two ends, as of :func:`cone_ends`.
    """
    radii = radii_mm / spacing_z_mm
    if columns.shape[0] < 8 or columns.shape[1] < LEAST_COLUMNS:
        return []
    low, high = (float(v) for v in np.percentile(columns, [2, 90]))
    if high <= low:
        return []
    levels = np.clip((columns - low) / (high - low), -0.5, 2.0)
    found = {}
    for upper in (False, True):
        turn = slice(None, None, 1 if upper else -1)
        end = _end(levels[turn], measured[turn], radii, spacing_z_mm, SLOPES)
        if end is not None:
            found[upper] = end
    slopes = [end.slope for end in found.values()]
    if not is_cut and (len(slopes) < 2 or abs(slopes[0] - slopes[1]) > SAME_SLOPE):
        return []
    if len(found) == 2:
        # One panel makes both cones. The end of which more is in the image tells its height.
        surer = max(found, key=lambda upper: found[upper].score)
        turn = slice(None, None, -1 if surer else 1)
        slope = np.array([found[surer].slope])
        other = _end(levels[turn], measured[turn], radii, spacing_z_mm, slope)
        found[not surer] = other or found[not surer]
    last = len(levels) - 1
    return [
        ConeEnd(end.apex_vox if upper else last - end.apex_vox, end.slope, upper)
        for upper, end in found.items()
    ]


@dataclass(frozen=True)
class _Fit:
    """A cone at the upper end: its slice on the axis, its slope, and how well it fits."""

    apex_vox: float
    slope: float
    score: float


def _columns(
    volume: Floats, disc: NDArray[np.bool_], radius_mm: Doubles, spacing_mm: tuple[float, ...]
) -> tuple[Floats, Doubles]:
    """Means of small blocks in the plane: (Z, N) levels and (N,) distances from the axis."""
    factor = [max(1, round(COLUMNS_MM / s)) for s in spacing_mm[1:]]
    ny, nx = (n // f for n, f in zip(disc.shape, factor, strict=True))

    def pooled(plane: NDArray[Any]) -> NDArray[Any]:
        cut = plane[..., : ny * factor[0], : nx * factor[1]]
        blocks = torch.from_numpy(cut).unflatten(-2, (ny, factor[0])).unflatten(-1, (nx, factor[1]))
        return np.asarray(blocks.float().mean((-3, -1)).numpy())

    whole = np.flatnonzero(pooled(disc) == 1)
    whole = whole[:: -(-len(whole) // MOST_COLUMNS) or 1]
    levels = pooled(volume).reshape(len(volume), -1)[:, whole]
    return levels, pooled(radius_mm).ravel()[whole].astype(np.float64)


def _end(
    levels: Floats, measured: Bools, radii_vox: Doubles, spacing_z_mm: float, slopes: Doubles
) -> _Fit | None:
    """The upper end, or None.

    Args:
        levels: (Z, N), 0 air and about 1 tissue, in columns.
        measured: (Z, N), where they count.
        radii_vox: (N,), distance of the columns from the axis, in slices' distances.
        spacing_z_mm: between slices.
        slopes: to choose from; a single one is kept.
    """
    step = max(1, round(STEP_MM / spacing_z_mm / 2))
    depth, count = levels.shape
    margin = int(np.ceil(SLOPES[-1] * radii_vox.max())) + 1
    # Rows that stand for cones which meet the axis beyond the image; nothing is known there.
    fall = np.zeros((depth + margin, count), np.float32)
    fall[step : depth - step] = np.clip(levels[: -2 * step] - levels[2 * step :], -0.2, 0.4)
    solid, known = np.zeros(fall.shape, bool), np.zeros(fall.shape, bool)
    known[step : depth - step] = measured[: -2 * step] & measured[2 * step :]
    solid[step : depth - step] = levels[: -2 * step] > SOLID
    solid &= known
    falling = solid & (fall > STILL)
    darker = np.zeros(fall.shape, bool)
    darker[step : depth - step] = levels[2 * step :] > DARKER
    darker &= solid
    fall[~solid] = 0.0
    best = None
    rows = np.arange(depth // 2, depth + margin)[:, None]
    columns = np.arange(count)[None, :]
    for slope in slopes:
        at = np.rint(rows - slope * radii_vox).astype(np.int32) * count + columns
        solids = np.maximum(solid.ravel()[at].sum(1), 1)
        share = falling.ravel()[at].sum(1) / solids
        drop = fall.ravel()[at].sum(1) / solids
        met = known.ravel()[at].sum(1)
        cut = (solids >= np.maximum(LEAST_COLUMNS, LEAST_AREA * met)) & (met >= LEAST_MET * count)
        cut &= (share >= LEAST_FALLING) & (drop >= LEAST_DROP)
        cut &= darker.ravel()[at].sum(1) >= LEAST_DARKER * solids
        score = np.where(cut, drop * np.sqrt(solids), 0.0)
        row = int(np.argmax(score))
        if score[row] > (0.0 if best is None else best.score):
            best = _Fit(float(rows[row, 0]), float(slope), float(score[row]))
    return None if best is None else _refined(best, fall, radii_vox, len(slopes) > 1)


def _refined(end: _Fit, fall: Floats, radii_vox: Doubles, turns: bool) -> _Fit:
    """The end at which the mean drop is largest, to a fraction of a slice.

    Args:
        end: to a slice.
        fall: (Z, N), the fall across each place of each column.
        radii_vox: (N,), as in ``_end``.
        turns: whether its slope is to be refined too.
    """
    columns = np.arange(fall.shape[1])
    best, most = end, -1.0
    for change in np.arange(-0.02, 0.021, 0.0025) if turns else (0.0,):
        slope = max(end.slope + change, 0.01)
        # The cone turns about the middle of the columns, where the first search found it.
        middle = end.apex_vox + (slope - end.slope) * float(np.mean(radii_vox))
        for apex in middle + np.arange(-1.5, 1.51, 0.25):
            at = np.clip(apex - slope * radii_vox, 0, len(fall) - 1.001)
            row = at.astype(np.int32)
            part = at - row
            drops = (1 - part) * fall[row, columns] + part * fall[row + 1, columns]
            if float(drops.sum()) > most:
                most, best = float(drops.sum()), _Fit(float(apex), float(slope), end.score)
    return best
