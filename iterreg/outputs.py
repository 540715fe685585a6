"""Write a run: images, label maps, transforms, the picture, ``run.json`` and ``report.html``.

All commands use it. A script that has a :class:`Registration` may call :func:`write_run` too.
"""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from iterreg.atomic import OutputFolder, write_json
from iterreg.config import config_to_dict
from iterreg.displacement import Transform, total_displacement_vox, warp_image, warp_labels
from iterreg.evaluation import Measures, measure, on_cpu, without_nan
from iterreg.expected_error import expected_error_mm
from iterreg.formats.itk import write_transform
from iterreg.geometry import Points
from iterreg.image import Image, LabelMap
from iterreg.inverse import InverseResidual, inverse_residual
from iterreg.io import write_displacement_mm, write_image, write_label_map, write_scalar
from iterreg.metrics import det_jacobian
from iterreg.progress import Progress, ProgressCallback, StageTimer, ignore_progress
from iterreg.provenance import Provenance
from iterreg.regions.field_of_view import field_of_view
from iterreg.registration import Registration

SCHEMA = 2
"""Version of ``run.json``: raised when a key goes or changes its meaning, not when one is added.
``docs/run-json.rst`` lists all keys."""


@dataclass(frozen=True)
class RunSummary:
    """The result of a run and its measures.

    Args:
        registration: the result.
        measures: before and after.
        timings_s: wall seconds per stage, writing included.
        origin: command line, date and inputs, from :class:`Provenance`.
        inverse: residual of the inverse; None if it was not asked for.
    """

    registration: Registration
    measures: Measures
    timings_s: dict[str, float]
    origin: dict[str, Any]
    inverse: InverseResidual | None = None


def write_run(
    folder: OutputFolder,
    registration: Registration,
    fixed: Image,
    moving: Image,
    *,
    start: Transform | None = None,
    landmarks: tuple[Points, Points] | None = None,
    save_jacobian: bool = False,
    save_inverse: bool = False,
    save_error: bool = False,
    report: bool = True,
    provenance: Provenance | None = None,
    progress: ProgressCallback = ignore_progress,
) -> RunSummary:
    """Measure a registration and write everything about it.

    Args:
        folder: entered; its files appear when it is left.
        registration: the result.
        fixed, moving: the pair it was made from.
        start: the transform that "before" stands for; None for the identity.
        landmarks: fixed and moving, for the landmark error.
        save_jacobian: also write the determinant of the Jacobian.
        save_inverse: also write the inverse on the moving grid, and the status of each voxel.
        save_error: also write the expected error, which takes another registration.
        report: also write ``report.html``.
        provenance: the command line and the input files; None from Python, with images in memory.
        progress: called at each stage.

    Returns:
        The summary.

    Raises:
        OutputError: a file cannot be written.
    """
    timer = StageTimer(progress, seconds=dict(registration.timings_s))
    transform = on_cpu(registration.transform)
    fixed_labels, moving_labels = registration.fixed_labels, registration.moving_labels
    # Compression takes most of the writing, and leaves the interpreter free meanwhile.
    with ThreadPoolExecutor(1) as background:
        written = [
            background.submit(
                _write_volumes, folder, registration, transform, moving, save_jacobian
            )
        ]
        if save_error:
            with timer.stage("error", 0.0, "estimating the error"):
                error = expected_error_mm(registration, fixed, moving)
                write_image(error, folder.path("expected_error_mm.nii.gz"))
        with timer.stage("measure", 0.0, "measuring"):
            measures = measure(
                transform, fixed_labels, moving_labels, start=start, landmarks=landmarks
            )
        inverse = None
        if save_inverse:
            with timer.stage("inverse", 0.4, "inverting"):
                back, status = registration.inverse(moving.grid)
                inverse = inverse_residual(transform, back, status)
            written.append(background.submit(_write_inverse, folder, back, status))
        with timer.stage("draw", 0.5, "drawing"):
            from iterreg.figures import overlay

            overlay(
                fixed,
                moving,
                transform,
                folder.path("overlay.png"),
                fixed_labels=fixed_labels,
                start=start,
                fixed_fov=field_of_view(fixed).mask,
                moving_fov=field_of_view(moving).mask,
            )
        with timer.stage("write", 0.8, "writing"):
            for task in written:
                task.result()
            origin = (provenance or Provenance({"fixed": None, "moving": None})).tables()
    summary = RunSummary(registration, measures, timer.seconds, origin, inverse)
    if report:
        with timer.stage("report", 0.85, "writing the report"):
            _write_report(folder, summary, (fixed, moving), start)
    write_json(run_tables(summary, fixed, moving), folder.path("run.json"))
    progress(Progress("write", 1.0, "done"))
    return summary


