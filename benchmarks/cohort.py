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
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).parent
sys.path[:0] = [str(BENCHMARKS.parent), str(BENCHMARKS.parent / "tests"), str(BENCHMARKS)]

from _cohort_kills import run_kills  # noqa: E402
from _cohort_pairs import ROOT, command, rows, write_rows  # noqa: E402

from iterreg.cohort.cases import Case, Outcome, Settings, State  # noqa: E402
from iterreg.cohort.engine import Place, do_each  # noqa: E402


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
