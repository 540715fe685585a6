"""Fingerprints of the fields: whether a change of the code changes a result.

    python benchmarks/fields.py [--json ROWS.json] [NAME ...]
    python benchmarks/fields.py --compare BEFORE.json AFTER.json

A row holds a pair, what guides it, the SHA-256 of its displacement (float32 voxels, C order) and of
its affine (rounded to 1e-9), its status, the CPU seconds of ``optimize_pair``, and the peak memory
of the process that ran it. Run it from two checkouts on one machine with the same versions and
threads, then compare. Names are those of ``_cases.py``; without any, the pairs of ``DEFAULT``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DEFAULT = (
    "acdc-067",
    "acdc-068-back",
    "acdc-067-128x128x16",
    "hippocampus-1",
    "hippocampus-4",
    "thorax4dct_mini",
    "thorax4dct",
    "brain",
)
EXTRA = {
    "thorax4dct_mini": {"rigid": {"rigid": ["bone"]}, "ncc": {"similarity.kind": "ncc"}},
    "acdc-067": {
        "dice+edt": {"overlap.kind": "dice+edt"},
        "means": {"smoothness.kind": "region-means"},
    },
}
"""Overrides that take other paths through the code, with labels."""


def main() -> None:
    """Print a row a run, or compare two files of rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--compare", nargs=2, type=Path)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.compare:
        sys.exit(compare(*options.compare))
    if options.one:
        print(json.dumps(one(Path(options.one[0]), options.one[1], json.loads(options.one[2]))))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.names or DEFAULT:
            rows += rows_of(name, Path(folder) / name)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


def rows_of(name: str, folder: Path) -> list[dict[str, object]]:
    """Every run of a pair, each in a process of its own."""
    import _cases

    folder.mkdir(parents=True)

    _cases.make(_cases.cases()[name], folder)
    runs: dict[str, dict[str, object]] = {"images": {}, "labels": {}}
    rows = []
    for what, overrides in (runs | EXTRA.get(name, {})).items():
        command = [sys.executable, __file__, "--one", str(folder), what, json.dumps(overrides)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        row = {"pair": name, "run": what, **json.loads(printed)}
        rows.append(row)
        print(
            f"{name:22} {what:9} {row['field'][:16]} {row['affine'][:8]} {row['status']:18} "
            f"{row['cpu_s']:7.1f} CPU s {row['peak_gb']:5.2f} GB",
            flush=True,
        )
    return rows


def one(folder: Path, what: str, overrides: dict[str, object]) -> dict[str, object]:
    """Register a pair and fingerprint the result."""
    import numpy as np
    import SimpleITK as sitk

    import iterreg

    case = json.loads((folder / "case.json").read_text())
    labels = {}
    if what != "images":
        labels = {f"{s}_labels": folder / f"{s}_labels.nii.gz" for s in ("fixed", "moving")}
        names = json.loads((folder / "names.json").read_text())
        labels = {
            side: iterreg.LabelMap(loaded.data, loaded.grid, {int(v): n for v, n in names.items()})
            for side, path in labels.items()
            for loaded in [iterreg.read_label_map(path)]
        }
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    begun = time.process_time()
    result = iterreg.optimize_pair(
        folder / "fixed.nii.gz",
        folder / "moving.nii.gz",
        preset=case["preset"],
        overrides=overrides,
        threads=2,
        **labels,
    )
    seconds = time.process_time() - begun
    field = result.transform.field.vox.contiguous().numpy().astype(np.float32)
    affine = np.round(np.asarray(result.transform.affine_lps, dtype=np.float64), 9) + 0.0
    return {
        "field": hashlib.sha256(field.tobytes()).hexdigest(),
        "affine": hashlib.sha256(affine.tobytes()).hexdigest(),
        "status": result.status.name,
        "cpu_s": seconds,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def compare(before: Path, after: Path) -> int:
    """Print what differs, and the ratio of CPU seconds and memory; 1 where a field differs."""
    old = {(row["pair"], row["run"]): row for row in json.loads(before.read_text())}
    differ = 0
    for row in json.loads(after.read_text()):
        was = old.get((row["pair"], row["run"]))
        if was is None:
            continue
        same = all(was[key] == row[key] for key in ("field", "affine", "status"))
        differ += not same
        print(
            f"{row['pair']:22} {row['run']:9} {'same bytes' if same else 'DIFFERS'} "
            f"{row['field'][:16]}  CPU {row['cpu_s'] / was['cpu_s']:.2f}  "
            f"memory {row['peak_gb'] / was['peak_gb']:.2f}"
        )
    return int(differ > 0)


if __name__ == "__main__":
    main()
