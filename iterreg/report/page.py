"""Fill the template: one HTML file that needs nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from iterreg.atomic import write_text
from iterreg.evaluation import BEFORE_GIVEN, on_cpu
from iterreg.report.checks import checks
from iterreg.report.curves import HEIGHT, WIDTH, draw_curves
from iterreg.report.error import expected_error_rows
from iterreg.report.field import (
    consistency_rows,
    error_rows,
    folding_rows,
    inverse_rows,
    rigid_rows,
)
from iterreg.report.layers import Stacks
from iterreg.report.provenance import configuration, describe_run, list_inputs, timings
from iterreg.report.regions import region_rows
from iterreg.report.render import render
from iterreg.report.slices import Size, cut_stacks
from iterreg.report.source import Source, outlines
from iterreg.report.space import describe_images, describe_position, draw_space, notes_of
from iterreg.report.sprites import viewer_data
from iterreg.report.verdict import read_verdict
from iterreg.report.words import table

MOST_BYTES = 4_800_000
"""A page stays below 5 MB, so that it can be mailed and opened at once."""

SIZES = (Size(256, 24), Size(192, 24), Size(160, 18), Size(128, 12))
"""Tried in turn until the page is small enough."""


def write_report(path: str | Path, source: Source) -> None:
    """Write the page.

    Args:
        path: the HTML file.
        source: what it shows.

    Raises:
        MissingDependencyError: jinja2 is not installed.
        OutputError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from iterreg.displacement import DisplacementField, Transform
        >>> from iterreg.geometry import Grid
        >>> grid = Grid((4, 5), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
        >>> identity = Transform(np.eye(3), DisplacementField.zero(grid))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_report(Path(folder) / "report.html", Source({}, identity, images=None))
        ...     (Path(folder) / "report.html").read_text()[:15]
        '<!doctype html>'
    """
    source = replace(source, transform=on_cpu(source.transform))
    facts = _facts(source)
    page = ""
    for size in SIZES:
        viewer = _viewer_json(source, cut_stacks(source, size))
        page = render("iterreg.report", "page", facts | {"viewer": viewer}, "viewer.js")
        if source.images is None or len(page.encode()) <= MOST_BYTES:
            break
    write_text(page, path)


def _facts(source: Source) -> dict[str, Any]:
    """Everything that the template shows, apart from the slices."""
    tables = source.tables
    measures = table(tables, "measures")
    return {
        "verdict": read_verdict(tables),
        "views": draw_space(source),
        "position": describe_position(source),
        "images": describe_images(source),
        "notes": list(dict.fromkeys([*notes_of(tables), *source.notes])),
        "before": _before(source),
        "regions": region_rows(source),
        "errors": expected_error_rows(source),
        "without_partner": measures.get("without_partner") or [],
        "levels": draw_curves(tables),
        "curve_size": (WIDTH, HEIGHT),
        "field": [
            *folding_rows(tables),
            *consistency_rows(tables),
            *inverse_rows(tables),
            *rigid_rows(tables),
            *error_rows(tables),
        ],
        "consistency": consistency_rows(tables),
        "checks": checks(source),
        "facts": describe_run(tables),
        "inputs": list_inputs(tables),
        "timings": timings(tables),
        "configuration": list(configuration(tables)),
        "folder": source.folder,
        "has_error": source.expected_error is not None,
    }


def _before(source: Source) -> str:
    """What "before" means in the pictures and, if it differs, in the tables."""
    words = "where the initial transform puts the images"
    if source.start is None:
        words = "where the files' headers put the images"
        if table(source.tables, "measures").get("before") == BEFORE_GIVEN:
            words += " (in the tables: where the initial transform puts them)"
    return words


def _viewer_json(source: Source, stacks: Stacks | None) -> str:
    """The data of the viewer, safe inside a script element."""
    if stacks is None:
        return ""
    labels = outlines(source)
    names = [] if labels is None else [labels.title(v).replace("_", " ") for v in labels.values]
    text = json.dumps(viewer_data(stacks, names), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
