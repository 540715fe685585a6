"""Accuracy over many pairs at once, so that no change is judged by one of them.

    python benchmarks/accuracy.py [--only GLOB ...] [--every N] [--json ROWS.json]
    python benchmarks/accuracy.py --peer greedy=PYTHON [--only GLOB ...] [--json ROWS.json]
    python benchmarks/accuracy.py --compare OLD.json NEW.json

A group is a kind of pair and of guidance. Its line holds the mean and the worst of each figure:
Dice (the mean over a pair's labels, and the least of any label), HD95, landmark error, error
against a true field, folds inside the run's own regions, how many results are not ok, and CPU
seconds. ``--set KEY=VALUE`` changes a setting of all runs, to try it. ``--peer`` runs another
program of ``_peers/`` in iterreg's place, by images alone, on the same pairs: its rows compare with
iterreg's by ``--compare``.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from _accuracy_peers import peer_of, run_peer
from _accuracy_trials import Trial, trials

import iterreg
from iterreg.displacement import total_displacement_mm, total_displacement_vox, warp_labels
from iterreg.metrics import dice, folding, hd95_by_label_mm

Row = dict[str, Any]
LEAST_VOXELS = 30
FIGURES = {
    "dice": ("Dice", "{:.4f}", np.min),
    "least": ("least", "{:.4f}", np.min),
    "hd95_mm": ("HD95", "{:.2f}", np.max),
    "tre_mm": ("TRE", "{:.3f}", np.max),
    "field_mm": ("field", "{:.3f}", np.max),
    "folds": ("folds", "{:.1f}", np.max),
    "cpu_s": ("CPU s", "{:.2f}", np.max),
}
"""What is printed: title, format, and which end is the worst."""


def main() -> None:
    """Run, or compare kept rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", metavar="GLOB", default=["*"])
    parser.add_argument("--not", dest="leave", nargs="+", metavar="GLOB", default=[])
    parser.add_argument("--every", type=int, default=1, help="of the hippocampus pairs")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", nargs="+", metavar="KEY=VALUE", default=[])
    parser.add_argument("--peer", metavar="METHOD=PYTHON")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--compare", type=Path, nargs="+", metavar="ROWS.json")
    parser.add_argument("--list", action="store_true")
    asked = parser.parse_args()
    if asked.compare:
        old, *new = (json.loads(path.read_text()) for path in asked.compare)
        compare(old, new[-1] if new else old)
        return
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    warnings.simplefilter("ignore")
    settings = {key: read(value) for key, _, value in (s.partition("=") for s in asked.set)}
    peer = peer_of(asked.peer) if asked.peer else None
    rows: list[Row] = []
    for trial in trials(asked.every, asked.only):
        if any(fnmatch.fnmatch(trial.group, pattern) for pattern in asked.leave):
            continue
        if asked.list:
            print(f"{trial.group}: {trial.name}")
            continue
        if peer and (trial.guided or trial.fixed.grid.rank == 2):
            continue
        if peer:
            rows.append(measured_peer(trial, peer, asked.threads))
        else:
            rows.append(measured(trial, settings, asked.threads))
        print(line(rows[-1]), flush=True)
        if asked.json:
            asked.json.write_text(json.dumps(rows, indent=1) + "\n")
    table(rows)


def read(value: str) -> Any:
    """A setting's value: JSON, or else text."""
    try:
        return json.loads(value)
    except ValueError:
        return value


def measured(trial: Trial, settings: dict[str, Any], threads: int) -> Row:
    """Register a pair and judge it."""
    row: Row = {"group": trial.group, "pair": trial.name}
    given: dict[str, Any] = {}
    if trial.guided and trial.truth:
        given = dict(zip(("fixed_labels", "moving_labels"), trial.truth, strict=True))
    begun = time.process_time()
    try:
        run = iterreg.optimize_pair(
            trial.fixed,
            trial.moving,
            preset=trial.preset,
            overrides=dict(trial.overrides) | settings,
            threads=threads,
            **given,
        )
    except iterreg.IterregError as error:
        return row | {"status": "refused", "message": str(error)[:100]}
    row |= {"cpu_s": time.process_time() - begun, "status": run.status.value, "start": run.start}
    row |= judged(trial, run.transform)
    total = total_displacement_vox(run.transform)
    return row | {"folds": folding(total, run.fixed_labels.data).interior_folds}


