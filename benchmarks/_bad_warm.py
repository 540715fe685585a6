"""Run commands in forks of a process that has imported everything: each is seconds faster.

A fork sees its own command line, folder, streams and limits, as a new process would; what it does
not try is importing. Lines of JSON come in, one for each command, and go out.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

CPU_S = 600
MOST_BYTES = 10 << 30
HEAVY = (
    "SimpleITK",
    "scipy.ndimage",
    "nibabel",
    "pydicom",
    "h5py",
    "matplotlib.pyplot",
    "PIL.Image",
)


Ending = tuple[int, float, float]
"""Exit code, negative for a signal; peak memory, MB; processor time, s."""


def ending(status: int, usage: resource.struct_rusage) -> Ending:
    """How a process ended, from what ``os.wait4`` gives."""
    busy = usage.ru_utime + usage.ru_stime
    return os.waitstatus_to_exitcode(status), usage.ru_maxrss / 1024, busy


def limits() -> None:
    """Nothing may take the machine with it: ten minutes of processor time, 10 GB."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_BYTES, MOST_BYTES))
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


class Server:
    """A process that has imported iterreg; one for each thread that asks."""

    _own = threading.local()

    def __init__(self, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    @classmethod
    def here(cls, environment: dict[str, str]) -> Server:
        """The one of this thread."""
        if not hasattr(cls._own, "server"):
            cls._own.server = cls(environment)
        server: Server = cls._own.server
        return server

    def run(self, words: list[str], folder: Path, streams: tuple[Path, Path]) -> Ending:
        """Run a command in a folder."""
        assert self._process.stdin is not None and self._process.stdout is not None
        asked = {"words": words, "folder": str(folder), "streams": [str(s) for s in streams]}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        code, peak_mb, busy = json.loads(self._process.stdout.readline())
        return int(code), float(peak_mb), float(busy)


def _serve() -> None:
    import iterreg

    for name in HEAVY:
        importlib.import_module(name)
    for found in pkgutil.walk_packages(iterreg.__path__, "iterreg."):
        if not found.name.startswith(("iterreg.kernels.cuda", "iterreg.__main__")):
            importlib.import_module(found.name)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(asked)
        _, status, usage = os.wait4(child, 0)
        answers.write(json.dumps(ending(status, usage)) + "\n")
        answers.flush()


def _become(asked: dict[str, Any]) -> None:
    from iterreg.cli.main import main

    os.setpgid(0, 0)
    os.chdir(asked["folder"])
    for number, path in zip((1, 2), asked["streams"], strict=True):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, number)
        os.close(opened)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    limits()
    sys.argv = ["iterreg", *asked["words"]]
    code: object = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    except BaseException:  # what the interpreter would print
        sys.excepthook(*sys.exc_info())
        code = 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    _serve()
