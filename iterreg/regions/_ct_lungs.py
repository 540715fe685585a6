"""Find airways and lungs in the body, on coarse voxels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from iterreg.errors import SegmentationError
from iterreg.regions._ct_intensity import GAS_BELOW, LUNG_BELOW
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

SMALLEST_LUNG_ML = 25.0
"""A lung that a lesion has almost collapsed; smaller dark parts are gas or noise."""

SMALLEST_THORAX_ML = 250.0
"""Both lungs together. One collapsed and one small lung of an adult in expiration exceed it."""

TRACHEA_AREA_MM2 = (40.0, 800.0)
"""Cross-section of the trachea, larynx and main bronchi (a trachea is 10 to 27 mm wide)."""

TRACHEA_LENGTH_MM = 25.0
"""A round gas-filled tube at least this long counts as the trachea (10 to 12 cm when whole)."""

LARGEST_AIRWAYS_ML = 160.0
"""Trachea, main bronchi and pharynx together; more means that the growth leaked into a lung."""


def rough_lungs(ct: DownsampledCt, dark: Bools) -> Bools:
    """Find the large dark parts: lungs, airways and gas together."""
    labels, count = parts_of(dark)
    size = np.bincount(labels.ravel(), minlength=count + 1) * ct.voxel_ml
    size[0] = 0.0
    return (size >= SMALLEST_LUNG_ML)[labels]


def find_airways(ct: DownsampledCt, body: Bools, lungs: Bools, midline: float) -> Bools:
    """Find trachea, larynx, main bronchi: a gas-filled tube near the midline, and what joins it."""
    from scipy import ndimage

    nothing = np.zeros_like(body)
    airy = lungs & (ct.tissue_fraction > GAS_BELOW)
    if not airy.any():
        return nothing
    tube = _trachea(ct, body, midline, float(np.mean(np.nonzero(airy)[0])))
    if tube is None:
        return nothing
    inner = float(np.percentile(ct.tissue_fraction[tube], 25))
    lung = float(np.median(ct.tissue_fraction[airy]))
    # Between the level in the tube and the lung's; partial volume forbids much less than 0.25.
    limit = float(np.clip((inner + lung) / 2, 0.15, 0.35))
    broad = opened(lungs & ~tube, CORE_MM, ct.spacing_mm)
    z = np.arange(body.shape[0])[:, None, None]
    x = np.arange(body.shape[2])[None, None, :]
    lowest = int(np.flatnonzero(tube.any((1, 2)))[0]) - 45.0 / ct.spacing_mm[0]
    near = (np.abs(x - midline) * ct.spacing_mm[2] < 75.0) & (z >= lowest)
    # Above the lungs nothing can leak, and the narrow glottis must not end the airway.
    over = z > int(np.flatnonzero(broad.any((1, 2)))[-1]) if broad.any() else z > lowest
    airy = (ct.tissue_fraction < np.where(over, LUNG_BELOW, limit)) & near & body & ~broad
    labels, count = ndimage.label(airy | tube, np.ones((3, 3, 3)), output=np.int32)
    joined = np.zeros(count + 1, bool)
    joined[labels[tube]] = True
    joined[0] = False
    grown = joined[labels]
    if ct.volume_ml(grown) > LARGEST_AIRWAYS_ML:
        grown = tube
    # One more voxel up to the wall, which partial volume lifted above the limit.
    dark = (ct.tissue_fraction < LUNG_BELOW) & body
    return np.asarray(ndimage.binary_dilation(grown) & dark & ~broad)


def _trachea(ct: DownsampledCt, body: Bools, midline: float, lung_z: float) -> Bools | None:
    """Find the longest stack of round gas-filled discs near the midline, in the upper lungs."""
    from scipy import ndimage

    labels, count = parts_of((ct.tissue_fraction < 0.45) & body, in_plane=True)
    if count == 0:
        return None
    discs = _round_discs(ct, labels, count, midline)
    # A slice or two may miss the disc where the trachea touches a lung: bridge 20 mm.
    bridge = np.zeros((3, 3, 3), bool)
    bridge[:, 1, 1] = True
    times = max(1, round(10.0 / ct.spacing_mm[0]))
    taller = ndimage.binary_dilation(discs[labels], bridge, times)
    stacks, count = ndimage.label(taller, np.ones((3, 3, 3)), output=np.int32)
    stacks *= discs[labels]
    best, best_length = None, TRACHEA_LENGTH_MM
    for number, box in enumerate(ndimage.find_objects(stacks), 1):
        if box is None:
            continue
        length = (box[0].stop - box[0].start) * ct.spacing_mm[0]
        if length < best_length or (box[0].stop + box[0].start) / 2 < lung_z:
            continue
        best, best_length = stacks == number, length
    return best


def _round_discs(ct: DownsampledCt, labels: Ints, count: int, midline: float) -> Bools:
    """For each in-plane part whether size, shape, place and gas are those of the trachea."""
    where = np.flatnonzero(labels)
    number = labels.ravel()[where]
    _, y, x = np.unravel_index(where, labels.shape)
    _, dy, dx = ct.spacing_mm
    size = np.maximum(np.bincount(number, minlength=count + 1), 1)
    mean_x = np.bincount(number, x, count + 1) / size
    mean_y = np.bincount(number, y, count + 1) / size
    var_x = (np.bincount(number, x.astype(float) ** 2, count + 1) / size - mean_x**2) * dx**2
    var_y = (np.bincount(number, y.astype(float) ** 2, count + 1) / size - mean_y**2) * dy**2
    level = np.bincount(number, ct.tissue_fraction.ravel()[where], count + 1) / size
    area = size * dy * dx
    # The spread of a disc of radius r is r / 2 along each axis; 0.8 r allows an oval of 1 : 2.5.
    compact = np.sqrt(np.maximum(var_x, var_y)) < 0.8 * np.sqrt(area / np.pi)
    central = np.abs(mean_x - midline) * dx < 50.0
    low, high = TRACHEA_AREA_MM2
    result = (area >= low) & (area <= high) & compact & central & (level < 0.35)
    result[0] = False
    return np.asarray(result)


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

    Such gas is emptier than lung, broad, and in the lower half. If the lungs look empty themselves
    (emphysema, scatter), the two cannot be distinguished, and nothing is removed.
    """
    from scipy import ndimage

    nothing = np.zeros_like(dark)
    empty = (ct.tissue_fraction < GAS_BELOW) & dark
    airy = dark & ~empty
    if np.count_nonzero(empty) > 0.4 * np.count_nonzero(dark) or not airy.any():
        return nothing
    labels, count = parts_of(opened(empty, POCKET_MM, ct.spacing_mm))
    size = np.bincount(labels.ravel(), minlength=count + 1) * ct.voxel_ml
    middle = float(np.mean(np.nonzero(airy)[0]))
    z = np.nonzero(labels)[0]
    total = np.bincount(labels[labels > 0], z, count + 1)
    mean_z = total / np.maximum(size / ct.voxel_ml, 1)
    take = (size >= SMALLEST_LUNG_ML) & (mean_z < middle)
    take[0] = False
    return ndimage.binary_dilation(take[labels], iterations=2) & dark if take.any() else nothing


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
