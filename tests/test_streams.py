"""Standard streams that are closed or full, and names that steer a terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from iterreg.errors import ExitCode

ROOT = Path(__file__).parents[1]
FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="the system has no /dev/full")


def shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of shell in which $iterreg is the command."""
    names = {
        "iterreg": f"{sys.executable} -m iterreg",
        "PYTHONPATH": str(ROOT),
        **os.environ,
        **environment,
    }
    command = ["bash", "-c", line.replace("iterreg ", "$iterreg ")]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=names)


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A folder with a small pair, as apply and evaluate take it."""
    data = np.zeros((6, 6, 6), np.uint8)
    data[2:4, 2:4, 2:4] = 1
    sitk.WriteImage(sitk.GetImageFromArray(data), str(tmp_path / "a.nii.gz"))
    sitk.WriteTransform(sitk.TranslationTransform(3), str(tmp_path / "t.tfm"))
    return tmp_path


APPLY = "iterreg apply --transform t.tfm --reference a.nii.gz --labels a.nii.gz --out o.nii.gz"


def test_without_a_word_the_help_is_shown_in_lines(tmp_path: Path) -> None:
    done = shell("iterreg ", tmp_path)
    assert len((done.stdout + done.stderr).splitlines()) > 20


@pytest.mark.parametrize(
    "words",
    [
        "learn2reg submit --task t --out $'a\\nb.tfm'",
        "apply --transform t.tfm --out o.nii $'a\\nb'",
        "register --preset general --set $'a\\nb'",
        "$'a\\nb'",
        "apply $'--a\\nb'",
    ],
)
def test_names_with_line_breaks_stay_on_one_line(words: str, tmp_path: Path) -> None:
    done = shell(f"iterreg {words}", tmp_path)
    assert done.returncode == ExitCode.USAGE
    said = [line for line in done.stderr.splitlines() if line]
    assert said[-1].startswith("Error: ") and len(said) <= 3, done.stderr


@needs_full
@pytest.mark.parametrize(
    "words", ["--help", "--version", "presets", "apply --help", "weights list"]
)
def test_a_full_standard_output_is_named(words: str, tmp_path: Path) -> None:
    done = shell(f"iterreg {words} >/dev/full", tmp_path)
    assert done.returncode == ExitCode.OUTPUT
    assert done.stderr.splitlines() == [
        "iterreg: error: standard output: cannot be written: No space left on device"
    ]


@pytest.mark.parametrize("streams", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_closed_streams_cost_no_result(streams: str, pair: Path) -> None:
    if "full" in streams and not FULL.exists():
        pytest.skip("the system has no /dev/full")
    done = shell(f"{APPLY} {streams}", pair)
    assert done.returncode == 0, done.stderr
    bad = shell(f"{APPLY} --threads 3 {streams}", pair)
    assert bad.returncode == ExitCode.USAGE
    before, after = (sitk.ReadImage(str(pair / name)) for name in ("a.nii.gz", "o.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(before), sitk.GetArrayFromImage(after))


def test_what_a_library_prints_is_not_shown_but_kept_for_a_crash() -> None:
    code = (
        "import os, signal, sys\n"
        "from iterreg.cli.guard import run_guarded\n"
        "def run():\n"
        "    os.write(1, b'noise of a library\\n')\n"
        "    os.write(2, b'HDF5: the last word\\n')\n"
        "    print('ours', flush=True)\n"
        "    {}\n"
        "from iterreg.cli.streams import name_standard_streams\n"
        "name_standard_streams()\n"
        "run_guarded(run)\n"
    )

    def ended(by: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code.format(by)]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)

    calm = ended("sys.exit(5)")
    assert (calm.returncode, calm.stdout, calm.stderr) == (5, "ours\n", "")
    crashed = ended("os.kill(os.getpid(), signal.SIGSEGV)")
    assert (crashed.returncode, crashed.stdout) == (ExitCode.CRASHED, "ours\n")
    assert "SIGSEGV: HDF5: the last word" in crashed.stderr
    assert len(crashed.stderr.splitlines()) == 1
    for end in (
        "os.kill(os.getpid(), signal.SIGKILL)",
        "os.write(2, b'LLVM ERROR: Unable to allocate section memory!'); os.abort()",
    ):
        killed = ended(end)
        assert killed.returncode == ExitCode.OUT_OF_MEMORY
        assert killed.stderr.startswith("iterreg: error: out of memory")


def test_a_reader_that_leaves_is_no_error_to_speak_of(tmp_path: Path) -> None:
    done = shell("iterreg presets | true", tmp_path)
    assert done.stderr == ""


@pytest.mark.parametrize(
    "line",
    [
        "iterreg apply --transform $'t\\e[2J.h5' --points p.csv --out o.csv",
        "iterreg apply --transform t --threads $'\\e[2J'",
        "iterreg $'\\e]0;owned\\a'",
        "iterreg evaluate --label-table x.ctbl --fixed-labels a.nii.gz --moving-labels a.nii.gz",
        "iterreg register --preset $'\\e[2J' --fixed a.nii.gz --moving a.nii.gz --out out",
        "iterreg thorax --set $'a.\\e[2J=1' --fixed a.nii.gz --moving a.nii.gz --out out",
        "iterreg weights fetch $'\\e[2J'",
        "iterreg weights fetch sam-vit-b --url $'http://\\e[2J/x'",
    ],
)
def test_no_name_steers_the_terminal(line: str, pair: Path) -> None:
    (pair / "x.ctbl").write_text("1 \033[2J\033]0;owned\007x 1 1 1 1\n")
    done = shell(line, pair)
    said = done.stdout + done.stderr
    assert not set(said) & {"\033", "\007", "\r"}
    assert said.strip()


@pytest.mark.parametrize("value", ["0", "-1", "abc", "1.5", "", "9" * 30])
def test_a_number_of_threads_that_numba_cannot_take_is_refused(value: str, pair: Path) -> None:
    code = "import torch; from iterreg.kernels import set_threads; set_threads(1)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"NUMBA_NUM_THREADS": value},
    )
    last = done.stderr.splitlines()[-1]
    assert last.startswith("iterreg.errors.DeviceError: NUMBA_NUM_THREADS: expected a whole number")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("evalute", "evaluate"), ("torax", "thorax"), ("learn2reg sumbit", "submit")],
)
def test_unknown_commands_get_a_suggestion(typed: str, meant: str, tmp_path: Path) -> None:
    done = shell(f"iterreg {typed}", tmp_path)
    assert done.returncode == ExitCode.USAGE
    assert f"Did you mean {meant!r}" in done.stderr
    nothing_close = shell("iterreg zzz", tmp_path)
    assert "See --help" in nothing_close.stderr


@pytest.mark.parametrize(
    "option", ["--memory nan", "--memory inf", "--fill inf", "--pixel-mm nan", f"--seed {10**40}"]
)
def test_numbers_that_are_none_are_refused(option: str, pair: Path) -> None:
    line = "iterreg register --preset general --fixed a.nii.gz --moving a.nii.gz --out out "
    done = shell(line + option, pair)
    assert done.returncode == ExitCode.USAGE
    assert option.split()[0] in done.stderr
    assert not (pair / "out").exists()


def test_from_python_no_library_prints_either(tmp_path: Path) -> None:
    """Damaged files of all formats, read in a process that no command guards."""
    code = (
        "import random, sys, warnings\n"
        "from pathlib import Path\n"
        "warnings.simplefilter('ignore')\n"
        "sys.path.insert(0, 'benchmarks')\n"
        "from _bad_kinds import BYTES, good_files\n"
        "from iterreg import read_image, read_transform\n"
        "from iterreg.errors import IterregError\n"
        "folder, rng = Path(sys.argv[1]), random.Random(7)\n"
        "good_files(folder)\n"
        "images = [f for f in folder.iterdir() if f.name.startswith(('image.', 'picture.'))]\n"
        "names = ('both.h5', 'affine.tfm', 'affine.mat', 'spline.tfm', 'field.nii.gz')\n"
        "files = [(read_image, f) for f in images]\n"
        "files += [(read_transform, folder / n) for n in names]\n"
        "refused = 0\n"
        "for _ in range(200):\n"
        "    read, path = rng.choice(files)\n"
        "    bad = folder / f'bad_{path.name}'\n"
        "    spoil = BYTES[rng.choice(('cut', 'flipped', 'overwritten', 'noise'))][0]\n"
        "    bad.write_bytes(spoil(rng, path.read_bytes()))\n"
        "    try:\n"
        "        read(bad)\n"
        "    except IterregError:\n"
        "        refused += 1\n"
        "assert refused > 60, refused\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
