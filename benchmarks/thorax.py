"""``iterreg thorax`` on a real 4D-CT pair, images alone: time, memory, overlap, folding.

    python benchmarks/thorax.py [--runs 5] [--greedy-python PYTHON]

Each run is the whole command in a process of its own: start-up, reading, segmenting, optimising,
measuring, drawing and writing. The images are those of ``thorax4dct`` in ITERREG_DATA (default:
../shared/data beside the project). Overlap is counted with the label maps given there, which the
command does not see. ``cone-beam look`` is the same pair with the fixed image altered to resemble a
cone-beam CT; it is made from the real CT and no measurement of a real one.

``--greedy-python`` names a Python that has picsl_greedy; greedy then runs in turn with iterreg
(WNCC 2x2x2, -n 100x50x10, two threads; reading and writing its field included).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import iterreg
from iterreg.displacement import Transform, total_displacement_vox, warp_labels
from iterreg.image import Image
from iterreg.io import write_image
from iterreg.metrics import dice, folding, sdlogj_l2r

DATA = Path(os.environ.get("ITERREG_DATA", Path(__file__).parents[2] / "shared" / "data"))
RESULTS = Path(__file__).parent / "results"
LUNG, BONE = 2, 3
GREEDY = """
import sys, SimpleITK as sitk
from picsl_greedy import Greedy3D
fixed, moving, out = sys.argv[1:]
f, m = (sitk.Cast(sitk.ReadImage(p), sitk.sitkFloat32) for p in (fixed, moving))
Greedy3D().execute(f"-d 3 -i f m -m WNCC 2x2x2 -n 100x50x10 -o {out} -threads 2", f=f, m=m)
"""


def main() -> None:
    """Run, print the rows, keep them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--greedy-python")
    asked = parser.parse_args()
    folder = DATA / "thorax4dct"
    if not folder.is_dir():
        sys.exit(f"{folder}: no such folder; set ITERREG_DATA")
    with tempfile.TemporaryDirectory() as scratch:
        rows = measure(folder, Path(scratch), asked.runs, asked.greedy_python)
    for row in rows:
        print(described(row))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "thorax.json").write_text(json.dumps(rows, indent=2) + "\n")


def measure(folder: Path, scratch: Path, runs: int, greedy: str | None) -> list[dict[str, Any]]:
    """One row per subject: before, iterreg, greedy in turn with it, and the cone-beam look."""
    fixed, moving = folder / "fixed.nii.gz", folder / "moving.nii.gz"
    ours, theirs = [], []
    for number in range(runs):
        ours.append(timed(ours_command(fixed, moving, scratch / f"run{number}")))
        if greedy:
            out = scratch / "greedy.nii.gz"
            theirs.append(timed([greedy, "-c", GREEDY, str(fixed), str(moving), str(out)]))
    still = Transform(np.eye(4), iterreg.DisplacementField.zero(iterreg.read_image(fixed).grid))
    rows = [{"subject": "before"} | judged(folder, still)]
    last = scratch / f"run{runs - 1}"
    stages = [json.loads((scratch / f"run{n}" / "run.json").read_text()) for n in range(runs)]
    rows.append(
        {"subject": "iterreg"}
        | judged(folder, iterreg.read_transform(last / "transform.h5"))
        | medians(ours)
        | {"stages_s": stage_medians([run["timings_s"] for run in stages])}
    )
    if greedy:
        field = iterreg.read_transform(scratch / "greedy.nii.gz")
        rows.append({"subject": "greedy"} | judged(folder, field) | medians(theirs))
    altered = scratch / "cone_beam.nii.gz"
    write_image(cone_beam_look(iterreg.read_image(fixed)), altered)
    cost = timed(ours_command(altered, moving, scratch / "cone_beam"))
    result = iterreg.read_transform(scratch / "cone_beam" / "transform.h5")
    rows.append({"subject": "iterreg, cone-beam look"} | judged(folder, result) | medians([cost]))
    return rows