def run_tables(summary: RunSummary, fixed: Image, moving: Image) -> dict[str, Any]:
    """Return the content of ``run.json`` as plain tables; ``schema`` is its version.

    Args:
        summary: the run.
        fixed, moving: the pair it was made from.

    Returns:
        Tables without NaN, in the order in which a person reads them.
    """
    run = summary.registration
    tables = {
        "schema": SCHEMA,
        "verdict": run.verdict.to_dict(),
        **summary.origin,
        "fixed": _about(fixed),
        "moving": _about(moving),
        "regions": {v: run.fixed_labels.title(v) for v in run.fixed_labels.values},
        "measures": summary.measures.to_dict(),
        "inverse": None if summary.inverse is None else dataclasses.asdict(summary.inverse),
        "field_of_view": run.field_of_view,
        "start": run.start,
        "notes": run.notes,
        "length_scale": run.length_scale,
        "config": config_to_dict(run.config),
        "versions": run.versions,
        "device": run.device,
        "seed": run.seed,
        "threads": run.threads,
        "timings_s": {stage: round(s, 3) for stage, s in summary.timings_s.items()},
        "history": [dataclasses.asdict(level) for level in run.history],
    }
    plain: dict[str, Any] = without_nan(tables)
    return plain


def _write_report(
    folder: OutputFolder, summary: RunSummary, images: tuple[Image, Image], start: Transform | None
) -> None:
    from iterreg.report import Source, read_expected_error, write_report

    run = summary.registration
    source = Source(
        tables=run_tables(summary, *images),
        transform=run.transform,
        images=images,
        labels=(run.fixed_labels, run.moving_labels),
        start=start,
        expected_error=read_expected_error(folder.path("run.json").parent),
        folder=str(folder.folder),
    )
    write_report(folder.path("report.html"), source)


def _write_volumes(
    folder: OutputFolder,
    registration: Registration,
    transform: Transform,
    moving: Image,
    save_jacobian: bool,
) -> None:
    fill = registration.config.fill
    warped = warp_image(moving, transform, float(moving.data.min()) if fill is None else fill)
    write_image(warped, folder.path("warped.nii.gz"))
    write_displacement_mm(transform, folder.path("displacement_mm.nii.gz"))
    write_transform(transform, folder.path("transform.h5"))
    write_label_map(registration.fixed_labels, folder.path("fixed_regions.nii.gz"))
    write_label_map(registration.moving_labels, folder.path("moving_regions.nii.gz"))
    regions = warp_labels(registration.moving_labels, transform)
    write_label_map(regions, folder.path("warped_regions.nii.gz"))
    if save_jacobian:
        determinant = det_jacobian(total_displacement_vox(transform))
        write_scalar(determinant, transform.grid, folder.path("jacobian.nii.gz"))


def _write_inverse(folder: OutputFolder, inverse: Transform, status: torch.Tensor) -> None:
    write_displacement_mm(inverse, folder.path("inverse_displacement_mm.nii.gz"))
    write_transform(inverse, folder.path("inverse_transform.h5"))
    write_label_map(LabelMap(status.int(), inverse.grid), folder.path("inverse_status.nii.gz"))


def _about(image: Image) -> dict[str, Any]:
    grid = image.grid
    return {
        "file": image.name,
        "series": image.series or None,
        "size_xyz": tuple(reversed(grid.shape_zyx)),
        "spacing_xyz_mm": grid.spacing_xyz_mm,
        "origin_lps_mm": grid.origin_lps_mm,
        "axes": grid.orientation,
    }
