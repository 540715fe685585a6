"""The time of a registration on a GPU that is not there, from counted launches, bytes and waits.

``optimize_pair`` runs at full size on tensors that say they are on a GPU; the kernels of the CPU
find the values, so each level takes the steps that it takes. Host and device are then played
through::

    launch:  host += launch_us;  device = max(device, host) + max(kernel_us, bytes / bandwidth)
    wait:    host = max(device, host) + wait_us

So a kernel is taken to move its bytes at the speed of a copy, and each launch to cost the host the
same, whether torch or Triton makes it, with the Python around it. What only the host does, such as
matching labels, is not in it: ``host_seconds`` measures that on this CPU.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import iterreg
from iterreg.progress import StageTimer

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))
from fake_cuda import fake_cuda  # noqa: E402
from fake_device import Counts  # noqa: E402

KEPT = ROOT / "benchmarks" / "results" / "gpu.txt"
ALGORITHM = ("start", "level 1", "level 2", "boundaries", "finish")
WHOLE = ("read", "regions", *ALGORITHM, "check", "hand over")
HOST = ("read", "regions", "measure", "draw", "write", "report")
WAIT = -1
Event = tuple[int, bool]
"""Bytes of a launch, or ``WAIT``; whether it crosses between host and device."""


@dataclass(frozen=True)
class Card:
    """What the model knows of a GPU and its host.

    Args:
        copies_tb_s: bandwidth of a copy on the device, bytes read and bytes written.
        launch_us: of the host, for each launch.
        kernel_us: of the device, for the smallest kernel.
        wait_us: of the host, for each wait, once the device is idle.
        link_gb_s: between the memory of the host and the device.
    """

    copies_tb_s: float
    launch_us: float
    kernel_us: float = 2.5
    wait_us: float = 10.0
    link_gb_s: float = 10.0


@dataclass
class Events(Counts):
    """The launches and waits of each stage, in order."""

    stages: dict[str, list[Event]] = field(default_factory=dict)
    now: list[Event] = field(default_factory=list)

    def launched(self, size: int, crosses: bool = False) -> None:
        """See :class:`Counts`."""
        self.now.append((size, crosses))

    def waited(self) -> None:
        """See :class:`Counts`."""
        self.now.append((WAIT, False))


class StageMarks(StageTimer):
    """Tells events which stage they belong to."""

    def __init__(self, events: Events) -> None:
        super().__init__()
        self.events = events

    @contextmanager
    def stage(self, name: str, fraction: float, message: str) -> Iterator[None]:
        """The events of a block; the second stage that finishes hands the result over."""
        name = "hand over" if name == "finish" and name in self.events.stages else name
        self.events.now = self.events.stages.setdefault(name, [])
        yield
        self.events.waited()
        self.events.now = []


def count(pair: dict[str, Any], preset: str) -> dict[str, list[Event]]:
    """The events of one ``optimize_pair`` with a preset, stage by stage."""
    events = Events()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("iterreg.pair.StageTimer", lambda *args: StageMarks(events))
        with fake_cuda(patch, False, events):
            iterreg.optimize_pair(**pair, preset=preset, device="cuda")
    return events.stages


def host_seconds(pair: dict[str, Any], preset: str) -> dict[str, float]:
    """CPU seconds that a command spends on the host in each stage, by one on this CPU."""
    from iterreg.atomic import OutputFolder
    from iterreg.outputs import write_run

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as place:
        clock = SimpleNamespace(perf_counter=time.process_time)
        patch.setattr("iterreg.progress.time", clock)
        run = iterreg.optimize_pair(**pair, preset=preset, device="cpu")
        with OutputFolder(Path(place) / "out") as folder:
            summary = write_run(folder, run)
    return {name: summary.timings_s.get(name, 0.0) for name in HOST}


def milliseconds(events: list[Event], card: Card) -> float:
    """Play the events of a stage through."""
    host = device = 0.0
    for size, crosses in events:
        if size == WAIT:
            host = max(device, host) + card.wait_us
            continue
        speed = card.link_gb_s * 1e3 if crosses else card.copies_tb_s * 1e6
        host += card.launch_us
        device = max(device, host) + max(card.kernel_us, size / speed)
    return max(host, device) / 1e3


def kept_rows(card: str = "H100") -> dict[tuple[str, int, str], list[float]]:
    """Milliseconds of the native rows: the whole, then stage by stage; by shape, regions, what."""
    found = {}
    for line in KEPT.read_text().split(f"NVIDIA {card}", 1)[1].splitlines():
        words = line.split()
        if len(words) > 12 and words[5].isdigit() and words[7].isdigit():
            numbers = [float(words[7]), *map(float, words[10:])]
            found["".join(words[:5]), int(words[5]), words[6]] = numbers
    return found


def print_model(stages: dict[str, list[Event]], card: Card, title: str, regions: int) -> None:
    """The prediction, and its share of what a native row says."""
    kept = kept_rows()
    native = kept.get((title, regions, "register"), [])
    pair = kept.get((title, regions, "optimize_pair"), [])
    by_stage = dict(zip(ALGORITHM, native[1:], strict=False))
    by_stage |= dict(zip(("regions", "check"), pair[6:], strict=False))
    predicted = {name: milliseconds(stages.get(name, []), card) for name in WHOLE}
    algorithm = sum(predicted[name] for name in ALGORITHM)
    row = f"{title}, {regions} regions: register {algorithm:.0f} ms predicted"
    print(row + (f", {native[0]:.0f} native: {algorithm / native[0]:.2f}" if native else ""))
    for name, ms in predicted.items():
        sizes = [size for size, _ in stages.get(name, []) if size != WAIT]
        waits, moved = len(stages.get(name, [])) - len(sizes), sum(sizes) / 1e9
        told = (
            f"  {name:10s} {ms:6.0f} ms {len(sizes):6d} launches {waits:5d} waits {moved:6.1f} GB"
        )
        print(told + (f"  native {by_stage[name]:4.0f}" if name in by_stage else ""), flush=True)


def print_host(seconds: dict[str, float], device_ms: float) -> None:
    """What the command takes beside the device."""
    stages = ", ".join(f"{name} {s:.1f}" for name, s in seconds.items())
    total = sum(seconds.values())
    print(f"  the host's stages, CPU s here: {stages}; the device adds {device_ms / 1e3:.2f} s")
    print(f"  so a command has {total:.0f} CPU s to do on the host")
