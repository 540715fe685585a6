"""Kill workers and scheduler of a cohort at seeded moments, and compare with an undisturbed run."""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Set
from functools import partial
from pathlib import Path

import SimpleITK as sitk
from _cohort_pairs import ROOT, Row, command, hippocampi, write_rows

TIMED = {"date", "timings_s", "command_line"}
"""Keys of ``run.json`` that differ between two runs."""

PATIENCE_S = 300.0
"""So long without a pair that ends is a hang."""


def run_kills(options: argparse.Namespace) -> None:
    """Compare a run that is killed again and again with one that is not."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        table = place / "pairs.csv"
        write_rows([*itertools.islice(cropped(place / "images"), options.count)], table)
        whole, spoiled = place / "whole", place / "spoiled"
        begun = time.perf_counter()
        subprocess.run(command(table, whole, options.jobs, "--quiet"), cwd=ROOT, check=True)
        say(f"undisturbed: {options.count} pairs in {time.perf_counter() - begun:.0f} s")
        expected = sums(whole)
        kills = Kills(options.moments, random.Random(options.seed))
        rounds = 0
        while kills.left or not is_whole(spoiled, options.count):
            if is_whole(spoiled, options.count):
                compare(expected, sums(spoiled))
                rounds += 1
                say(f"all {options.count} pairs are done, with the same bytes; anew")
                shutil.rmtree(spoiled)
            disturb(command(table, spoiled, options.jobs, "--quiet"), spoiled, kills)
            if failed := [path.stem for path in spoiled.glob("failures/*.json")]:
                # Three workers died with it.
                say(f"lost: {', '.join(failed)}; they are tried again")
                kills.lost += len(failed)
                words = [*command(table, spoiled, 1)[:4], "retry", str(spoiled), "--failed"]
                subprocess.run([*words, "--quiet"], cwd=ROOT, check=True)
        subprocess.run(command(table, spoiled, options.jobs, "--quiet"), cwd=ROOT, check=True)
        compare(expected, sums(spoiled))
        left = [str(p) for p in spoiled.rglob(".iterreg-*")]
        assert not left, left
        say(f"{kills.told()}; {rounds + 1} times through all pairs")
        say(f"the same bytes: {len(expected)} files of {options.count} pairs; nothing hidden left")


def say(line: str) -> None:
    """Print a line at once."""
    print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)


def cropped(folder: Path) -> Iterator[Row]:
    """Pairs of people, their images cropped to three fifths, so that each takes about a second."""
    folder.mkdir()
    for row in hippocampi():
        for side in ("fixed", "moving", "fixed_labels", "moving_labels"):
            small = folder / Path(row[side]).name
            if not small.exists():
                image = sitk.ReadImage(row[side])
                size = [n * 3 // 5 for n in image.GetSize()]
                begin = [n // 5 for n in image.GetSize()]
                sitk.WriteImage(sitk.RegionOfInterest(image, size, begin), str(small))
            row[side] = str(small)
        yield row


KINDS = ("worker at work", "scheduler", "worker at work", "scheduler", "worker at its start")
"""Of the moments, in turn."""


class Kills:
    """The moments that are left, and what was hit at the others."""

    def __init__(self, moments: int, chosen: random.Random) -> None:
        self.chosen, self.lost = chosen, 0
        self.hit = dict.fromkeys(KINDS, 0)
        self.waiting = [*itertools.islice(itertools.cycle(KINDS), moments)]
        chosen.shuffle(self.waiting)

    @property
    def left(self) -> int:
        """How many moments are left."""
        return len(self.waiting)

    def note(self, what: str, folder: Path) -> None:
        """Count and tell a moment."""
        self.waiting.remove(what)
        self.hit[what] += 1
        done = len(list(folder.glob("cases/*/case.json")))
        say(f"moment {sum(self.hit.values())}: {what} killed, {done} pairs done; {self.left} left")

    def told(self) -> str:
        """All of it in one line."""
        hit = ", ".join(f"{count} x {what}" for what, count in self.hit.items())
        return f"killed: {hit}; {self.lost} pairs lost three workers"


def disturb(words: list[str], folder: Path, kills: Kills) -> None:
    """Run the command, and kill a part of it at each moment, until it ends.

    The command is two processes, one of which watches the other, which has the scheduler.
    """
    process = subprocess.Popen(words, cwd=ROOT, stdout=-3, stderr=-3)
    while process.poll() is None:
        if not kills.left:
            wait_for(process, lambda: False, folder)
            return
        what, pause_s = kills.waiting[0], kills.chosen.uniform(0, 12)
        before = begun_in(folder)
        wait_for(process, lambda: bool(workers_of(process.pid)), folder)
        if what != "worker at its start":
            wait_for(process, partial(has_begun, folder, before), folder)
        try:
            process.wait(pause_s if what != "worker at its start" else pause_s / 12)
            return
        except subprocess.TimeoutExpired:
            pass
        commands = [p for p in below(process.pid) if "cohort run" in words_of(p)]
        choices = [process.pid, *commands] if what == "scheduler" else workers_of(process.pid)
        if not choices:
            continue
        os.kill(kills.chosen.choice(choices), signal.SIGKILL)
        if what == "scheduler":
            process.wait()
        kills.note(what, folder)


def begun_in(folder: Path) -> set[Path]:
    """The partial results in a folder, also those of workers that were killed."""
    return set(folder.glob("cases/*/.iterreg-*"))


def has_begun(folder: Path, before: Set[Path]) -> bool:
    """Whether a pair has begun since."""
    return bool(begun_in(folder) - before)


def wait_for(process: subprocess.Popen[bytes], ready: Callable[[], bool], folder: Path) -> None:
    """Wait until something is there, or the process ended; no pair for long is a hang."""
    since, done = time.monotonic(), -1
    while process.poll() is None and not ready():
        now = len(list(folder.glob("cases/*/case.json")))
        if now != done:
            since, done = time.monotonic(), now
        if time.monotonic() - since > PATIENCE_S:
            process.kill()
            sys.exit(f"hang: no pair ended in {PATIENCE_S:.0f} s; {done} are done")
        time.sleep(0.05)


def workers_of(pid: int) -> list[int]:
    """The worker processes of a command."""
    return [below_it for below_it in below(pid) if "spawn_main" in words_of(below_it)]


def below(pid: int) -> list[int]:
    """All processes that a process started, and those that they did."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        if parent == pid:
            child = int(path.parent.name)
            found += [child, *below(child)]
    return found


def words_of(pid: int) -> str:
    """The command line of a process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def is_whole(folder: Path, count: int) -> bool:
    """Whether every pair has its record."""
    return len(list(folder.glob("cases/*/case.json"))) == count


def sums(folder: Path) -> dict[str, str]:
    """A digest of each file, without what tells the time."""
    found = {}
    for path in sorted(folder.glob("cases/*/*")):
        name = str(path.relative_to(folder))
        if path.name in ("report.html", "case.json"):
            continue
        content = path.read_bytes()
        if path.name == "run.json":
            tables = {k: v for k, v in json.loads(content).items() if k not in TIMED}
            content = json.dumps(tables, sort_keys=True).encode()
        found[name] = hashlib.sha256(content).hexdigest()
    return found


def compare(expected: dict[str, str], got: dict[str, str]) -> None:
    """Require the same files with the same bytes."""
    assert expected.keys() == got.keys(), expected.keys() ^ got.keys()
    differing = [name for name in expected if expected[name] != got[name]]
    assert not differing, differing
