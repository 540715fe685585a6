"""Ctrl-C ends a command wherever it lands, also where Python or a reader turns it into another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from iterreg.atomic import OutputFolder, write_text
from iterreg.cli.failures import SafeGroup, describe
from iterreg.errors import ExitCode, ImageReadError, was_interrupted

ROOT = Path(__file__).resolve().parents[1]


class _Presses:
    """Ctrl-C while a class is made."""

    def __set_name__(self, owner: type, name: str) -> None:
        raise KeyboardInterrupt


def test_ctrl_c_while_a_class_is_made_is_an_interrupt() -> None:
    with pytest.raises((RuntimeError, KeyboardInterrupt)) as caught:
        type("Part", (), {"fixed": _Presses()})
    assert was_interrupted(caught.value)
    assert describe(caught.value) == ("interrupted; nothing was written", ExitCode.INTERRUPTED)


def test_ctrl_c_that_a_reader_turned_into_its_own_error_is_an_interrupt() -> None:
    with pytest.raises(ImageReadError) as caught:
        try:
            type("Part", (), {"fixed": _Presses()})
        except (Exception, KeyboardInterrupt) as error:
            raise ImageReadError("fixed.nii.gz: cannot be read") from error
    assert describe(caught.value)[1] == ExitCode.INTERRUPTED


def test_an_error_of_a_file_is_no_interrupt() -> None:
    assert not was_interrupted(ImageReadError("fixed.nii.gz: cannot be read"))


DROPS = """
import os, signal, time
from iterreg.cli.guard import end_on_signals

class Drops:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)

end_on_signals()
thing = Drops()
try:
    del thing
    time.sleep(20)
    print("went on")
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGALRM")
def test_ctrl_c_in_the_last_act_of_an_object_is_not_lost() -> None:
    done = subprocess.run(
        [sys.executable, "-c", DROPS], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert (done.stdout, done.stderr) == ("interrupted\n", "")


def test_what_is_complete_is_named(tmp_path: Path) -> None:
    @click.group(cls=SafeGroup)
    def group() -> None:
        """Some commands."""

    @group.command()
    def write() -> None:
        """Write two files."""
        write_text("table", tmp_path / "table.json")
        with OutputFolder(tmp_path / "out") as folder:
            write_text("page", folder.path("page.html"))
        raise KeyboardInterrupt

    result = CliRunner().invoke(group, ["write"])
    assert result.exit_code == ExitCode.INTERRUPTED
    told = f"interrupted; complete: {tmp_path / 'table.json'}, {tmp_path / 'out'}"
    assert " ".join(result.output.split()).endswith(told)


LEAVES = """
import sys, time
from pathlib import Path
from iterreg.cli.guard import run_guarded

class Leaves:
    def __init__(self):
        self.touch, self.sleep = Path(sys.argv[1]).touch, time.sleep

    def __del__(self):
        self.touch()
        self.sleep(1)

kept = Leaves()
run_guarded(sys.exit)
"""
"""Python takes its own handlers of signals away before it ends modules."""


def test_a_signal_behind_the_end_changes_nothing(tmp_path: Path) -> None:
    leaving = tmp_path / "leaving"
    process = subprocess.Popen(
        [sys.executable, "-c", LEAVES, str(leaving)],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not leaving.exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (0, "")
