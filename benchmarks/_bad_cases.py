"""Draw bad inputs: which file is spoiled and how, which option is odd, which stream is closed."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

from _bad_kinds import (
    BYTES,
    LONG,
    ODD_NUMBERS,
    QUICK,
    Case,
    spoil_header,
    spoil_json,
    spoil_nifti,
    spoil_text,
)
from _bad_medical import medical
from _bad_more import further
from _bad_options import other_option, output

IMAGES = ("image.nii", "image.nii.gz", "image.mha", "image.mhd", "image.nrrd")
PICTURES = ("picture.png", "picture.jpg", "picture.bmp", "picture.tif")
FILES: dict[str, tuple[str, ...]] = {
    "image": IMAGES,
    "picture": PICTURES,
    "labels": tuple(name.replace("image", "labels") for name in IMAGES),
    "field": ("field.nii.gz",),
    "transform": ("affine.tfm", "both.h5", "affine.mat", "spline.tfm"),
    "points": ("points.csv", "points.fcsv"),
    "preset": ("preset.toml",),
    "table": ("table.toml", "table.json", "table.ctbl", "table.txt"),
    "rois": ("rois.json",),
    "task": ("task/T_dataset.json",),
    "zip": ("fields.zip",),
    "run": ("run.json",),
    "checkpoint": ("affine.mat",),
}
GOOD = "{good}/"
APPLY = f"apply --transform {GOOD}affine.tfm --reference {GOOD}image.nii.gz --out out.nii.gz"
PAIR = f"register --preset general --fixed {GOOD}image.nii.gz --moving {GOOD}image.nii.gz {QUICK}"
COMMANDS: dict[str, tuple[str, ...]] = {
    "image": (
        f"register --preset general --fixed {{bad}} --moving {GOOD}image.nii.gz {QUICK} --out out",
        f"register --preset general --fixed {GOOD}image.nii.gz --moving {{bad}} {QUICK} --out out",
        f"{APPLY} --image {{bad}}",
        f"apply --transform {GOOD}affine.tfm --reference {{bad}} --image {GOOD}image.nii.gz "
        "--out o.nii.gz",
        "phantom --image {bad} --out out",
        f"convert --transform {GOOD}both.h5 --fixed {{bad}} --out o.h5",
        f"{PAIR} --fixed-mask {{bad}} --out out",
    ),
    "picture": (
        f"register --preset general --fixed {{bad}} --moving {GOOD}picture.png {QUICK} --out out",
        "phantom --image {bad} --out out",
    ),
    "labels": (
        f"{PAIR} --fixed-labels {{bad}} --moving-labels {GOOD}labels.nii.gz --out out",
        f"{APPLY} --labels {{bad}}",
        f"evaluate --fixed-labels {GOOD}labels.nii.gz --moving-labels {{bad}}",
        f"merge-labels --labels {{bad}} --label-table {GOOD}table.json --out o.nii.gz",
        f"phantom --image {GOOD}image.nii.gz --labels {{bad}} --out out",
    ),
    "field": (
        f"apply --transform {{bad}} --reference {GOOD}image.nii.gz --image {GOOD}image.nii.gz "
        "--out o.nii.gz",
        f"evaluate --transform {{bad}} --known-field {GOOD}field.nii.gz",
        f"convert --transform {{bad}} --from itk --fixed {GOOD}image.nii.gz --out o.h5",
    ),
    "transform": (
        f"apply --transform {{bad}} --points {GOOD}points.csv --out o.csv",
        f"apply --transform {{bad}} --reference {GOOD}image.nii.gz --labels {GOOD}labels.nii.gz "
        "--out o.nii.gz",
        f"evaluate --transform {{bad}} --fixed-labels {GOOD}labels.nii.gz "
        f"--moving-labels {GOOD}labels.nii.gz",
        f"convert --transform {{bad}} --fixed {GOOD}image.nii.gz --out o.h5",
        f"{PAIR} --initial-transform {{bad}} --out out",
    ),
    "points": (
        f"apply --transform {GOOD}affine.tfm --points {{bad}} --out o.csv",
        f"evaluate --fixed-landmarks {{bad}} --moving-landmarks {GOOD}points.csv",
        f"{PAIR} --fixed-landmarks {GOOD}points.csv --moving-landmarks {{bad}} --out out",
    ),
    "preset": (
        f"register --preset {{bad}} --fixed {GOOD}image.nii.gz --moving {GOOD}image.nii.gz "
        "--no-report --out out",
        "presets show {bad}",
    ),
    "table": (
        f"evaluate --fixed-labels {GOOD}labels.nii.gz --moving-labels {GOOD}labels.nii.gz "
        "--label-table {bad}",
        f"merge-labels --labels {GOOD}labels.nii.gz --label-table {{bad}} --out o.nii.gz",
    ),
    "rois": (f"{PAIR} --roi-pairs {{bad}} --out out",),
    "task": (
        "learn2reg check {good}/fields.zip --task {bad}",
        "learn2reg evaluate {good}/fields.zip --task {bad}",
        "learn2reg submit --task {bad} --preset general --out o.zip",
    ),
    "zip": (
        "learn2reg check {bad} --task {good}/task",
        "learn2reg evaluate {bad} --task {good}/task",
    ),
    "run": ("report {folder} --out page.html",),
    "checkpoint": (
        f"samreg --fixed {GOOD}image.nii.gz --moving {GOOD}image.nii.gz --checkpoint {{bad}} "
        "--out out",
    ),
}
RUN_JSON = '{"schema": 2, "regions": {"1": "lung"}, "notes": [], "fixed": {"file": "x.nii"}}'
TEXTS = (".csv", ".fcsv", ".toml", ".ctbl", ".txt", ".tfm", ".json")


Kind = Callable[[random.Random, Path, Path], Case]


def draw(seed: int, number: int, good: Path, folder: Path) -> Case:
    """Draw a case and write its files.

    Args:
        seed, number: name the case.
        good: holds the files of ``good_files``.
        folder: empty; gets the bad file, and is where the command runs.
    """
    rng = random.Random(f"{seed}-{number}")
    kinds: dict[Kind, int] = {
        _file: 12,
        medical: 12,
        further: 9,
        _option: 3,
        other_option: 3,
        _name: 2,
        output: 2,
        _system: 1,
    }
    return rng.choices(tuple(kinds), tuple(kinds.values()))[0](rng, good, folder)


def _file(rng: random.Random, good: Path, folder: Path) -> Case:
    role = rng.choice(tuple(FILES))
    name = rng.choice(FILES[role])
    content = RUN_JSON.encode() if role == "run" else (good / name).read_bytes()
    how, spoiled, must_fail = _spoiled(rng, name, content)
    bad = folder / Path(name).name
    bad.write_bytes(spoiled)
    if role == "run":
        shutil.copy(good / "both.h5", folder / "transform.h5")
    if role == "task":
        shutil.copytree(good / "task" / "imagesTr", folder / "imagesTr")
    if bad.suffix == ".mhd":
        shutil.copy(good / bad.with_suffix(".raw").name, folder)
    if rng.random() < 0.05:
        renamed = bad.with_name(
            f"other{rng.choice(('.nii.gz', '.h5', '.csv', '.mha', '.png', ''))}"
        )
        bad = bad.rename(renamed)
        how, must_fail = f"{how}, renamed", False
    line = rng.choice(COMMANDS[role]).format(good=good, bad=bad.name, folder=".")
    return Case(f"{role}: {how}", line.split(), must_fail and bad.name == Path(name).name)


def _spoiled(rng: random.Random, name: str, content: bytes) -> tuple[str, bytes, bool]:
    suffix = Path(name).suffix
    own = {
        **dict.fromkeys(TEXTS, ("text", spoil_text)),
        **dict.fromkeys((".nii", ".gz"), ("header", spoil_nifti)),
        **dict.fromkeys((".mha", ".mhd", ".nrrd"), ("header", spoil_header)),
    }.get(suffix)
    if suffix == ".json" and rng.random() < 0.7:
        return "value", spoil_json(rng, content), False
    if own is not None and rng.random() < 0.5:
        return own[0], own[1](rng, content), False
    how = rng.choice(tuple(BYTES))
    spoil, must_fail = BYTES[how]
    return how, spoil(rng, content), must_fail


OPTIONS = {
    "--threads": ODD_NUMBERS,
    "--seed": ODD_NUMBERS,
    "--fill": ODD_NUMBERS,
    "--memory": ODD_NUMBERS,
    "--device": ("cuda", "mps", "tpu", "", "\x1b[2J"),
    "--segmenter": ("none", "thorax", "", "x" * LONG),
    "--rigid": ("bone", "", "\x1b[2J", "x" * LONG),
    "--preserve-volume": ("bone", "", "\x1b[2J", "x" * LONG),
    "--geometry": ("sform", "", "none"),
    "--label-table": ("totalsegmentator-v9", "", "\x1b[2J", "."),
}
SETTINGS = (
    *("levels.steps", "levels.spacing_mm", "similarity.kind", "similarity.radius_mm", "fill"),
    *("smoothness.weight", "smoothness.sliding", "start.search_mm", "overlap.band_mm", "nothing"),
    *("levels", "a.b.c.d", "similarity.intensity_range", "rigid", "verdict", "schema", "name"),
)
VALUES = (*ODD_NUMBERS, "[]", "[1]", "{}", "[[1]]", "true", "'x'", "[nan]", "[-1]", "[1e9]")


def _option(rng: random.Random, good: Path, folder: Path) -> Case:
    line = [*PAIR.format(good=good).split(), "--out", "out"]
    if rng.random() < 0.5:
        name = rng.choice(tuple(OPTIONS))
        return Case(f"option: {name}", [*line, name, _printed(rng.choice(OPTIONS[name]))])
    setting = f"{rng.choice(SETTINGS)}={_printed(rng.choice(VALUES))}"
    return Case("option: --set", [*line, "--set", setting])


def _printed(value: str) -> str:
    """What a command line can hold: no zero byte."""
    return value.replace("\0", "")


def _name(rng: random.Random, good: Path, folder: Path) -> Case:
    (folder / "file").write_text("x")
    odd = (
        *(
            "n" * 300,
            "n" * 5000,
            "no/such",
            "file/below",
            ".",
            "",
            "\x1b[2J\x07",
            "a\nb",
            "/dev/null",
        ),
        *(
            "/dev/zero",
            "/",
            "caf\udce9.nii.gz",
            "☃.nii.gz",
            "-",
            "--",
            "~nobody/x",
            "/proc/self/mem",
        ),
    )
    role = rng.choice(tuple(r for r in COMMANDS if r != "run"))
    suffix = rng.choice(("", "", Path(FILES[role][0]).suffix))
    words = rng.choice(COMMANDS[role]).format(good=good, bad="{bad}", folder=".").split()
    bad = rng.choice(odd) + suffix
    if rng.random() < 0.3:
        good_name = str(good / FILES[role][0])
        words = [good_name if w == "{bad}" else w for w in words]
        places = [i + 1 for i, w in enumerate(words) if w == "--out"]
        return Case("name: output", [bad if i in places else w for i, w in enumerate(words)])
    return Case(
        f"name: {role}", [bad if w == "{bad}" else w for w in words], bad not in ("--", "-")
    )


ENVIRONMENTS: tuple[dict[str, str | None], ...] = (
    *({"NUMBA_NUM_THREADS": value} for value in ("0", "-1", "x", "9" * 30)),
    *({"OMP_NUM_THREADS": value} for value in ("0", "x", "-5")),
    *({"HOME": value} for value in (None, "/nonexistent", "/dev/null", "")),
    *({"TMPDIR": "/nonexistent"}, {"PATH": None}, {"LC_ALL": "C"}, {"TERM": "dumb"}),
    *({"ITERREG_CACHE": value} for value in ("/dev/null", "/proc/x", "\x1b[2J")),
)
REDIRECTS = (">&-", "2>&-", ">&- 2>&-", "<&-", ">/dev/full", "2>/dev/full", "| true")


def _system(rng: random.Random, good: Path, folder: Path) -> Case:
    line = rng.choice(
        (
            f"{PAIR} --out out",
            f"{APPLY} --image {GOOD}image.nii.gz",
            "presets",
            "--help",
            "weights list",
            "apply --help",
            f"evaluate --fixed-labels {GOOD}labels.nii.gz --moving-labels {GOOD}labels.nii.gz",
        )
    )
    words = line.format(good=good).split()
    if rng.random() < 0.5:
        return Case("system: variable", words, environment=rng.choice(ENVIRONMENTS))
    return Case("system: stream", words, redirect=rng.choice(REDIRECTS))
