"""Whether two values lie in the same space."""

from __future__ import annotations

from typing import Protocol

import torch

from iterreg.errors import GeometryError
from iterreg.geometry import Grid


class OnGrid(Protocol):
    """Anything that has a grid and a name."""

    @property
    def grid(self) -> Grid:
        """Where its voxels are."""

    @property
    def name(self) -> str:
        """The file or argument it came from."""


def require_same_space(first: OnGrid, second: OnGrid) -> None:
    """Refuse two values that should be in the same space but are not.

    Args:
        first: the value to check (a label map, a mask).
        second: the value whose space it should share (its image).

    Raises:
        GeometryError: they differ; the message names both and the difference.
    """
    a, b = first.grid, second.grid
    if a.same_space(b):
        return
    if a.shape_zyx != b.shape_zyx:
        size_a, size_b = tuple(reversed(a.shape_zyx)), tuple(reversed(b.shape_zyx))
        what = f"size {size_b}, got {size_a}"
    elif not torch.allclose(torch.tensor(a.spacing_xyz_mm), torch.tensor(b.spacing_xyz_mm), 1e-3):
        what = f"spacing {_short(b.spacing_xyz_mm)} mm, got {_short(a.spacing_xyz_mm)} mm"
    elif not torch.allclose(torch.tensor(a.direction_lps), torch.tensor(b.direction_lps), 0, 1e-3):
        what = f"axes {b.orientation} {b.direction_lps}, got {a.orientation} {a.direction_lps}"
    else:
        what = f"origin {_short(b.origin_lps_mm)} mm, got {_short(a.origin_lps_mm)} mm"
    raise GeometryError(f"{first.name}: expected the space of {second.name}: {what}")


def _short(numbers: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{n:.6g}" for n in numbers) + ")"
