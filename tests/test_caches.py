"""Caches: what is damaged is as good as none, and no folder that can be written is no error."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from iterreg import folders
from iterreg.errors import ExitCode, WeightsError
from iterreg.folders import CacheWarning, cache_folder
from iterreg.samreg.cache import RoiCache, default_folder
from iterreg.samreg.everything import Rois
from iterreg.samreg.rle import RunLengthMask
from iterreg.samreg.weights import cache_folder as weights_folder

ROOT = Path(__file__).parents[1]


@pytest.fixture
def no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place for caches that cannot be made, because a file is in the way."""
    monkeypatch.setattr(folders, "_told", set())
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ITERREG_CACHE", str(tmp_path / "file" / "cache"))
    yield tmp_path


def some_rois() -> Rois:
    """Two masks on a slice of 3 x 4."""
    rng = torch.Generator().manual_seed(0)
    return Rois(
        (RunLengthMask((3, 4), (0, 5, 7)), RunLengthMask((3, 4), (6, 6))),
        torch.randn((2, 5), generator=rng),
        torch.rand(2, generator=rng),
        torch.randn(5, generator=rng),
        points=9,
        candidates=4,
    )


def stored(folder: Path) -> tuple[RoiCache, Path, dict[str, Any]]:
    """A cache with one entry, its file, and what is in it."""
    cache = RoiCache(folder)
    cache.store("key", some_rois())
    with np.load(folder / "key.npz") as arrays:
        return cache, folder / "key.npz", dict(arrays)


def test_an_entry_comes_back_as_it_was(tmp_path: Path) -> None:
    cache, _, _ = stored(tmp_path)
    found, made = cache.find("key", (3, 4)), some_rois()
    assert found is not None
    assert found.masks == made.masks and torch.equal(found.prototypes, made.prototypes)
    assert (found.points, found.candidates) == (9, 4)
    assert cache.find("key", (4, 3)) is None
    empty = Rois((), torch.zeros((0, 5)), torch.zeros(0), torch.ones(5))
    cache.store("none", empty)
    again = cache.find("none", (3, 4))
    assert again is not None and len(again) == 0


BYTES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda b: b"",
    "cut": lambda b: b[:-30],
    "cut in half": lambda b: b[: len(b) // 2],
    "text": lambda b: b"[" * 1000,
    "a flipped bit": lambda b: b[:400] + bytes([b[400] ^ 4]) + b[401:],
    "zeros": lambda b: bytes(len(b)),
    "an array alone": lambda b: b"\x93NUMPY\x01\x00" + b[:50],
    "a pickle": lambda b: b"\x80\x04]\x94.",
}


@pytest.mark.parametrize("how", BYTES)
def test_a_damaged_entry_is_as_good_as_none(how: str, tmp_path: Path) -> None:
    cache, file, _ = stored(tmp_path)
    file.write_bytes(BYTES[how](file.read_bytes()))
    assert cache.find("key") is None
    cache.store("key", some_rois())
    assert cache.find("key") is not None


ARRAYS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "three more counts": lambda a: a | {"counts": np.arange(5)},
    "a negative count": lambda a: a | {"counts": np.array([-1, 2])},
    "NaN prototypes": lambda a: a | {"prototypes": a["prototypes"] * np.float32("nan")},
    "an infinite mean": lambda a: a | {"mean": a["mean"] * np.float32("inf")},
    "prototypes of another length": lambda a: a | {"prototypes": a["prototypes"][:, :3]},
    "one prototype": lambda a: a | {"prototypes": a["prototypes"][:1]},
    "one score": lambda a: a | {"predicted_iou": a["predicted_iou"][:1]},
    "doubles": lambda a: a | {"mean": a["mean"].astype(np.float64)},
    "runs that do not fill": lambda a: a | {"runs": a["runs"] + np.int32(1)},
    "negative runs": lambda a: a | {"runs": -a["runs"]},
    "lengths that do not fit": lambda a: a | {"lengths": np.array([3, 9])},
    "negative lengths": lambda a: a | {"lengths": np.array([-3, 8])},
    "three axes": lambda a: a | {"shape": np.array([3, 2, 2, 1])},
    "no runs": lambda a: {k: v for k, v in a.items() if k != "runs"},
    "objects": lambda a: a | {"mean": np.array([None] * 5)},
    "a scalar": lambda a: a | {"lengths": np.int64(2)},
}


@pytest.mark.parametrize("how", ARRAYS)
def test_an_entry_that_does_not_fit_itself_is_as_good_as_none(how: str, tmp_path: Path) -> None:
    cache, file, arrays = stored(tmp_path)
    np.savez(file, **ARRAYS[how](arrays))
    assert cache.find("key", (3, 4)) is None


