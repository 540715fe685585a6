"""``iterreg cohort``: register many pairs, each once, and show all on one page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from iterreg.cli.cohort_options import cases_of, pairs_options, place_of, place_options
from iterreg.cli.cohort_options import result_options as how_options
from iterreg.cli.failures import HelpfulGroup, debug_option
from iterreg.cli.options import PATH, json_option, quiet_option, refuse_existing
from iterreg.cli.origin import COMMAND_LINE
from iterreg.cli.streams import complain, hint, tell
from iterreg.texts import one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from iterreg.cohort.plan import Plan
    from iterreg.cohort.run import Result
    from iterreg.progress import ProgressCallback

MOST_LINES = 20
"""Most problems or failures that are printed; the others are counted."""


@click.group(cls=HelpfulGroup, short_help="Register many pairs, on one machine or a cluster.")
@debug_option
def cohort() -> None:
    """Register many pairs, each once, on one machine or on a cluster.

    A pair is done when its record is in the folder, so any command here may be interrupted, killed
    and repeated. cohort.html shows all pairs on one page, the worst first.
    """


@cohort.command(short_help="Register all pairs of a table, or continue.")
@pairs_options
@click.option("--out", type=PATH, required=True, metavar="DIR", help="Folder of the cohort.")
@click.option(
    "--bids-out", type=PATH, metavar="DIR", help="Also write the results by BIDS' names here."
)
@click.option("--shard", metavar="I/N", help="Do only this part, such as 3/8: for array jobs.")
@click.option("--check", "check_only", is_flag=True, help="Check all pairs, and register none.")
@click.option("--job-script", is_flag=True, help="Print the job of --cluster, and submit none.")
@how_options
@place_options
def run(
    files: tuple[Path, ...],
    all_to: Path | None,
    each_to_each: bool,
    bids: Path | None,
    fixed_query: str | None,
    moving_query: str | None,
    out: Path,
    bids_out: Path | None,
    shard: str | None,
    check_only: bool,
    job_script: bool,
    quiet: bool,
    no_report: bool,
    **options: Any,
) -> None:
    """Register all pairs of PAIRS.csv, a table with the columns id, fixed and moving.

    The table may also have label maps, masks, landmarks, a preset and any key of --set for each
    pair. Everything is checked before work begins. The same command continues after an
    interruption; a pair that failed is tried again by iterreg cohort retry.
    """
    from iterreg.cohort.bids_names import check_bids_out
    from iterreg.cohort.cases import Settings
    from iterreg.cohort.plan import Plan, Shard
    from iterreg.cohort.run import run_cohort
    from iterreg.errors import ConfigError

    place = place_of(options)
    if job_script:
        _print_job(place)
        return
    part = None if shard is None else Shard.parse(shard)
    queries = fixed_query, moving_query
    if bids_out is not None and os.path.realpath(bids_out) == os.path.realpath(out):
        raise click.UsageError("--bids-out needs a folder of its own, got that of --out")
    try:
        cases = cases_of(files, all_to, each_to_each, bids, queries, options)
        if bids_out is not None:
            check_bids_out(cases, bids_out)
    except ConfigError as error:
        if len(error.details) == 1:
            raise ConfigError(f"{error}: {error.details[0]}") from error
        _print_lines(error.details, "problems")
        raise
    names = ("device", "seed", "threads", "memory_gb")
    saved = ("save_jacobian", "save_inverse", "save_error")
    settings = Settings(
        str(out.absolute()),
        report=not no_report,
        bids_out=None if bids_out is None else str(bids_out.absolute()),
        command_line=tuple(click.get_current_context().meta.get(COMMAND_LINE, ())),
        **{name: options[name] for name in (*names, *saved)},
    )
    plan = Plan(cases, settings)
    if check_only:
        if not quiet:
            tell(f"{len(cases)} pairs can be used")
        return
    _run(plan, quiet, lambda report: run_cohort(plan, place, shard=part, progress=report))


@cohort.command(short_help="Try pairs again that failed.")
@click.argument("folder", type=PATH, metavar="DIR")
@click.option("--failed", is_flag=True, help="All pairs that failed.")
@click.option("--case", "cases", multiple=True, metavar="ID", help="This pair. Can be repeated.")
@place_options
def retry(folder: Path, failed: bool, cases: tuple[str, ...], quiet: bool, **options: Any) -> None:
    """Try pairs of the cohort in DIR again that failed, with the settings of its last run."""
    from iterreg.cohort.plan import only, read_plan
    from iterreg.cohort.records import failed_ids
    from iterreg.cohort.run import retry as forget
    from iterreg.cohort.run import run_cases

    if failed == bool(cases):
        raise click.UsageError("expected --failed or --case, got " + ("both" if cases else "none"))
    plan = read_plan(folder)
    how = {"threads": plan.settings.threads, "memory_gb": plan.settings.memory_gb}
    place = place_of(options | how | {"device": plan.settings.device})
    ids = list(failed_ids(folder)) if failed else [case.id for case in only(plan.cases, cases)]
    again = forget(plan, ids)
    if not again:
        tell("no pair has failed")
        return
    _run(plan, quiet, lambda report: run_cases(plan, again, place, report))


@cohort.command(short_help="Count pairs that are done, and list failures.")
@click.argument("folder", type=PATH, metavar="DIR")
@click.option("--verify", is_flag=True, help="Also compare every file with its checksum.")
@json_option("Also write the counts to this file.")
@quiet_option
@debug_option
def status(
    folder: Path, verify: bool, json_path: Path | None, overwrite: bool, quiet: bool
) -> None:
    """Count the pairs of the cohort in DIR that are done, failed, in work and waiting."""
    refuse_existing(json_path, overwrite)
    from iterreg.atomic import write_json
    from iterreg.cohort.cases import State
    from iterreg.cohort.plan import read_plan
    from iterreg.cohort.records import damaged_files
    from iterreg.cohort.run import count_states
    from iterreg.cohort.summary import write_tables
    from iterreg.errors import IterregError

    plan = read_plan(folder)
    counts = count_states(plan)
    rows = write_tables(plan)
    verdicts = [row.cells.get("verdict") for row in rows]
    tables: dict[str, Any] = {"cases": len(plan.cases)}
    tables |= {state.value: counts[state] for state in State}
    tables["verdicts"] = {v: verdicts.count(v) for v in ("ok", "doubtful", "failed")}
    if json_path is not None:
        write_json(tables, json_path)
    if not quiet:
        words = [f"{counts[state]} {state.value}" for state in State]
        tell(f"{len(plan.cases)} pairs: {', '.join(words)}")
        tell("verdicts: " + ", ".join(f"{n} {v}" for v, n in tables["verdicts"].items()))
        failures = [row.failure for row in rows if row.failure is not None]
        _print_lines([_failure(f) for f in failures], "failures", tell)
        tell(f"look at {folder / 'cohort.html'}")
    damaged = [
        f"{case.id}: {name}"
        for case in (plan.cases if verify else ())
        for name in damaged_files(folder, case.id)
    ]
    if damaged:
        _print_lines(damaged, "files")
        raise IterregError(f"{folder}: {len(damaged)} files are not as their record says")


def _failure(facts: Any) -> str:
    return f"{facts['id']}: {facts['reason']} (exit code {facts['exit_code']})"


def _print_lines(
    lines: tuple[str, ...] | list[str], what: str, say: Callable[[str], None] = hint
) -> None:
    for line in lines[:MOST_LINES]:
        say(one_line(line))
    if len(lines) > MOST_LINES:
        say(f"and {len(lines) - MOST_LINES} more {what}")


def _print_job(place: Any) -> None:
    from iterreg.cohort.workers import queue_cluster

    if place.cluster is None:
        raise click.UsageError("--job-script was given without --cluster")
    made = queue_cluster(place)
    try:
        tell(made.job_script().rstrip())
    finally:
        made.close()


def _run(plan: Plan, quiet: bool, work: Callable[[ProgressCallback], Result]) -> None:
    """Run pairs, print how they ended, and end by the right exit code."""
    from iterreg.cli.console import Console
    from iterreg.errors import ExitCode, IterregError

    console = Console(quiet=quiet)
    try:
        with console.progress() as report:
            result = work(report)
    except KeyboardInterrupt:
        complain(
            f"interrupted; finished pairs are kept in {plan.folder}; run the same command to "
            "continue"
        )
        raise click.exceptions.Exit(ExitCode.INTERRUPTED) from None
    _tell_ending(console.say, result, plan)
    failed = [outcome.id for outcome in result.outcomes if not outcome.ok and outcome.exit_code]
    if failed:
        names = ", ".join(failed[:5]) + (", ..." if len(failed) > 5 else "")
        raise IterregError(
            f"{len(failed)} of {len(result.outcomes)} pairs failed ({names}); see "
            f"{plan.folder / 'failures.csv'}; iterreg cohort retry {plan.folder} --failed tries "
            "them again"
        )


def _tell_ending(say: Callable[[str], None], result: Result, plan: Plan) -> None:
    from iterreg.cohort.cases import State

    done = [outcome for outcome in result.outcomes if outcome.ok]
    words = [o.message.split(":")[0] for o in done]
    verdicts = ", ".join(f"{words.count(v)} {v}" for v in ("ok", "doubtful", "failed"))
    kept = sum(outcome.kept for outcome in done)
    say(f"{len(done)} of {len(result.outcomes)} pairs have a result ({verdicts}); {kept} had one")
    busy = result.count(State.BUSY)
    if busy:
        say(f"{busy} pairs are in work by another run")
    for outcome in [o for o in result.outcomes if o.state is State.FAILED][:MOST_LINES]:
        say(one_line(f"{outcome.id}: {outcome.message} (exit code {outcome.exit_code})"))
    if plan.settings.bids_out is not None:
        say(f"names by BIDS in {plan.settings.bids_out}")
    say(f"look at {plan.folder / 'cohort.html'}")
