"""How often the verdict is right: wrong pairs that are called ok, right pairs that are not.

    python benchmarks/verdict.py [--json ROWS.json] [--half a|b] [--only GROUP] [--threads N]
    python benchmarks/verdict.py --judge ROWS.json

Pairs come from ``_verdict_trials.py``. Limits were chosen on half a of the sources; half b was kept
apart. ``--judge`` judges the evidence in ROWS.json again with the limits as they are now, so that
limits can be chosen without registering again.

Prints a row a pair, the table of verdicts by half and kind of pair with every miss, the span of
each measure on right and wrong pairs, and the share of the CPU seconds that the evidence costs.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from _cases import DATA
from _verdict_trials import Trial, trials

import iterreg
from iterreg.config import load_config
from iterreg.displacement import warp_labels
from iterreg.errors import NoRoiPairsError
from iterreg.metrics import ImageSimilarity, dice
from iterreg.progress import Progress
from iterreg.samreg.candidates import RoiSettings
from iterreg.samreg.match import find_rois, load
from iterreg.verdict import Evidence, judge

Row = dict[str, Any]

WEIGHTS = DATA.parent / "weights" / "mobile_sam.pt"
LABELS = ("fixed_labels", "moving_labels")


class CpuClock:
    """CPU seconds of the whole run and of its check, from the events of its progress."""

    def __init__(self) -> None:
        """Start."""
        self.begun = self.last = time.process_time()
        self.check = 0.0
        self._stage = ""

    def __call__(self, event: Progress) -> None:
        """Count the seconds since the last event for the stage that ends."""
        now = time.process_time()
        if self._stage == "check":
            self.check += now - self.last
        self.last, self._stage = now, event.stage

    @property
    def total(self) -> float:
        """Seconds since the start."""
        return time.process_time() - self.begun


def main() -> None:
    """Register every trial, or judge kept evidence again, and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--half", choices=["a", "b"])
    parser.add_argument("--only", metavar="GROUP")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--judge", type=Path, metavar="ROWS.json")
    options = parser.parse_args()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    if options.judge:
        rows = [judged_again(row) for row in json.loads(options.judge.read_text())]
    else:
        rows = []
        for trial in trials():
            if options.half in (None, trial.half) and options.only in (None, trial.group):
                rows.append(row_of(trial, options.threads))
                print(line_of(rows[-1]), flush=True)
                if options.json:
                    options.json.write_text(json.dumps(rows, indent=1) + "\n")
    spans(rows)
    table(rows)


def row_of(trial: Trial, threads: int) -> Row:
    """Register a trial; a refusal counts as not ok."""
    row: Row = {
        "group": trial.group,
        "half": trial.half,
        "pair": trial.name,
        "change": trial.change,
        "preset": trial.preset,
        "right": trial.is_right,
        "labels": trial.labels is not None,
        "rois": trial.rois,
    }
    clock = CpuClock()
    try:
        result = registered(trial, threads, clock)
    except iterreg.IterregError as error:
        return row | {"status": "refused", "message": str(error)[:100], "cpu_s": clock.total}
    row |= {"status": result.status.value, "cpu_s": clock.total, "check_cpu_s": clock.check}
    row["regions"] = bool(result.fixed_labels.values)
    if trial.truth is not None:
        row["truth_dice"] = truth_dice(trial.truth, result)
    row["reasons"] = [reason.message for reason in result.verdict.reasons]
    return row | {"evidence": result.verdict.evidence.to_dict()}


def truth_dice(
    maps: tuple[iterreg.LabelMap, iterreg.LabelMap], result: iterreg.Registration
) -> float:
    """Mean Dice of labels that the run did not see."""
    warped = warp_labels(maps[1], result.transform)
    values = dice(maps[0].data, warped.data, maps[0].values)
    return float(np.mean(list(values.values())))


def registered(trial: Trial, threads: int, clock: CpuClock) -> iterreg.Registration:
    """Run a trial."""
    given: dict[str, Any] = {}
    if trial.labels is not None:
        given |= dict(zip(LABELS, trial.labels, strict=True))
    if trial.rois:
        model = load("mobile_sam", WEIGHTS, "cpu")
        found = find_rois(trial.fixed, trial.moving, model, RoiSettings())
        if not found.pairs:
            raise NoRoiPairsError(found.reason_for_none)
        given |= {"roi_pairs": found.guidance, "initial_transform": found.start}
    return iterreg.optimize_pair(
        trial.fixed, trial.moving, preset=trial.preset, threads=threads, progress=clock, **given
    )