def test_an_entry_cannot_ask_for_memory_it_does_not_hold(tmp_path: Path) -> None:
    cache, file, arrays = stored(tmp_path)
    np.savez_compressed(file, **(arrays | {"mean": np.zeros(1 << 27, np.float32)}))
    assert file.stat().st_size < 1 << 21
    assert cache.find("key") is None


def test_no_place_for_regions_is_told_once_and_is_no_error(no_folder: Path) -> None:
    cache = RoiCache(default_folder())
    with pytest.warns(CacheWarning, match=r"regions of slices.*ITERREG_CACHE") as told:
        cache.store("key", some_rois())
        cache.store("key", some_rois())
    assert len(told) == 1
    assert cache.find("key") is None


def test_a_user_without_a_home_has_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "_told", set())
    for name in ("ITERREG_CACHE", "ITERREG_WEIGHTS", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert cache_folder("rois") is None
    with pytest.warns(CacheWarning, match="there is no folder"):
        assert default_folder() is None
    with pytest.raises(WeightsError, match="ITERREG_WEIGHTS"):
        weights_folder()


def test_the_folder_is_the_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    platformdirs = pytest.importorskip("platformdirs")
    monkeypatch.delenv("ITERREG_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("rois") == Path(platformdirs.user_cache_dir("iterreg")) / "rois"
    monkeypatch.setenv("ITERREG_CACHE", str(tmp_path / "own"))
    assert cache_folder("rois") == tmp_path / "own" / "rois"


# Compiled loops -------------------------------------------------------------------------------

LOOP = """
import hashlib, sys
from pathlib import Path
import numpy as np
from iterreg.kernels.cpu import _cache
_cache.folders = lambda: iter([Path(folder) for folder in sys.argv[1:]])
found = []
load = _cache.KernelCache.load_overload
def counted(self, *words):
    code = load(self, *words)
    found.append(code is not None)
    return code
_cache.KernelCache.load_overload = counted
from iterreg.kernels.cpu.features import exponentiate
values = np.linspace(0, 3, 4096, dtype=np.float32).reshape(4, 8, 8, 16)
exponentiate(4 * 8, values, np.float32(0.1), np.float32(2))
print(*found, hashlib.sha256(values).hexdigest())
"""


def loop(*places: Path) -> tuple[str, str, str]:
    """Run a compiled loop: whether its code was found, its answer's hash, and what was said."""
    command = [sys.executable, "-c", LOOP, *map(str, places)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found, digest = done.stdout.split()
    return found, digest, done.stderr


def test_compiled_code_is_kept_and_damaged_code_is_made_again(tmp_path: Path) -> None:
    cold = loop(tmp_path / "kept")
    (file,) = (tmp_path / "kept").iterdir()
    whole = file.read_bytes()
    assert loop(tmp_path / "kept") == ("True", cold[1], "")
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    for damaged in (b"", whole[:100], flipped):
        file.write_bytes(damaged)
        assert loop(tmp_path / "kept") == ("False", cold[1], "")
        assert [f.name for f in (tmp_path / "kept").iterdir()] == [file.name]
    assert loop(tmp_path / "kept") == ("True", cold[1], "")


def test_code_of_another_source_is_removed(tmp_path: Path) -> None:
    loop(tmp_path)
    (file,) = tmp_path.iterdir()
    name, tag, stamp, key, kind = file.name.rsplit(".", 4)
    file.rename(tmp_path / f"{name}.{tag}.{stamp[::-1]}.{key}.{kind}")
    other = tmp_path / f"{name}.other-1.{stamp}.{key}.{kind}"
    other.write_bytes(b"of another Python")
    assert loop(tmp_path)[0] == "False"
    assert {f.name for f in tmp_path.iterdir()} == {file.name, other.name}


def test_no_place_for_compiled_code_is_told_once_and_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    places = tmp_path / "file" / "a", tmp_path / "file" / "b"
    found, digest, said = loop(*places)
    assert found == "False"
    assert said.count("compiled code cannot be kept") == 1 and str(places[1]) in said
    assert digest == loop(tmp_path / "kept")[1]


def test_the_package_looks_beside_itself_and_in_the_users_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from iterreg.kernels.cpu import _cache

    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "numba"))
    monkeypatch.setenv("ITERREG_CACHE", str(tmp_path / "own"))
    beside = Path(_cache.__file__).parent / "__pycache__"
    assert list(_cache.folders()) == [tmp_path / "numba", beside, tmp_path / "own" / "kernels"]
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    assert next(_cache.folders()) == beside


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder nobody can write to")
def test_a_command_runs_without_a_home(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME")}
    for home in ({}, {"HOME": "/proc/self/nowhere"}):
        done = subprocess.run(
            [sys.executable, "-m", "iterreg", "weights", "list"],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environment | home,
        )
        assert (done.returncode, done.stderr) == (ExitCode.OK, "")