def ours_command(fixed: Path, moving: Path, out: Path) -> list[str]:
    """The command line of a run."""
    pair = ["--fixed", str(fixed), "--moving", str(moving)]
    return [sys.executable, "-m", "iterreg", "thorax", *pair, "--out", str(out), "--quiet"]


def timed(command: list[str]) -> dict[str, float]:
    """Wall seconds, CPU seconds and peak memory of a process."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command[:4])} ...: ended with status {status}")
    return {
        "wall_s": time.perf_counter() - begun,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_gb": usage.ru_maxrss / 1e6,
    }


def medians(costs: list[dict[str, float]]) -> dict[str, Any]:
    """The median of each cost, the least and most wall time, and how many runs."""
    walls = [cost["wall_s"] for cost in costs]
    middle = {key: statistics.median(cost[key] for cost in costs) for key in costs[0]}
    return middle | {"wall_least_s": min(walls), "wall_most_s": max(walls), "runs": len(costs)}


def stage_medians(timings: list[dict[str, float]]) -> dict[str, float]:
    """The median seconds of each stage."""
    return {name: statistics.median(t[name] for t in timings) for name in timings[0]}


def judged(folder: Path, transform: Transform) -> dict[str, float]:
    """Overlap with label maps that the method did not see, and folding by them."""
    fixed = iterreg.read_label_map(folder / "fixed_labels.nii.gz")
    moving = iterreg.read_label_map(folder / "moving_labels.nii.gz")
    scores = dice(fixed.data, warp_labels(moving, transform).data, (LUNG, BONE))
    total = total_displacement_vox(transform)
    folds = folding(total, fixed.data)
    ijk = total.flip(0).permute(3, 2, 1, 0)
    return {
        "lung_dice": scores[LUNG],
        "bone_dice": scores[BONE],
        "interior_folds": folds.interior_folds,
        "interface_folds": folds.interface_folds,
        "ndv_percent": folds.ndv_percent,
        "sdlogj_l2r": sdlogj_l2r(ijk),
    }


def cone_beam_look(image: Image) -> Image:
    """A CT made to look like a cone-beam CT: offset, cupping, noise, streaks, a round view."""
    import torch

    rng = torch.Generator().manual_seed(0)
    volume = image.data[0].clone()
    depth, rows, columns = volume.shape
    y = (torch.arange(rows) - (rows - 1) / 2) * image.grid.spacing_xyz_mm[1]
    x = (torch.arange(columns) - (columns - 1) / 2) * image.grid.spacing_xyz_mm[0]
    radius = (y[:, None].square() + x.square()).sqrt()
    volume = 0.9 * volume - 60 - 80 * (1 - (radius / 150).square()).clamp(min=-1)
    angle = torch.atan2(y[:, None], x[None, :])
    phase = 6.28 * torch.rand(depth, 1, 1, generator=rng)
    volume += 15 * torch.sin(24 * angle + phase)
    volume += 40 * torch.randn(volume.shape, generator=rng)
    volume[:, radius > 0.5 * 0.85 * columns * image.grid.spacing_xyz_mm[0]] = -1024
    return Image(volume.clamp(min=-1024)[None], image.grid, "int16", name="cone-beam look")


def described(row: dict[str, Any]) -> str:
    """A row as a line of text."""
    line = (
        f"{row['subject']:<24} lung {row['lung_dice']:.4f}  bone {row['bone_dice']:.4f}  folds "
        f"{row['interior_folds']:.0f} interior, {row['interface_folds']:.0f} interface  "
        f"SDlogJ-L2R {row['sdlogj_l2r']:.3f}"
    )
    if "wall_s" in row:
        line += (
            f"  {row['wall_s']:.1f} s ({row['wall_least_s']:.1f} to {row['wall_most_s']:.1f}, "
            f"{row['runs']} runs), CPU {row['cpu_s']:.1f} s, peak {row['peak_gb']:.2f} GB"
        )
    if "stages_s" in row:
        line += "\n  " + ", ".join(f"{k} {v:.1f}" for k, v in row["stages_s"].items())
    return line


if __name__ == "__main__":
    main()
