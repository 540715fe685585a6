"""The table of the expected error, by region."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from iterreg.image import Image
from iterreg.report.source import Source
from iterreg.report.words import NOT_MEASURED, number

WORST = 0.95
"""The table tells the bound that so large a share of a region's voxels lies below."""


@dataclass(frozen=True)
class ErrorRow:
    """The expected error in one region.

    Args:
        name: of the region.
        typical: median of the 50 % bound.
        bound: median of the 90 % bound.
        worst: 95th percentile of the 90 % bound.
        unseen: share of the region that one of the images does not show.
    """

    name: str
    typical: str
    bound: str
    worst: str
    unseen: str

    @property
    def figures(self) -> tuple[str, ...]:
        """In the order of the table's columns."""
        return self.typical, self.bound, self.worst, self.unseen


def expected_error_rows(source: Source) -> list[ErrorRow]:
    """One row per region of the fixed image, then one of the whole; none without a saved error.

    Args:
        source: of the page.
    """
    error = source.expected_error
    if error is None:
        return []
    whole = torch.ones(error.grid.shape_zyx, dtype=torch.bool)
    masks = [(name, mask) for name, mask in _regions(source, error) if bool(mask.any())]
    return [_row(name, error.data[:, mask]) for name, mask in [*masks, ("whole image", whole)]]


def _regions(source: Source, error: Image) -> list[tuple[str, Tensor]]:
    """Names and masks of the fixed regions that lie on the error's grid."""
    fixed = source.fixed_regions_on(error.grid)
    if fixed is None:
        return []
    data = fixed.data.cpu()
    return [(fixed.title(v).replace("_", " "), data == v) for v in fixed.values]


def _row(name: str, values: Tensor) -> ErrorRow:
    """A row from the (channels, N) bounds of a region, below 0 where they are not known."""
    known = values[:, (values >= 0).all(0)].cpu()
    unseen = number(100 * (1 - known.shape[1] / values.shape[1]), 0, "%")
    if known.shape[1] == 0:
        return ErrorRow(name, NOT_MEASURED, NOT_MEASURED, NOT_MEASURED, unseen)
    upper = known[-1].sort().values
    worst = float(upper[round(WORST * (len(upper) - 1))])
    lower = float(known[0].median()) if len(known) > 1 else None
    bound = float(upper[(len(upper) - 1) // 2])
    return ErrorRow(
        name, number(lower, 2, "mm"), number(bound, 2, "mm"), number(worst, 2, "mm"), unseen
    )
