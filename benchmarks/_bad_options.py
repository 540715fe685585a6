"""Bad command lines: odd values of every command's options, and outputs that cannot be written."""

from __future__ import annotations

import random
from pathlib import Path

from _bad_kinds import LONG, ODD_NUMBERS, QUICK, Case

GOOD = "{good}/"
REGISTER = (
    f"register --preset general --fixed {GOOD}image.nii.gz --moving {GOOD}image.nii.gz {QUICK} "
    "--out out"
)
SERIES = f"register --preset general --fixed {GOOD}phases --moving {GOOD}series {QUICK} --out out"
APPLY = (
    f"apply --transform {GOOD}affine.tfm --reference {GOOD}image.nii.gz --image "
    f"{GOOD}image.nii.gz --out o.nii.gz"
)
POINTS = f"apply --transform {GOOD}affine.tfm --points {GOOD}points.csv --out o.csv"
CONVERT = f"convert --transform {GOOD}both.h5 --fixed {GOOD}image.nii.gz --out o.h5"
LABELS = f"--fixed-labels {GOOD}labels.nii.gz --moving-labels {GOOD}labels.nii.gz"
PHANTOM = f"phantom --image {GOOD}image.nii.gz --out out"
SUBMIT = (
    f"learn2reg submit --task {GOOD}task --preset general --out s.zip {QUICK[: QUICK.rfind(' ')]}"
)
MATCH = f"samreg --fixed {GOOD}picture.png --moving {GOOD}picture.png --out out"
WORDS = ("", "x" * LONG, "\x1b[2J", "*", "[", "\\", "nothing", "1", "-1", "é", "..", "a,b", "%s%n")
OPTIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (SERIES, "--fixed-series", (*WORDS, "1", "2/9", "9" * 5000)),
    (SERIES, "--moving-series", WORDS),
    (f"{REGISTER} {LABELS}", "--structures", WORDS),
    (f"{REGISTER} {LABELS}", "--label-table", WORDS),
    (REGISTER, "--pixel-mm", ODD_NUMBERS),
    (REGISTER, "--preset", WORDS),
    (REGISTER, "--set", (*WORDS, "=", "a=", "=1", "levels.steps", "a" * 9999 + "=1")),
    (REGISTER, "--fixed", WORDS),
    (APPLY, "--fill", ODD_NUMBERS),
    (APPLY, "--interpolation", WORDS),
    (APPLY, "--transform", WORDS),
    (POINTS, "--reference", WORDS),
    (CONVERT, "--from", WORDS),
    (CONVERT, "--to", WORDS),
    (CONVERT, "--direction", WORDS),
    (PHANTOM, "--amplitude-mm", ODD_NUMBERS),
    (PHANTOM, "--slide-mm", ODD_NUMBERS),
    (PHANTOM, "--noise", ODD_NUMBERS),
    (PHANTOM, "--contrast", ODD_NUMBERS),
    (PHANTOM, "--slide", WORDS),
    (PHANTOM, "--seed", ODD_NUMBERS),
    (SUBMIT, "--cases", WORDS),
    (SUBMIT, "--jobs", ODD_NUMBERS),
    (SUBMIT, "--dtype", WORDS),
    (SUBMIT, "--fields", WORDS),
    (MATCH, "--threshold", ODD_NUMBERS),
    (MATCH, "--area", (*ODD_NUMBERS, "1:2", "2:1", "0:0", "nan:inf")),
    (MATCH, "--points", ODD_NUMBERS),
    (MATCH, "--window", (*ODD_NUMBERS, "1:2", "2:1")),
    (MATCH, "--axis", WORDS),
    (MATCH, "--variant", WORDS),
    (f"evaluate {LABELS}", "--structures", WORDS),
    (f"evaluate {LABELS}", "--transform", WORDS),
    (f"merge-labels --labels {GOOD}labels.nii.gz --label-table {GOOD}table.json --out o.nii.gz",
     "--extra", (*WORDS, "a=b", "lung=1", "lung=lung")),
    ("weights fetch sam_vit_b", "--url", ("http://[::1", "http://\u2603.invalid/x", "file:///etc/passwd",
     "ftp://x/y", "https://", "x" * LONG, "\x1b[2J", "http://127.0.0.1:9/x")),
    ("weights fetch mobile_sam", "--sha256", WORDS),
    ("presets show", "", WORDS),
    ("dicom list", "", WORDS),
    ("report", "", WORDS),
    ("", "", WORDS),
)  # fmt: skip


def other_option(rng: random.Random, good: Path, folder: Path) -> Case:
    """Draw an odd value of an option, an option given twice, or one that does not exist."""
    line, option, values = rng.choice(OPTIONS)
    words = line.format(good=good).split()
    value = rng.choice(values).replace("\0", "")
    kind = f"option: {(words or ['root'])[0]} {option}"
    how = rng.random()
    if how < 0.8:
        return Case(kind, [*words, *([option] if option else []), value])
    if how < 0.9 and option:
        return Case(f"{kind} twice", [*words, option, value, option, value])
    return Case(f"{kind} unknown", [*words, f"--{value or 'nothing'}", value])


OUTPUTS = (
    *(f"{line.rpartition(' --out')[0]} --out {{out}}" for line in (REGISTER, APPLY, POINTS)),
    *(f"{line.rpartition(' --out')[0]} --out {{out}}" for line in (CONVERT, PHANTOM)),
    f"evaluate {LABELS} --json {{out}}",
    f"evaluate {LABELS} --html {{out}}",
    f"merge-labels --labels {GOOD}labels.nii.gz --label-table {GOOD}table.json --out {{out}}",
    f"learn2reg submit --task {GOOD}task --preset general --out {{out}} --set levels.steps=[1] "
    "--set levels.spacing_mm=[8.0]",
)
SUFFIXES = ("", "", ".nii.gz", ".h5", ".csv", ".json", ".zip", ".nii", ".nrrd", ".png", ".tfm")
PLACES = (
    *("file/below", "folder", "full", "n" * 260, "/proc/out", "/sys/out", "/dev/full", "gone/a/b"),
    *("", ".", "..", "/", "loop", "a\nb", "\x1b[2J", "caf\udce9", "~/x", "file", "dangling", " "),
)


def output(rng: random.Random, good: Path, folder: Path) -> Case:
    """Draw an output that is in the way, has an odd name, or no place."""
    (folder / "file").write_text("x")
    (folder / "folder").mkdir()
    (folder / "full").mkdir()
    (folder / "full" / "mine.txt").write_text("mine")
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nothing/here")
    place = rng.choice(PLACES) + rng.choice(SUFFIXES)
    line = rng.choice(OUTPUTS)
    words = [w.format(good=good, out=place) for w in line.split()]
    if rng.random() < 0.3:
        words.append("--overwrite")
    return Case(f"output: {words[0]}", words)
