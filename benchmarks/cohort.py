"""Cohorts: 200 real pairs, kills at seeded moments, 10,000 simulated pairs, a page of 1,000.

    python benchmarks/cohort.py pairs --count 200 --jobs 2 --out FOLDER
    python benchmarks/cohort.py kills --count 12 --moments 20 --seed 0
    python benchmarks/cohort.py simulate --count 10000 --jobs 2
    python benchmarks/cohort.py page --count 1000

``pairs``     registers pairs from the data at hand (every ordered pair of hippocampi, hearts, the
              chest that comes with iterreg, altered copies) and tells how busy the workers were, by
              their own clocks.
``kills``     runs a small cohort undisturbed, then again while SIGKILL hits a worker, or the
              process with the scheduler, at seeded moments; the command is repeated until it
              ends. All files must have the same bytes, apart from dates and seconds.
``simulate``  hands out pairs that only sleep: seconds of scheduling a pair, and memory.
``page``      opens the page of a made-up cohort in headless Chromium.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import itertools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]

import numpy as np  # noqa: E402
import SimpleITK as sitk  # noqa: E402

from iterreg.cohort.cases import Case, Outcome, Settings, State  # noqa: E402
from iterreg.cohort.engine import Place, do_each  # noqa: E402

DATA = Path(os.environ.get("ITERREG_DATA", ROOT.parent / "shared" / "data"))
COLUMNS = ("id", "fixed", "moving", "fixed_labels", "moving_labels", "preset")
TIMED = {"date", "timings_s", "command_line"}
"""Keys of ``run.json`` that differ between two runs."""

Row = dict[str, str]


def main() -> None:
    """Parse the command line and run one part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("pairs", "kills", "simulate", "page"))
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sleep", type=float, default=0.0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    parts = {"pairs": run_pairs, "kills": run_kills, "simulate": simulate, "page": open_page}
    parts[options.part](options)


# Pairs ------------------------------------------------------------------------------------------


