"""One task of ``scaling.py`` in a process of its own: make a pair, register it, or profile that.

    python benchmarks/_scaling_run.py JSON

The last line that it prints is the answer, as JSON.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

DATA = Path(os.environ.get("ITERREG_DATA", Path(__file__).parents[2] / "shared" / "data"))
EXTENT_MM = (390, 280, 300)
NAMES = {1: "soft tissue", 2: "lung", 3: "bone"}
ADDED_TO = {
    "squared_difference": ("gradient", "curvature"),
    "add_laplacian": ("out", "into"),
    "cg_update": ("step", "residual"),
    "cg_direction": ("direction",),
    "exponentiate": ("distances",),
}
"""Arguments that are read and written."""
TOUCHED = {"normal_jump": {"v": ("low", "high")}, "add_normal_force": {"out": ("voxels", "voxels")}}
"""A kernel touches only those voxels of these fields that other arguments list: 3 float32 each."""

Row = dict[str, Any]


def main() -> None:
    """Do what the argument says."""
    print(json.dumps(work(json.loads(sys.argv[1]))))


def work(task: Row) -> Row:
    """One task, in this process."""
    import iterreg  # noqa: F401  (before torch: it says how torch's threads wait)

    if task["study"] == "make":
        make(Path(task["folder"]), task["spacing_mm"], task["regions"])
        return {}
    if task["study"] == "profile":
        return profiled(task)
    return registered(task)


# The pair ---------------------------------------------------------------------------------------


def make(folder: Path, spacing_mm: float, regions: int) -> None:
    """Write the pair at a spacing, with so many regions."""
    import SimpleITK as sitk

    source = DATA / "thorax4dct"
    if not source.is_dir():
        sys.exit(f"{source}: no such folder; set ITERREG_DATA")
    folder.mkdir(parents=True)
    centres: dict[int, Any] = {}
    for side in ("fixed", "moving"):
        image = sitk.ReadImage(str(source / f"{side}.nii.gz"))
        grid = lattice(image, spacing_mm)
        resampled = sitk.Resample(image, grid, sitk.Transform(), sitk.sitkLinear, -1000)
        sitk.WriteImage(sitk.Cast(resampled, sitk.sitkInt16), str(folder / f"{side}.nii"))
        labels = sitk.ReadImage(str(source / f"{side}_labels.nii.gz"))
        labels = sitk.Resample(labels, grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
        cut = pieces(sitk.GetArrayFromImage(labels), regions, centres)
        result = sitk.GetImageFromArray(cut)
        result.CopyInformation(labels)
        sitk.WriteImage(result, str(folder / f"{side}_labels.nii"))


def lattice(image: Any, spacing_mm: float) -> Any:
    """A lattice of EXTENT_MM around the middle of an image."""
    import numpy as np
    import SimpleITK as sitk

    middle = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
    size = [round(extent / spacing_mm) for extent in EXTENT_MM]
    grid = sitk.Image(size, sitk.sitkInt16)
    grid.SetSpacing([spacing_mm] * 3)
    grid.SetDirection(image.GetDirection())
    direction = np.array(image.GetDirection()).reshape(3, 3)
    half = direction @ ((np.array(size) - 1) / 2 * spacing_mm)
    grid.SetOrigin((np.array(middle) - half).tolist())
    return grid


def pieces(labels: Any, regions: int, centres: dict[int, Any]) -> Any:
    """Cut label maps into pieces, 1000 label + 0, 1, ...; large regions into more of them.

    Args:
        labels: (z, y, x) integers 1 to 3.
        regions: how many altogether; 1 merges them, 3 leaves them.
        centres: of the pieces, in coordinates of unit variance within their region; found on the
            first image, used again on the second.
    """
    import numpy as np

    if regions <= 3:
        return (labels > 0).astype(np.uint16) if regions == 1 else labels.astype(np.uint16)
    values = [int(v) for v in np.unique(labels) if v > 0]
    result = np.zeros(labels.shape, np.uint16)
    share = {v: float((labels == v).sum()) ** 0.5 for v in values}
    counts = {v: max(1, round(regions * share[v] / sum(share.values()))) for v in values}
    counts[max(share, key=lambda v: share[v])] += regions - sum(counts.values())
    for value in values:
        place = np.argwhere(labels == value).astype(np.float32)
        place = (place - place.mean(0)) / place.std(0)
        if value not in centres:
            centres[value] = k_means(place, counts[value])
        result[labels == value] = 1000 * value + nearest(place, centres[value])
    return result


def k_means(points: Any, count: int) -> Any:
    """Centres of ``count`` clusters, from a fixed sample and a fixed seed."""
    import numpy as np
    from scipy.cluster.vq import kmeans2

    sample = points[:: max(1, len(points) // 20000)].astype(np.float64)
    return kmeans2(sample, count, minit="++", seed=np.random.default_rng(0))[0]


def nearest(points: Any, centres: Any) -> Any:
    """The number of the nearest centre."""
    from scipy.spatial import cKDTree

    return cKDTree(centres).query(points)[1]


# One run ----------------------------------------------------------------------------------------


def registered(task: Row) -> Row:
    """Time and memory from reading to the Registration."""
    import torch

    warm_up(task)
    if task["device"] == "cuda":
        torch.cuda.reset_peak_memory_stats()
    return costs_of(task)


def costs_of(task: Row) -> Row:
    """The same, once all is loaded."""
    import resource

    import torch

    before = resource.getrusage(resource.RUSAGE_SELF)
    begun = time.perf_counter()
    result = optimised(task)
    wall_s = time.perf_counter() - begun
    after = resource.getrusage(resource.RUSAGE_SELF)
    row: Row = {
        "voxels": int(result.fixed_labels.data.numel()),
        "found_regions": len(result.fixed_labels.values),
        "wall_s": wall_s,
        "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "peak_gb": after.ru_maxrss / 1e6,
        "stages_s": result.timings_s,
        "status": result.status.name,
        "machine": torch.cuda.get_device_name() if task["device"] == "cuda" else "CPU",
    }
    if task["device"] == "cuda":
        row["gpu_peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return row


def names_of(regions: int, folder: Path) -> dict[int, str]:
    """Names of the pieces, so that lungs slide and the rest is glued."""
    if regions == 1:
        return {1: "body"}
    if regions <= 3:
        return NAMES
    import numpy as np
    import SimpleITK as sitk

    found = np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "fixed_labels.nii"))))
    return {int(v): f"{NAMES[int(v) // 1000]} {int(v) % 1000}" for v in found if v > 0}


def warm_up(task: Row) -> None:
    """Load libraries and compiled kernels, and start the device, on the same pair at 8 mm."""
    small = Path(task["folder"]).parent / "warm-up"
    if not small.is_dir():
        make(small, 8.0, 3)
    optimised(task | {"folder": str(small), "regions": 3})


def optimised(task: Row) -> Any:
    """Read the pair and register it."""
    from iterreg import optimize_pair, read_label_map

    folder = Path(task["folder"])
    names = names_of(task["regions"], folder)
    labels = [read_label_map(folder / f"{s}_labels.nii", names) for s in ("fixed", "moving")]
    return optimize_pair(
        folder / "fixed.nii",
        folder / "moving.nii",
        fixed_labels=labels[0],
        moving_labels=labels[1],
        preset=task["preset"],
        device=task["device"],
        threads=task["threads"],
    )


# Profile ----------------------------------------------------------------------------------------


def profiled(task: Row) -> Row:
    """One run with every kernel timed."""
    import torch

    from iterreg.kernels import reference, set_threads

    set_threads(task["threads"])
    on_gpu = task["device"] == "cuda"
    copy = copy_bandwidth(task["device"])
    warm_up(task)
    modules: list[ModuleType] = [reference]
    if not on_gpu:
        from iterreg.kernels.cpu import features, linear_algebra, sampling

        modules = [features, linear_algebra, sampling]
    spent: dict[str, list[float]] = {}
    wait = torch.cuda.synchronize if on_gpu else (lambda: None)
    for module in modules:
        for name, function in kernels_of(module, on_gpu):
            setattr(module, name, watched(name, function, spent, wait))
    row = costs_of(task)
    row["copy_gb_s"] = copy
    row["kernels"] = [
        {
            "name": name,
            "calls": int(calls),
            "seconds": seconds,
            "gb": size / 1e9,
            "gb_s": size / 1e9 / seconds,
            "of_copy": size / 1e9 / seconds / copy,
        }
        for name, (calls, seconds, size) in sorted(spent.items(), key=lambda item: -item[1][1])
    ]
    return row


def kernels_of(module: ModuleType, plain: bool) -> list[tuple[str, Callable[..., Any]]]:
    """Public functions of a module of kernels: plain ones, or those that numba compiles."""
    return [
        (name, value)
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isfunction(value) if plain else hasattr(value, "py_func"))
        and getattr(value, "__module__", "") == module.__name__
    ]


def watched(
    name: str, function: Callable[..., Any], spent: dict[str, list[float]], wait: Callable[[], None]
) -> Callable[..., Any]:
    """The same function, its calls, seconds and bytes added up."""
    parameters = list(inspect.signature(getattr(function, "py_func", function)).parameters)

    def timed(*values: Any) -> Any:
        wait()
        begun = time.perf_counter()
        answer = function(*values)
        wait()
        entry = spent.setdefault(name, [0, 0.0, 0.0])
        entry[0] += 1
        entry[1] += time.perf_counter() - begun
        entry[2] += bytes_of(name, unpacked(dict(zip(parameters, values, strict=False))))
        return answer

    return timed


def unpacked(values: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name, with the fields of dataclasses in place of these."""
    flat = {}
    for name, value in values.items():
        flat.update(vars(value) if dataclasses.is_dataclass(value) else {name: value})
    return flat