def judged_again(row: Row) -> Row:
    """The row with the verdict of today's limits."""
    if "evidence" not in row:
        return row
    found = dict(row["evidence"])
    for when in ("before", "after"):
        found[when] = ImageSimilarity(**found[when])
    config = load_config(row["preset"]).resolve(
        has_regions=row["regions"], labels_given=row["labels"], rois_given=row["rois"]
    )
    verdict = judge(Evidence(**found), config.verdict)
    reasons = [reason.message for reason in verdict.reasons]
    return row | {"status": verdict.status.value, "reasons": reasons}


def line_of(row: Row) -> str:
    """A row in words."""
    head = f"{row['group']:12} {row['preset']:11} {row['pair']:16} {row['change']:18}"
    if "truth_dice" in row:
        head += f" Dice {row['truth_dice']:.2f}"
    if "evidence" not in row:
        return f"{head} refused   {row['message']}"
    measures = " ".join(f"{name} {value:.3g}" for name, value in measures_of(row).items())
    flip = row["evidence"]["better_flip"]
    return f"{head} {row['status']:8}  {measures}" + (f"  [{flip}]" if flip else "")


def measures_of(row: Row) -> dict[str, float]:
    """The figures that have limits; more is worse for those after ``view``."""
    evidence = row["evidence"]
    before, after = evidence["before"], evidence["after"]
    dice, dice_before = evidence["region_dice"], evidence["region_dice_before"]
    volume = evidence["affine_volume"]
    return {
        "ncc": after["ncc"],
        "lncc": after["lncc"],
        "nmi": after["nmi"],
        "dice": min(dice.values(), default=math.nan),
        "view": evidence["common_view"],
        "back_mm": evidence["inconsistency_median_mm"],
        "volume": max(volume, 1 / volume) if volume > 0 else math.inf,
        "stretch": evidence["affine_stretch"],
        "shear": evidence["affine_shear_deg"],
        "dice_loss": max((dice_before.get(k, 0.0) - v for k, v in dice.items()), default=math.nan),
        "lncc_loss": before["lncc"] - after["lncc"],
    }


def setting(row: Row) -> str:
    """Rows with the same limits."""
    guided = " guided" if row["labels"] else ""
    return f"{row['preset']}{guided}"


def spans(rows: Iterable[Row]) -> None:
    """Print how far right pairs and wrong ones reach, by limits."""
    measured = [row for row in rows if "evidence" in row]
    for name in dict.fromkeys(map(setting, measured)):
        here = [(row["right"], measures_of(row)) for row in measured if setting(row) == name]
        print(f"\n{name}")
        for key in here[0][1]:
            values = {
                right: np.array([m[key] for r, m in here if r == right and not math.isnan(m[key])])
                for right in (True, False)
            }
            if all(map(len, values.values())):
                print(f"  {key:8} right {span(values[True])}   wrong {span(values[False])}")


def span(values: np.ndarray) -> str:
    """Quantiles in words."""
    marks = np.quantile(values, (0, 0.05, 0.5, 0.95, 1), method="nearest")
    return " ".join(f"{mark:7.3g}" for mark in marks)


def table(rows: list[Row]) -> None:
    """Print the verdicts by half, and the misses."""
    print("\nhalf  pairs                       ok  doubtful  failed  refused")
    for half in ("a", "b"):
        for right in (True, False):
            found = [r["status"] for r in rows if (r["half"], r["right"]) == (half, right)]
            counts = [found.count(s) for s in ("ok", "doubtful", "failed", "refused")]
            words = f"{len(found)} {'right' if right else 'wrong'}"
            print(
                f"{half:5} {words:24}  {counts[0]:4}  {counts[1]:8}  {counts[2]:6}  {counts[3]:7}"
            )
    print()
    for row in rows:
        if row["right"] != (row["status"] == "ok"):
            print(f"miss, half {row['half']}: {line_of(row)}  {row.get('reasons')}")
    named = [r for r in rows if "evidence" in r and r["evidence"]["better_flip"]]
    print(
        f"flips named: {sum(not r['right'] for r in named)} of wrong pairs, "
        f"{sum(r['right'] for r in named)} of right pairs"
    )
    ok = [row for row in rows if row["status"] == "ok" and row["right"]]
    shares = [100 * row["check_cpu_s"] / row["cpu_s"] for row in ok]
    if shares:
        whole = 100 * sum(r["check_cpu_s"] for r in ok) / sum(r["cpu_s"] for r in ok)
        print(
            f"the evidence costs {whole:.0f} % of the CPU seconds of all right pairs that are ok; "
            f"by pair: median {np.median(shares):.0f} %, worst {max(shares):.0f} %"
        )


if __name__ == "__main__":
    sys.exit(main())
