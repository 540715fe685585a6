"""Killed processes, full disks and two runs at once: a result is whole or not there."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from test_learn2reg import make_task, run, write_fields

from iterreg import read_transform, write_transform
from iterreg.atomic import OutputFolder, folder_lock, scratch_folder, write_aside, write_text
from iterreg.displacement import DisplacementField, Transform
from iterreg.errors import ExitCode, OutputError
from iterreg.geometry import Grid, Points
from iterreg.learn2reg.archive import write_zip

ROOT = Path(__file__).parents[1]
NAMES = ("a.txt", "overlay.png", "parts/b.txt", "run.json", "transform.h5")

KILLED_AT = """
import os, signal, sys
from iterreg.atomic import OutputFolder
left = int(sys.argv[2])
real = os.replace
def replace(source, target):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    real(source, target)
os.replace = replace
with OutputFolder(sys.argv[1], overwrite=True) as folder:
    for name in sys.argv[3:]:
        folder.path(name).write_text("new")
"""


def python(code: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own."""
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder that is not hidden, with its text."""
    files = (f for f in folder.rglob("*") if f.is_file())
    names = {str(f.relative_to(folder)): f for f in files}
    return {n: f.read_text() for n, f in sorted(names.items()) if not n.startswith(".iterreg-")}


def write(folder: Path, text: str) -> None:
    """Write all files with one text."""
    with OutputFolder(folder, overwrite=True) as out:
        for name in NAMES:
            out.path(name).write_text(text)


def forget() -> None:
    """Look for leftovers again, as a new process would."""
    from iterreg.atomic import staging

    staging._cleared.clear()


@pytest.mark.parametrize("moved", range(len(NAMES)))
def test_a_kill_while_moving_into_a_fresh_folder(moved: int, tmp_path: Path) -> None:
    out = tmp_path / "out"
    killed = python(KILLED_AT, out, moved, *NAMES)
    assert killed.returncode == -signal.SIGKILL
    assert "run.json" not in contents(out)
    assert len(contents(out)) == moved
    with pytest.raises(ValueError), OutputFolder(out):
        raise ValueError
    assert contents(out) == {}
    write(out, "new")
    assert contents(out) == dict.fromkeys(NAMES, "new")
    assert sorted(f.name for f in out.iterdir()) == sorted({n.split("/")[0] for n in NAMES})


@pytest.mark.parametrize("moved", range(2 * len(NAMES)))
def test_a_kill_while_overwriting_brings_back_the_old(moved: int, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, "old")
    (out / "mine.txt").write_text("mine")
    assert python(KILLED_AT, out, moved, *NAMES).returncode == -signal.SIGKILL
    found = contents(out)
    assert ("run.json" not in found) if moved else (set(found.values()) == {"old", "mine"})
    forget()
    with pytest.raises(OutputError, match="empty folder"), OutputFolder(out):
        pass
    assert contents(out) == dict.fromkeys(NAMES, "old") | {"mine.txt": "mine"}
    write(out, "new")
    assert contents(out) == dict.fromkeys(NAMES, "new") | {"mine.txt": "mine"}
    assert not [f for f in out.iterdir() if f.name.startswith(".")]


def test_a_kill_after_the_last_move_keeps_the_new(tmp_path: Path) -> None:
    code = KILLED_AT.replace("os.replace = replace", "import shutil\nshutil.rmtree = os.abort")
    code = code.replace("os.abort", "lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)")
    assert python(code, tmp_path / "out", 99, *NAMES).returncode == -signal.SIGKILL
    assert contents(tmp_path / "out") == dict.fromkeys(NAMES, "new")
    with pytest.raises(OutputError, match="empty folder"), OutputFolder(tmp_path / "out"):
        pass
    assert contents(tmp_path / "out") == dict.fromkeys(NAMES, "new")
    assert not [f for f in (tmp_path / "out").iterdir() if f.name.startswith(".")]


def test_leftovers_beside_a_file_are_cleared_and_those_in_use_are_not(tmp_path: Path) -> None:
    (tmp_path / ".iterreg-dead1234").mkdir()
    (tmp_path / ".iterreg-dead1234" / "x").write_text("x")
    (tmp_path / ".iterreg-file").write_text("a file of the user")
    used = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time\n"
            "from pathlib import Path\n"
            "from iterreg.atomic.staging import Staging\n"
            "s = Staging(Path(sys.argv[1]), Path('x'))\n"
            "print(s.path.name, flush=True)\n"
            "time.sleep(60)\n",
            str(tmp_path),
        ],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert used.stdout is not None
    name = used.stdout.readline().strip()
    forget()
    write_text("text", tmp_path / "a.txt")
    assert sorted(f.name for f in tmp_path.iterdir()) == sorted([".iterreg-file", name, "a.txt"])
    used.kill()
    used.communicate()
    forget()
    write_text("text", tmp_path / "a.txt")
    assert sorted(f.name for f in tmp_path.iterdir()) == [".iterreg-file", "a.txt"]


def test_temporary_folders_of_killed_processes_are_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / ".iterreg-dead1234").mkdir()
    with scratch_folder() as folder:
        assert [f.name for f in tmp_path.iterdir()] == [folder.name]
        with scratch_folder() as other:
            assert folder.is_dir() and other.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_the_second_of_two_runs_into_one_folder_is_told(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with OutputFolder(out) as first:
        first.path("a.txt").write_text("first")
        begun = time.monotonic()
        with pytest.raises(OutputError, match="another run of iterreg"), OutputFolder(out, True):
            pass
        assert time.monotonic() - begun < 30
    assert contents(out) == {"a.txt": "first"}
    with folder_lock(out):
        pass


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_signals_end_a_run_as_ctrl_c_does(name: str, tmp_path: Path) -> None:
    number = getattr(signal, name)
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "iterreg", "demo", "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    until = time.monotonic() + 60
    while not (out.is_dir() and any(out.iterdir())) and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(number)
    time.sleep(0.05)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == ExitCode.INTERRUPTED, stderr
    assert stderr.splitlines()[-1] == "iterreg: interrupted; nothing was written"
    assert stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_guarded_child_does_not_outlive_its_parent(tmp_path: Path) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux tells a child that its parent is gone")
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "iterreg", "demo", "--out", str(out)],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        cwd=ROOT,
    )
    until = time.monotonic() + 60
    while not (out.is_dir() and any(out.iterdir())) and time.monotonic() < until:
        time.sleep(0.02)
    process.kill()
    process.wait()
    with OutputFolder(out) as folder:
        folder.path("a.txt").write_text("a")
    assert [f.name for f in out.iterdir()] == ["a.txt"]


def test_no_worker_outlives_a_killed_submission(tmp_path: Path) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux tells a child that its parent is gone")
    task = make_task(tmp_path / "task")
    words = ["learn2reg", "submit", "--task", str(task), "--out", str(tmp_path / "s.zip")]
    process = subprocess.Popen(
        [sys.executable, "-m", "iterreg", *words, "--jobs", "2"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    )

    def below(parent: int) -> list[int]:
        # Any thread may have started a child.
        lists = Path(f"/proc/{parent}/task").glob("*/children")
        found = [int(word) for path in lists for word in path.read_text().split()]
        return found + [other for child in found for other in below(child)]

    until = time.monotonic() + 60
    while len(below(process.pid)) < 3 and time.monotonic() < until:
        time.sleep(0.05)
    everyone = below(process.pid)
    assert len(everyone) >= 3
    process.kill()
    process.wait()
    until = time.monotonic() + 20
    while (alive := [p for p in everyone if is_alive(p)]) and time.monotonic() < until:
        time.sleep(0.05)
    assert alive == []


def is_alive(process: int) -> bool:
    """Whether a process runs; one that waits to be collected does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# A full disk ----------------------------------------------------------------------------------

