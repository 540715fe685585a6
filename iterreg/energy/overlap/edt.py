"""EDT: how deep in its region a voxel lies, compared between the images.

::

    E(u) = sum_n w (d_M(q_n) / max d_M - d_F(n) / max d_F)^2        n in the fixed region

d is the distance to the region's surface, and 0 outside it.

Source: SegReg, eq. 4.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import pad

from iterreg.config import Overlap
from iterreg.energy.distance import distance_mm
from iterreg.energy.overlap.crops import Crop, margin_voxels, sampled_differences
from iterreg.energy.overlap.types import Frame, RegionPair
from iterreg.energy.terms import SquaredDifference, Term


def edt_terms(config: Overlap, pairs: Sequence[RegionPair], frame: Frame) -> list[Term]:
    """The squared difference of normalised depths; see :mod:`iterreg.energy.overlap`."""
    return [term for pair in pairs for term in _of_pair(config, pair, frame)]


def _of_pair(config: Overlap, pair: RegionPair, frame: Frame) -> list[SquaredDifference]:
    box = pair.fixed.box
    wide = pair.moving.grown(margin_voxels(frame.margin_mm, frame.moving_spacing_mm))
    fixed = _normalised_depth(pair.fixed.mask, frame.fixed_spacing_mm)
    moving = _normalised_depth(pair.moving.mask, frame.moving_spacing_mm)
    moving = pair.moving.spread(moving, wide.box, 0.0)
    chosen = pair.fixed.mask & frame.common_fov[box]
    crops = [Crop(fixed, box)], [Crop(moving, wide.box)]
    return sampled_differences(*crops, [chosen], [config.weight * pair.weight], frame)


def _normalised_depth(mask: Tensor, spacing_mm: tuple[float, ...]) -> Tensor:
    """Distance to the outside over the largest one, 0 ... 1."""
    padded = pad(mask, (1,) * 6)
    reach = 0.5 * max(n * s for n, s in zip(padded.shape, spacing_mm, strict=True)) + 1
    depth = distance_mm(~padded, spacing_mm, reach)[1:-1, 1:-1, 1:-1]
    return depth / depth.max().clamp(min=1e-6)
