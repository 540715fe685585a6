"""Keep compiled loops on disk, so that the next process need not compile them.

numba's own cache ends the process for ever if a file in it is damaged, and refuses to work where no
folder can be written. Here a damaged or empty file is as good as none, every file carries a
checksum, because a flipped bit in machine code may do anything, and a read-only system compiles
each time.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

from iterreg.folders import cache_folder, tell_once

DIGEST_BYTES = 32
OLD_S = 3600.0
"""Seconds after which an unfinished file belongs to no process any more."""

Loops = Callable[..., Any]


class KernelCache:
    """The machine code of one function, by the types of its arguments.

    It has the interface that numba's dispatcher asks of a cache.

    Args:
        function: not compiled.
    """

    def __init__(self, function: Loops) -> None:
        self._name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
        self.cache_path = str(next(folders(), ""))

    def load_overload(self, signature: Any, context: Any) -> Any:
        """Return the code for a signature, or None if there is none that can be used."""
        context.refresh()
        name = self._file(signature, context.codegen())
        for folder in folders():
            with suppress(Exception):  # whatever a damaged file may cause
                content = (folder / name).read_bytes()
                digest, payload = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
                if hashlib.sha256(payload).digest() == digest:
                    return CompileResult._rebuild(context, *pickle.loads(payload))
        return None

    def save_overload(self, signature: Any, result: Any) -> None:
        """Keep the code for a signature, if a folder can be written."""
        if result.library.has_dynamic_globals:
            return
        name = self._file(signature, result.codegen)
        payload = dumps(result._reduce())
        content = hashlib.sha256(payload).digest() + payload
        for folder in folders():
            with suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
                _write(folder / name, content)
                _remove_older(folder, name)
                return
        tell_once("compiled code", next(reversed([*folders()]), None))

    def enable(self) -> None:
        """Nothing to do: the cache is always on."""

    def disable(self) -> None:
        """Nothing to do: the cache is always on."""

    def flush(self) -> None:
        """Nothing to do: code of another source has another name."""

    def _file(self, signature: Any, codegen: Any) -> str:
        what = repr((str(signature), codegen.magic_tuple()))
        key = hashlib.sha256(what.encode()).hexdigest()[:16]
        return f"{self._name}.{sys.implementation.cache_tag}.{stamp()}.{key}.kernel"


def folders() -> Iterator[Path]:
    """Where code is looked for, and kept in the first that can be written."""
    if chosen := os.environ.get("NUMBA_CACHE_DIR"):
        yield Path(chosen)
    yield Path(__file__).parent / "__pycache__"
    kept = cache_folder("kernels")
    if kept is not None:
        yield kept


@cache
def stamp() -> str:
    """A fingerprint of all loops, because they are compiled into each other, and of numba."""
    digest = hashlib.sha256(f"{numba.__version__} {sys.version}".encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


def _write(path: Path, content: bytes) -> None:
    opened, aside = tempfile.mkstemp(prefix=path.name, suffix=".part", dir=path.parent)
    try:
        with open(opened, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(aside)
        raise


def _remove_older(folder: Path, name: str) -> None:
    """Remove code of the same function from another source, and files that were never finished."""
    function, tag, current = name.rsplit(".", 4)[:3]
    for file in folder.glob(f"{function}.{tag}.*"):
        unfinished = file.suffix == ".part" and time.time() - file.stat().st_mtime > OLD_S
        if unfinished or (file.suffix == ".kernel" and f".{current}." not in file.name):
            with suppress(OSError):
                file.unlink()
