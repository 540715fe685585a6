"""Where a command's result comes from: the command line as typed, and the files it was given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from iterreg.config import preset_names

if TYPE_CHECKING:
    from iterreg.provenance import Provenance

COMMAND_LINE = "iterreg.command_line"
"""Key of the command line in click's context."""

INPUTS = (
    "fixed",
    "moving",
    "series",
    "labels",
    "points",
    "fixed_labels",
    "moving_labels",
    "fixed_mask",
    "moving_mask",
    "fixed_landmarks",
    "moving_landmarks",
    "known_field",
    "roi_pairs",
    "prompts",
    "label_table",
    "preset",
)
"""Options that name a file to read, in the order in which they are recorded."""


CHAINS = {"transform": "transforms", "initial_transform": "initial_transforms"}
"""Roles of transforms, and the options that may name several of them."""


def provenance_of(values: Mapping[str, Any]) -> Provenance:
    """Record a command's inputs, and begin to hash them.

    Args:
        values: the command's options by name; those that are not files are passed over, and so is
            a preset or a label table that comes with iterreg.
    """
    from iterreg.provenance import Provenance
    from iterreg.regions.label_tables import table_names

    built_in = {"label_table": table_names, "preset": preset_names}
    files: dict[str, str | Path | None] = {}
    for role in INPUTS:
        value = values.get(role)
        if value is not None and not (role in built_in and value in built_in[role]()):
            files[role] = value
    for role, several in CHAINS.items():
        paths = values.get(several) or ()
        for number, path in enumerate(paths, 1):
            files[role if len(paths) == 1 else f"{role}_{number}"] = path
    context = click.get_current_context(silent=True)
    return Provenance(files, None if context is None else context.meta.get(COMMAND_LINE))
