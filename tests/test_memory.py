"""Memory that runs out ends with exit code 9 wherever it does; ``--memory`` is kept or refused."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

from iterreg.cli.failures import describe
from iterreg.config import load_config
from iterreg.errors import (
    ExitCode,
    MissingDependencyError,
    OutOfMemoryError,
    OutputError,
    is_out_of_memory,
)
from iterreg.geometry import Grid
from iterreg.memory import fit_to_memory, level_voxels, needed_gb

ROOT = Path(__file__).parents[1]
AXES = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
CHEST = Grid((300, 280, 390), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), AXES)
needs_limits = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux keeps these limits"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small image."""
    path = tmp_path_factory.mktemp("memory")
    noise = gaussian_filter(np.random.default_rng(0).normal(size=(24, 24, 24)), 2)
    image = sitk.GetImageFromArray((noise / noise.std()).astype(np.float32))
    image.SetSpacing((2.0, 2.0, 2.0))
    sitk.WriteImage(image, str(path / "f.nii.gz"))
    sitk.WriteTransform(sitk.TranslationTransform(3), str(path / "t.tfm"))
    return path


COMMANDS = {
    "register": "register --preset general --fixed f.nii.gz --moving f.nii.gz --out out",
    "apply": "apply --transform t.tfm --reference f.nii.gz --image f.nii.gz --out out",
    "presets": "presets",
}


@needs_limits
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("megabytes", [60, 150, 400, 900, 2000, 3000])
def test_no_room_for_memory_is_told(command: str, megabytes: int, folder: Path) -> None:
    size = megabytes << 20
    words = COMMANDS[command].replace("--out out", f"--out out{command}{megabytes}.nii").split()
    before = sorted(folder.iterdir())
    done = subprocess.run(
        [sys.executable, "-m", "iterreg", *words],
        capture_output=True,
        text=True,
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (size, size)),
    )
    said = [line for line in done.stderr.splitlines() if " %  " not in line]
    if done.returncode != ExitCode.OK:
        assert done.returncode == ExitCode.OUT_OF_MEMORY, done.stderr
        assert len(said) == 1 and "out of memory" in said[0]
        assert sorted(folder.iterdir()) == before


def raised(error: Exception, cause: BaseException) -> Exception:
    """An error as it is raised because of another."""
    try:
        raise error from cause
    except Exception as caught:
        return caught


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("can't start new thread"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        OSError(12, "Cannot allocate memory"),
        raised(MissingDependencyError("HD95 needs the package scipy"), MemoryError()),
        raised(OutputError("a.nii: cannot be written"), RuntimeError("bad_alloc")),
    ],
    ids=lambda e: f"{type(e).__name__} {e}"[:40],
)
def test_every_way_to_say_it_is_understood(error: Exception) -> None:
    message, code = describe(error)
    assert code == ExitCode.OUT_OF_MEMORY and "out of memory" in message


def test_other_errors_are_not_taken_for_it() -> None:
    for error in (MissingDependencyError("scipy"), OutputError("a: exists"), ValueError("memory")):
        assert not is_out_of_memory(error)


# --memory -------------------------------------------------------------------------------------


def test_a_configuration_that_fits_stays_as_it_is() -> None:
    config = load_config("thorax")
    assert fit_to_memory(config, CHEST, CHEST, 20.0) is config


def test_finer_levels_go_first() -> None:
    config = load_config("thorax")
    limit = needed_gb(config, CHEST, CHEST) - 0.5
    fitted = fit_to_memory(config, CHEST, CHEST, limit)
    assert needed_gb(fitted, CHEST, CHEST) <= limit
    assert max(fitted.levels.spacing_mm) == max(config.levels.spacing_mm)
    assert min(fitted.levels.spacing_mm) > min(config.levels.spacing_mm)
    assert len(fitted.levels.steps) == len(fitted.levels.spacing_mm)
    assert len(set(fitted.levels.spacing_mm)) == len(fitted.levels.spacing_mm)
    assert fitted.similarity == config.similarity


def test_what_cannot_fit_is_refused_with_a_figure_that_does() -> None:
    config = load_config("thorax")
    with pytest.raises(
        OutOfMemoryError, match=r"memory 2 GB: this pair needs about (\d+\.?\d*)"
    ) as e:
        fit_to_memory(config, CHEST, CHEST, 2.0)
    figure = float(str(e.value).split("needs about ")[1].split()[0])
    assert needed_gb(fit_to_memory(config, CHEST, CHEST, figure), CHEST, CHEST) <= figure


def test_an_axis_that_is_coarser_than_the_level_stays() -> None:
    stack = Grid((10, 200, 200), (1.4, 1.4, 10.0), (0.0, 0.0, 0.0), AXES)
    assert level_voxels(stack, 2.8) == 10 * 100 * 100
    picture = Grid((100, 100), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
    assert level_voxels(picture, 0.5) == 10_000


@needs_limits
def test_any_large_limit_is_one() -> None:
    code = "from iterreg.memory import limit_memory; limit_memory(1e30)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@needs_limits
def test_the_system_keeps_the_limit() -> None:
    code = (
        "import torch\n"
        "from iterreg.memory import limit_memory\n"
        # Not ru_maxrss: that counts the process which this one was forked from.
        "status = lambda: dict(line.split(':') for line in open('/proc/self/status'))\n"
        "peak = lambda: int(status()['VmHWM'].split()[0]) * 1024 / 1e9\n"
        "limit = peak() + 0.5\n"
        "limit_memory(limit)\n"
        "torch.zeros(50_000_000)\n"
        "try:\n"
        "    kept = [torch.zeros(25_000_000) for _ in range(40)]\n"
        "except RuntimeError as error:\n"
        "    print('refused', peak() <= limit)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["refused", "True"], done.stderr


@needs_limits
@pytest.mark.parametrize(("limit", "phrase"), [("0.05", "libraries alone need"), ("0.95", "needs")])
def test_too_little_is_refused_before_the_work(limit: str, phrase: str, folder: Path) -> None:
    words = [*COMMANDS["register"].split(), "--memory", limit]
    before = sorted(folder.iterdir())
    done = subprocess.run(
        [sys.executable, "-m", "iterreg", *words],
        capture_output=True,
        text=True,
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )
    assert done.returncode == ExitCode.OUT_OF_MEMORY
    assert f"memory {limit} GB" in done.stderr and phrase in done.stderr
    assert sorted(folder.iterdir()) == before


def test_features_of_a_network_need_memory_by_their_channels() -> None:
    """Beside MIND, and alone; an encoder also needs room for its cells."""
    need = {
        (kind, channels): needed_gb(
            load_config("general", {"similarity.kind": kind, "features.channels": channels}),
            CHEST,
            CHEST,
        )
        for kind in ("mind", "features", "sam")
        for channels in (16, 128)
    }
    assert need["mind", 16] == need["mind", 128]
    level_gb = level_voxels(CHEST, 2.0) / 1e9
    grown = need["features", 128] - need["features", 16]
    assert grown == pytest.approx(16 * 112 * level_gb)
    assert need["features", 128] > need["mind", 16]
    # 64 slices of 64 x 47 cells of both images, 256 channels.
    assert need["sam", 16] > need["features", 16] + 1.0
