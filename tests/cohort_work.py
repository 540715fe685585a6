"""Work for the engine's tests: workers import these functions by name."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from iterreg.cohort.cases import Case, Outcome, Settings, State


def die_first(times: int, folder: Path, item: str) -> str:
    """Kill the own process so many times for items called ``bad``, then answer."""
    tries = folder / f"{item}.tries"
    with tries.open("a") as file:
        file.write("x")
    if item.startswith("bad") and len(tries.read_text()) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return item.upper()


def environment(name: str, item: int) -> str | None:
    """A variable of the worker."""
    return os.environ.get(name)


def stub(settings: Settings, case: Case) -> Outcome:
    """A case that is done at once."""
    return Outcome(case.id, State.DONE, "ok")
