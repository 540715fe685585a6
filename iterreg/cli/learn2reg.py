"""``iterreg learn2reg``: a task folder in, a submission out, and the evaluator's numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from iterreg.cli.failures import debug_option
from iterreg.cli.options import PATH, Decorator, Setting

if TYPE_CHECKING:
    from iterreg.formats.learn2reg_files import Shape
    from iterreg.learn2reg.evaluate import Scores
    from iterreg.learn2reg.register import Outcome
    from iterreg.learn2reg.rules import Evaluation
    from iterreg.learn2reg.task import Pair, Task


@click.group(short_help="Learn2Reg: submit, check, evaluate.")
@debug_option
def learn2reg() -> None:
    """Make a Learn2Reg submission, check it, and see the evaluator's numbers before uploading.

    DIR is a downloaded task: TASK_dataset.json, imagesTr, and labelsTr, masksTr, keypointsTr where
    there are any.
    """


def _task_options(function: Callable[..., Any]) -> Callable[..., Any]:
    options: tuple[Decorator, ...] = (
        click.option(
            "--task",
            "task_dir",
            type=PATH,
            required=True,
            metavar="DIR",
            help="The task's folder, or its *_dataset.json.",
        ),
        click.option(
            "--split",
            type=click.Choice(["val", "test"]),
            default="val",
            show_default=True,
            help="registration_val or registration_test.",
        ),
        click.option(
            "--cases",
            multiple=True,
            metavar="CASE",
            help="Only these: a subject (0011), an image of it (0011_0001) or a case "
            "(0011_0001<--0011_0000); may be repeated, or separated by commas.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


config_option = click.option(
    "--config",
    "config_path",
    type=PATH,
    metavar="FILE",
    help="The evaluator's own *_evaluation_config.json.  [default: by the task's name]",
)
quiet_option = click.option("--quiet", is_flag=True, help="Print nothing but errors.")


@learn2reg.command(short_help="Register all cases and zip the fields.")
@_task_options
@click.option("--out", type=PATH, required=True, metavar="ZIP", help="The submission to write.")
@click.option(
    "--fields", type=PATH, metavar="DIR", help="Where the fields go.  [default: ZIP_fields]"
)
@click.option("--preset", metavar="NAME|FILE", help="Instead of the task's own preset.")
@click.option(
    "--set",
    "settings",
    type=Setting(),
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a value of the preset; may be repeated.",
)
@click.option(
    "--regions",
    type=PATH,
    metavar="DIR",
    help="Segmentations of both images, named as the images are (TotalSegmentator --ml).",
)
@click.option(
    "--label-table",
    metavar="NAME|FILE",
    help="What the regions' numbers mean.  [default: the names in their own headers]",
)
@click.option(
    "--use-labels",
    is_flag=True,
    help="Guide by the task's own labels. They are what Dice is scored by: only where "
    "the rules provide them at test time.",
)
@click.option(
    "--use-keypoints",
    is_flag=True,
    help="Bring the task's keypoints together. TRE is scored by them: as --use-labels.",
)
@click.option("--no-masks", is_flag=True, help="Leave the task's masks alone.")
@click.option(
    "--format",
    "extension",
    type=click.Choice([".nii.gz", ".npz"]),
    default=".nii.gz",
    show_default=True,
    help="Of the fields.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="float16 steps by 1/16 voxel above 64; .npz alone.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Cases at a time, each in a process of its own.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="CPU threads a case.  [default: all, shared by the jobs]",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Random seed.")
@click.option("--overwrite", is_flag=True, help="Replace a zip that is there already.")
@quiet_option
@debug_option
def submit(
    task_dir: Path,
    split: str,
    cases: tuple[str, ...],
    out: Path,
    fields: Path | None,
    settings: tuple[tuple[str, Any], ...],
    no_masks: bool,
    jobs: int,
    overwrite: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Register all cases of a task and zip the fields as the leaderboard takes them.

    Finished fields are verified and kept: the same command goes on after an interruption, and
    registers again what is damaged or was made with other settings. The zip is written when every
    case of the split has its field. Beside each field lies a record of what it was made with.
    """
    from iterreg.cli.console import Console
    from iterreg.errors import ExitCode, IterregError, OutputError
    from iterreg.learn2reg.register import Settings
    from iterreg.learn2reg.submit import submit as run
    from iterreg.learn2reg.task import read_task

    if out.suffix.lower() != ".zip":
        raise click.UsageError(f"--out: expected a .zip, got {out}")
    task = read_task(task_dir, split, _split(cases))
    if out.exists() and not overwrite:
        raise OutputError(f"{out}: exists already; --overwrite replaces it")
    how = Settings(
        fields or out.with_name(f"{out.stem}_fields"),
        overrides=dict(settings),
        use_masks=not no_masks,
        **options,
    )
    console = Console(quiet=quiet)
    for note in task.notes:
        console.say(f"note: {note}", style="yellow")
    try:
        with console.progress() as reporter:
            outcomes, zipped = run(task, how, out, jobs=jobs, report=reporter.stage)
    except KeyboardInterrupt:
        click.echo(
            f"iterreg: interrupted; finished fields are kept in {how.fields}: the same "
            "command goes on",
            err=True,
        )
        raise click.exceptions.Exit(ExitCode.INTERRUPTED) from None
    if not quiet:
        _print_outcomes(task, outcomes)
    failed = [outcome.case for outcome in outcomes if not outcome.ok]
    if failed:
        raise IterregError(
            f"{len(failed)} of {len(outcomes)} cases failed ({', '.join(failed)}); no zip was "
            "written; the same command tries these again"
        )
    if zipped:
        console.say(f"submission: {out} ({len(outcomes)} cases)")
        console.say(f"check it: iterreg learn2reg check {out} --task {task_dir}")
    else:
        console.say(f"fields: {how.fields}; no zip yet: the split's other cases are missing")


