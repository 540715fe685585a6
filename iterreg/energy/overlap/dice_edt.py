"""The paper's mask-wise loss: Dice and normalised depth together.

::

    E = w (E_Dice + 100 E_EDT) / 2

Source: SegReg, "Datasets and Implementation Details".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from iterreg.config import Overlap
from iterreg.energy.overlap.dice import dice_terms
from iterreg.energy.overlap.edt import edt_terms
from iterreg.energy.overlap.types import Frame, RegionPair
from iterreg.energy.terms import Term

DICE_SHARE, EDT_SHARE = 0.5, 50.0
"""Of the term's weight."""


def dice_and_edt_terms(config: Overlap, pairs: Sequence[RegionPair], frame: Frame) -> list[Term]:
    """The sum of both losses of all region pairs; see :mod:`iterreg.energy.overlap`."""
    dice = replace(config, weight=config.weight * DICE_SHARE)
    edt = replace(config, weight=config.weight * EDT_SHARE)
    return [*dice_terms(dice, pairs, frame), *edt_terms(edt, pairs, frame)]
