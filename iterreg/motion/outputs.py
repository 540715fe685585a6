"""Write the motion of a series: fields, warped phases, labels, points, tables and the page."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from iterreg.atomic import OutputFolder, write_json, write_text
from iterreg.config import config_to_dict
from iterreg.displacement import (
    total_displacement_mm,
    total_displacement_vox,
    warp_image,
    warp_labels,
)
from iterreg.evaluation import without_nan
from iterreg.formats.itk import write_transform
from iterreg.geometry import Points
from iterreg.image import LabelMap
from iterreg.inverse import invert_to_grid
from iterreg.io import (
    write_displacement_mm,
    write_image,
    write_label_map,
    write_points,
    write_scalar,
)
from iterreg.metrics import det_jacobian, folding, sdlogj
from iterreg.motion.plot import plot_curves
from iterreg.motion.register import Motion
from iterreg.motion.strain import NAMES, Wall, strains, wall_of
from iterreg.progress import Progress, ProgressCallback, ignore_progress
from iterreg.provenance import Provenance
from iterreg.regions.field_of_view import field_of_view
from iterreg.versions import versions

SCHEMA = 1
"""Version of ``motion.json``."""

LOG_FLOOR = 1e-3
"""Determinants are clipped here before their logarithm."""


@dataclass(frozen=True)
class Guests:
    """What is taken along through the series, all in the reference.

    Args:
        labels: None without any.
        points: None without any.
        wall, cavity: numbers of a heart's labels; None without strain.
    """

    labels: LabelMap | None = None
    points: Points | None = None
    wall: int | None = None
    cavity: int | None = None

    def require(self) -> Wall | None:
        """The wall for strain, found before any work; None if none was asked for.

        Raises:
            ImageContentError: its labels are empty.
        """
        if self.labels is None or self.wall is None or self.cavity is None:
            return None
        return wall_of(self.labels, self.wall, self.cavity)


def write_motion(
    folder: OutputFolder,
    motion: Motion,
    guests: Guests,
    *,
    provenance: Provenance | None = None,
    report: bool = True,
    progress: ProgressCallback = ignore_progress,
) -> dict[str, Any]:
    """Write everything about the motion of a series.

    Args:
        folder: entered; its files appear when it is left.
        motion: the result.
        guests: labels and points of the reference.
        provenance: command line and inputs.
        report: also write ``motion.html``.
        progress: called for each phase.

    Returns:
        The content of ``motion.json``.

    Raises:
        OutputError: a file cannot be written.
    """
    wall = guests.require()
    rows, paths, volumes, strain = [], [], [], []
    carried: list[LabelMap | None] = []
    count = len(motion.phases)
    for number in range(count):
        progress(Progress("write", number / count, f"writing phase {motion.phases[number].name}"))
        rows.append(_write_phase(folder, motion, number))
        carried.append(_carry_labels(folder, motion, number, guests.labels))
        paths += _path_rows(folder, motion, number, guests.points)
        volumes += _volume_rows(motion, number, guests.labels)
        strain += [] if wall is None else _strain_rows(motion, number, wall)
    _write_tables(folder, paths, volumes, strain)
    origin = (provenance or Provenance({"series": None})).tables()
    tables: dict[str, Any] = without_nan(
        {
            "schema": SCHEMA,
            **origin,
            "reference": motion.reference,
            "periodic": motion.periodic,
            "course": {
                "weight": motion.course.weight,
                "jitter_before_mm": motion.course.jitter_before,
                "jitter_after_mm": motion.course.jitter_after,
                "largest_motion_before_mm": motion.course.largest_before,
                "largest_motion_after_mm": motion.course.largest_after,
            },
            "phases": rows,
            "config": _config(motion),
            "versions": versions(),
        }
    )
    if report:
        from iterreg.motion.page import write_page

        progress(Progress("report", 0.95, "writing the report"))
        curves = {"paths": bool(paths), "volumes": bool(volumes), "strain": bool(strain)}
        write_page(folder, motion, carried, tables, curves)
    write_json(tables, folder.path("motion.json"))
    return tables


def _config(motion: Motion) -> dict[str, Any] | None:
    run = next((run for run in motion.registrations if run is not None), None)
    return None if run is None else config_to_dict(run.config)


def place_of(number: int) -> str:
    """The folder of a phase.

    Example:
        >>> place_of(3)
        'phase03'
    """
    return f"phase{number:02d}"


def _write_phase(folder: OutputFolder, motion: Motion, number: int) -> dict[str, Any]:
    phase, transform = motion.phases[number], motion.transforms[number]
    run, place = motion.registrations[number], place_of(number)
    row: dict[str, Any] = {"number": number, "name": phase.name, "folder": place}
    if run is None:
        write_image(phase.image, folder.path(f"{place}/warped.nii.gz"))
        return row | {"reference": True}
    fill = run.config.fill
    fill = float(phase.image.data.min()) if fill is None else fill
    write_image(warp_image(phase.image, transform, fill), folder.path(f"{place}/warped.nii.gz"))
    write_displacement_mm(transform, folder.path(f"{place}/displacement_mm.nii.gz"))
    write_transform(transform, folder.path(f"{place}/transform.h5"))
    total = total_displacement_vox(transform)
    logarithm = det_jacobian(total).clamp(min=LOG_FLOOR).log()
    write_scalar(logarithm, transform.grid, folder.path(f"{place}/log_jacobian.nii.gz"))
    seen = field_of_view(motion.fixed.image).mask
    length = total_displacement_mm(transform).square().sum(0).sqrt()[seen]
    folds = folding(total, run.fixed_labels.data)
    return row | {
        "verdict": run.verdict.status.value,
        "reasons": [reason.message for reason in run.verdict.reasons],
        "start": run.start,
        "motion_mean_mm": float(length.mean()),
        "motion_p95_mm": float(np.quantile(length.numpy(), 0.95)),
        "sdlogj": sdlogj(total, seen),
        "interior_folds": folds.interior_folds,
        "seconds": round(sum(run.timings_s.values()), 2),
    }


def _carry_labels(
    folder: OutputFolder, motion: Motion, number: int, labels: LabelMap | None
) -> LabelMap | None:
    """Take the reference's labels to a phase, and write them there."""
    if labels is None:
        return None
    run = motion.registrations[number]
    carried = labels
    if run is not None:
        grid = motion.phases[number].image.grid
        regions = run.fixed_labels, run.moving_labels
        back, _ = invert_to_grid(motion.transforms[number], grid, *regions)
        carried = warp_labels(labels, back)
    write_label_map(carried, folder.path(f"{place_of(number)}/labels.nii.gz"))
    return carried