@learn2reg.command(short_help="The evaluator's numbers, and true folds beside them.")
@click.argument("fields", type=PATH, metavar="FIELDS")
@_task_options
@config_option
@click.option(
    "--regions",
    type=PATH,
    metavar="DIR",
    help="Segmentations that tell folds inside regions from those between them.  "
    "[default: those of the run, else the task's labels]",
)
@click.option(
    "--json",
    "json_path",
    type=PATH,
    metavar="FILE",
    help="Write the scores here, in the evaluator's layout.",
)
@quiet_option
@debug_option
def evaluate(
    fields: Path,
    task_dir: Path,
    split: str,
    cases: tuple[str, ...],
    config_path: Path | None,
    regions: Path | None,
    json_path: Path | None,
    quiet: bool,
) -> None:
    """Score FIELDS, a folder or a zip, as the leaderboard's evaluator does.

    SDlogJ adds 3 to det J before it takes the logarithm, and its fold count is always 0; so the
    true folds are told beside it. A column whose files the challenge keeps is left out.
    """
    from iterreg.cli.console import Console
    from iterreg.learn2reg.evaluate import evaluate_task
    from iterreg.learn2reg.regions import find_regions
    from iterreg.learn2reg.rules import evaluation_of
    from iterreg.learn2reg.task import read_task

    task = read_task(task_dir, split, _split(cases))
    evaluation = evaluation_of(task, config_path)
    console = Console(quiet=quiet)
    labels = None if regions is None else lambda pair: find_regions(regions, pair.fixed)
    with console.progress() as reporter, _fields_of(fields, task, evaluation) as folder:
        scores = evaluate_task(task, evaluation, folder, regions=labels, progress=reporter.stage)
    if not quiet:
        _print_scores(scores)
    if json_path is not None:
        scores.write(json_path)


