"""Names of labels: those of ``--label-table``, and those that a run gave to its regions."""

from __future__ import annotations

import os
from pathlib import Path

from iterreg.texts import parse_json, without_controls

REGION_FILES = ("fixed_regions.nii.gz", "moving_regions.nii.gz")
"""The label maps that a run writes."""


def label_names(table: str | None) -> dict[int, str] | None:
    """Load the names of ``--label-table``; None if the option was not given."""
    if table is None:
        return None
    from iterreg.regions.label_tables import load_label_table

    return load_label_table(table).names


def names_of_run(labels: Path) -> dict[int, str] | None:
    """Read the names of regions that a run wrote from its ``run.json``."""
    run = labels.parent / "run.json"
    if labels.name not in REGION_FILES or not os.path.isfile(run):
        return None
    try:
        regions = parse_json(run.read_text("utf-8"))["regions"]
        return {int(value): without_controls(str(name)) for value, name in regions.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
