"""Whether the expected error holds, over points that did not calibrate it; and its calibration.

    python benchmarks/expected_error.py [--only SOURCE] [--scratch FOLDER] [--fit]

Each trial registers a pair whose error is known at some points: automatic landmarks in lungs,
boundaries of expert labels that the registration did not use, or phantoms (``iterreg phantom``),
whose field is known everywhere. It prints for each: how many points, how many errors lie below the
50 % and the 90 % bound, and the rank correlation (Spearman) of the 90 % bound with the error.

Half of the people and pictures calibrate, and the chests never do. The first table is of the others
and of the coefficients that come with iterreg. The second leaves a whole data set out: each is
judged with coefficients fitted on the others' calibrating half alone, so neither its anatomy nor
its scanner is known.

``--scratch`` keeps the features of each trial, so that a second call takes seconds. ``--fit``
writes ``iterreg/expected_error/coefficients.toml`` anew.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from _error_trials import Trial, trials
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.stats import spearmanr

import iterreg
from iterreg import expected_error
from iterreg.expected_error import BOUNDS, NAMES, Bound
from iterreg.geometry import apply_affine
from iterreg.sampling import sample

Array = NDArray[Any]

MOST_OF_A_TRIAL = 300
"""Points of a trial that calibrate; those of one image are much alike."""

CONSERVATIVE = {50: 0.57, 90: 0.92}
"""Quantile that is fitted for each bound; on other data a bound holds a little less."""

LEAST_ERROR = 0.05
"""Units; smaller errors are noise of the truth."""

TABLE = Path(expected_error.__file__).parent / "coefficients.toml"


@dataclass(frozen=True)
class Row:
    """The features and errors of a trial.

    Args:
        source, kind, name, calibrates: of the trial.
        features: (n, features).
        error: (n) in units.
    """

    source: str
    kind: str
    name: str
    calibrates: bool
    features: Array
    error: Array

    @property
    def group(self) -> str:
        """Groups weigh the same in the calibration."""
        return f"{self.source}, {self.kind}"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", metavar="SOURCE")
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--fit", action="store_true")
    asked = parser.parse_args()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    with tempfile.TemporaryDirectory() as unkept:
        scratch = asked.scratch or Path(unkept)
        scratch.mkdir(exist_ok=True, parents=True)
        rows = [
            row_of(trial, scratch)
            for trial in trials(scratch)
            if asked.only in (None, trial.source)
        ]
    if asked.fit:
        fitted = fit([row for row in rows if row.calibrates])
        write_table(fitted, [row for row in rows if row.calibrates])
    else:
        fitted = expected_error.bounds()
    print("Kept apart, with the coefficients that come with iterreg")
    show([row for row in rows if not row.calibrates], fitted)
    sources = list(dict.fromkeys(row.source for row in rows))
    calibrating = {row.source for row in rows if row.calibrates}
    if len(calibrating) > 1:
        print("\nA data set left out: judged with coefficients of the others")
        for source in sources:
            others = fit([row for row in rows if row.calibrates and row.source != source])
            show([row for row in rows if row.source == source], others, each=False)


def row_of(trial: Trial, scratch: Path) -> Row:
    """Register a trial and take its features at the points whose error is known."""
    kept = scratch / f"{trial.title.replace(' ', '_').replace('/', '_')}.npz"
    if not kept.is_file():
        names = ("fixed_labels", "moving_labels")
        labels = dict(zip(names, trial.labels or (None, None), strict=True))
        run = iterreg.optimize_pair(trial.fixed, trial.moving, preset=trial.preset, **labels)
        back = expected_error.register_back(run, trial.fixed, trial.moving)
        found = expected_error.features_of(run, back, trial.fixed, trial.moving)
        points, error_mm = trial.truth(run.transform)
        index = torch.from_numpy(apply_affine(found.grid.lps_to_index, points).T).float()
        features = sample(found.values, index).numpy().T
        np.savez(kept, features=features, error=error_mm / found.error_unit_mm)
    data = np.load(kept)
    return Row(
        trial.source, trial.kind, trial.name, trial.calibrates, data["features"], data["error"]
    )


# Calibration -----------------------------------------------------------------------------------


def fit(rows: Sequence[Row]) -> tuple[Bound, ...]:
    """Fit both bounds by quantile regression; every group of trials weighs the same."""
    groups = [row.group for row in rows]
    features, errors, weights = [], [], []
    for row in rows:
        chosen = np.random.default_rng(0).permutation(len(row.error))[:MOST_OF_A_TRIAL]
        features.append(row.features[chosen])
        errors.append(np.log(np.maximum(row.error[chosen], LEAST_ERROR)))
        share = 1 / (len(set(groups)) * groups.count(row.group) * len(chosen))
        weights.append(np.full(len(chosen), share))
    x, y, w = np.vstack(features), np.concatenate(errors), np.concatenate(weights)
    return tuple(quantile(x, y, w, CONSERVATIVE[percent]) for percent in BOUNDS)


def quantile(x: Array, y: Array, w: Array, q: float) -> Bound:
    """Weighted quantile regression; no slope is negative, for each feature speaks of error.

    Source:
        Koenker and Bassett, Regression quantiles, Econometrica 46, 1978, as a linear program.
    """
    n, count = x.shape
    cost = np.concatenate([[0.0], np.full(count, 1e-4), q * w, (1 - q) * w])
    equal = np.hstack([np.ones((n, 1)), x, np.eye(n), -np.eye(n)])
    limits = [(None, None)] + [(0, None)] * (count + 2 * n)
    found = linprog(cost, A_eq=equal, b_eq=y, bounds=limits, method="highs").x
    return Bound(float(found[0]), tuple(float(v) for v in found[1 : 1 + count]))


def write_table(fitted: Sequence[Bound], rows: Sequence[Row]) -> None:
    """Write the coefficients, and what they were fitted on."""
    lines = ["# Fitted by benchmarks/expected_error.py --fit, on these pairs:"]
    groups = list(dict.fromkeys(row.group for row in rows))
    for group in groups:
        names = ", ".join(row.name for row in rows if row.group == group)
        lines.append(f"#   {group}: {names}")
    for percent, bound in zip(BOUNDS, fitted, strict=True):
        lines += ["", f"[bound_{percent}]", f"intercept = {bound.intercept:.4f}"]
        lines += [f"{name} = {s:.4f}" for name, s in zip(NAMES, bound.slopes, strict=True)]
    TABLE.write_text("\n".join(lines) + "\n", "utf-8")


# Tables ----------------------------------------------------------------------------------------


def show(rows: Sequence[Row], fitted: Sequence[Bound], each: bool = True) -> None:
    """Print a line a group, and a line a trial above it."""
    for group in dict.fromkeys(row.group for row in rows):
        own = [row for row in rows if row.group == group]
        for row in own if each else []:
            print_line(f"  {row.name}", [row], fitted)
        print_line(group, own, fitted)


def print_line(title: str, rows: Sequence[Row], fitted: Sequence[Bound]) -> None:
    """Coverage of both bounds over all points, and the rank correlation, a mean over the trials."""
    below: list[Array] = []
    ranks, sizes = [], []
    for row in rows:
        values = torch.from_numpy(row.features.T).float()
        limits = [bound.of(values).numpy() for bound in fitted]
        below.append(np.stack([row.error <= limit for limit in limits]))
        ranks.append(spearmanr(limits[-1], row.error).statistic)
        sizes.append(np.median(limits[-1]) / np.median(row.error))
    shares = 100 * np.hstack(below).mean(1)
    print(
        f"{title:44} {sum(len(r.error) for r in rows):6} points  below 50 %: {shares[0]:5.1f} %  "
        f"below 90 %: {shares[1]:5.1f} %  rank correlation {np.mean(ranks):5.2f}  "
        f"median bound over median error {np.median(sizes):4.1f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