GRID = Grid((20, 22, 24), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), tuple(map(tuple, np.eye(3))))
LIMITS = (3_000, 40_000)
"""Bytes that a file may have: the headers alone fit, or a part of the numbers."""


@pytest.fixture
def transform_file(tmp_path: Path) -> Path:
    """A folder with a transform and an image that are larger than the limits."""
    rng = np.random.default_rng(0)
    vox = torch.from_numpy(rng.normal(size=(3, *GRID.shape_zyx)).astype(np.float32))
    write_transform(Transform(np.eye(4), DisplacementField(vox, GRID)), tmp_path / "t.h5")
    image = rng.normal(size=GRID.shape_zyx).astype(np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(image), str(tmp_path / "f.nii.gz"))
    return tmp_path


def limited(
    words: list[str], limit: int, folder: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command where no file may be longer than a limit, as a quota would have it."""
    return subprocess.run(
        [sys.executable, "-m", "iterreg", *words],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )


def require_told(done: subprocess.CompletedProcess[str], what: str) -> None:
    """Exit code 7 and one line."""
    said = [line for line in done.stderr.splitlines() if " %  " not in line]
    assert done.returncode == ExitCode.OUTPUT, done.stderr
    assert len(said) == 1, said
    assert what in said[0] and "cannot be written" in said[0]


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("name", ["o.tfm", "o.txt", "o.h5", "o.hdf5", "o.mha", "o.mhd", "o.nrrd"])
def test_a_transform_that_does_not_fit_is_told(name: str, limit: int, transform_file: Path) -> None:
    words = ["convert", "--transform", "t.h5", "--fixed", "f.nii.gz", "--out", name]
    before = sorted(transform_file.iterdir())
    require_told(limited(words, limit, transform_file), name)
    assert sorted(transform_file.iterdir()) == before


@pytest.mark.parametrize("name", ["o.nii.gz", "o.nii", "o.mha", "o.nrrd"])
def test_an_image_that_does_not_fit_is_told(name: str, transform_file: Path) -> None:
    words = ["apply", "--transform", "t.h5", "--reference", "f.nii.gz", "--image", "f.nii.gz"]
    before = sorted(transform_file.iterdir())
    require_told(limited([*words, "--out", name], 3_000, transform_file), name)
    assert sorted(transform_file.iterdir()) == before


def test_a_full_temporary_folder_is_not_blamed_on_the_zip(tmp_path: Path) -> None:
    task = make_task(tmp_path)
    fields = write_fields(tmp_path / "fields", task)
    write_zip(fields, tmp_path / "s.zip")
    assert run("check", tmp_path / "s.zip", "--task", task).exit_code == 0
    size = max(f.stat().st_size for f in fields) // 2
    words = ["learn2reg", "check", str(tmp_path / "s.zip"), "--task", str(task)]
    done = limited(words, size, tmp_path)
    require_told(done, "TMPDIR")
    assert "refused" not in done.stderr


def test_devices_are_no_files_to_replace() -> None:
    with pytest.raises(OutputError, match="got a device"):
        write_text("x", "/dev/null")


def test_a_pair_of_files_is_replaced_together_or_not(tmp_path: Path) -> None:
    def pair(text: str, path: Path) -> None:
        path.write_text(f"header {text}")
        path.with_suffix(".raw").write_text(f"voxels {text}")

    write_aside(tmp_path / "a.mhd", lambda path: pair("old", path))
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from iterreg.atomic import write_aside\n"
        "real, left = os.replace, int(sys.argv[2])\n"
        "def replace(source, target):\n"
        "    global left\n"
        "    if left == 0: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    left -= 1\n"
        "    real(source, target)\n"
        "def write(path):\n"
        "    path.write_text('header new')\n"
        "    path.with_suffix('.raw').write_text('voxels new')\n"
        "    os.replace = replace\n"
        "write_aside(Path(sys.argv[1]), write)\n"
    )
    for moved in range(5):
        assert python(code, tmp_path / "a.mhd", moved).returncode == -signal.SIGKILL
        forget()
        write_text("x", tmp_path / "other.txt")
        assert (tmp_path / "a.mhd").read_text() == "header old"
        assert (tmp_path / "a.raw").read_text() == "voxels old"
    assert python(code, tmp_path / "a.mhd", 99).returncode == 0
    assert (tmp_path / "a.raw").read_text() == "voxels new"
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a.mhd", "a.raw", "other.txt"]


def test_the_same_transform_gives_the_same_bytes(transform_file: Path) -> None:
    transform = read_transform(transform_file / "t.h5")
    time.sleep(1.1)  # the resolution of HDF5's dates
    write_transform(transform, transform_file / "again.h5")
    first, second = (transform_file / name for name in ("t.h5", "again.h5"))
    assert first.read_bytes() == second.read_bytes()
    point = [7.25, 6.5, 5.75]
    by_itk = sitk.ReadTransform(str(first)).TransformPoint(point)
    assert np.allclose(by_itk, transform.map_points(Points([point])).lps[0], atol=1e-5)
