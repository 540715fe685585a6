"""The GPU path: compiled without a GPU, counted without one, and run where there is one."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_cuda import fake_cuda
from fake_device import Device
from scipy.ndimage import gaussian_filter

from iterreg.config import load_config
from iterreg.geometry import Grid
from iterreg.optimize import solver
from iterreg.optimize.pair import Interfaces, Pair
from iterreg.optimize.problem import Problem
from iterreg.optimize.register import register
from iterreg.optimize.side import Side

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed here"
)
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="counted where there is no GPU")
SHAPE = (12, 14, 16)


def some_pair(regions: int, shape: tuple[int, ...] = SHAPE) -> Pair:
    """A smooth texture and the same moved by a voxel, cut into regions that slide."""
    noise = np.random.default_rng(0).random(shape)
    texture = torch.from_numpy(gaussian_filter(noise, [min(1.5, n - 1) for n in shape])).float()
    texture = (texture - texture.min()) / (texture.max() - texture.min())
    places = torch.arange(shape[-1]) * regions // shape[-1]
    rows = torch.arange(shape[-2]) // max(1, shape[-2] // 2)
    labels = (places + regions * rows.clamp(max=1).unsqueeze(1)).int().expand(shape).contiguous()
    axes = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    grid = Grid(shape, (4.0, 4.0, 4.0), (0.0, 0.0, 0.0), axes)
    view = torch.ones(shape, dtype=torch.bool)
    sides = [
        Side(texture.roll(move, -1).unsqueeze(0), labels.roll(move, -1), view, grid)
        for move in (0, 1)
    ]
    count = 2 * regions
    sliding = Interfaces(0.9 * torch.eye(count) + 0.1, 0.5 * (1 - torch.eye(count)))
    return Pair(sides[0], sides[1], sliding)


def on_device(pair: Pair) -> Pair:
    """The pair on the device that is not there."""

    def moved(side: Side) -> Side:
        return Side(Device(side.image), Device(side.labels), Device(side.fov), side.grid)

    tables = Interfaces(Device(pair.interfaces.tangential), Device(pair.interfaces.normal))
    return Pair(moved(pair.fixed), moved(pair.moving), tables)


def short() -> dict[str, object]:
    """Few steps: counted, not solved."""
    return {"levels.steps": [2, 2], "levels.spacing_mm": [8.0, 4.0], "start.search_mm": 8.0}


@without_gpu
def test_every_program_compiles_for_real_gpus_without_spills():
    script = Path(__file__).with_name("cuda_programs.py")
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row["architecture"] for row in rows} == {80, 90} and len(rows) > 40
    assert not [row for row in rows if row["spilled"]]


@without_gpu
def test_a_registration_never_mixes_devices(monkeypatch):
    config = load_config("general", short()).resolve(
        has_regions=True, labels_given=True, rois_given=False
    )
    with fake_cuda(monkeypatch) as counts, torch.no_grad():
        found = register(on_device(some_pair(2)), config)
        assert not counts.mixes
        assert sum(counts.launches.values()) > 100
    expected = register(some_pair(2), config)
    apart = (found.field.u_mm.values - expected.field.u_mm).abs()
    assert float(apart.mean()) < 0.05, "mm: half precision, and sums in another order"


@without_gpu
@pytest.mark.parametrize("regions", [1, 4])
def test_a_step_waits_once_and_launches_little(monkeypatch, regions):
    config = load_config("general", short()).resolve(
        has_regions=True, labels_given=True, rois_given=False
    )
    with fake_cuda(monkeypatch) as counts, torch.no_grad():
        level = on_device(some_pair(regions))
        problem = Problem.of(config, level, np.eye(4), None)
        state = solver.init(problem, torch.zeros(3, *SHAPE, device="cuda"))
        state = solver.step(problem, state)
        counts.clear()
        problem.evaluate(state.u_mm)
        evaluation = sum(counts.launches.values())
        assert sum(counts.waits.values()) == 1, counts.waits
        counts.clear()
        solver.step(problem, state)
        assert sum(counts.waits.values()) == 1, counts.waits
        launches = sum(counts.launches.values())
        assert not counts.mixes
    iteration = (launches - evaluation) / solver.CG_STEPS
    assert evaluation + iteration <= 40, (evaluation, iteration)


@without_gpu
def test_each_region_adds_few_launches_and_waits():
    config = load_config("general", short()).resolve(
        has_regions=True, labels_given=True, rois_given=False
    )
    launches, waits = [], []
    for regions in (2, 6):
        with pytest.MonkeyPatch.context() as patch, fake_cuda(patch, False) as counts:
            with torch.no_grad():
                register(on_device(some_pair(regions, (12, 24, 48))), config)
            launches.append(sum(counts.launches.values()))
            waits.append(sum(counts.waits.values()))
    labels = 8  # 12 instead of 4
    assert (launches[1] - launches[0]) / labels < 120
    assert (waits[1] - waits[0]) / labels < 4
