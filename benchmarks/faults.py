"""Faults of the machine at seeded moments: is a result whole or not there, and is nothing left?

    python benchmarks/faults.py [--moments 100] [--seed 0] [--only thorax submit samreg]

Three commands are disturbed, each with one coarse level, which makes them short: ``thorax`` on the
pair that comes with iterreg, ``learn2reg submit`` on a small task, and ``samreg`` with its cache
(with the weights of MobileSAM in ``ITERREG_WEIGHTS``). Each moment is one of

    kill      SIGKILL to the process that was started
    term      SIGTERM, or SIGHUP
    disk      no room: a small tmpfs where mounting is allowed, else a limit on files
    memory    a limit on the address space

Afterwards: the exit code is a documented one and the answer one line; ``run.json`` or the zip
stands only beside whole results; the same command, run again, gives the same bytes as an
undisturbed run; and nothing hidden is left in the output folder, beside it, or in ``TMPDIR``.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from _bad_kinds import good_files  # noqa: E402

PAIR = ROOT / "iterreg" / "data" / "thorax4dct_mini"
FAULTS = ("kill", "term", "disk", "memory")
CODES = {"kill": {-9}, "term": {130}, "disk": {0, 7}, "memory": {0, 9}}
"""Exit codes that are right, beside those of a run that was done before the moment came."""

DONE = {0, 15, 16}
TOO_SMALL = 24
"""Most bytes of a full disk are drawn as a power of two up to this one."""


@dataclass
class Command:
    """A command that is disturbed.

    Args:
        name: of the command.
        words: of its line, without ``iterreg``.
        final: the file that stands beside whole results alone.
        good: a folder that the words refer to.
    """

    name: str
    words: list[str]
    final: str
    good: Path

    def run(self, folder: Path, before: Callable[[], None] | None = None) -> Child:
        """Start the command in a folder."""
        places = {"TMPDIR": str(folder.parent / "tmp"), "ITERREG_CACHE": str(folder.parent / "c")}
        names = os.environ | {"PYTHONPATH": str(ROOT)} | places
        process = subprocess.Popen(
            [sys.executable, "-m", "iterreg", *self.words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=names,
            preexec_fn=before,
        )
        return Child(process, time.monotonic())


@dataclass
class Child:
    """A running command."""

    process: subprocess.Popen[str]
    begun: float

    def end(self) -> tuple[int, list[str], float]:
        """Wait for its exit code, its errors and its seconds."""
        said = self.process.communicate()[1]
        errors = [line for line in said.splitlines() if " %  " not in line]
        return self.process.returncode, errors, time.monotonic() - self.begun


def main() -> None:
    """Disturb the commands and print what was wrong."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
        good = Path(scratch, "good")
        good.mkdir()
        good_files(good)
        _pictures(good)
        chosen = [c for c in commands(good) if c.name in options.only]
        wrong: Counter[str] = Counter()
        for command in chosen:
            count = options.moments // len(chosen)
            print(f"{command.name}: {count} moments", flush=True)
            for problem in disturb(command, count, options.seed, Path(scratch)):
                wrong[command.name] += 1
                print(f"  {problem}", flush=True)
            print(f"{command.name}: {wrong[command.name]} went wrong", flush=True)
    sys.exit(bool(wrong))


def commands(good: Path) -> Iterator[Command]:
    """The commands whose inputs are at hand."""
    pair = ["--fixed", str(PAIR / "fixed.nii.gz"), "--moving", str(PAIR / "moving.nii.gz")]
    coarse = ["--set", "levels.spacing_mm=[8.0]", "--set", "levels.steps=[1]"]
    thorax = ["thorax", *pair, "--out", "out", *coarse, "--set", "start.search_mm=0"]
    yield Command("thorax", thorax, "out/run.json", good)
    quick = ["--preset", "general", *coarse]
    task = ["learn2reg", "submit", "--task", str(good / "task"), "--out", "s.zip", *quick]
    yield Command("submit", task, "s.zip", good)
    folder = os.environ.get("ITERREG_WEIGHTS")
    if folder and Path(folder, "mobile_sam.pt").is_file():
        pictures = ["--fixed", str(good / "here.png"), "--moving", str(good / "there.png")]
        words = ["samreg", *pictures, "--points", "8", "--out", "out"]
        yield Command("samreg", words, "out/run.json", good)


def _pictures(folder: Path) -> None:
    """A slice of the pair, and the same slice a little aside."""
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(PAIR / "fixed.nii.gz")))[40]
    grey = np.clip((array + 1000) / 6, 0, 255).astype(np.uint8)
    for name, picture in (("here", grey), ("there", np.roll(grey, (2, 3), (0, 1)))):
        sitk.WriteImage(sitk.GetImageFromArray(picture), str(folder / f"{name}.png"))


