"""Time, memory and launches of a registration on an NVIDIA GPU, stage by stage.

    python benchmarks/gpu.py [--regions 3 13 117] [--shape 300 280 390] [--runs 5] [--kernels]
    python benchmarks/gpu.py --pack pair.npz          (writes the pair as arrays, and stops)
    python benchmarks/gpu.py --arrays pair.npz        (for a machine without SimpleITK)
    python benchmarks/gpu.py --model [--copies 3.02] [--launch 20] [--host]     (without a GPU)

The pair is thorax4dct of ITERREG_DATA, interpolated to a volume of ``--shape`` voxels, with its
label maps cut into as many regions as asked for. Two things are timed after a first run that
compiles: ``register``, the algorithm from tensors on the device to the field on the device, and
``optimize_pair``, from images in memory to the Registration. The table gives the median of the
runs, stage by stage, the peak of the device's memory, and whether two runs gave the same bytes.
Set ITERREG_COMPILED=0 to time the definitions of the kernels in plain torch instead.

With ``--model`` nothing runs on a GPU: launches, bytes and waits are counted on tensors that say
they do, and the time is predicted for a card of that copy bandwidth (TB/s) and that cost of a
launch (us), stage by stage, beside the native rows in ``results/gpu.txt``. ``--host`` adds the CPU
seconds of a command's stages that run on the host.

With ``--kernels``, one run is traced: launches, host synchronisations, and the kernels that take
most of the time. The copy bandwidth of the device stands beside them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import iterreg
from iterreg.config import load_config
from iterreg.image import Image, LabelMap

sys.path.insert(0, str(Path(__file__).parent))
from _scaling_run import pieces

DATA = Path(os.environ.get("ITERREG_DATA", Path(__file__).parents[2] / "shared" / "data"))
AXES = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
NAMES = ("fixed", "moving", "fixed_labels", "moving_labels")
Row = dict[str, Any]


def main() -> None:
    """Time what is asked for, and print it."""
    asked = command_line()
    if asked.pack:
        np.savez_compressed(asked.pack, **arrays_of_files())
        return
    device = torch.device(asked.device)
    arrays = dict(np.load(asked.arrays)) if asked.arrays else arrays_of_files()
    if asked.model:
        model(arrays, asked)
        return
    print(machine(device))
    rows = []
    for regions in asked.regions:
        pair = images(arrays, tuple(asked.shape), regions)
        row = timed(pair, regions, asked)
        rows.append(row)
        print_row(row)
        if asked.kernels:
            trace(pair, asked)
    if asked.json:
        Path(asked.json).write_text(json.dumps(rows, indent=1))


def command_line() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--regions", type=int, nargs="+", default=[3])
    parser.add_argument("--shape", type=int, nargs=3, default=(300, 280, 390), help="z y x")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--preset", default="thorax")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--arrays", help="the pair as arrays")
    parser.add_argument("--pack", help="write the pair as arrays, and stop")
    parser.add_argument("--model", action="store_true", help="predict the time, without a GPU")
    parser.add_argument("--copies", type=float, default=3.02, help="TB/s of the card's copies")
    parser.add_argument("--launch", type=float, default=20.0, help="us of the host for a launch")
    parser.add_argument("--host", action="store_true", help="with --model: the host's stages too")
    parser.add_argument("--kernels", action="store_true", help="trace one run")
    parser.add_argument("--algorithm", action="store_true", help="time register alone")
    parser.add_argument("--json", help="write the rows")
    return parser.parse_args()


def model(arrays: dict[str, Any], asked: argparse.Namespace) -> None:
    """Predict the time of each number of regions."""
    os.environ.setdefault("TRITON_INTERPRET", "1")  # where Triton finds no GPU
    import _gpu_model

    card = _gpu_model.Card(asked.copies, asked.launch)
    title = "x".join(str(n) for n in reversed(asked.shape))
    for regions in asked.regions:
        pair = images(arrays, tuple(asked.shape), regions)
        stages = _gpu_model.count(pair, asked.preset)
        _gpu_model.print_model(stages, card, title, regions)
        if asked.host:
            on_device = sum(_gpu_model.milliseconds(events, card) for events in stages.values())
            _gpu_model.print_host(_gpu_model.host_seconds(pair, asked.preset), on_device)


def arrays_of_files() -> dict[str, Any]:
    """The pair of ITERREG_DATA as arrays, with the spacing (x, y, z) of both."""
    from iterreg.io import read_image, read_label_map

    folder = DATA / "thorax4dct"
    if not folder.is_dir():
        sys.exit(f"{folder}: no such folder; set ITERREG_DATA")
    found: dict[str, Any] = {}
    for side in ("fixed", "moving"):
        image = read_image(folder / f"{side}.nii.gz")
        found[side] = image.data[0].numpy().astype(np.int16)
        found[f"{side}_labels"] = (
            read_label_map(folder / f"{side}_labels.nii.gz").data.numpy().astype(np.uint8)
        )
        found["sp"] = np.array(image.grid.spacing_xyz_mm)
    return found


def images(arrays: dict[str, Any], shape: tuple[int, ...], regions: int) -> dict[str, Any]:
    """The pair at a shape, cut into so many regions, by the names of ``optimize_pair``."""
    centres: dict[int, Any] = {}
    old = arrays["fixed"].shape
    spacing = arrays["sp"] * np.array(old[::-1]) / np.array(shape[::-1])
    grid = iterreg.Grid(shape, tuple(spacing.tolist()), (0.0, 0.0, 0.0), AXES)
    made: dict[str, Any] = {}
    for side in ("fixed", "moving"):
        volume = torch.from_numpy(arrays[side].astype(np.float32))[None, None]
        volume = torch.nn.functional.interpolate(volume, shape, mode="trilinear")[0]
        made[side] = Image(volume, grid)
        labels = arrays[f"{side}_labels"]
        if regions != 3:
            labels = pieces(labels, regions, centres)
        cut = torch.from_numpy(labels.astype(np.float32))[None, None]
        cut = torch.nn.functional.interpolate(cut, shape, mode="nearest")[0, 0].int()
        made[f"{side}_labels"] = LabelMap(cut, grid)
    return made


def timed(pair: dict[str, Any], regions: int, asked: argparse.Namespace) -> Row:
    """Median seconds of both, and peak memory."""
    row: Row = {"regions": regions, "shape": list(asked.shape), "preset": asked.preset}
    algorithm = Algorithm(pair, asked)
    row["register"] = repeated(algorithm, asked)
    if not asked.algorithm:
        row["optimize_pair"] = repeated(lambda: whole(pair, asked), asked)
    return row


class Algorithm:
    """``register`` on tensors that are already on the device."""

    def __init__(self, pair: dict[str, Any], asked: argparse.Namespace):
        from iterreg.inputs import FieldsOfView, Given, find_regions
        from iterreg.tensors import pair_of

        config = load_config(asked.preset)
        given = [pair[name] for name in NAMES]
        inputs = Given(*given, None, None, None, None, (), None).read()
        regions = find_regions(config, inputs, asked.device)
        self.config = config.resolve(has_regions=True, labels_given=True, rois_given=False)
        views = FieldsOfView.of(inputs)
        self.pair = pair_of(self.config, inputs, views, regions, torch.device(asked.device))

    def __call__(self) -> tuple[dict[str, float], torch.Tensor]:
        """Seconds of each stage, and the field."""
        from dataclasses import replace

        from iterreg.optimize.register import register
        from iterreg.pair import _waiting_for
        from iterreg.progress import StageTimer, ignore_progress

        # Fresh sides: what a side has computed once is kept in it.
        pair = replace(self.pair, fixed=replace(self.pair.fixed), moving=replace(self.pair.moving))
        timer = StageTimer(ignore_progress, _waiting_for(pair.fixed.device))
        with torch.no_grad():
            solution = register(pair, self.config, None, timer)
        return timer.seconds, solution.field.u_mm


def whole(pair: dict[str, Any], asked: argparse.Namespace) -> tuple[dict[str, float], torch.Tensor]:
    """``optimize_pair`` from images in memory: seconds of each stage, and the field."""
    found = iterreg.optimize_pair(**pair, preset=asked.preset, device=asked.device)
    return dict(found.timings_s), found.transform.field.vox


def repeated(run: Any, asked: argparse.Namespace) -> Row:
    """Medians over the runs after a first one, which compiles."""
    on_gpu = asked.device.startswith("cuda")
    start = time.perf_counter()
    run()
    first = time.perf_counter() - start
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds, stages, hashes, cpu = [], [], set(), []
    for _ in range(asked.runs):
        start, busy = time.perf_counter(), time.process_time()
        stage_seconds, field = run()
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - busy)
        stages.append(stage_seconds)
        hashes.add(hashlib.sha256(field.cpu().numpy().tobytes()).hexdigest())
    return {
        "first_s": first,
        "median_s": statistics.median(seconds),
        "cpu_s": statistics.median(cpu),
        "worst_s": max(seconds),
        "stages_s": {k: statistics.median(s.get(k, 0.0) for s in stages) for k in stages[-1]},
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if on_gpu else None,
        "same_bytes": len(hashes) == 1,
    }


def print_row(row: Row) -> None:
    """A few lines per row."""
    for what in ("register", "optimize_pair"):
        if what not in row:
            continue
        cost = row[what]
        stages = ", ".join(f"{k} {s * 1e3:.0f}" for k, s in cost["stages_s"].items())
        print(
            f"{row['regions']:4d} regions {what:14s} {cost['median_s'] * 1e3:7.0f} ms "
            f"(worst {cost['worst_s'] * 1e3:.0f}, first {cost['first_s'] * 1e3:.0f}, "
            f"CPU {cost['cpu_s'] * 1e3:.0f}) peak {cost['peak_gb'] or 0:.2f} GB, "
            f"{'same bytes' if cost['same_bytes'] else 'OTHER BYTES'}: {stages}",
            flush=True,
        )


def trace(pair: dict[str, Any], asked: argparse.Namespace) -> None:
    """Launches and the kernels that take most of one ``register``."""
    from torch.profiler import ProfilerActivity, profile

    run = Algorithm(pair, asked)
    run()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        run()
        torch.cuda.synchronize()
    events = found.key_averages()
    device = [e for e in events if e.device_time_total and not e.cpu_time_total]
    launches = sum(e.count for e in events if "LaunchKernel" in e.key)
    syncs = sum(e.count for e in events if "Synchronize" in e.key)
    copies = sum(e.count for e in events if "cudaMemcpy" in e.key)
    total = sum(e.self_device_time_total for e in device)
    print(f"launches {launches}, synchronisations {syncs}, copies {copies}, kernels {total:.0f} us")
    for event in sorted(device, key=lambda e: -e.self_device_time_total)[:40]:
        print(f"  {event.self_device_time_total:9.0f} us {event.count:6d} x {event.key[:90]}")
    host = sorted(events, key=lambda e: -e.self_cpu_time_total)[:25]
    for event in host:
        print(f"  host {event.self_cpu_time_total:9.0f} us {event.count:6d} x {event.key[:70]}")


def machine(device: torch.device) -> str:
    """The device, its copy bandwidth, and the versions."""
    if device.type != "cuda":
        return f"{device}, torch {torch.__version__}"
    block = torch.empty(1 << 28, dtype=torch.float32, device=device)
    other = torch.empty_like(block)
    for _ in range(3):
        other.copy_(block)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(10):
        other.copy_(block)
    end.record()
    torch.cuda.synchronize()
    rate = 10 * 2 * block.numel() * 4 / (begin.elapsed_time(end) * 1e-3) / 1e12
    name = torch.cuda.get_device_name(device)
    return f"{name}, copies {rate:.2f} TB/s, torch {torch.__version__}"


if __name__ == "__main__":
    main()