def bytes_of(name: str, values: dict[str, Any]) -> float:
    """The bytes that a call has to move: every argument once, or twice if it is added to.

    A kernel with ``active_rows`` works on these parts of the rows alone.
    """
    sizes = {key: float(getattr(value, "nbytes", 0)) for key, value in values.items()}
    for key, ends in TOUCHED.get(name, {}).items():
        sizes[key] = sum(3.0 * 4 * len(values[end]) for end in ends)
    twice = sum(sizes.get(key, 0.0) for key in ADDED_TO.get(name, ()))
    share = 1.0
    if "active_rows" in values:
        rows = values["active_rows"]
        width = next(v.shape[-1] for v in values.values() if getattr(v, "ndim", 0) == 4)
        share = float((rows[:, 1] - rows[:, 0]).sum()) / (len(rows) * width)
    return share * (sum(sizes.values()) + twice)


def copy_bandwidth(device: str) -> float:
    """GB/s of copying 256 MB, read and written: the best of ten."""
    import torch

    source = torch.ones(1 << 26, device=device)
    target = torch.empty_like(source)
    best = 0.0
    for _ in range(10):
        if device == "cuda":
            torch.cuda.synchronize()
        begun = time.perf_counter()
        target.copy_(source)
        if device == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * source.nbytes / 1e9 / (time.perf_counter() - begun))
    return best


if __name__ == "__main__":
    main()