@learn2reg.command(short_help="Refuse what the leaderboard would refuse.")
@click.argument("archive", type=PATH, metavar="ZIP")
@_task_options
@config_option
@quiet_option
@debug_option
def check(
    archive: Path,
    task_dir: Path,
    split: str,
    cases: tuple[str, ...],
    config_path: Path | None,
    quiet: bool,
) -> None:
    """Check a submission before uploading: names, cases, shapes, numbers.

    Every refusal is named, on stderr; the exit code is 1 when there is one.
    """
    from iterreg.cli.console import Console
    from iterreg.errors import IterregError
    from iterreg.learn2reg.archive import check_zip
    from iterreg.learn2reg.rules import evaluation_of
    from iterreg.learn2reg.task import read_task

    task = read_task(task_dir, split, _split(cases))
    evaluation = evaluation_of(task, config_path)
    console = Console(quiet=quiet)
    with console.progress() as reporter:
        report = check_zip(archive, evaluation, _shapes(task, evaluation), reporter.stage)
    for warning in report.warnings:
        console.say(f"warning: {warning}", style="yellow")
    for refusal in report.refusals:
        click.echo(f"refused: {refusal}", err=True)
    if not report.is_accepted:
        count = len(report.refusals)
        raise IterregError(f"{archive}: would be refused for {count} reason{'s' * (count > 1)}")
    console.say(f"{archive}: good, {report.fields} fields of {task.name}", style="bold green")


def _split(cases: tuple[str, ...]) -> list[str]:
    return [part.strip() for case in cases for part in case.split(",") if part.strip()]


def _shapes(task: Task, evaluation: Evaluation) -> Callable[[Pair], Shape | None]:
    """A case's shape: the configuration's, else that of its fixed image."""
    from iterreg.formats.headers import grid_of_file

    def shape(pair: Pair) -> Shape | None:
        if evaluation.shape_ijk is not None:
            return evaluation.shape_ijk
        if not task.path(pair.fixed).is_file():
            return None
        k, j, i = grid_of_file(task.path(pair.fixed)).shape_zyx
        return i, j, k

    return shape


@contextmanager
def _fields_of(fields: Path, task: Task, evaluation: Evaluation) -> Iterator[Path]:
    """A folder as it is, a zip checked and unpacked."""
    from iterreg.errors import IterregError
    from iterreg.learn2reg.archive import check_zip, unpacked

    if fields.is_dir():
        yield fields
        return
    report = check_zip(fields, evaluation, _shapes(task, evaluation))
    if not report.is_accepted:
        raise IterregError(f"{fields}: would be refused: {report.refusals[0]}")
    with unpacked(fields, evaluation) as folder:
        yield folder


def _print_outcomes(task: Task, outcomes: tuple[Outcome, ...]) -> None:
    first = next((o.used for o in outcomes if o.used), {})
    facts = [f"{kind}: {what}" for kind, what in first.items()]
    click.echo("; ".join([f"{task.name}, {task.split}", *facts]))
    rows = [
        (
            o.case,
            _number(o.seconds, 1),
            _number(o.peak_mb / 1024, 2),
            ("kept; " if o.kept else "") + ("" if o.ok else "FAILED: ") + o.message,
        )
        for o in outcomes
    ]
    _table(("case", "seconds", "peak GB", "status"), rows)


def _print_scores(scores: Scores) -> None:
    aggregates = scores.aggregates()
    names = [m.name for m in scores.methods if any(m.name in c.values for c in scores.cases)]
    header = ("case", *names, "folds inside", "at interfaces", "SDlogJ true, inside")
    rows = []
    for case in scores.cases:
        folds = case.honest.folding
        cells = [_number(case.values[n][0], 4) if n in case.values else "-" for n in names]
        rows.append(
            (
                case.case,
                *cells,
                f"{folds.interior_folds}",
                f"{folds.interface_folds}",
                _number(case.honest.sdlogj_interior, 3),
            )
        )
    for title, key in (("mean", "mean"), ("std", "std"), ("30 %", "30")):
        cells = [_number(aggregates[n][key], 4) if n in aggregates else "-" for n in names]
        rows.append((title, *cells, "", "", ""))
    _table(header, rows)
    told = dict.fromkeys(case.honest.regions for case in scores.cases)
    click.echo(f"folds are told apart by: {', '.join(told)}")
    for note in dict.fromkeys(n for case in scores.cases for n in case.notes):
        click.echo(f"note: {note}")


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Aligned columns: words to the left in the first and the last, numbers to the right."""
    last = len(header) - 1
    widths = [max(len(row[k]) for row in (header, *rows)) for k in range(len(header))]
    click.echo()
    for row in (header, *rows):
        words = header[last] == "status"
        cells = [
            f"{cell:<{width}}" if k == 0 or (k == last and words) else f"{cell:>{width}}"
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())
    click.echo()


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"
