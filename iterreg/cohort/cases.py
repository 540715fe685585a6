"""Plain values of a cohort: a case, how cases are run, and how one ended."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

FILE_ROLES = (
    "fixed",
    "moving",
    "fixed_labels",
    "moving_labels",
    "fixed_mask",
    "moving_mask",
    "fixed_landmarks",
    "moving_landmarks",
    "initial_transform",
    "roi_pairs",
)
"""Files of a case, by the arguments of :func:`iterreg.optimize_pair` that they become."""

SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""An id is the name of a folder on every system."""

RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?|.*\.")
"""Names that Windows takes for devices, or changes."""


def is_safe_id(text: str) -> bool:
    """Whether a text can name a case: the name of a folder on every system.

    Example:
        >>> is_safe_id("sub-01_run-2"), is_safe_id("../x"), is_safe_id("")
        (True, False, False)
    """
    return SAFE_ID.fullmatch(text) is not None and RESERVED.fullmatch(text) is None


@dataclass(frozen=True)
class Case:
    """One pair to register.

    Args:
        id: its name, and the name of its folder.
        files: absolute paths, by the roles of :data:`FILE_ROLES`; fixed and moving always.
        preset: a name or a TOML file.
        overrides: changes of the preset, by dotted key.
        label_table: names of the labels' numbers; None takes those in the files.
        series: of a DICOM folder, for ``fixed`` and ``moving``.
        row: line of its table, from 1; 0 if it comes from no table.

    Example:
        >>> Case("p1", {"fixed": "/a.nii", "moving": "/b.nii"}, "general").overrides
        {}
    """

    id: str
    files: Mapping[str, str]
    preset: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    label_table: str | None = None
    series: Mapping[str, str] = field(default_factory=dict)
    row: int = 0


@dataclass(frozen=True)
class Settings:
    """What holds for all cases of a run.

    Args:
        folder: of the cohort, absolute.
        device, seed, threads: as in :func:`iterreg.optimize_pair`.
        memory_gb: the most memory that a case may use; None for all.
        save_jacobian, save_inverse, save_error: also write these.
        report: also write ``report.html`` for each case.
        bids_out: folder for the results under names by BIDS, absolute; None for none.
        command_line: program and arguments, for ``run.json``.

    Example:
        >>> Settings("/data/cohort").report
        True
    """

    folder: str
    device: str = "auto"
    seed: int = 0
    threads: int | None = None
    memory_gb: float | None = None
    save_jacobian: bool = False
    save_inverse: bool = False
    save_error: bool = False
    report: bool = True
    bids_out: str | None = None
    command_line: tuple[str, ...] = ()


class State(Enum):
    """Where a case stands.

    Example:
        >>> State.DONE.value
        'done'
    """

    DONE = "done"
    FAILED = "failed"
    BUSY = "busy"
    WAITING = "waiting"


@dataclass(frozen=True)
class Outcome:
    """How a case ended.

    Args:
        id: of the case.
        state: ``DONE``, ``FAILED``, or ``BUSY`` if another run has its lock.
        message: the verdict in one line, or the reason of the failure.
        exit_code: of ``iterreg register`` for the same pair.
        seconds: of work, in this run; 0 if the result was there already.
        kept: whether the result was there already.
        worker: host and process that did it.

    Example:
        >>> Outcome("p1", State.FAILED, "a.nii: no such file", 3).ok
        False
    """

    id: str
    state: State
    message: str
    exit_code: int = 0
    seconds: float = 0.0
    kept: bool = False
    worker: str = ""

    @property
    def ok(self) -> bool:
        """Whether the case has its result."""
        return self.state is State.DONE
