"""Write a run: images, label maps, transforms, the picture, ``run.json`` and ``report.html``.

All commands use it. A script that has a :class:`Registration` may call :func:`write_run` too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import ArrayLike

from iterreg.atomic import OutputFolder, write_json
from iterreg.config import Config, config_to_dict
from iterreg.displacement import total_displacement_vox
from iterreg.evaluation import Measures, on_cpu, without_nan
from iterreg.expected_error import expected_error_mm
from iterreg.formats.itk import write_affine, write_transform
from iterreg.image import Image, LabelMap
from iterreg.inverse import Inverse, InverseResidual
from iterreg.io import write_displacement_mm, write_image, write_label_map, write_scalar
from iterreg.metrics import det_jacobian
from iterreg.progress import Progress, ProgressCallback, StageTimer, ignore_progress
from iterreg.provenance import Provenance
from iterreg.registration import Registration
from iterreg.rigid_motion import RigidMotion

SCHEMA = 2
"""Version of ``run.json``: raised when a key goes or changes its meaning, not when one is added.
``docs/run-json.rst`` lists all keys."""

THREADS_PER_WRITER = 4
"""So many threads of a run let one more file be written at a time; each holds a volume or two."""


@dataclass(frozen=True)
class RunSummary:
    """The result of a run and its measures.

    Args:
        registration: the result.
        measures: before and after.
        timings_s: wall seconds per stage, writing included.
        origin: command line, date and inputs, from :class:`Provenance`.
        inverse: residual of the inverse; None if it was not asked for.
        rigid: the affine part, if only a rigid one was allowed.
    """

    registration: Registration
    measures: Measures
    timings_s: dict[str, float]
    origin: dict[str, Any]
    inverse: InverseResidual | None = None
    rigid: RigidMotion | None = None


def write_run(
    folder: OutputFolder,
    registration: Registration,
    *,
    isocentre_lps_mm: ArrayLike | None = None,
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
        isocentre_lps_mm: which the turns of a rigid start are given about; None: the fixed centre.
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
    rigid = None
    if registration.config.start.affine == "rigid":
        rigid = registration.rigid_motion(isocentre_lps_mm)
    timer = StageTimer(progress, seconds=dict(registration.timings_s))
    registration = replace(registration, transform=on_cpu(registration.transform))
    # Compression takes most of the writing, and leaves the interpreter free meanwhile.
    with ThreadPoolExecutor(max(1, registration.threads // THREADS_PER_WRITER)) as background:
        written = [
            background.submit(write)
            for write in _volumes_to_write(folder, registration, save_jacobian)
        ]
        if save_error:
            with timer.stage("error", 0.0, "estimating the error"):
                error = expected_error_mm(registration)
                write_image(error, folder.path("expected_error_mm.nii.gz"))
        with timer.stage("measure", 0.0, "measuring"):
            measures = registration.measure()
        inverse = None
        if save_inverse:
            with timer.stage("inverse", 0.4, "inverting"):
                back = registration.inverse()
                inverse = back.residual
            written.append(background.submit(_write_inverse, folder, back, registration.config))
        with timer.stage("draw", 0.5, "drawing"):
            registration.plot(folder.path("overlay.png"))
        with timer.stage("write", 0.8, "writing"):
            for task in written:
                task.result()
            origin = (provenance or Provenance({"fixed": None, "moving": None})).tables()
    if rigid is not None:
        write_affine(rigid.matrix_lps, folder.path("rigid_transform.tfm"))
    summary = RunSummary(registration, measures, timer.seconds, origin, inverse, rigid)
    if report:
        with timer.stage("report", 0.85, "writing the report"):
            _write_report(folder, summary)
    write_json(run_tables(summary), folder.path("run.json"))
    progress(Progress("write", 1.0, "done"))
    return summary


def run_tables(summary: RunSummary) -> dict[str, Any]:
    """Return the content of ``run.json`` as plain tables; ``schema`` is its version.

    Args:
        summary: the run.

    Returns:
        Tables without NaN, in the order in which a person reads them.
    """
    run = summary.registration
    tables = {
        "schema": SCHEMA,
        "verdict": run.verdict.to_dict(),
        **summary.origin,
        "fixed": _about(run.fixed),
        "moving": _about(run.moving),
        "regions": {v: run.fixed_labels.title(v) for v in run.fixed_labels.values},
        "dissolved": run.dissolved,
        "measures": summary.measures.to_dict(),
        "inverse": None if summary.inverse is None else dataclasses.asdict(summary.inverse),
        "rigid": None if summary.rigid is None else dataclasses.asdict(summary.rigid),
        "field_of_view": run.field_of_view,
        "start": run.start,
        "notes": [*run.notes, *summary.measures.notes],
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


def _write_report(folder: OutputFolder, summary: RunSummary) -> None:
    from iterreg.report import Source, read_expected_error, write_report

    run = summary.registration
    source = Source(
        tables=run_tables(summary),
        transform=run.transform,
        images=(run.fixed, run.moving),
        labels=(run.fixed_labels, run.moving_labels),
        start=run.initial_transform,
        expected_error=read_expected_error(folder.path("run.json").parent),
        folder=str(folder.folder),
    )
    write_report(folder.path("report.html"), source)


def _volumes_to_write(
    folder: OutputFolder, run: Registration, save_jacobian: bool
) -> list[Callable[[], None]]:
    """Functions that write a file each."""
    transform, step_mm = run.transform, run.config.field_step_mm

    def jacobian() -> None:
        determinant = det_jacobian(total_displacement_vox(transform))
        write_scalar(determinant, transform.grid, folder.path("jacobian.nii.gz"))

    tasks: list[Callable[[], None]] = [
        lambda: write_image(run.warp(), folder.path("warped.nii.gz")),
        lambda: write_displacement_mm(transform, folder.path("displacement_mm.nii.gz"), step_mm),
        lambda: write_transform(transform, folder.path("transform.h5"), step_mm),
        lambda: write_label_map(run.warp_labels(), folder.path("warped_regions.nii.gz")),
        lambda: write_label_map(run.fixed_labels, folder.path("fixed_regions.nii.gz")),
        lambda: write_label_map(run.moving_labels, folder.path("moving_regions.nii.gz")),
    ]
    return [*tasks, jacobian] if save_jacobian else tasks


def _write_inverse(folder: OutputFolder, back: Inverse, config: Config) -> None:
    inverse, status = back.transform, back.status
    step_mm = config.field_step_mm
    write_displacement_mm(inverse, folder.path("inverse_displacement_mm.nii.gz"), step_mm)
    write_transform(inverse, folder.path("inverse_transform.h5"), step_mm)
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