def measured_peer(trial: Trial, peer: tuple[str, str], threads: int) -> Row:
    """Register a pair with a peer and judge it; a peer has no verdict and no regions."""
    row: Row = {"group": trial.group, "pair": trial.name, "method": peer[0]}
    pair = trial.fixed, trial.moving
    transform, said, cpu_s = run_peer(peer, pair, trial.preset, threads)
    if transform is None:
        return row | {"status": "failed", "message": said[:100]}
    return row | {"status": "ok", "cpu_s": cpu_s} | judged(trial, transform)


def judged(trial: Trial, transform: iterreg.Transform) -> Row:
    """Every figure that the transform alone decides."""
    return overlap(trial, transform) | points(trial, transform) | truth(trial, transform)


def overlap(trial: Trial, transform: iterreg.Transform) -> Row:
    """Dice and HD95 of the label maps, by the transform alone."""
    if trial.truth is None:
        return {}
    ours, theirs = trial.truth
    warped = warp_labels(theirs, transform)
    values = [v for v in ours.values if int((ours.data == v).sum()) >= LEAST_VOXELS]
    scores = dice(ours.data, warped.data, values)
    spacing = ours.grid.spacing_zyx_mm
    apart = hd95_by_label_mm(ours.data, warped.data, values, spacing)
    found = [d for d in apart.values() if np.isfinite(d)]
    return {
        "dice": float(np.mean(list(scores.values()))),
        "least": float(min(scores.values())),
        "hd95_mm": float(np.mean(found)) if found else None,
        "dice_by_label": {str(k): float(v) for k, v in scores.items()},
    }


def points(trial: Trial, transform: iterreg.Transform) -> Row:
    """Mean error of the landmarks."""
    if trial.landmarks is None:
        return {}
    fixed, moving = trial.landmarks
    error = np.linalg.norm(transform.map_points(fixed).lps - moving.lps, axis=1)
    return {"tre_mm": float(error.mean()), "tre_p95_mm": float(np.percentile(error, 95))}


def truth(trial: Trial, transform: iterreg.Transform) -> Row:
    """Mean distance from the true field."""
    if trial.field_lps is None:
        return {}
    ours = np.moveaxis(total_displacement_mm(transform).numpy(), 0, -1)
    error = np.linalg.norm(ours - trial.field_lps, axis=-1)
    if trial.where is not None:
        error = error[trial.where]
    return {"field_mm": float(error.mean()), "field_p95_mm": float(np.percentile(error, 95))}


def line(row: Row) -> str:
    """A pair for people."""
    told = [
        f"{title} {form.format(row[key])}"
        for key, (title, form, _) in FIGURES.items()
        if row.get(key) is not None
    ]
    return f"{row['group']:30} {row['pair']:24} {row['status']:9} {'  '.join(told)}"


def table(rows: list[Row]) -> None:
    """Mean and worst of every group."""
    print()
    for group in dict.fromkeys(row["group"] for row in rows):
        mine = [row for row in rows if row["group"] == group]
        told = []
        for key, (title, form, worst) in FIGURES.items():
            values = [row[key] for row in mine if row.get(key) is not None]
            if values:
                told.append(
                    f"{title} {form.format(np.mean(values))} ({form.format(worst(values))})"
                )
        bad = sum(row["status"] != "ok" for row in mine)
        print(f"{group:32} {len(mine):3} pairs  {'  '.join(told)}  not ok {bad}")


def compare(old: list[Row], new: list[Row]) -> None:
    """Differences of the means over the pairs that both hold, and the pairs that got worse."""
    before = {(row["group"], row["pair"]): row for row in old}
    both = [(before[k], row) for row in new if (k := (row["group"], row["pair"])) in before]
    for group in dict.fromkeys(row["group"] for _, row in both):
        mine = [(a, b) for a, b in both if b["group"] == group]
        told = []
        for key, (title, form, worst) in FIGURES.items():
            ends = [
                (a[key], b[key])
                for a, b in mine
                if a.get(key) is not None and b.get(key) is not None
            ]
            if not ends:
                continue
            first, second = zip(*ends, strict=True)
            means = " -> ".join(form.format(np.mean(x)) for x in (first, second))
            worsts = " -> ".join(form.format(worst(x)) for x in (first, second))
            told.append(f"{title} {means} (worst {worsts})")
        notok = [sum(row["status"] != "ok" for row in side) for side in zip(*mine, strict=True)]
        print(f"{group} ({len(mine)})\n    " + "\n    ".join(told))
        print(f"    not ok {notok[0]} -> {notok[1]}")


if __name__ == "__main__":
    main()
