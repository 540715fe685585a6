"""Series in time: one course against independent runs, at landmarks whose motion is known.

    python benchmarks/motion.py [--only chest hearts back 4dct] [--course even] [--phases 10]
                                [--noise 0.1] [--smooth W ...]

Phases are made from the chest pair that comes with iterreg, from the 4D-CT pair at full size, and
from the hearts of ACDC, from their diastole (``hearts``) or their systole (``back``). The field of
the pair, times a course that goes there and back in one period, warps the first image; noise of
its own is added to each phase. The ``uneven`` course goes there faster than back, and back by
another way. Compared are each phase by itself, each started from its neighbour's field, and all on
one course, with the penalty of iterreg (on changes of the bend) and with one on bends; both weights
follow the errors of the phases. ``error`` is the mean distance of 400 landmarks from their true
places, ``worst`` the worst phase's, ``jitter`` the root mean square of the bends in time of the
error.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from _motion_series import Course, Series, make_series  # noqa: E402

from iterreg.config import load_config  # noqa: E402
from iterreg.displacement import Transform  # noqa: E402
from iterreg.motion.course import _differences, _samples, _smoother, _weight_of, fit_course  # noqa: E402
from iterreg.motion.register import Motion, register_series  # noqa: E402

DATA = Path(os.environ.get("ITERREG_DATA", ROOT.parent / "shared" / "data"))


def main() -> None:
    """Parse the command line and print a table for each series."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=["chest", "hearts"])
    parser.add_argument("--course", choices=("even", "uneven"), default="even")
    parser.add_argument("--phases", type=int, default=10)
    parser.add_argument("--noise", type=float, default=0.1)
    parser.add_argument("--smooth", type=float, nargs="*", default=[])
    options = parser.parse_args()
    print(f"{'series':<14}{'how':<26}{'error mm':>9}{'worst':>8}{'jitter':>8}{'s':>7}")
    for name, files, preset in pairs(options.only):
        config = load_config(preset, {"segmenter": "none"} if preset == "lung" else {})
        course = Course.of(options.course, options.phases)
        measure(make_series(name, files, config, course, options.noise), config, options.smooth)


def pairs(only: list[str]) -> list[tuple[str, list[Path], str]]:
    """The pairs at hand: images, label maps, preset."""
    names = ("fixed", "moving", "fixed_labels", "moving_labels")
    found = []
    for name, folder in (
        ("chest", ROOT / "iterreg" / "data" / "thorax4dct_mini"),
        ("4dct", DATA / "thorax4dct"),
    ):
        found.append((name, [folder / f"{file}.nii.gz" for file in names], "lung"))
    for patient, frame in (("067", "10"), ("068", "12")):
        stems = [DATA / "acdc" / f"patient{patient}_frame{f}" for f in ("01", frame)]
        for name, (a, b) in (("hearts", stems), ("back", stems[::-1])):
            files = [Path(f"{stem}{end}.nii.gz") for end in ("", "_gt") for stem in (a, b)]
            found.append((f"{name} {patient}", files, "cardiac"))
    return [row for row in found if row[0].split()[0] in only]


def measure(series: Series, config: object, weights: list[float]) -> None:
    """Print the rows of a series."""
    alone = run(series, config, chained=False)
    show(series, "each by itself", alone[0].transforms, alone[1])
    chain = run(series, config, chained=True)
    show(series, "from its neighbour", chain[0].transforms, chain[1])
    for weight in [None, *weights]:
        course, chosen = on_course(chain[0], weight)
        show(series, f"on one course, weight {chosen:g}", course, chain[1])
    course, chosen = on_course(chain[0], None, bends=True)
    show(series, f"bends, weight {chosen:g}", course, chain[1])


def run(series: Series, config: object, chained: bool) -> tuple[Motion, float]:
    """Register a series without a course."""
    begun = time.perf_counter()
    motion = register_series(
        series.phases,
        periodic=True,
        smooth=0.0,
        chained=chained,
        preset=config,  # type: ignore[arg-type]
        options={"threads": 1},
    )
    return motion, time.perf_counter() - begun


def on_course(
    motion: Motion, weight: float | None, bends: bool = False
) -> tuple[tuple[Transform, ...], float]:
    """The transforms of a motion on one course; ``bends`` takes the other penalty."""
    grid = motion.fixed.image.grid
    scale = torch.tensor(grid.spacing_zyx_mm).float().view(-1, 1, 1, 1)
    fields = torch.stack([t.field.vox * scale for t in motion.transforms])
    if bends:
        smooth, weight = with_penalty_on_bends(fields)
    else:
        course = fit_course(fields, motion.reference, periodic=True, weight=weight)
        smooth, weight = course.fields, course.weight
    transforms = tuple(
        replace(t, field=replace(t.field, vox=field / scale))
        for t, field in zip(motion.transforms, smooth, strict=True)
    )
    return transforms, weight


def with_penalty_on_bends(fields: torch.Tensor) -> tuple[torch.Tensor, float]:
    """The course whose bends, not their changes, are penalised."""
    bends = _differences(len(fields), 2, True)
    weight = _weight_of(_samples(fields, None), bends, 0)
    smoother = torch.from_numpy(_smoother(bends, weight, 0)).to(fields)
    return torch.einsum("st,t...->s...", smoother, fields), weight


def show(series: Series, how: str, transforms: tuple[Transform, ...], seconds: float) -> None:
    """Print one row."""
    errors = np.stack(
        [
            found.map_points(series.landmarks).lps - true.map_points(series.landmarks).lps
            for found, true in zip(transforms, series.truth, strict=True)
        ]
    )
    means = np.linalg.norm(errors, axis=2).mean(1)[1:]
    bends = np.roll(errors, 1, 0) - 2 * errors + np.roll(errors, -1, 0)
    jitter = float(np.sqrt(np.square(bends).mean()))
    print(
        f"{series.name:<14}{how:<26}{means.mean():>9.3f}{means.max():>8.3f}{jitter:>8.3f}"
        f"{seconds:>7.0f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
