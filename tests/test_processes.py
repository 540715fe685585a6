"""Processes and threads: forks are told, spawned workers and threads give the same bytes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

SCRIPT = """
import hashlib, multiprocessing, sys, threading
from concurrent.futures import ThreadPoolExecutor

def job(number=0):
    import numpy, torch
    from iterreg import Grid, Image, optimize_pair
    from scipy.ndimage import gaussian_filter
    noise = gaussian_filter(numpy.random.default_rng(0).random((20, 20, 20)), 2)
    texture = torch.from_numpy(noise).float().unsqueeze(0)
    axes = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    fixed = Image(texture, Grid((20, 20, 20), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0), axes))
    moving = Image(texture, Grid((20, 20, 20), (2.0, 2.0, 2.0), (5.0, 0.0, 0.0), axes))
    run = optimize_pair(fixed, moving, preset="general", threads=1)
    return hashlib.sha256(run.transform.field.vox.numpy().tobytes()).hexdigest()

def in_pool(how):
    with multiprocessing.get_context(how).Pool(1) as pool:
        answer = pool.apply_async(job)
        try:
            return answer.get(timeout=240)
        except Exception as error:
            return f"{type(error).__name__}: {error}"

if __name__ == "__main__":
    what = sys.argv[1]
    if what == "alone":
        print(job())
    elif what == "threads":
        with ThreadPoolExecutor(4) as pool:
            print(*set(pool.map(job, range(4))))
    elif what == "cold fork":
        import iterreg
        print(in_pool("fork"))
    else:
        job()
        print(in_pool(what))
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script in a file, as spawned workers need it."""
    path = tmp_path_factory.mktemp("processes") / "script.py"
    path.write_text(SCRIPT)
    return path


def said(script: Path, *words: str, **environment: str) -> str:
    """What the script prints."""
    done = subprocess.run(
        [sys.executable, str(script), *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=500,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )
    assert done.returncode == 0, done.stderr
    assert "Terminating" not in done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def alone(script: Path) -> str:
    """The hash of the field of one registration in one process."""
    return said(script, "alone")


def test_a_fork_after_use_says_what_to_do(script: Path) -> None:
    answer = said(script, "fork")
    assert answer.startswith("DeviceError: this process was forked after iterreg had been used")
    assert "get_context('spawn')" in answer
    assert len(answer.splitlines()) == 1


@pytest.mark.parametrize("how", ["cold fork", "spawn"])
def test_other_workers_give_the_same_bytes(how: str, script: Path, alone: str) -> None:
    assert said(script, how) == alone


@pytest.mark.parametrize("threads", ["1", "2"])
def test_threads_give_the_same_bytes(threads: str, script: Path, alone: str) -> None:
    assert said(script, "threads", NUMBA_NUM_THREADS=threads) == alone


def test_a_forked_process_can_still_use_torch() -> None:
    code = (
        "import os, sys, torch\n"
        "from iterreg.kernels import set_threads\n"
        "set_threads(2)\n"
        "a = torch.rand(400, 400)\n"
        "a @ a; torch.exp(torch.rand(1 << 20)).sum()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    (a @ a).sum(); torch.exp(torch.rand(1 << 20)).sum()\n"
        "    os._exit(7)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120)
    assert done.returncode == 7


def test_threads_may_import_iterreg_at_once() -> None:
    code = (
        "import threading\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "import iterreg\n"
        "names = sorted(iterreg.__all__)\n"
        "start = threading.Barrier(len(names))\n"
        "def get(name):\n"
        "    start.wait()\n"
        "    return getattr(iterreg, name)\n"
        "with ThreadPoolExecutor(len(names)) as pool:\n"
        "    found = list(pool.map(get, names))\n"
        "assert all(value is getattr(iterreg, name) for name, value in zip(names, found))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120, capture_output=True)
    assert done.returncode == 0, done.stderr
