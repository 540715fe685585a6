"""The options of ``iterreg cohort``: which pairs, and where they are registered."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from iterreg.cli.failures import debug_option
from iterreg.cli.options import (
    PATH,
    label_table_option,
    quiet_option,
    seed_option,
    set_option,
    together,
)
from iterreg.cli.setting import Finite
from iterreg.errors import ConfigError

if TYPE_CHECKING:
    from iterreg.cohort.cases import Case
    from iterreg.cohort.engine import Place

PLACE_OPTIONS = (
    "jobs",
    "scheduler",
    "cluster",
    "queue",
    "account",
    "walltime",
    "job_lines",
    "prologue",
)

pairs_options = together(
    click.argument("files", nargs=-1, type=PATH, metavar="[PAIRS.csv | FILES...]"),
    click.option("--all-to", type=PATH, metavar="FIXED", help="Register all FILES to this image."),
    click.option("--each-to-each", is_flag=True, help="Register each of FILES to each other one."),
    click.option(
        "--bids", type=PATH, metavar="DIR", help="Take the pairs from this BIDS data set."
    ),
    click.option(
        "--fixed-query", metavar="QUERY", help="Fixed images of --bids, such as ses=01,suffix=T1w."
    ),
    click.option(
        "--moving-query",
        metavar="QUERY",
        help="Moving images of --bids. A pair agrees in all that neither query names.",
    ),
    click.option("--preset", metavar="NAME|FILE", help="Preset of pairs that name none."),
    set_option,
    label_table_option,
)

place_options = together(
    click.option(
        "--jobs",
        type=click.IntRange(min=1),
        help="Pairs at a time, each in a process of its own.  [default: 1, or one a GPU if there "
        "are several]",
    ),
    click.option(
        "--scheduler", metavar="ADDRESS", help="Use a running Dask scheduler, tcp://HOST:PORT."
    ),
    click.option(
        "--cluster",
        type=click.Choice(["slurm", "pbs", "lsf", "sge"]),
        help="Start the workers as --jobs jobs of this queue.",
    ),
    click.option("--queue", metavar="NAME", help="Queue or partition of those jobs."),
    click.option("--account", metavar="NAME", help="Account or project of those jobs."),
    click.option("--walltime", metavar="TIME", help="Most time of those jobs, such as 12:00:00."),
    click.option(
        "--job-line",
        "job_lines",
        multiple=True,
        metavar="TEXT",
        help="Another option for the queue, such as --gres=gpu:1. Can be repeated.",
    ),
    click.option(
        "--prologue",
        multiple=True,
        metavar="TEXT",
        help="A shell line that each job runs first, such as 'module load python'. Can be "
        "repeated.",
    ),
    quiet_option,
    debug_option,
)

result_options = together(
    click.option(
        "--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps."
    ),
    seed_option,
    click.option(
        "--threads",
        type=click.IntRange(min=1),
        help="CPU threads of each worker.  [default: all, divided among the jobs]",
    ),
    click.option(
        "--memory",
        "memory_gb",
        type=Finite(min=0, min_open=True),
        metavar="GB",
        help="Most memory of each worker.",
    ),
    click.option("--no-report", is_flag=True, help="Do not write a report.html for each pair."),
    click.option("--save-jacobian", is_flag=True, help="Also write jacobian.nii.gz."),
    click.option("--save-inverse", is_flag=True, help="Also write the inverse of each pair."),
    click.option("--save-error", is_flag=True, help="Also write expected_error_mm.nii.gz."),
)


def place_of(values: Mapping[str, Any]) -> Place:
    """Make the place from the values of ``place_options``, ``threads`` and ``memory_gb``."""
    from iterreg.cohort.engine import Place
    from iterreg.cohort.workers import count_gpus

    own = {name: values[name] for name in PLACE_OPTIONS}
    is_local = own["scheduler"] is None and own["cluster"] is None
    if is_local and own["jobs"] is None and values.get("device") in ("auto", "cuda"):
        own["jobs"] = max(1, count_gpus())
    for name in ("queue", "account", "walltime", "job_lines", "prologue"):
        if own[name] and own["cluster"] is None:
            option = name.replace("job_lines", "job-line")
            raise click.UsageError(f"--{option} was given without --cluster")
    return Place(**own, threads=values.get("threads"), memory_gb=values.get("memory_gb"))


def cases_of(
    files: tuple[Path, ...],
    all_to: Path | None,
    each_to_each: bool,
    bids: Path | None,
    queries: tuple[str | None, str | None],
    options: Mapping[str, Any],
) -> tuple[Case, ...]:
    """Find the cases that the options ask for.

    Raises:
        click.UsageError: none or several of the ways to name pairs.
        IterregError: the pairs cannot be used.
    """
    from iterreg.cohort import pairing
    from iterreg.cohort.bids import bids_cases, parse_query
    from iterreg.cohort.table import Defaults, read_table
    from iterreg.config import load_config

    ways = [all_to is not None, each_to_each, bids is not None]
    if sum(ways) > 1:
        raise click.UsageError("expected one of --all-to, --each-to-each and --bids, got several")
    defaults = Defaults(options["preset"], dict(options["settings"]), options["label_table"])
    if defaults.preset is not None:  # told once, not for every row
        load_config(defaults.preset, defaults.overrides)
    if all_to is not None:
        return pairing.all_to(all_to, files, defaults)
    if each_to_each:
        return pairing.each_to_each(files, defaults)
    if bids is not None:
        if files:
            raise click.UsageError(f"--bids takes no files, got {files[0]}")
        fixed, moving = queries
        if fixed is None or moving is None:
            raise click.UsageError("--bids needs --fixed-query and --moving-query")
        return bids_cases(bids, parse_query(fixed), parse_query(moving), defaults)
    if queries != (None, None):
        raise click.UsageError("--fixed-query and --moving-query belong to --bids")
    if len(files) != 1:
        raise click.UsageError(
            f"expected one table of pairs, got {len(files)} files; for lists of images add "
            "--all-to or --each-to-each"
        )
    if files[0].suffix.lower() != ".csv":
        raise ConfigError(f"{files[0]}: expected a table of pairs (.csv)")
    return read_table(files[0], defaults)
