"""Figures of the displacement field: folding, volume change, and consistency with the way back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from iterreg.report.words import flatten, is_number, number, short, split_unit, table
from iterreg.rigid_motion import RigidMotion

Row = tuple[str, str, str]
"""Name, figure with unit, and what it means."""


def folding_rows(tables: Mapping[str, Any]) -> list[Row]:
    """Rows on folding and on the spread of the Jacobian."""
    measures = table(tables, "measures")
    folds = table(measures, "folding")
    if not folds:
        return []
    rows = [
        (f"Folded voxels, {where}", _count(folds, part), meaning)
        for part, where, meaning in (
            ("interior", "inside regions", "The map turns tissue over here. 0 is expected."),
            ("interface", "between regions", "Regions that slide may overlap by a voxel here."),
        )
    ]
    if folds.get("interface_voxels") == 0:  # no label maps told the regions apart
        rows = [("Folded voxels", _count(folds, "interior"), "The map turns tissue over here.")]
    ndv = folds.get("ndv_vox", measures.get("ndv"))
    percent = folds.get("ndv_percent")
    value = number(ndv, 2, "voxels")
    if is_number(percent):
        value += f" ({percent:.2g} % of the voxels)"
    rows.append(("Non-diffeomorphic volume (NDV)", value, "Volume of all cells that turn over."))
    for key, name, meaning in (
        ("sdlogj_interior", "SDlogJ, inside regions", "Spread of log det J, without the jumps."),
        ("sdlogj", "SDlogJ, whole image", "Spread of log det J; 0 is a rigid shift."),
        ("sdlogj_l2r", "SDlogJ-L2R", "Learn2Reg's formula: compare this one with papers."),
    ):
        if is_number(measures.get(key)):
            rows.append((name, number(measures[key], 4), meaning))
    return rows


def consistency_rows(tables: Mapping[str, Any]) -> list[Row]:
    """Rows on the distance between a point and where it ends after the way there and back."""
    rows = []
    for source in (table(tables, "verdict", "evidence"), table(tables, "measures")):
        for name, value in flatten(source, " "):
            if "consistency" in name and is_number(value):
                words, unit = split_unit(name)
                meaning = "Distance after registering there and, separately, back."
                rows.append((words.capitalize(), short(value, unit), meaning))
    return rows


def inverse_rows(tables: Mapping[str, Any]) -> list[Row]:
    """Rows on the inverse that ``--save-inverse`` wrote: its residual, and where it has none."""
    rows = []
    domain = table(tables, "inverse", "domain")
    for key, name in (
        ("median_mm", "median"),
        ("p95_mm", "95th percentile"),
        ("max_mm", "largest"),
    ):
        if is_number(domain.get(key)):
            meaning = "Distance from a moving voxel after the inverse and the transform."
            rows.append((f"Inverse, residual, {name}", number(domain[key], 4, "mm"), meaning))
    for part, meaning in (
        ("gap", "Regions drew apart here: no fixed point maps onto these moving voxels."),
        ("overlap", "Regions slid over each other here: the moving region decides."),
        ("blended", "Next to a sliding interface: right for the region, not for the dense field."),
    ):
        found = table(tables, "inverse", part)
        if found and domain.get("voxels"):
            share = 100 * found.get("voxels", 0) / domain["voxels"]
            value = f"{short(found.get('voxels'))} of {domain['voxels']} voxels ({share:.2g} %)"
            if is_number(found.get("max_mm")):
                value += f", residual up to {number(found['max_mm'], 2, 'mm')}"
            rows.append((f"Inverse, {part}", value, meaning))
    return rows


def rigid_rows(tables: Mapping[str, Any]) -> list[Row]:
    """Rows on the rigid part, where only a rigid one was allowed: a couch shift."""
    rigid = table(tables, "rigid")
    if not rigid:
        return []
    motion = RigidMotion(*(tuple(rigid[f.name]) for f in dataclasses.fields(RigidMotion)))
    meaning = (
        "Takes the patient of the fixed image to where he lies in the moving one (LPS); the turn "
        "about x comes first. rigid_transform.tfm holds it; the field is what bends on top of it."
    )
    return [("Rigid part", motion.words, meaning)]


def error_rows(tables: Mapping[str, Any]) -> list[Row]:
    """Rows on the distance from a known field, before and after."""
    rows = []
    for when in ("before", "after"):
        found = table(tables, "measures", f"field_error_{when}", "overall")
        for key, name in (
            ("mean_mm", "mean"),
            ("p95_mm", "95th percentile"),
            ("max_mm", "largest"),
        ):
            if is_number(found.get(key)):
                meaning = f"Distance from the known field {when} registration, over all voxels."
                value = number(found[key], 2, "mm")
                rows.append((f"Error {when}, {name}", value, meaning))
    return rows


def _count(folds: Mapping[str, Any], part: str) -> str:
    count: Any = folds.get(f"{part}_folds")
    voxels = folds.get(f"{part}_voxels")
    text = short(count)
    if is_number(count) and voxels:
        text += f" of {voxels} voxels ({100 * count / voxels:.2g} %)"
    return text
