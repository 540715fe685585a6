"""Find trachea and bronchi in the body, on coarse voxels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from iterreg.regions._ct_intensity import GAS_BELOW, LUNG_BELOW
from iterreg.regions._ct_lungs import CORE_MM
from iterreg.regions._ct_volume import Bools, DownsampledCt, Ints, opened, parts_of

TRACHEA_AREA_MM2 = (40.0, 800.0)
"""Cross-section of the trachea, larynx and main bronchi (a trachea is 10 to 27 mm wide)."""

TRACHEA_LENGTH_MM = 25.0
"""A round gas-filled tube at least this long counts as the trachea (10 to 12 cm when whole)."""

LARGEST_AIRWAYS_ML = 160.0
"""Trachea, main bronchi and pharynx together; more means that the growth leaked into a lung."""


@dataclass(frozen=True)
class Airways:
    """What was found of the airways.

    Args:
        tube: the trachea, or nothing.
        tree: with larynx and main bronchi; None if they cannot be told from the lungs.
    """

    tube: Bools
    tree: Bools | None

    @property
    def extent(self) -> int:
        """How much was found: 0 nothing, 1 the trachea, 2 the tree."""
        return int(self.tube.any()) + (self.tree is not None)

    def up_to(self, extent: int) -> Bools:
        """The mask of the same extent as in another image; empty for 0."""
        if extent == 0:
            return np.zeros_like(self.tube)
        return self.tube if self.tree is None or extent == 1 else self.tree


def find_airways(ct: DownsampledCt, body: Bools, lungs: Bools, midline: float) -> Airways:
    """Find trachea, larynx, main bronchi: a gas-filled tube near the midline, and what joins it."""
    from scipy import ndimage

    nothing = np.zeros_like(body)
    airy = lungs & (ct.tissue_fraction > GAS_BELOW)
    if not airy.any():
        return Airways(nothing, None)
    tube = _trachea(ct, body, midline, float(np.mean(np.nonzero(airy)[0])))
    if tube is None:
        return Airways(nothing, None)
    inner = float(np.percentile(ct.tissue_fraction[tube], 25))
    lung = float(np.median(ct.tissue_fraction[airy]))
    # Between the level in the tube and the lung's; partial volume forbids much less than 0.25.
    limit = float(np.clip((inner + lung) / 2, 0.15, 0.35))
    broad = opened(lungs & ~tube, CORE_MM, ct.spacing_mm)
    grown = _joined(ct, tube, body & ~broad, broad, (limit, midline))
    # One more voxel up to the wall, which partial volume lifted above the limit.
    dark = (ct.tissue_fraction < LUNG_BELOW) & body & ~broad
    tree = None if ct.volume_ml(grown) > LARGEST_AIRWAYS_ML else ndimage.binary_dilation(grown)
    return Airways(
        np.asarray(ndimage.binary_dilation(tube) & dark), None if tree is None else tree & dark
    )


def _joined(
    ct: DownsampledCt, tube: Bools, allowed: Bools, broad: Bools, limits: tuple[float, float]
) -> Bools:
    """The tube and the gas that joins it, near the midline and not far below the tube."""
    from scipy import ndimage

    limit, midline = limits
    z = np.arange(tube.shape[0])[:, None, None]
    x = np.arange(tube.shape[2])[None, None, :]
    lowest = int(np.flatnonzero(tube.any((1, 2)))[0]) - 45.0 / ct.spacing_mm[0]
    near = (np.abs(x - midline) * ct.spacing_mm[2] < 75.0) & (z >= lowest)
    # Above the lungs nothing can leak, and the narrow glottis must not end the airway.
    over = z > int(np.flatnonzero(broad.any((1, 2)))[-1]) if broad.any() else z > lowest
    airy = (ct.tissue_fraction < np.where(over, LUNG_BELOW, limit)) & near & allowed
    labels, count = ndimage.label(airy | tube, np.ones((3, 3, 3)), output=np.int32)
    joined = np.zeros(count + 1, bool)
    joined[labels[tube]] = True
    joined[0] = False
    return np.asarray(joined[labels])


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
