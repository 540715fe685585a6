"""iterreg and its peers on the same pairs, under one evaluator that belongs to none of them.

    python benchmarks/peers.py --envs DIR [--cases GLOB ...] [--methods NAME ...] [--runs N]
    python benchmarks/peers.py --envs DIR --folder MY_PAIR
    python benchmarks/peers.py --list
    python benchmarks/peers.py --table

Every peer lives in a virtual environment of its own under DIR, made when it is first needed; one
that cannot be installed, or cannot do a case, is a row that says so. Each run is a process of its
own (``_peers/run_<method>.py``: read, register, write the field uncompressed) with two threads, in
turn with the others: all methods once, then all again. Wall and CPU seconds and peak memory are the
kernel's account of that process. ``_evaluator.py`` then judges the last field of each.

Methods run at their authors' settings (``recommended``) and at one for quality (``tuned``); images
alone, guided by the label maps, and guided by label maps that lack one structure (``left out``),
whose own Dice says what guidance does to what it is not told. iterreg has one setting: the preset
of the kind of image.

Rows are kept by case, method, setting and guidance in results/peers.json, so that parts can be run
apart and again; results/peers.txt is the table. This program imports nothing heavy: a process's
peak memory counts that of the one it was forked from.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _peers_table import CASES, GUIDANCES, RESULTS, keep, load_rows, table

HERE = Path(__file__).parent
DEFAULT_CASES = tuple(name for name in CASES if name != "thorax4dct_mini")
PACKAGES = {
    "iterreg": (),
    "greedy": ("picsl_greedy",),
    "ants": ("antspyx", "SimpleITK"),
    "elastix": ("itk-elastix", "SimpleITK"),
    "convexadam": ("convexAdam",),
    "fireants": ("fireants",),
}
"""What pip installs for each; the first is the one whose version is told."""
SETTINGS = ("recommended", "tuned")
COSTS = ("wall_s", "cpu_s", "peak_gb")


@dataclass(frozen=True)
class Job:
    """One row to be."""

    case: str
    method: str
    setting: str
    guidance: str

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What a row is known by."""
        return self.case, self.method, self.setting, self.guidance


def main() -> None:
    """Run what is asked for, keep the rows, print the table."""
    asked = command_line()
    if asked.list:
        print("cases:", *CASES, "\nmethods:", *PACKAGES, "\nsettings:", *SETTINGS)
        print("guidance:", ", ".join(GUIDANCES))
        return
    if not asked.table:
        for case in chosen_cases(asked):
            run_case(case, asked)
    rows = load_rows()
    text = table(rows)
    print(text)
    (RESULTS / "peers.txt").write_text(text + "\n")


def command_line() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--envs", type=Path, default=Path.home() / ".cache" / "iterreg-peers")
    parser.add_argument("--cases", nargs="+", metavar="GLOB", default=list(DEFAULT_CASES))
    parser.add_argument("--folder", type=Path, action="append", help="a pair of your own")
    parser.add_argument("--methods", nargs="+", choices=PACKAGES, default=list(PACKAGES))
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--guidance", nargs="+", choices=GUIDANCES, default=list(GUIDANCES))
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=float, default=3600, help="seconds for a run")
    parser.add_argument(
        "--python",
        type=Path,
        action="append",
        default=[],
        metavar="METHOD=PYTHON",
        help="a Python that has the method already",
    )
    parser.add_argument("--keep", type=Path, help="leave the fields in this folder")
    parser.add_argument("--list", action="store_true", help="name what there is, and stop")
    parser.add_argument("--table", action="store_true", help="print the kept rows, and stop")
    return parser.parse_args()


def chosen_cases(asked: argparse.Namespace) -> list[str]:
    """Names of cases, or the user's folders."""
    if asked.folder:
        return [str(folder) for folder in asked.folder]
    found = [name for name in CASES if any(fnmatch.fnmatch(name, g) for g in asked.cases)]
    if not found:
        sys.exit(f"--cases: expected some of {', '.join(CASES)}")
    return found


# Environments -----------------------------------------------------------------------------------


