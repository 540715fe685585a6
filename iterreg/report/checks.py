"""The kinds of test that a clinic makes of a registration, each filled or "not done".

The list follows the report of AAPM Task Group 132 (Brock et al., Medical Physics 44, 2017, e43) and
the practice after it. Nothing here adds up to a score.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iterreg.names import fits_any
from iterreg.phantom import make_command, use_commands
from iterreg.report.field import consistency_rows
from iterreg.report.source import Source
from iterreg.report.words import number, rows_of, short, table

DEFAULT_FOLDER = "DIR"
PHANTOM = "phantom"


@dataclass(frozen=True)
class Check:
    """One kind of test.

    Args:
        name: of the kind.
        question: that it answers.
        done: whether its figures are here.
        finding: the figures, or why there are none.
        command: that would fill it, or that tests further; one on each line, empty if none.
        expected: what the task group suggests to expect.
        by_eye: whether a person has to look; the page then has a line for a name and a date.
    """

    name: str
    question: str
    done: bool
    finding: str
    command: str = ""
    expected: str = ""
    by_eye: bool = False


def checks(source: Source) -> tuple[Check, ...]:
    """All kinds of test, in the order from the eye to the whole chain."""
    return (
        Check(
            "Images looked at",
            "Do anatomy and borders agree on every slice that matters?",
            done=False,
            finding="Only a person can do this. Use warped, flicker and checkerboard in section 3.",
            by_eye=True,
        ),
        Check(
            "Field looked at",
            "Is the motion plausible, also where the images have no contrast?",
            done=False,
            finding="Only a person can do this. Use the lattice and log det J in section 3.",
            by_eye=True,
        ),
        _contours(source),
        _landmarks(source),
        _jacobian(source),
        _consistency(source),
        _phantom(source),
        _end_to_end(source),
    )


def _contours(source: Source) -> Check:
    rows = rows_of(table(source.tables, "measures"), "regions")
    dice = [row["dice_after"] for row in rows if isinstance(row.get("dice_after"), float)]
    own = "the regions that guided the registration, so they say little about other structures"
    if "history" not in source.tables:
        own = "the label maps that were given"
    finding = "No regions in both images."
    if dice:
        span = f"{min(dice):.3f} to {max(dice):.3f}" if len(dice) > 1 else f"{dice[0]:.3f}"
        finding = f"Dice after registration: {span} (section 4). These are {own}."
    return Check(
        "Contour overlap",
        "Do structures that somebody contoured agree?",
        done=bool(dice),
        finding=finding,
        command=_command(
            "evaluate",
            *_transform(source),
            *("--fixed-labels", "FIXED_LABELS", "--moving-labels", "MOVING_LABELS"),
        ),
        expected="TG-132: Dice 0.8 to 0.9, mean surface distance 2 to 3 mm; as contouring allows.",
    )


def _landmarks(source: Source) -> Check:
    after = table(source.tables, "measures", "tre_after")
    finding = "No landmarks were given."
    if after:
        finding = _spread(after, "landmarks")
        if "history" in source.tables:
            finding += " These landmarks guided the registration; test with others too."
    return Check(
        "Landmark error",
        "How far are points that an observer placed in both images?",
        done=bool(after),
        finding=finding,
        command=_command(
            "evaluate",
            *_transform(source),
            *("--fixed-landmarks", "FIXED.csv", "--moving-landmarks", "MOVING.csv"),
        ),
        expected="TG-132: within the largest voxel side, 2 to 3 mm.",
    )


def _spread(error: Mapping[str, Any], of: str) -> str:
    """The mean, the 95th percentile and the largest of some errors."""
    mean, p95, largest = (number(error.get(f"{k}_mm"), 2, "mm") for k in ("mean", "p95", "max"))
    count = short(error.get("count"))
    return f"Mean {mean}, 95th percentile {p95}, largest {largest} over {count} {of}."


def _jacobian(source: Source) -> Check:
    folds = table(source.tables, "measures", "folding")
    finding = "Not in this result."
    if folds:
        finding = (
            f"{short(folds.get('interior_folds'))} folded voxels inside regions, "
            f"{short(folds.get('interface_folds'))} between regions (section 6)."
        )
    return Check(
        "Jacobian",
        "Does the map fold tissue, or change its volume beyond belief?",
        done=bool(folds),
        finding=finding,
        command="" if folds else _run_again(source),
        expected="TG-132: no negative values; values that fit the anatomy.",
    )


def _consistency(source: Source) -> Check:
    rows = consistency_rows(source.tables)
    finding = "This result has no second registration in the opposite direction."
    if rows:
        finding = "; ".join(f"{name.lower()}: {figure}" for name, figure, _ in rows) + "."
    return Check(
        "Consistency",
        "Do the ways there and back meet?",
        done=bool(rows),
        finding=finding,
        command="" if rows else _run_again(source),
        expected="TG-132: within the largest voxel side, 2 to 3 mm.",
    )


def _phantom(source: Source) -> Check:
    image = str(table(source.tables, "fixed").get("file") or "IMAGE")
    preset = str(table(source.tables, "config").get("name") or "general")
    given = table(source.tables, "inputs", "fixed_labels").get("file")
    has_labels = source.labels is not None and bool(source.labels[0].values)
    labels = f"{source.folder}/fixed_regions.nii.gz" if has_labels else None
    commands = (
        make_command(image, PHANTOM, labels, _sliding(source)),
        *use_commands(PHANTOM, preset, has_labels=has_labels, guided=given is not None),
    )
    error = table(source.tables, "measures", "field_error_after", "overall")
    finding = (
        "Not made. The three lines deform the fixed image by a known field, register the two, "
        "and measure the error of the field."
    )
    if error:
        finding = _spread(error, "voxels")
    return Check(
        "Digital phantom",
        "How large is the error where the truth is known?",
        done=bool(error),
        finding=finding,
        command="\n".join(commands),
        expected="TG-132: 95 % of the voxels within 2 mm; the largest error within 5 mm.",
    )


def _sliding(source: Source) -> list[str]:
    """Numbers of the regions that the preset lets slide, by the first name of each of its pairs."""
    pairs = table(source.tables, "config", "smoothness").get("sliding") or []
    patterns = [str(first) for first, _ in pairs if first != "*"]
    return [
        str(value)
        for value, name in table(source.tables, "regions").items()
        if fits_any(str(name), patterns)
    ]


def _end_to_end(source: Source) -> Check:
    reference = table(source.tables, "fixed").get("file") or "FIXED"
    return Check(
        "End to end",
        "Does the result stay right on its way through your other programs?",
        done=False,
        finding="Carry an image or contours through the whole chain and compare them there.",
        command=_command(
            "apply",
            *_transform(source),
            *("--reference", str(reference), "--image", "IMAGE", "--out", "moved.nii.gz"),
        ),
    )


def _transform(source: Source) -> tuple[str, str]:
    return "--transform", str(source.tables.get("transform") or f"{source.folder}/transform.h5")


def _run_again(source: Source) -> str:
    """The command that makes this result anew, with the present version."""
    paths: Mapping[str, Any] = source.tables
    preset = table(paths, "config").get("name") or "PRESET"
    files = [str(table(paths, side).get("file") or side.upper()) for side in ("fixed", "moving")]
    again = f"{Path(source.folder).name}-again" if source.folder != DEFAULT_FOLDER else "AGAIN"
    pair = ("--fixed", files[0], "--moving", files[1], "--out", again)
    return _command("register", "--preset", str(preset), *pair)


def _command(*words: str) -> str:
    return shlex.join(("iterreg", *words))
