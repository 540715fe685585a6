"""Bad inputs by kind, over all commands: is each answered by one clear line?

    python benchmarks/bad_inputs.py [--count 2000] [--seed 0] [--jobs 2] [--json ROWS.json]
    python benchmarks/bad_inputs.py --only 17        show one case and its answer
    python benchmarks/bad_inputs.py --warm           fork from a process that has imported iterreg

Each case runs as a user would run it, in a process of its own. With ``--warm`` that process has
imported the libraries already, unless the case changes the environment or the streams. Prints the
cases that were answered badly, and how many:

    bug         "this is a bug", or a traceback
    unclear     an error without one line that names a file, an option or the machine, or with an
                exit code that is not documented
    accepted    exit code 0 though the file was destroyed
    memory      more than 2.5 GB
    killed      ended by a signal, or by a library
    escape      letters that steer a terminal
    slow        more than a minute of processor time, or five of the clock
    foreign     lines of other programs
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from _bad_cases import draw  # noqa: E402
from _bad_kinds import Case, good_files  # noqa: E402
from _bad_medical_files import more_good_files  # noqa: E402
from _bad_warm import Ending, Server, ending, limits  # noqa: E402

from iterreg.errors import ExitCode  # noqa: E402

FAULTS = ("bug", "unclear", "accepted", "memory", "killed", "escape", "slow", "foreign")
MOST_MB = 2500.0
MOST_S = 60.0
WAITING = 5.0
"""On a machine that does other work too, the clock counts a fifth."""
CRASHED = 23
DOCUMENTED = frozenset(map(int, ExitCode))
OURS = re.compile(
    r"iterreg: |refused: |row \d+: |unknown column | *\d+ %  |Usage: |Try '|Error: |$"
)
"""How a line of standard error begins; what is printed on standard output is ours by its place."""


@dataclass
class Answer:
    """How a case was answered.

    Args:
        number: of the case.
        kind: what was wrong.
        line: the command line.
        code: exit code; negative for a signal.
        seconds, peak_mb: of the whole command.
        said: standard error, its end.
        faults: which of ``FAULTS``.
    """

    number: int
    kind: str
    line: str
    code: int
    seconds: float
    peak_mb: float
    said: str
    faults: list[str]


def main() -> None:
    """Run the cases and print the table."""
    options = _options()
    with tempfile.TemporaryDirectory() as scratch:
        good = Path(scratch, "good")
        good.mkdir()
        good_files(good)
        more_good_files(good)
        numbers = range(options.count) if options.only is None else [options.only]
        with ThreadPoolExecutor(options.jobs) as pool:
            answers = []
            for answer in pool.map(
                lambda n: run_case(options.seed, n, good, options.warm), numbers
            ):
                answers.append(answer)
                if answer.faults and options.only is None:
                    print_answer(answer)
    if options.only is not None:
        print(json.dumps(asdict(answers[0]), indent=2))
        return
    print_table(answers)
    if options.json is not None:
        rows = [asdict(answer) for answer in answers]
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    sys.exit(any(answer.faults for answer in answers))


def run_case(seed: int, number: int, good: Path, warm: bool = False) -> Answer:
    """Draw a case, run it, and judge the answer."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, out, said = Path(scratch, "case"), Path(scratch, "out"), Path(scratch, "said")
        folder.mkdir()
        case = draw(seed, number, good, folder)
        begun = time.monotonic()
        code, peak_mb, busy = (_run_warm if warm else _run)(case, folder, out, said)
        seconds = max(busy, (time.monotonic() - begun) / WAITING)
        texts = out.read_bytes(), said.read_bytes()
        faults = judge(case, code, (seconds, peak_mb), texts)
        line = shlex.join(case.words)[:400] + case.redirect
        end = texts[1].decode("utf-8", "replace")[-1500:]
        return Answer(number, case.kind, line, code, seconds, peak_mb, end, faults)


def _run(case: Case, folder: Path, out: Path, said: Path) -> Ending:
    """Run a case as a user would."""
    names = {k: v for k, v in {**os.environ, **case.environment}.items() if v is not None}
    names |= {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "iterreg", *case.words]
    if case.redirect:
        command = ["/bin/bash", "-c", f"{shlex.join(command)} {case.redirect}"]
    with out.open("wb") as stdout, said.open("wb") as stderr:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            cwd=folder,
            env=names,
            preexec_fn=limits,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return ending(status, usage)


def _run_warm(case: Case, folder: Path, out: Path, said: Path) -> Ending:
    """Run a case in a fork of a process that has imported everything, where that is the same."""
    if case.redirect or case.environment:
        return _run(case, folder, out, said)
    server = Server.here(os.environ | {"PYTHONPATH": str(ROOT)})
    return server.run(case.words, folder, (out, said))


def judge(
    case: Case, code: int, cost: tuple[float, float], texts: tuple[bytes, bytes]
) -> list[str]:
    """Which faults an answer has.

    Args:
        case: what was run.
        code: its exit code.
        cost: seconds and MB.
        texts: standard output and standard error.
    """
    printed, said = (text.decode("utf-8", "replace") for text in texts)
    lines = [line for line in said.split("\n") if line.strip()]
    errors = [line for line in lines if line.startswith(("iterreg: error", "Error: "))]
    silent = "2>" in case.redirect or case.redirect == "| true"
    found = {
        "bug": "this is a bug" in said or "Traceback" in said,
        "unclear": (code not in (0, 15, 16) and not silent and len(errors) != 1)
        or (code > 0 and code not in DOCUMENTED),
        "accepted": code == 0 and case.must_fail,
        "memory": cost[1] > MOST_MB,
        "killed": code < 0 or code in (CRASHED, 134, 137, 139),
        "escape": any(c in "\x1b\x07\x08\x9b" for c in printed + said),
        "slow": cost[0] > MOST_S,
        "foreign": any(not OURS.match(line) for line in lines),
    }
    return [name for name in FAULTS if found[name]]


def print_table(answers: list[Answer]) -> None:
    """Print the counts."""
    counts = Counter(fault for answer in answers for fault in answer.faults)
    bad = [answer for answer in answers if answer.faults]
    codes = Counter(answer.code for answer in answers)
    print(f"{len(answers)} bad inputs, {len(bad)} answered badly")
    for fault in FAULTS:
        print(f"{fault:<10}{counts[fault]:>6}")
    print("exit codes: " + ", ".join(f"{code}: {n}" for code, n in sorted(codes.items())))
    print(
        f"largest {max(a.peak_mb for a in answers):.0f} MB, longest "
        f"{max(a.seconds for a in answers):.0f} s"
    )


def print_answer(answer: Answer) -> None:
    """Print a case that was answered badly."""
    cost = f"code {answer.code}, {answer.seconds:.0f} s, {answer.peak_mb:.0f} MB"
    print(f"{answer.number}  {answer.kind}: {', '.join(answer.faults)} ({cost})")
    print(f"  {ascii(answer.line)[1:-1]}\n  {ascii(answer.said[-400:])[1:-1]}\n", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", type=int)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--warm", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
