"""Find the lungs in the body, on coarse voxels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from iterreg.errors import SegmentationError
from iterreg.regions._ct_intensity import GAS_BELOW
from iterreg.regions._ct_volume import (
    LEFT_LUNG,
    RIGHT_LUNG,
    Bools,
    DownsampledCt,
    Ints,
    box_of,
    distance_to,
    opened,
    parts_of,
)

CLOSING_MM = 7.0
"""Vessels and fissures up to twice this wide belong to the lung."""

CORE_MM = 9.0
"""Lung survives an opening with this radius, a main bronchus (radius 8 mm) does not."""

POCKET_MM = 8.0
"""Stomach gas is wider than twice this; bronchi and small bullae are not."""

OPEN_BELOW, ABOVE_LUNG = (0.2, 0.45), 0.1
"""Lung is at most so much denser than its upper half, within these limits; a wall is denser."""

WALL_WITHIN_MM = 16.0
"""The wall of a stomach and a diaphragm lie within this distance above gas."""

OPEN_SHARE = 0.35
"""A pocket that goes on into lung above more than this share of it is lung."""

SMALLEST_LUNG_ML = 25.0
"""A lung that a lesion has almost collapsed; smaller dark parts are gas or noise."""

SMALLEST_THORAX_ML = 250.0
"""Both lungs together. One collapsed and one small lung of an adult in expiration exceed it."""


def rough_lungs(ct: DownsampledCt, dark: Bools) -> Bools:
    """Find the large dark parts: lungs, airways and gas together."""
    labels, count = parts_of(dark)
    size = np.bincount(labels.ravel(), minlength=count + 1) * ct.voxel_ml
    size[0] = 0.0
    return (size >= SMALLEST_LUNG_ML)[labels]


def find_lungs(ct: DownsampledCt, dark: Bools) -> Bools:
    """Select the dark parts of the body that are lung.

    Raises:
        SegmentationError: there is none, or they are too small together.
    """
    labels, count = parts_of(dark & ~_gas_below_lungs(ct, dark))
    size = np.bincount(labels.ravel(), minlength=count + 1) * ct.voxel_ml
    size[0] = 0.0
    gas = np.bincount(labels.ravel(), (ct.tissue_fraction < GAS_BELOW).ravel(), count + 1)
    gas_filled = gas * ct.voxel_ml > 0.6 * np.maximum(size, 1e-6)
    keep = np.zeros(count + 1, bool)
    large = np.flatnonzero(size >= SMALLEST_LUNG_ML)
    if large.size:
        airy = np.where(gas_filled, 0.0, size)
        # Lungs may look as empty as gas (emphysema, scatter in a cone beam); bowel is smaller.
        main = int(np.argmax(airy if airy.max() >= 0.3 * size.max() else size))
        spans = _spans(labels, large)
        keep[main] = True
        for part in large:
            shared = _overlap(spans[int(part)], spans[main])
            beside = shared >= (0.5 if gas_filled[part] else 0.25)
            fair = size[part] >= 0.3 * size[main] or not gas_filled[part]
            keep[part] |= beside and fair
    total = float(size[keep].sum())
    if total < SMALLEST_THORAX_ML or bool(gas_filled[keep].all() and total < 600.0):
        raise SegmentationError(
            f"{ct.name}: expected a thorax CT with over {SMALLEST_THORAX_ML:.0f} ml of lung, "
            f"found {total:.0f} ml of air-filled parts in the body"
        )
    return keep[labels]


def _gas_below_lungs(ct: DownsampledCt, dark: Bools) -> Bools:
    """Find gas in stomach or bowel that a thin diaphragm does not separate from the lung.

    Such gas is emptier than lung, broad, in the lower half, and has a wall above it. Emphysema is
    as empty, but goes on into the rest of the lung.
    """
    from scipy import ndimage

    nothing = np.zeros_like(dark)
    empty = (ct.tissue_fraction < GAS_BELOW) & dark
    labels, count = parts_of(opened(empty, POCKET_MM, ct.spacing_mm))
    airy = dark & ~empty
    if count == 0 or not airy.any():
        return nothing
    middle = float(np.mean(np.nonzero(airy)[0]))
    upper = dark & (np.arange(len(dark))[:, None, None] >= middle)
    level = float(np.median(ct.tissue_fraction[upper])) if upper.any() else 0.0
    low, high = OPEN_BELOW
    lunglike = dark & (ct.tissue_fraction < np.clip(level + ABOVE_LUNG, low, high))
    for number in range(1, count + 1):
        pocket = labels == number
        size = ct.volume_ml(pocket)
        if size < SMALLEST_LUNG_ML or float(np.mean(np.nonzero(pocket)[0])) >= middle:
            continue
        pocket = ndimage.binary_dilation(pocket, iterations=2) & dark
        if not _is_open_above(ct, pocket & empty, lunglike):
            nothing |= pocket
    return nothing


def _is_open_above(ct: DownsampledCt, pocket: Bools, lunglike: Bools) -> bool:
    """Whether lung goes on above most of a pocket, with no wall between."""
    columns = pocket.any(0)
    top = len(pocket) - 1 - pocket[::-1].argmax(0)
    is_open = columns.copy()
    for step in range(1, round(WALL_WITHIN_MM / ct.spacing_mm[0]) + 1):
        above = np.minimum(top + step, len(pocket) - 1)
        is_open &= np.take_along_axis(lunglike, above[None], 0)[0]
    return bool(np.count_nonzero(is_open) > OPEN_SHARE * np.count_nonzero(columns))


def _spans(labels: Ints, parts: NDArray[np.int64]) -> dict[int, tuple[int, int]]:
    """First and last slice of each part."""
    from scipy import ndimage

    boxes = ndimage.find_objects(labels)
    return {int(p): (boxes[p - 1][0].start, boxes[p - 1][0].stop - 1) for p in parts}


def _overlap(span: tuple[int, int], other: tuple[int, int]) -> float:
    """Share of a span of slices that lies in the other."""
    shared = min(span[1], other[1]) - max(span[0], other[0]) + 1
    return max(shared, 0) / (span[1] - span[0] + 1)


def left_or_right(ct: DownsampledCt, lungs: Bools, midline: float) -> Ints:
    """Label every voxel of the lungs as LEFT_LUNG or RIGHT_LUNG."""
    labels, count = parts_of(lungs)
    result = np.zeros(labels.shape, np.int32)
    size = np.bincount(labels.ravel(), minlength=count + 1)
    size[0] = 0
    main_x = None
    for part in np.argsort(-size)[:count]:
        mask = labels == part
        split = _split(ct, mask, midline)
        if split is not None:
            result[mask] = split[mask]
            main_x = midline if main_x is None else main_x
            continue
        x = float(np.mean(np.nonzero(mask)[2]))
        left = x > midline
        if main_x is None:
            main_x = x
        elif abs(x - main_x) * ct.spacing_mm[2] > 70.0:
            # A collapse or a tumour may push a lung over the midline; their order still decides.
            left = x > main_x
        result[mask] = LEFT_LUNG if left else RIGHT_LUNG
    return result


def _split(ct: DownsampledCt, mask: Bools, midline: float) -> Ints | None:
    """Separate lungs that touch: erode to a core on each side, then take the nearest core."""
    x = np.nonzero(mask.any((0, 1)))[0]
    span_mm = ((midline - x[0]) * ct.spacing_mm[2], (x[-1] - midline) * ct.spacing_mm[2])
    if min(span_mm) < 40.0:
        return None
    box = box_of(mask, 1)
    inner = mask[box]
    depth = distance_to(~inner, ct.spacing_mm)
    for radius in (0.0, 3.0, 5.0, 7.0, 10.0, 14.0):
        cores, count = parts_of(depth > radius)
        size = np.bincount(cores.ravel(), minlength=count + 1)
        where = np.nonzero(cores)
        total_x = np.bincount(cores[where], where[2], count + 1)
        off_mm = (total_x / np.maximum(size, 1) + box[2].start - midline) * ct.spacing_mm[2]
        size[0] = 0
        left, right = (off_mm > 20.0), (off_mm < -20.0)
        if min(size[left].sum(), size[right].sum()) < 0.08 * size.sum():
            continue
        if size[~left & ~right].sum() > 0.25 * size.sum():
            continue
        left[0] = right[0] = False
        nearer_left = distance_to(left[cores], ct.spacing_mm) < distance_to(
            right[cores], ct.spacing_mm
        )
        result = np.zeros(mask.shape, np.int32)
        result[box] = np.where(nearer_left, LEFT_LUNG, RIGHT_LUNG)
        return result
    return None


def close_lungs(ct: DownsampledCt, sides: Ints, allowed: Bools) -> Ints:
    """Add vessels and fissures to the lungs: close them in mm, and fill their holes."""
    result = sides.copy()
    for side in (LEFT_LUNG, RIGHT_LUNG):
        if not (sides == side).any():
            continue
        margin = int(CLOSING_MM / min(ct.spacing_mm)) + 2
        box = box_of(sides == side, margin)
        mask = sides[box] == side
        grown = distance_to(mask, ct.spacing_mm) <= CLOSING_MM
        closed = distance_to(~grown, ct.spacing_mm) > CLOSING_MM
        closed = (closed & allowed[box]) | mask
        holes, count = parts_of(~closed)
        border = np.zeros(count + 1, bool)
        for axis in range(3):
            border[holes.take(0, axis)] = border[holes.take(-1, axis)] = True
        border[0] = True
        closed |= ~border[holes]
        result[box][closed & (result[box] == 0)] = side
    return result