def rows(count: int, folder: Path) -> list[Row]:
    """So many pairs from the data at hand; altered copies are written to a folder."""
    found = [*hearts(), *chest()]
    people = hippocampi()
    found += itertools.islice(people, max(0, (count - len(found)) * 2 // 3))
    found += itertools.islice(altered(folder), max(0, count - len(found)))
    return found[:count]


def hippocampi() -> Iterator[Row]:
    """Every ordered pair of people, with label maps."""
    images = sorted((DATA / "hippocampus_msd").glob("*_img.nii.gz"))
    for fixed, moving in itertools.permutations(images, 2):
        yield hippocampus_row(fixed, moving, "people")


def hippocampus_row(fixed: Path, moving: Path, group: str) -> Row:
    """A pair of hippocampi; the labels lie beside the images."""
    names = [path.name.split("_")[-2] for path in (fixed, moving)]
    labels = [str(path).replace("_img", "_seg") for path in (fixed, moving)]
    paths = str(fixed), str(moving), *labels
    return dict(zip(COLUMNS, (f"{group}-{'-'.join(names)}", *paths, "hippocampus"), strict=True))


def hearts() -> Iterator[Row]:
    """End diastole and end systole, both ways."""
    for patient, frame in (("067", "10"), ("068", "12")):
        stems = [DATA / "acdc" / f"patient{patient}_frame{f}" for f in ("01", frame)]
        for way, (a, b) in (("ed", stems), ("es", stems[::-1])):
            files = f"{a}.nii.gz", f"{b}.nii.gz", f"{a}_gt.nii.gz", f"{b}_gt.nii.gz"
            yield dict(zip(COLUMNS, (f"heart-{patient}-{way}", *files, "cardiac"), strict=True))


def chest() -> Iterator[Row]:
    """The pair that comes with iterreg, from images alone."""
    folder = ROOT / "iterreg" / "data" / "thorax4dct_mini"
    files = str(folder / "fixed.nii.gz"), str(folder / "moving.nii.gz"), "", ""
    yield dict(zip(COLUMNS, ("chest", *files, "thorax"), strict=True))


def altered(folder: Path) -> Iterator[Row]:
    """A person and a copy with another contrast, noise and a shift, with seeds."""
    folder.mkdir(parents=True, exist_ok=True)
    images = sorted((DATA / "hippocampus_msd").glob("*_img.nii.gz"))
    for seed in itertools.count():
        fixed = images[seed % len(images)]
        moving = folder / f"copy_{seed:03d}_img.nii.gz"
        if not moving.exists():
            random_numbers = np.random.default_rng(seed)
            for name in ("img", "seg"):
                image = sitk.ReadImage(str(fixed).replace("_img", f"_{name}"))
                if name == "img":
                    values = sitk.GetArrayFromImage(image).astype(np.float32)
                    values = values ** random_numbers.uniform(0.8, 1.25)
                    values += random_numbers.normal(0, 0.03 * values.std(), values.shape)
                    copy = sitk.GetImageFromArray(values.astype(np.float32))
                    copy.CopyInformation(image)
                    image = copy
                image.SetOrigin(np.add(image.GetOrigin(), (seed % 5 - 2, seed % 3 - 1, 1.0)))
                sitk.WriteImage(image, str(moving).replace("_img", f"_{name}"))
        yield hippocampus_row(fixed, moving, "copy")


def write_rows(found: Sequence[Row], path: Path) -> None:
    """Write the table of a cohort."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(found)


def command(table: Path, out: Path, jobs: int, *more: str) -> list[str]:
    """``iterreg cohort run`` with one thread a worker."""
    words = [sys.executable, "-m", "iterreg", "cohort", "run", str(table), "--out", str(out)]
    return [*words, "--jobs", str(jobs), "--threads", "1", *more]


def run_pairs(options: argparse.Namespace) -> None:
    """Register the pairs, and print how busy the workers were."""
    out = options.out or Path(tempfile.mkdtemp())
    table = out.parent / f"{out.name}.csv"
    write_rows(rows(options.count, out.parent / f"{out.name}_copies"), table)
    begun = time.perf_counter()
    ended = subprocess.run(command(table, out, options.jobs), cwd=ROOT, check=False)
    wall_s = time.perf_counter() - begun
    records = [json.loads(p.read_text()) for p in sorted(out.glob("cases/*/case.json"))]
    verdicts = [record["verdict"] for record in records]
    print(f"exit code {ended.returncode}; {len(records)} pairs in {wall_s:.0f} s")
    print(", ".join(f"{verdicts.count(v)} {v}" for v in ("ok", "doubtful", "failed")))
    print(f"busy: {100 * busy_share(records):.1f} % of the workers' time")


def busy_share(records: Sequence[dict[str, Any]]) -> float:
    """The share of the time from each worker's first to its last pair that it worked on one."""
    spans: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        spans.setdefault(record["worker"], []).append((record["begun_s"], record["ended_s"]))
    worked = sum(end - begin for mine in spans.values() for begin, end in mine)
    there = sum(max(e for _, e in mine) - min(b for b, _ in mine) for mine in spans.values())
    return worked / there


# Kills ------------------------------------------------------------------------------------------


def run_kills(options: argparse.Namespace) -> None:
    """Compare a run that is killed again and again with one that is not."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        table = place / "pairs.csv"
        write_rows([*itertools.islice(hippocampi(), options.count)], table)
        whole, spoiled = place / "whole", place / "spoiled"
        subprocess.run(command(table, whole, options.jobs, "--quiet"), cwd=ROOT, check=True)
        expected = sums(whole)
        chosen = random.Random(options.seed)
        killed = {"worker": 0, "scheduler": 0}
        runs = 0
        while sum(killed.values()) < options.moments or not is_whole(spoiled, options.count):
            runs += 1
            disturb(command(table, spoiled, options.jobs, "--quiet"), chosen, killed, options)
            if is_whole(spoiled, options.count) and sum(killed.values()) < options.moments:
                compare(expected, sums(spoiled))
                shutil.rmtree(spoiled)
        subprocess.run(command(table, spoiled, options.jobs, "--quiet"), cwd=ROOT, check=True)
        compare(expected, sums(spoiled))
        left = [str(p) for p in spoiled.rglob(".iterreg-*")]
        assert not left, left
        print(
            f"{killed['worker']} workers and {killed['scheduler']} schedulers killed, {runs} runs"
        )
        print(
            f"the same bytes: {len(expected)} files of {options.count} pairs; nothing hidden left"
        )


def disturb(
    words: list[str], chosen: random.Random, killed: dict[str, int], options: argparse.Namespace
) -> None:
    """Run the command, and kill a part of it at each moment, until it ends."""
    process = subprocess.Popen(words, cwd=ROOT, stdout=-3, stderr=-3)
    while process.poll() is None:
        pause_s = chosen.uniform(2, 14)
        while process.poll() is None and not workers_of(process.pid):
            time.sleep(0.1)
        try:
            process.wait(pause_s)
            return
        except subprocess.TimeoutExpired:
            pass
        if sum(killed.values()) >= options.moments:
            process.wait()
            return
        workers = workers_of(process.pid)
        if chosen.random() < 0.6 and workers:
            os.kill(chosen.choice(workers), signal.SIGKILL)
            killed["worker"] += 1
        else:
            os.kill(process.pid, signal.SIGKILL)
            killed["scheduler"] += 1
            process.wait()


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


# Simulation -------------------------------------------------------------------------------------


def sleeping(seconds: float, settings: Settings, case: Case) -> Outcome:
    """A pair that only sleeps."""
    time.sleep(seconds)
    return Outcome(case.id, State.DONE, "ok", seconds=seconds)


def simulate(options: argparse.Namespace) -> None:
    """Hand out pairs that only sleep."""
    work = partial(sleeping, options.sleep, Settings("/nowhere"))
    files = {"fixed": "/data/fixed.nii.gz", "moving": "/data/moving.nii.gz"}
    cases = (Case(f"case{k:05d}", files, "general") for k in range(options.count))
    begun, cpu_s, ended = 0.0, 0.0, 0
    memory = []
    for _, outcome in do_each(cases, work, Place(jobs=options.jobs)):
        assert outcome.ok
        if not ended:
            begun, cpu_s = time.perf_counter(), time.process_time()
        ended += 1
        if ended % max(1, options.count // 10) == 0:
            memory.append(resident_mb())
    wall_s = time.perf_counter() - begun
    scheduling_ms = 1e3 * (wall_s - options.sleep * ended / options.jobs) / ended
    own_ms = 1e3 * (time.process_time() - cpu_s) / ended
    print(f"{ended} pairs on {options.jobs} workers in {wall_s:.1f} s")
    print(f"scheduling: {scheduling_ms:.2f} ms a pair; {own_ms:.2f} ms of the scheduler's own CPU")
    print("memory of client and scheduler, MB, at each tenth: " + " ".join(map(str, memory)))


def resident_mb() -> int:
    """Memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * resource.getpagesize() / 1e6)


# The page ---------------------------------------------------------------------------------------


def open_page(options: argparse.Namespace) -> None:
    """Open the page of a made-up cohort in a browser."""
    from chromium import chromium, find_chromium
    from page_cases import make_cohort

    from iterreg.cohort.summary import write_tables

    program = find_chromium()
    if program is None:
        sys.exit("no Chromium here")
    with tempfile.TemporaryDirectory() as scratch:
        plan = make_cohort(Path(scratch) / "cohort", options.count)
        begun = time.perf_counter()
        write_tables(plan)
        written_s = time.perf_counter() - begun
        page = Path(scratch) / "cohort" / "cohort.html"
        profile = Path(scratch) / "profile"
        profile.mkdir()
        with chromium(program, profile) as tab:
            begun = time.perf_counter()
            tab.open(page.as_uri())
            opened_s = time.perf_counter() - begun
            shown = tab.evaluate("document.getElementById('shown').textContent")
            begun = time.perf_counter()
            tab.evaluate("document.querySelectorAll('#cases thead button')[3].click()")
            tab.evaluate("document.body.offsetHeight")
            sorted_s = time.perf_counter() - begun
            if options.out is not None:
                tab.screenshot(options.out)
        size_mb = page.stat().st_size / 1e6
        print(f"{shown} pairs, {size_mb:.1f} MB: written in {written_s:.1f} s")
        print(f"opened and ready in {opened_s:.2f} s; sorted in {sorted_s:.2f} s")


if __name__ == "__main__":
    main()