def python_of(method: str, asked: argparse.Namespace) -> tuple[str | None, str]:
    """A Python that has a method, or None and why not."""
    given = dict(str(item).split("=", 1) for item in asked.python)
    if method == "iterreg":
        return sys.executable, ""
    if method in given:
        return given[method], ""
    home = asked.envs / method
    python = home / "bin" / "python"
    if not (home / "installed").is_file():
        print(f"installing {', '.join(PACKAGES[method])}", flush=True)
        try:
            quiet([sys.executable, "-m", "venv", "--clear", str(home)])
            quiet([str(python), "-m", "pip", "install", *PACKAGES[method]])
        except RuntimeError as error:
            return None, f"cannot be installed: {error}"
        (home / "installed").touch()
    return str(python), ""


def quiet(command: list[str]) -> None:
    """Run, and raise the last line of what it said where it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(last_line(done.stderr or done.stdout))


def version_of(method: str, python: str) -> str:
    """The version of a method's package."""
    name = (*PACKAGES[method], "iterreg")[0]
    code = f"from importlib.metadata import version; print(version({name!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


# Running ----------------------------------------------------------------------------------------


def run_case(case: str, asked: argparse.Namespace) -> None:
    """Every method on one pair, in turn; its rows are kept at once."""
    name = Path(case).name
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "case"
        try:
            quiet([sys.executable, str(HERE / "_cases.py"), case, str(folder)])
        except RuntimeError as error:
            print(f"{name}: left out: {error}")
            return
        about = json.loads((folder / "case.json").read_text())
        before = judged(folder, None)
        keep([{"case": name, "method": "before", "setting": "", "guidance": ""} | before], about)
        jobs = jobs_of(name, folder, about, asked)
        pythons = {method: python_of(method, asked) for method in asked.methods}
        costs: dict[Job, list[dict[str, float]]] = {job: [] for job in jobs}
        notes = {job: why for job in jobs if (why := pythons[job.method][1])}
        warm_up(folder, asked)
        for _ in range(asked.runs):
            for job in jobs:
                if job not in notes:
                    note = one_run(job, pythons[job.method][0] or "", folder, about, asked, costs)
                    notes |= {job: note} if note else {}
        for job in jobs:
            python = pythons[job.method][0]
            row = row_of(job, folder, costs[job], notes.get(job, ""), about)
            row["version"] = version_of(job.method, python) if python else ""
            keep([row], about)
            if asked.keep and field_of(job, folder).is_file():
                asked.keep.mkdir(parents=True, exist_ok=True)
                shutil.copy(field_of(job, folder), asked.keep)


def jobs_of(name: str, folder: Path, about: dict[str, Any], asked: argparse.Namespace) -> list[Job]:
    """What can be run on a pair: guided where it has label maps, left out where that is made."""
    possible = {
        "images": True,
        "labels": (folder / "fixed_labels.nii.gz").is_file(),
        "left out": about["left_out"] is not None,
    }
    return [
        Job(name, method, setting, guidance)
        for guidance in asked.guidance
        if possible[guidance]
        for method in asked.methods
        for setting in (("preset",) if method == "iterreg" else asked.settings)
    ]


def warm_up(folder: Path, asked: argparse.Namespace) -> None:
    """Let iterreg compile its kernels once, as at installation: that is no run's cost."""
    if "iterreg" in asked.methods:
        job = Job("", "iterreg", "preset", "images")
        command = command_of(job, sys.executable, folder, {"aligned": True, "preset": "general"}, 2)
        subprocess.run(command, capture_output=True, env=environment(asked.threads))


def one_run(
    job: Job,
    python: str,
    folder: Path,
    about: dict[str, Any],
    asked: argparse.Namespace,
    costs: dict[Job, list[dict[str, float]]],
) -> str:
    """Run one method once.

    Returns:
        Why it did not work; empty where it did.
    """
    command = command_of(job, python, folder, about, asked.threads)
    cost, problem = timed(command, environment(asked.threads), asked.limit)
    told = problem or f"{cost['wall_s']:.1f} s"
    print(f"{job.case}: {job.method}, {job.setting}, {job.guidance}: {told}", flush=True)
    if not problem:
        costs[job].append(cost)
    return problem