def disturb(command: Command, count: int, seed: int, scratch: Path) -> Iterator[str]:
    """Disturb one command at many moments; yield what went wrong."""
    rng = random.Random(f"{seed}-{command.name}")
    with place(scratch) as folder:
        code, errors, seconds = command.run(folder).end()
        assert code in DONE, (code, errors)
        right = bytes_of(folder)
    ends: Counter[str] = Counter()
    print(f"  {len(right)} files in {seconds:.0f} s without a fault", flush=True)
    for number in range(count):
        fault = FAULTS[number % len(FAULTS)]
        moment = rng.random()
        with place(scratch) as folder:
            child = _start(command, fault, moment, seconds, folder)
            first, said, _ = child.end()
            for problem in _judge(command, fault, (first, said), folder):
                yield f"moment {number} ({fault} at {moment:.2f}): {problem}"
            ends[f"{fault} {first}"] += 1
            code, errors, again = command.run(folder).end()
            seconds = min(seconds, again)  # The first run may have had a busier machine.
            if code not in DONE and not (code == 7 and (folder / command.final).exists()):
                yield f"moment {number} ({fault} at {moment:.2f}): rerun ended with {code} {errors}"
            if bytes_of(folder) != right:
                yield f"moment {number} ({fault} at {moment:.2f}): the rerun gives other bytes"
            if left := leftovers(folder):
                yield f"moment {number} ({fault} at {moment:.2f}): left: {left}"
            print(f"  {number}: {fault} at {moment:.2f}: {first}, then {code}", flush=True)
    told = ", ".join(f"{end}: {n}" for end, n in sorted(ends.items()))
    print(f"  faults and exit codes: {told}", flush=True)


def _judge(command: Command, fault: str, end: tuple[int, list[str]], folder: Path) -> Iterator[str]:
    """Yield what is wrong about the end of a command: its exit code and its errors."""
    code, errors = end
    if code not in CODES[fault] | DONE:
        yield f"exit code {code}: {errors[-2:]}"
    if code not in DONE and fault != "kill":
        if len(errors) != 1:
            yield f"{len(errors)} lines: {errors[:3]}"
        if (folder / command.final).exists():
            yield f"{command.final} is there"
        if left := leftovers(folder):
            yield f"left at once: {left}"
    _unmount(folder)


def _start(command: Command, fault: str, moment: float, seconds: float, folder: Path) -> Child:
    if fault == "memory":
        size = int((0.05 + 4 * moment) * (1 << 30))
        return command.run(folder, lambda: resource.setrlimit(resource.RLIMIT_AS, (size, size)))
    if fault == "disk":
        size = (1 << 12) << int(moment * (TOO_SMALL - 12))
        if _mount(folder, size):
            return command.run(folder)
        return command.run(folder, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)))
    child = command.run(folder)
    time.sleep(moment * seconds)
    number = {"kill": signal.SIGKILL}.get(fault, signal.SIGTERM if moment < 0.5 else signal.SIGHUP)
    child.process.send_signal(number)
    return child


@contextmanager
def place(scratch: Path) -> Iterator[Path]:
    """A folder to run in, with a temporary folder and an empty cache beside it."""
    around = Path(tempfile.mkdtemp(dir=scratch))
    for name in ("run", "tmp", "c"):
        (around / name).mkdir()
    try:
        yield around / "run"
    finally:
        _unmount(around / "run")
        shutil.rmtree(around, ignore_errors=True)


def bytes_of(folder: Path) -> dict[str, str]:
    """The hash of each result; tables and pages tell the time and are left out."""
    files = (f for f in sorted(folder.rglob("*")) if f.is_file())
    kept = (f for f in files if f.suffix not in (".json", ".html"))
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in kept}


def leftovers(folder: Path) -> list[str]:
    """Whatever is hidden in the folder, or lies in the temporary one."""
    hidden = [str(f.relative_to(folder)) for f in folder.rglob(".*")]
    return hidden + [f.name for f in (folder.parent / "tmp").iterdir() if "iterreg" in f.name]


def _mount(folder: Path, size: int) -> bool:
    """Put a small disk in place of a folder, where that is allowed."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    return os.geteuid() == 0 and subprocess.run(command, capture_output=True).returncode == 0


def _unmount(folder: Path) -> None:
    if os.path.ismount(folder):
        subprocess.run(["umount", str(folder)], capture_output=True, check=False)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--moments", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=["thorax", "submit", "samreg"])
    return parser.parse_args()


if __name__ == "__main__":
    main()
