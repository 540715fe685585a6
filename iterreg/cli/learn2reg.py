"""``iterreg learn2reg``: make, check and score a submission for a Learn2Reg task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from iterreg.cli.failures import HelpfulGroup, debug_option
from iterreg.cli.options import (
    PATH,
    json_option,
    memory_option,
    overwrite_option,
    quiet_option,
    refuse_existing,
    seed_option,
    set_option,
    together,
)
from iterreg.cli.reading_options import geometry_option
from iterreg.cli.streams import complain, hint
from iterreg.texts import one_line


@click.group(cls=HelpfulGroup, short_help="Make, check and score a Learn2Reg submission.")
@debug_option
def learn2reg() -> None:
    """Make a Learn2Reg submission, check it, and compute the leaderboard's scores before uploading.

    A task is a downloaded folder with TASK_dataset.json and imagesTr, and labelsTr, masksTr and
    keypointsTr if the task provides them.
    """


def _task_options(function: Callable[..., Any]) -> Callable[..., Any]:
    return together(
        click.option(
            "--task",
            "task_dir",
            type=PATH,
            required=True,
            metavar="DIR",
            help="Folder of the task, or its *_dataset.json.",
        ),
        click.option(
            "--split",
            type=click.Choice(["val", "test"]),
            default="val",
            show_default=True,
            help="Cases of registration_val or of registration_test.",
        ),
        click.option(
            "--cases",
            multiple=True,
            metavar="CASE",
            help="Only these cases: a subject (0011), an image of it (0011_0001) or a case "
            "(0011_0001<--0011_0000). Can be repeated, or separated by commas.",
        ),
    )(function)


config_option = click.option(
    "--config",
    "config_path",
    type=PATH,
    metavar="FILE",
    help="The evaluator's *_evaluation_config.json.  [default: built in, by the task's name]",
)


@learn2reg.command(short_help="Register all cases and zip the fields.")
@_task_options
@click.option("--out", type=PATH, required=True, metavar="ZIP", help="The submission to write.")
@click.option(
    "--fields", type=PATH, metavar="DIR", help="Folder for the fields.  [default: ZIP_fields]"
)
@click.option("--preset", metavar="NAME|FILE", help="Use this preset instead of the task's own.")
@set_option
@click.option(
    "--regions",
    type=PATH,
    metavar="DIR",
    help="Folder of segmentations of all images, with the same names as the images "
    "(TotalSegmentator --ml).",
)
@click.option(
    "--label-table",
    metavar="NAME|FILE",
    help="Names of the regions' numbers.  [default: the names in the files' headers]",
)
@click.option(
    "--use-labels",
    is_flag=True,
    help="Use the task's labels for the registration. Dice is scored with them, so this is fair "
    "only if the rules provide them at test time.",
)
@click.option(
    "--use-keypoints",
    is_flag=True,
    help="Use the task's keypoints for the registration. TRE is scored with them; the same "
    "caution as for --use-labels applies.",
)
@click.option("--no-masks", is_flag=True, help="Do not use the task's masks.")
@click.option(
    "--format",
    "extension",
    type=click.Choice([".nii.gz", ".npz"]),
    default=".nii.gz",
    show_default=True,
    help="File format of the fields.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="Precision of the fields. float16 needs .npz; above 64 voxels its steps are 1/16 voxel.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Cases to register at the same time, each in its own process.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="CPU threads per case.  [default: all, divided among the jobs]",
)
@memory_option
@geometry_option
@seed_option
@overwrite_option
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
    """Register all cases of a task, and zip the fields for the leaderboard.

    After an interruption the same command continues: it verifies and keeps finished fields, and
    repeats cases whose field is damaged or was made with other settings. The zip is written when
    every case of the split has its field. A record next to each field says how it was made.
    """
    from iterreg.cli.console import Console
    from iterreg.cli.learn2reg_tables import print_outcomes, refuse_failed
    from iterreg.errors import ExitCode
    from iterreg.learn2reg.register import Settings
    from iterreg.learn2reg.submit import submit as run
    from iterreg.learn2reg.task import read_task

    if out.suffix.lower() != ".zip":
        raise click.UsageError(f"--out: expected a .zip, got {out}")
    task = read_task(task_dir, split, _split(cases))
    refuse_existing(out, overwrite)
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
        with console.progress() as report:
            outcomes, zipped = run(task, how, out, jobs=jobs, progress=report)
    except KeyboardInterrupt:
        complain(
            f"interrupted; finished fields are kept in {how.fields}; run the same command "
            "to continue"
        )
        raise click.exceptions.Exit(ExitCode.INTERRUPTED) from None
    if not quiet:
        print_outcomes(task, outcomes)
    refuse_failed(outcomes)
    if zipped:
        console.say(f"submission: {out} ({len(outcomes)} cases)")
        console.say(f"check it: iterreg learn2reg check {out} --task {task_dir}")
    else:
        console.say(f"fields: {how.fields}; no zip was written, because other cases are missing")


@learn2reg.command(short_help="Compute the leaderboard's scores, and the true folds.")
@click.argument("fields", type=PATH, metavar="FIELDS")
@_task_options
@config_option
@click.option(
    "--regions",
    type=PATH,
    metavar="DIR",
    help="Folder of segmentations, to count folds inside regions and at interfaces separately.  "
    "[default: the regions of the run, else the task's labels]",
)
@json_option("Also write the scores to this file, in the evaluator's layout.")
@geometry_option
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
    overwrite: bool,
    quiet: bool,
) -> None:
    """Score FIELDS, a folder or a zip, as the leaderboard's evaluator does.

    The evaluator adds 3 to det J before it takes the logarithm, and its fold count is always 0. The
    table therefore also shows the true folds and SDlogJ. Scores that need files which the challenge
    does not publish are left out.
    """
    refuse_existing(json_path, overwrite)
    from iterreg.cli.console import Console
    from iterreg.cli.learn2reg_tables import print_scores
    from iterreg.learn2reg.archive import open_fields
    from iterreg.learn2reg.evaluate import evaluate_task
    from iterreg.learn2reg.regions import find_regions
    from iterreg.learn2reg.rules import evaluation_of
    from iterreg.learn2reg.task import read_task

    task = read_task(task_dir, split, _split(cases))
    evaluation = evaluation_of(task, config_path)
    console = Console(quiet=quiet)
    labels = None if regions is None else lambda pair: find_regions(regions, pair.fixed)
    with console.progress() as report, open_fields(fields, task, evaluation) as folder:
        scores = evaluate_task(task, evaluation, folder, regions=labels, progress=report)
    if not quiet:
        print_scores(scores)
    if json_path is not None:
        scores.write(json_path)


@learn2reg.command(short_help="Check a submission before uploading it.")
@click.argument("archive", type=PATH, metavar="ZIP")
@_task_options
@config_option
@geometry_option
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
    """Check a submission before uploading it: names, cases, shapes and numbers.

    Every reason for which the leaderboard would refuse it is printed on stderr; the exit code is
    then 1.
    """
    from iterreg.cli.console import Console
    from iterreg.errors import IterregError
    from iterreg.learn2reg.archive import check_zip, field_shapes
    from iterreg.learn2reg.rules import evaluation_of
    from iterreg.learn2reg.task import read_task

    task = read_task(task_dir, split, _split(cases))
    evaluation = evaluation_of(task, config_path)
    console = Console(quiet=quiet)
    with console.progress() as report:
        checked = check_zip(archive, evaluation, field_shapes(task, evaluation), report)
    for warning in checked.warnings:
        console.say(f"warning: {warning}", style="yellow")
    for refusal in checked.refusals:
        hint(f"refused: {one_line(refusal)}")
    if not checked.is_accepted:
        count = len(checked.refusals)
        raise IterregError(f"{archive}: would be refused for {count} reason{'s' * (count > 1)}")
    console.say(f"{archive}: good, {checked.fields} fields of {task.name}", style="bold green")


def _split(cases: tuple[str, ...]) -> list[str]:
    return [part.strip() for case in cases for part in case.split(",") if part.strip()]
