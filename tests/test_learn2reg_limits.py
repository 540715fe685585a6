"""``learn2reg submit`` with images whose headers disagree, and within a limit of memory."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from test_learn2reg import FAST, make_task, run

from iterreg.errors import ExitCode
from iterreg.io import reading_choices, reading_with
from iterreg.learn2reg.register import Settings, _digest_of_inputs, config_of
from iterreg.learn2reg.task import read_task

ROOT = Path(__file__).parents[1]


@pytest.fixture
def doubtful(tmp_path: Path) -> Path:
    """A task of two cases whose images say two voxel sizes."""
    task = make_task(tmp_path / "task")
    for path in (task / "imagesTr").iterdir():
        image = nibabel.load(path)
        image.set_sform(np.diag([2.0, 2.0, 2.0, 1.0]), 1)
        image.set_qform(np.diag([1.0, 1.0, 1.0, 1.0]), 1)
        nibabel.save(image, path)
    return task


@pytest.mark.filterwarnings("ignore::iterreg.io.GeometryWarning")
@pytest.mark.parametrize("jobs", [1, 2])
def test_the_geometry_holds_in_every_process(doubtful: Path, tmp_path: Path, jobs: int) -> None:
    words = ["submit", "--task", doubtful, "--out", tmp_path / "s.zip", *FAST, "--jobs", jobs]
    refused = run(*words)
    assert refused.exit_code == ExitCode.ERROR and "--geometry" in refused.output
    assert not (tmp_path / "s.zip").exists()
    done = run(*words, "--geometry", "qform")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "s.zip").exists()


def test_a_field_of_another_geometry_is_not_kept(doubtful: Path, tmp_path: Path) -> None:
    task = read_task(doubtful)
    settings = Settings(tmp_path)
    pair, config = task.pairs[0], config_of(task, settings)
    digests = {_digest_of_inputs(pair, settings, config, {})}
    with reading_with(geometry="sform"):
        digests.add(_digest_of_inputs(pair, settings, config, {}))
    digests.add(_digest_of_inputs(pair, Settings(tmp_path, memory_gb=2.0), config, {}))
    assert len(digests) == 3
    assert reading_choices().geometry == "auto"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux keeps these limits")
def test_too_little_memory_is_told_before_the_work(tmp_path: Path) -> None:
    task = make_task(tmp_path / "task")
    words = ["learn2reg", "submit", "--task", str(task), "--out", str(tmp_path / "s.zip")]
    done = subprocess.run(
        [sys.executable, "-m", "iterreg", *words, "--memory", "0.1"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == ExitCode.OUT_OF_MEMORY, done.stderr
    assert "memory 0.1 GB" in done.stderr
    assert not (tmp_path / "s.zip").exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux keeps these limits")
def test_a_full_disk_is_told_by_its_own_exit_code(tmp_path: Path) -> None:
    task = make_task(tmp_path / "task", ("0001",))
    words = ["learn2reg", "submit", "--task", str(task), "--out", str(tmp_path / "s.zip")]
    done = subprocess.run(
        [sys.executable, "-m", "iterreg", *words, *FAST],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)),
    )
    assert done.returncode == ExitCode.OUTPUT, done.stderr
    assert "1 of 1 cases failed" in done.stderr and "cannot be written" in done.stderr
    assert not (tmp_path / "s.zip").exists()
