"""Ctrl-C ends a command wherever it lands, also where Python or a reader turns it into another."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from iterreg.cli.failures import describe
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