def _path_rows(
    folder: OutputFolder, motion: Motion, number: int, points: Points | None
) -> list[dict[str, Any]]:
    """Take the reference's points to a phase, write them, and list them."""
    if points is None:
        return []
    moved = motion.transforms[number].map_points(points)
    write_points(moved, folder.path(f"{place_of(number)}/points.csv"))
    apart_mm = np.linalg.norm(moved.lps - points.lps, axis=1)
    name = motion.phases[number].name
    return [
        {
            "point": k,
            "phase": number,
            "name": name,
            **dict(zip("xyz", map(float, lps), strict=True)),
            "displacement_mm": float(apart_mm[k]),
        }
        for k, lps in enumerate(moved.lps)
    ]


def _volume_rows(motion: Motion, number: int, labels: LabelMap | None) -> list[dict[str, Any]]:
    """The volume of each label in a phase: the integral of det J over it in the reference."""
    if labels is None:
        return []
    determinant = det_jacobian(total_displacement_vox(motion.transforms[number])).double()
    voxel_ml = float(np.prod(labels.grid.spacing_xyz_mm)) / 1000
    rows = []
    for value in labels.values:
        inside = torch.as_tensor(labels.data == value)
        still = float(inside.sum()) * voxel_ml
        volume = float(determinant[inside].sum()) * voxel_ml
        rows.append(
            {
                "label": labels.title(value),
                "phase": number,
                "volume_ml": volume,
                "share_of_reference": volume / still,
            }
        )
    return rows


def _strain_rows(motion: Motion, number: int, wall: Wall) -> list[dict[str, Any]]:
    found = strains(motion.transforms[number], wall)
    return [
        {
            "direction": name,
            "phase": number,
            "mean": float(values.mean()),
            "median": float(np.median(values)),
            "p10": float(np.quantile(values, 0.1)),
            "p90": float(np.quantile(values, 0.9)),
        }
        for name, values in zip(NAMES, found, strict=True)
    ]


def _write_tables(
    folder: OutputFolder,
    paths: Sequence[Mapping[str, Any]],
    volumes: Sequence[Mapping[str, Any]],
    strain: Sequence[Mapping[str, Any]],
) -> None:
    for name, rows, by, value, axis in (
        ("paths", paths, "point", "displacement_mm", "distance from the reference, mm"),
        ("volumes", volumes, "label", "share_of_reference", "volume, share of the reference"),
        ("strain", strain, "direction", "mean", "mean strain"),
    ):
        if rows:
            write_text(_csv(rows), folder.path(f"{name}.csv"))
            lines: dict[str, list[float]] = {}
            for row in rows:
                lines.setdefault(str(row[by]), []).append(row[value])
            plot_curves(lines, axis, folder.path(f"{name}.png"))


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()})
    return text.getvalue()
