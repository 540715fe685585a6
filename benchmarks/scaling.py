"""Time and memory against voxels and against regions, and how far the hot loops are from the bytes.

    python benchmarks/scaling.py voxels [--spacings 4 2 1.59 1.26 1]
    python benchmarks/scaling.py regions [--regions 1 13 39 117] [--at 2]
    python benchmarks/scaling.py profile [--at 2]
    python benchmarks/scaling.py --plot

The pair is thorax4dct of ITERREG_DATA, resampled to the 390 x 280 x 300 mm of a ThoraxCBCT volume,
with its label maps given. At 1 mm that is the challenge's full size. Each run is a process of its
own: wall and CPU seconds from reading to the Registration (the imports apart), peak memory of the
process and, on CUDA, of the device.

voxels: the slope of log time against log voxels is printed; 1 is linear.

regions: the label maps are cut into pieces by k-means of the coordinates within each region, the
same way on both sides, so that they correspond roughly. What is measured is cost, not accuracy.

profile: every compiled kernel (on CUDA: every torch one, with what it calls) is timed within a
real run, and set against the bytes that its arguments hold: read once, twice where it adds to them.
The bandwidth to compare with is measured first, by copying.

Rows are kept in results/scaling.json by what was run, the device and the threads.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"
STUDIES = ("voxels", "regions", "profile")
Row = dict[str, Any]


def main() -> None:
    """Run what is asked for, print the rows, draw what is kept."""
    asked = command_line()
    if not asked.plot:
        with tempfile.TemporaryDirectory() as scratch:
            for study in asked.studies or STUDIES:
                for spacing, regions in variants(study, asked):
                    keep(measured(study, spacing, regions, asked, Path(scratch)))
    rows = load_rows()
    report(rows)
    draw(rows)


def command_line() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("studies", nargs="*", choices=[*STUDIES, []])
    parser.add_argument("--spacings", type=float, nargs="+", default=[4, 2.52, 2, 1.59, 1.26, 1])
    parser.add_argument("--regions", type=int, nargs="+", default=[1, 13, 39, 117])
    parser.add_argument("--at", type=float, default=2.0, help="spacing of regions and profile, mm")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--preset", default="thorax")
    parser.add_argument("--runs", type=int, default=1, help="the fastest of so many is kept")
    parser.add_argument("--plot", action="store_true", help="draw the kept rows, and stop")
    return parser.parse_args()


def variants(study: str, asked: argparse.Namespace) -> list[tuple[float, int]]:
    """Spacing and number of regions of each run; 3 are the label maps as they are."""
    if study == "voxels":
        return [(spacing, 3) for spacing in asked.spacings]
    if study == "regions":
        return [(asked.at, regions) for regions in asked.regions]
    return [(asked.at, 3)]


def measured(
    study: str, spacing: float, regions: int, asked: argparse.Namespace, scratch: Path
) -> Row:
    """Make the pair, run it, and return the row."""
    folder = scratch / f"{spacing:g}-{regions}"
    task = {
        "study": study,
        "spacing_mm": spacing,
        "regions": regions,
        "device": asked.device,
        "threads": asked.threads,
        "preset": asked.preset,
        "folder": str(folder),
    }
    if not folder.is_dir():
        in_process(task | {"study": "make"}, asked.threads)
    rows = [in_process(task, asked.threads) for _ in range(asked.runs)]
    best = min(rows, key=lambda row: float(row["wall_s"]))
    row = {name: value for name, value in task.items() if name != "folder"} | best
    print(told(row), flush=True)
    return row


def in_process(task: Row, threads: int) -> Row:
    """Do a task in a process of its own."""
    names = ("OMP", "MKL", "OPENBLAS", "NUMBA")
    limits = {f"{name}_NUM_THREADS": str(threads) for name in names}
    command = [sys.executable, str(HERE / "_scaling_run.py"), json.dumps(task)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ | limits)
    if done.returncode:
        sys.exit(f"{task['study']} at {task['spacing_mm']} mm: ended with {done.returncode}")
    answer: Row = json.loads(done.stdout.splitlines()[-1])
    return answer


# Rows -------------------------------------------------------------------------------------------


def load_rows() -> list[Row]:
    """The rows that are kept."""
    path = RESULTS / "scaling.json"
    rows: list[Row] = json.loads(path.read_text()) if path.is_file() else []
    return rows


def keep(new: Row) -> None:
    """Add a row in place of the one of the same run."""
    names = ("study", "device", "machine", "threads", "preset", "spacing_mm", "regions")

    def key(row: Row) -> tuple[Any, ...]:
        return tuple(row[name] for name in names)

    rows = [row for row in load_rows() if key(row) != key(new)] + [new]
    rows.sort(key=key)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "scaling.json").write_text(json.dumps(rows, indent=1) + "\n")


def told(row: Row) -> str:
    """A row as a line of text."""
    stages = ", ".join(f"{name} {seconds:.2f}" for name, seconds in row["stages_s"].items())
    memory = f", device {row['gpu_peak_gb']:.2f} GB" if "gpu_peak_gb" in row else ""
    return (
        f"{row['study']:<8} {row['machine']} {row['voxels'] / 1e6:6.2f} M voxels "
        f"{row['found_regions']:>3} regions: {row['wall_s']:.2f} s, CPU {row['cpu_s']:.2f} s, "
        f"peak {row['peak_gb']:.2f} GB{memory} ({stages})"
    )


def report(rows: list[Row]) -> None:
    """Print the slopes, what regions cost, and the profile."""
    import numpy as np

    for machine in sorted({row["machine"] for row in rows}):
        own = [row for row in rows if row["machine"] == machine]
        sizes = [row for row in own if row["study"] == "voxels"]
        if len(sizes) > 1:
            x = np.log([row["voxels"] for row in sizes])
            for name in ("wall_s", "cpu_s", "peak_gb"):
                slope = np.polyfit(x, np.log([row[name] for row in sizes]), 1)[0]
                print(f"{machine}: log {name} against log voxels: slope {slope:.2f}")
        many = {row["found_regions"]: row for row in own if row["study"] == "regions"}
        base = many.get(13)
        for count in sorted(many) if base else []:
            ratio = many[count]["wall_s"] / base["wall_s"] if base else 0
            print(f"{machine}: {count} regions cost {ratio:.2f} of 13")
        for row in own:
            if row["study"] == "profile":
                print_profile(row)


def print_profile(row: Row) -> None:
    """Seconds and GB/s of each kernel."""
    print(f"{row['machine']}, {row['voxels'] / 1e6:.1f} M voxels, copy {row['copy_gb_s']:.1f} GB/s")
    for kernel in row["kernels"]:
        print(
            f"  {kernel['name']:<20} {kernel['calls']:>5} calls {kernel['seconds']:8.3f} s "
            f"({100 * kernel['seconds'] / row['wall_s']:4.1f} %) {kernel['gb_s']:7.1f} GB/s "
            f"({100 * kernel['of_copy']:3.0f} % of copy)"
        )


def draw(rows: list[Row]) -> None:
    """Time and memory against voxels, time against regions."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.6))
    panels = (
        (axes[0], "voxels", "voxels", "wall_s", "seconds"),
        (axes[1], "voxels", "voxels", "peak_gb", "peak memory (GB)"),
        (axes[2], "regions", "found_regions", "wall_s", "seconds"),
    )
    for axis, study, x, y, title in panels:
        scale = 1e-6 if x == "voxels" else 1
        for machine in sorted({row["machine"] for row in rows}):
            own = [row for row in rows if row["study"] == study and row["machine"] == machine]
            own.sort(key=lambda row: float(row[x]))
            axis.plot([scale * r[x] for r in own], [r[y] for r in own], "o-", ms=4, label=machine)
        axis.set(xlabel="regions" if scale == 1 else "million voxels", ylabel=title)
        axis.set_xlim(left=0)
        axis.set_ylim(bottom=0)
        axis.grid(color="0.9")
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(RESULTS / "scaling.png", dpi=120)


if __name__ == "__main__":
    main()
