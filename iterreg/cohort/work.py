"""One case: read, register, measure, write, and record; whole or not at all."""

from __future__ import annotations

import os
import socket
import time
import traceback
from collections.abc import Mapping
from typing import Any

from iterreg.atomic import OutputFolder, write_json
from iterreg.cohort.cases import Case, Outcome, Settings, State
from iterreg.cohort.evidence import headline_figures, worst_evidence
from iterreg.cohort.records import (
    RECORD,
    case_folder,
    forget_failure,
    forget_record,
    made_from,
    read_failure,
    read_record,
    record_of,
    write_failure,
)
from iterreg.errors import (
    ExitCode,
    ImageReadError,
    IterregError,
    OutputError,
    is_out_of_memory,
    was_interrupted,
)
from iterreg.processes import peak_mb, reset_peak
from iterreg.texts import one_line

LONGEST_TRACE = 4000
"""Letters that are kept of a traceback: its end."""


def do_case(settings: Settings, case: Case) -> Outcome:
    """Register a case, unless it is done or has failed before; log a failure.

    Args:
        settings: of the run.
        case: what to register.

    Returns:
        How it ended. Only Ctrl-C leaves as an exception.
    """
    begun = time.time()
    worker = f"{socket.gethostname()}:{os.getpid()}"
    digest = ""
    try:
        digest = _digest(case, settings)
        known = known_outcome(settings.folder, case.id, digest)
        if known is not None:
            return known
        with _locked(case, settings) as folder:
            known = known_outcome(settings.folder, case.id, digest)
            if known is not None:
                return known
            forget_record(settings.folder, case.id)
            record = _register(case, settings, folder)
            new = folder.path(RECORD).parent
            span = {"begun_s": round(begun, 3), "ended_s": round(time.time(), 3)}
            facts = {"id": case.id, "made_from": digest, **record, "worker": worker, **span}
            write_json(record_of(new, facts), new / RECORD)
        forget_failure(settings.folder, case.id)
    except Exception as error:  # one bad case must not stop the others
        if was_interrupted(error):
            raise KeyboardInterrupt from error
        if isinstance(error, OutputError) and error.is_busy:
            return Outcome(case.id, State.BUSY, "another run is working on it")
        reason, code = _describe(error)
        trace = "" if isinstance(error, IterregError) else traceback.format_exc()[-LONGEST_TRACE:]
        seconds = time.time() - begun
        log_failure(settings.folder, case.id, reason, code, made_from=digest, traceback=trace)
        return Outcome(case.id, State.FAILED, reason, code, seconds, worker=worker)
    message, code = record["headline"], record["exit_code"]
    return Outcome(case.id, State.DONE, message, code, time.time() - begun, worker=worker)


def known_outcome(folder: str, case: str, digest: str) -> Outcome | None:
    """The outcome of an earlier run with the same files and settings; None without one.

    Args:
        folder: of the cohort.
        case: its id.
        digest: of the case now, by :func:`iterreg.cohort.records.made_from`.
    """
    record = read_record(folder, case)
    if record is not None and record["made_from"] == digest:
        code = int(record.get("exit_code", 0))
        return Outcome(case, State.DONE, str(record.get("headline", "")), code, kept=True)
    failure = read_failure(folder, case)
    if failure is not None and failure.get("made_from") == digest:
        code = int(failure.get("exit_code", ExitCode.ERROR))
        return Outcome(case, State.FAILED, str(failure.get("reason", "")), code, kept=True)
    return None


def log_failure(folder: str, case: str, reason: str, code: int, **more: Any) -> None:
    """Write why a case failed.

    Args:
        folder: of the cohort.
        case: its id.
        reason: one line.
        code: the exit code.
        more: what else to log.
    """
    date = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    facts = {"reason": reason, "exit_code": int(code), "date": date, **more}
    write_failure(folder, case, facts)


def _digest(case: Case, settings: Settings) -> str:
    try:
        return made_from(case, settings)
    except OSError as error:
        raise ImageReadError(f"{error.filename}: {error.strerror}") from error


def _locked(case: Case, settings: Settings) -> OutputFolder:
    """The case's folder, which one process at a time can enter."""
    return OutputFolder(case_folder(settings.folder, case.id), overwrite=True)


def _register(case: Case, settings: Settings, folder: OutputFolder) -> dict[str, Any]:
    """Register and write everything but the record; return what the record says of it."""
    from iterreg.config import load_config
    from iterreg.figures.thumbnail import thumbnail
    from iterreg.memory import limit_memory_once
    from iterreg.outputs import run_tables, write_run
    from iterreg.pair import optimize_pair
    from iterreg.provenance import Provenance

    reset_peak()
    limit_memory_once(settings.memory_gb)
    provenance = Provenance(case.files, settings.command_line or None)
    arguments = _read(case)
    config = load_config(case.preset, case.overrides)
    run = optimize_pair(
        **arguments,
        label_table=case.label_table,
        preset=config,
        device=settings.device,
        seed=settings.seed,
        threads=settings.threads,
        memory_gb=settings.memory_gb,
    )
    summary = write_run(
        folder,
        run,
        save_jacobian=settings.save_jacobian,
        save_inverse=settings.save_inverse,
        save_error=settings.save_error,
        provenance=provenance,
        report=settings.report,
    )
    thumbnail(run.fixed, run.moving, run.transform, folder.path("thumbnail.jpg"))
    return _facts(case, run_tables(summary))


def _read(case: Case) -> dict[str, Any]:
    """The arguments of ``optimize_pair``: images read, other files as paths."""
    from iterreg.io import read_image

    arguments: dict[str, Any] = dict(case.files)
    for side in ("fixed", "moving"):
        arguments[side] = read_image(case.files[side], case.series.get(side))
    return arguments


def _facts(case: Case, tables: Mapping[str, Any]) -> dict[str, Any]:
    """What the tables of a cohort need to know of a run."""
    verdict = tables["verdict"]
    status, reasons = verdict["status"], [reason["message"] for reason in verdict["reasons"]]
    return {
        "files_read": dict(case.files),
        "preset": case.preset,
        "verdict": status,
        "exit_code": int(ExitCode[status.upper()]),
        "headline": f"{status}: {reasons[0]}" if reasons else status,
        "reasons": reasons,
        "worst": worst_evidence(verdict["evidence"], tables["config"]["verdict"]),
        "figures": headline_figures(tables),
        "device": tables["device"],
        "threads": tables["threads"],
        "version": tables["versions"]["iterreg"],
        "seconds": round(sum(tables["timings_s"].values()), 2),
        "peak_mb": _whole(peak_mb()),
    }


def _whole(number: float) -> int | None:
    return round(number) if number == number else None


def _describe(error: Exception) -> tuple[str, int]:
    """A failure in one line, and the exit code that ``iterreg register`` would have."""
    if is_out_of_memory(error):
        advice = "out of memory; try fewer --jobs or a coarser levels.spacing_mm"
        code = int(ExitCode.OUT_OF_MEMORY)
        return (one_line(str(error)) if isinstance(error, IterregError) else advice), code
    if isinstance(error, IterregError):
        return one_line(str(error)), int(error.exit_code)
    if isinstance(error, OSError) and error.errno is not None:
        name = "" if error.filename is None else f"{error.filename}: "
        return one_line(f"{name}{error.strerror}"), int(ExitCode.IMAGE_READ)
    words = f"this is a bug in iterreg: {type(error).__name__}: {error}"
    return one_line(words, 300), int(ExitCode.ERROR)