def command_of(
    job: Job, python: str, folder: Path, about: dict[str, Any], threads: int
) -> list[str]:
    """The command line of a method's program."""
    setting = "recommended" if job.setting == "preset" else job.setting
    command = [
        python,
        str(HERE / "_peers" / f"run_{job.method}.py"),
        "--fixed",
        str(folder / "fixed.nii.gz"),
        "--moving",
        str(folder / "moving.nii.gz"),
        "--setting",
        setting,
        "--preset",
        about["preset"],
        "--threads",
        str(threads),
        "--out",
        str(field_of(job, folder)),
    ]
    if job.guidance != "images":
        suffix = "_left_out" if job.guidance == "left out" else ""
        ends = [folder / f"{side}_labels{suffix}.nii.gz" for side in ("fixed", "moving")]
        command += ["--labels", *map(str, ends)]
    return command + (["--aligned"] if about["aligned"] else [])


def field_of(job: Job, folder: Path) -> Path:
    """Where a run's field goes."""
    return folder.parent / ("-".join(job.key).replace(" ", "_") + ".mha")


def environment(threads: int) -> dict[str, str]:
    """The same number of threads for every library; no graphics card."""
    names = ("OMP", "MKL", "OPENBLAS", "NUMBA")
    limits = {f"{name}_NUM_THREADS": str(threads) for name in names}
    limits["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(threads)
    limits["CUDA_VISIBLE_DEVICES"] = ""
    return os.environ | limits


def timed(command: list[str], env: dict[str, str], limit_s: float) -> tuple[dict[str, float], str]:
    """Wall seconds, CPU seconds and peak memory of a process, and why it failed if it did."""
    with tempfile.TemporaryFile("w+") as said:
        begun = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said, env=env)
        late = False
        while True:
            done, status, usage = os.wait4(process.pid, os.WNOHANG)
            if done:
                break
            if time.perf_counter() - begun > limit_s and not late:
                late = True
                process.kill()
            time.sleep(0.01)
        wall_s = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        problem = last_line(said.read()) or "failed" if status else ""
    cost = {
        "wall_s": wall_s,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_gb": usage.ru_maxrss / 1e6,
    }
    return cost, f"longer than {limit_s:g} s" if late else problem


def last_line(text: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""


# Rows -------------------------------------------------------------------------------------------


def row_of(
    job: Job, folder: Path, costs: list[dict[str, float]], note: str, about: dict[str, Any]
) -> dict[str, Any]:
    """A row: costs, figures, or why there are none."""
    row: dict[str, Any] = {
        "case": job.case,
        "method": job.method,
        "setting": job.setting,
        "guidance": job.guidance,
    }
    if note:
        return row | {"note": note}
    figures = judged(folder, field_of(job, folder))
    row |= {name: statistics.median(cost[name] for cost in costs) for name in COSTS}
    walls = [cost["wall_s"] for cost in costs]
    row |= {"wall_least_s": min(walls), "wall_most_s": max(walls), "runs": len(costs)} | figures
    told = field_of(job, folder).with_suffix(".json")
    if told.is_file():
        row["told"] = json.loads(told.read_text())
    if job.guidance == "left out" and "dice_by_label" in figures:
        structure = about["left_out"]
        row["left_out"] = structure["name"]
        row["left_out_dice"] = figures["dice_by_label"].get(str(structure["value"]))
    return row


def judged(folder: Path, field: Path | None) -> dict[str, Any]:
    """The evaluator's figures, from a process of its own."""
    out = folder.parent / "figures.json"
    out.unlink(missing_ok=True)
    command = [sys.executable, str(HERE / "_evaluator.py"), "--case", str(folder)]
    command += ["--out", str(out), *(["--displacement", str(field)] if field else [])]
    try:
        quiet(command)
    except RuntimeError as error:
        return {"note": f"cannot be judged: {error}"}
    figures: dict[str, Any] = json.loads(out.read_text())
    return figures


if __name__ == "__main__":
    main()
