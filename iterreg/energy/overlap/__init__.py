"""The mask-wise term L_m: how well matched regions meet.

Each kind of overlap is one file beside this one and one row of ``OVERLAPS``. A row names a function
``(config: Overlap, pairs: Sequence[RegionPair], frame: Frame) -> list of terms``.

Source: SegReg, eq. 3-5. Composed Dice alone is nearly a tautology, because a region may collapse
onto a corner of its partner and still score 1. So the default, ``boundary``, compares signed
distances in a band on both sides of each region's boundary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from iterreg.config import Overlap
from iterreg.energy.overlap.types import Frame, RegionPair, is_thick
from iterreg.tables import Table

if TYPE_CHECKING:
    from iterreg.energy.terms import Term

__all__ = ["OVERLAPS", "Frame", "RegionPair", "is_thick", "overlap_terms"]

OVERLAPS = Table(
    "overlap.kind",
    {
        "boundary": "iterreg.energy.overlap.boundary:boundary_terms",
        "dice": "iterreg.energy.overlap.dice:dice_terms",
        "edt": "iterreg.energy.overlap.edt:edt_terms",
        "dice+edt": "iterreg.energy.overlap.dice_edt:dice_and_edt_terms",
    },
)


def overlap_terms(config: Overlap, pairs: Sequence[RegionPair], frame: Frame) -> list[Term]:
    """The overlap of all region pairs of a level.

    Args:
        config: kind, weight and band.
        pairs: they may overlap each other.
        frame: the level's grids.
    """
    if config.weight == 0:
        return []
    terms: list[Term] = OVERLAPS[config.kind](config, pairs, frame)
    return terms
