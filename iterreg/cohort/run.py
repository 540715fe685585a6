"""Run a cohort: every case once, on any place, and the tables of all at the end."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from iterreg.atomic import clear_stale, folder_lock
from iterreg.cohort.cases import Case, Outcome, Settings, State
from iterreg.cohort.engine import Lost, Place, do_each, require_place, threads_of
from iterreg.cohort.plan import Plan, Shard, open_folder
from iterreg.cohort.records import case_folder, forget_failure, made_from, read_failure, read_record
from iterreg.cohort.remaining import RemainingTime
from iterreg.cohort.work import do_case, known_outcome, log_failure
from iterreg.devices import pick_device
from iterreg.errors import OutputError
from iterreg.progress import Progress, ProgressCallback

PATIENCE_S = 600.0
"""How long a table waits for another run's table of the same folder."""

Do = Callable[[Settings, Case], Outcome]


@dataclass
class Result:
    """How a run of a cohort ended.

    Args:
        outcomes: one for each case that was asked for, as they ended.
        begun_s: seconds since 1970.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    begun_s: float = field(default_factory=time.time)

    def count(self, state: State) -> int:
        """Count the cases in a state."""
        return sum(outcome.state is state for outcome in self.outcomes)


def run_cohort(
    plan: Plan,
    place: Place,
    *,
    shard: Shard | None = None,
    progress: ProgressCallback,
    do: Do = do_case,
) -> Result:
    """Do every case of a plan that is not done, then write the tables of all.

    Args:
        plan: the cases; written to the folder first.
        place: where the work is done.
        shard: do this part alone.
        progress: called when a case has ended.
        do: does a case; another one stands for it in tests and benchmarks.

    Returns:
        An outcome for each case that was asked for.

    Raises:
        MissingDependencyError, DeviceError, OutputError: no case can be done; raised before any.
        CrashError: the scheduler is gone. What is done stays done.
    """
    require_place(place)
    if not place.needs_dask:
        pick_device(plan.settings.device)
    open_folder(plan)
    cases = plan.cases if shard is None else shard.of(plan.cases)
    return run_cases(plan, cases, place, progress, do)


def run_cases(
    plan: Plan, cases: Sequence[Case], place: Place, progress: ProgressCallback, do: Do = do_case
) -> Result:
    """Do some cases of a plan whose folder is open; see :func:`run_cohort`."""
    from iterreg.cohort.summary import write_tables

    settings = replace(plan.settings, threads=plan.settings.threads or threads_of(place))
    place = replace(place, threads=settings.threads)
    result, remaining = Result(), RemainingTime(len(cases))
    try:
        with closing(_each(cases, settings, place, do)) as outcomes:
            for outcome in outcomes:
                result.outcomes.append(outcome)
                ending = "kept" if outcome.kept else f"in {outcome.seconds:.1f} s"
                message = f"{outcome.id}: {outcome.message} ({ending})"
                progress(remaining.event(message, worked=not outcome.kept))
    finally:
        _tidy(plan, cases, result)
        progress(Progress("tables", 1.0, "writing the tables"))
        with folder_lock(plan.folder, PATIENCE_S):
            write_tables(plan)
    if plan.settings.bids_out is not None:
        from iterreg.cohort.bids_names import write_bids

        progress(Progress("bids", 1.0, "writing the names by BIDS"))
        with folder_lock(plan.folder, PATIENCE_S):
            write_bids(plan, Path(plan.settings.bids_out))
    return result


def _tidy(plan: Plan, cases: Sequence[Case], result: Result) -> None:
    """Remove what workers that were ended left of cases that have not ended."""
    ended = {outcome.id for outcome in result.outcomes}
    for case in cases:
        if case.id not in ended:
            clear_stale(case_folder(plan.folder, case.id))


def _each(
    cases: Sequence[Case], settings: Settings, place: Place, do: Do
) -> Generator[Outcome, None, None]:
    """The outcome of each case; a case that another run has is asked for again at the end."""
    busy: list[Case] = []
    waiting = []
    for case in cases:
        known = _known(case, settings)
        if known is None:
            waiting.append(case)
        else:
            yield known
    for last in (False, True):
        asked, busy = (busy if last else waiting), []
        if not asked:
            return
        with closing(_answers(asked, settings, place, do)) as answers:
            for case, outcome in answers:
                if outcome.state is State.BUSY and not last:
                    busy.append(case)
                else:
                    yield outcome


def _known(case: Case, settings: Settings) -> Outcome | None:
    """The outcome of an earlier run; asked here, because no worker is needed for it."""
    try:
        return known_outcome(settings.folder, case.id, made_from(case, settings))
    except OSError:
        return None


def _answers(
    cases: Iterable[Case], settings: Settings, place: Place, do: Do
) -> Generator[tuple[Case, Outcome], None, None]:
    for case, answer in do_each(cases, partial(do, settings), place):
        if isinstance(answer, Lost):
            digest = made_from(case, settings)
            code = int(answer.exit_code)
            log_failure(settings.folder, case.id, answer.reason, code, made_from=digest)
            answer = Outcome(case.id, State.FAILED, answer.reason, code)
        yield case, answer


def retry(plan: Plan, ids: Sequence[str]) -> tuple[Case, ...]:
    """Forget the failures of some cases, so that they are tried again.

    Args:
        plan: of the cohort.
        ids: of cases.

    Returns:
        Those cases.
    """
    for case in ids:
        forget_failure(plan.settings.folder, case)
    return tuple(case for case in plan.cases if case.id in set(ids))


def state_of(plan: Plan, case: Case) -> State:
    """Where a case stands, by what lies in the folder.

    Args:
        plan: of the cohort.
        case: one of its cases.
    """
    folder = plan.settings.folder
    if read_record(folder, case.id) is not None:
        return State.DONE
    if read_failure(folder, case.id) is not None:
        return State.FAILED
    place = case_folder(folder, case.id)
    if os.path.exists(place):
        try:
            with folder_lock(place, 0):
                pass
        except OutputError:
            return State.BUSY
    return State.WAITING


def count_states(plan: Plan) -> Counter[State]:
    """Count the cases of a cohort in each state."""
    return Counter(state_of(plan, case) for case in plan.cases)
