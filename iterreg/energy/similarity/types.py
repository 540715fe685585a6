"""The images that a similarity compares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from iterreg.features import FeatureMaps
from iterreg.features.mind import Turn


@dataclass(frozen=True)
class ComparedImages:
    """Both images of a level.

    Args:
        fixed, moving: (C, Z, Y, X) and (C, Z', Y', X') intensities, scaled to 0 ... 1.
        fixed_spacing_mm, moving_spacing_mm: (z, y, x).
        common_fov: (Z, Y, X) bool, the fixed voxels that both images see; it stays the same for
            the whole level.
        fixed_features, moving_features: of a network; None unless a similarity asks for them.
        kept: what was computed of each image before, for a term to use again.
        turn: (3, 3) rotation, how the fixed axes (z, y, x) lie in the moving image; None: alike.
    """

    fixed: Tensor
    moving: Tensor
    fixed_spacing_mm: tuple[float, ...]
    moving_spacing_mm: tuple[float, ...]
    common_fov: Tensor
    fixed_features: FeatureMaps | None = None
    moving_features: FeatureMaps | None = None
    kept: tuple[dict[Any, Tensor], dict[Any, Tensor]] = field(default_factory=lambda: ({}, {}))
    turn: Turn | None = None
