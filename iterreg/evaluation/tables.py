"""Measures as people read them: the rows of the regions, and facts about the field."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from iterreg.evaluation.values import Measures
    from iterreg.inverse import InverseResidual
    from iterreg.metrics import Folding, TreSummary

SDLOGJ_L2R = "SDlogJ-L2R"
"""What the Learn2Reg evaluator calls SDlogJ; SDlogJ alone is the plain standard deviation."""

KNOWN = "voxels, against the known field"

Row = tuple[str, ...]
Fact = tuple[str, str | Sequence[str]]
"""A name, and a text or a list of items."""


def region_table(measures: Measures) -> tuple[Row, list[Row]]:
    """The header and a row for each region."""
    errors = measures.field_error_before, measures.field_error_after
    header: Row = ("region", "Dice", "HD95 (mm)", "coverage (%)", "volume, mapped", "partner's")
    header += () if None in errors else ("error (mm)",)
    rows = []
    for region in measures.regions:
        row: Row = (
            region.name.replace("_", " "),
            f"{number(region.dice_before, 3)} -> {number(region.dice_after, 3)}",
            f"{number(region.hd95_before_mm, 1)} -> {number(region.hd95_after_mm, 1)}",
            number(100 * region.coverage, 1),
            f"x {number(region.volume_change, 3)}",
            f"x {number(region.volume_partner, 3)}",
        )
        found = [e.by_label[region.value].mean_mm for e in errors if e is not None]
        row += (" -> ".join(number(mean, 2) for mean in found),) if found else ()
        rows.append(row)
    return header, rows


def field_facts(measures: Measures) -> list[Fact]:
    """Facts on landmarks, on the field, and on what was skipped."""
    facts: list[Fact] = [("before", f"is {measures.before}")]
    if measures.tre_before is not None and measures.tre_after is not None:
        facts.append(("landmarks", _errors(measures.tre_before, measures.tre_after, "landmarks")))
    first, last = measures.field_error_before, measures.field_error_after
    if first is not None and last is not None:
        facts.append(("error", _errors(first.overall, last.overall, KNOWN)))
    if measures.folding is not None:
        facts += _folding_facts(measures.folding)
    if measures.sdlogj is not None and measures.sdlogj_interior is not None:
        inside, whole = (number(v, 3) for v in (measures.sdlogj_interior, measures.sdlogj))
        apart = measures.folding is not None and measures.folding.interface_voxels > 0
        facts.append(("SDlogJ", f"{inside} interior, {whole} whole" if apart else whole))
    if measures.sdlogj_l2r is not None:
        facts.append(
            (
                SDLOGJ_L2R,
                f"{number(measures.sdlogj_l2r, 4)} (of the Learn2Reg evaluator, as in papers)",
            )
        )
    if measures.without_partner:
        head, *others = measures.without_partner
        facts.append(("skipped", [f"in one image only: {head}", *others]))
    return facts


def _folding_facts(folds: Folding) -> list[Fact]:
    text = f"{_share(folds.interior_folds, folds.interior_voxels)} (interfaces are not known)"
    if folds.interface_voxels > 0:
        text = (
            f"interior {_share(folds.interior_folds, folds.interior_voxels)}, "
            f"interfaces {_share(folds.interface_folds, folds.interface_voxels)} "
            f"({100 * folds.share_interior:.0f} % of voxels are interior)"
        )
    return [
        ("folding", text),
        ("NDV", f"{folds.ndv_vox:.2f} voxels, {folds.ndv_percent:.4f} % of the image"),
    ]


def _errors(before: TreSummary, after: TreSummary, of: str) -> str:
    return (
        f"{before.mean_mm:.2f} -> {after.mean_mm:.2f} mm on average, worst "
        f"{before.max_mm:.1f} -> {after.max_mm:.1f} ({after.count} {of})"
    )


def _share(folds: int, voxels: int) -> str:
    if folds == 0 or voxels == 0:
        return "none"
    return f"{100 * folds / voxels:.2g} %"


def number(value: float, digits: int) -> str:
    """Format a number; NaN and infinity become a dash."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


def inverse_facts(residual: InverseResidual) -> list[Fact]:
    """Facts on the inverse: its residual, and the moving voxels that have no single answer."""
    found = residual.domain
    if found.median_mm is None or found.p95_mm is None or found.max_mm is None:
        return [("inverse", "no moving voxel comes from the fixed image")]
    text = (
        f"residual {found.median_mm:.2g} mm (median), {found.p95_mm:.2g} (95 %), "
        f"{found.max_mm:.2g} (largest)"
    )
    odd = [
        f"{100 * part.voxels / found.voxels:.2g} % {name} (up to {part.max_mm:.2g} mm)"
        for name, part in (
            ("in gaps", residual.gap),
            ("in overlaps", residual.overlap),
            ("blended", residual.blended),
        )
        if part.max_mm is not None
    ]
    return [("inverse", text), *([("", odd)] if odd else [])]


def text_of(measures: Measures) -> str:
    """All measures as lines of text: the regions as a table, then the facts, then the notes."""
    rows = [*([region_table(measures)[0]] if measures.regions else []), *region_table(measures)[1]]
    lines = aligned(rows)
    facts = field_facts(measures)
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        lines.append(f"{name:<{width}}  {value if isinstance(value, str) else ', '.join(value)}")
    return "\n".join([*lines, *(f"note: {note}" for note in measures.notes)])


def aligned(rows: Sequence[Row]) -> list[str]:
    """Rows as lines: the first column to the left, the others to the right.

    Example:
        >>> aligned([("region", "Dice"), ("lung", "0.9")])
        ['region  Dice', 'lung     0.9']
    """
    if not rows:
        return []
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [f"{row[0]:<{widths[0]}}"]
        cells += [f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines
