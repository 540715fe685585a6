"""Registering one case of a task: what it may use, what it writes, and whether that is still good.

A finished case is a field and a record of it beside, ``disp_....json``. The record goes last: a
field without one is never taken for finished.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from iterreg.config import SCHEMA, Config, config_to_dict, load_config
from iterreg.errors import GeometryError
from iterreg.formats.headers import shape_text
from iterreg.formats.learn2reg import transform_to_l2r
from iterreg.formats.learn2reg_files import FIELD_EXTENSIONS, write_field
from iterreg.geometry import Points, apply_affine
from iterreg.image import Image
from iterreg.io import read_image, write_aside, write_label_map
from iterreg.learn2reg.regions import find_regions, load_regions
from iterreg.learn2reg.rules import preset_of, rules_of
from iterreg.learn2reg.scores import read_points
from iterreg.learn2reg.task import Pair, Task
from iterreg.pair import optimize_pair
from iterreg.progress import Progress
from iterreg.versions import own_version

Report = Callable[[str, float], None]


@dataclass(frozen=True)
class Settings:
    """How the cases of a task are registered.

    Args:
        fields: folder that the fields go into.
        preset: None takes the task's.
        overrides: dotted keys, over the preset's values.
        regions: folder with segmentations of both images.
        label_table: what their numbers mean; None where the files name their labels.
        use_labels: guide by the task's own labels. They are what Dice is scored by: only where the
            rules of the task provide them at test time.
        use_keypoints: bring the task's keypoints together. TRE is scored by them.
        use_masks: trust the images inside the task's masks alone, where both have one.
        extension: .nii.gz or .npz.
        dtype: float32 or float16.
        device, seed, threads: as in :func:`iterreg.optimize_pair`.
    """

    fields: Path
    preset: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    regions: Path | None = None
    label_table: str | None = None
    use_labels: bool = False
    use_keypoints: bool = False
    use_masks: bool = True
    extension: str = ".nii.gz"
    dtype: str = "float32"
    device: str = "auto"
    seed: int = 0
    threads: int | None = None


@dataclass(frozen=True)
class Outcome:
    """How a case ended.

    Args:
        case: the evaluator's name of it.
        ok: whether its field is there and good.
        message: the registration's status, or why there is no field.
        seconds: of registering and writing; those of the first time where it was kept.
        peak_mb: the most memory that the process held meanwhile; NaN where it cannot be told.
        used: what the case was registered with, by kind.
        kept: whether the field was there already.
    """

    case: str
    ok: bool
    message: str
    seconds: float
    peak_mb: float
    used: dict[str, str] = field(default_factory=dict)
    kept: bool = False


def config_of(task: Task, settings: Settings) -> Config:
    """The resolved configuration for a task.

    Raises:
        ConfigError: unknown preset, unknown key, value out of range.
    """
    if settings.preset is not None:
        return load_config(settings.preset, settings.overrides)
    name, overrides = preset_of(rules_of(task))
    return load_config(name, overrides | dict(settings.overrides))


def field_path(settings: Settings, pair: Pair) -> Path:
    """The file of a case's field."""
    return settings.fields / (pair.long_name + settings.extension)


def regions_path(fields: Path, pair: Pair) -> Path:
    """The fixed image's regions that a case was registered with, beside the fields."""
    return fields / "regions" / f"{pair.long_name}.nii.gz"


def register_case(task: Task, pair: Pair, settings: Settings, report: Report) -> Outcome:
    """Register a case and write its field, unless a finished one is there.

    Args:
        task, pair: what.
        settings: how.
        report: called with words and a fraction.

    Raises:
        IterregError: whatever keeps the field from being made; nothing of it is left.
    """
    config = config_of(task, settings)
    inputs, used = _inputs(task, pair, settings)
    mark = _mark(task, pair, settings, config, inputs)
    target = field_path(settings, pair)
    kept = _finished(target, mark)
    if kept is not None:
        return Outcome(
            pair.case,
            True,
            kept["status"],
            kept["seconds"],
            kept["peak_mb"],
            kept["used"],
            kept=True,
        )
    _discard(target)
    begun = time.perf_counter()
    reset_peak()
    status, used = _register(task, pair, settings, config, inputs, used, target, report)
    seconds, peak = time.perf_counter() - begun, peak_mb()
    record = {
        "schema": SCHEMA,
        "case": pair.case,
        "field": target.name,
        "sha256": _digest(target),
        "made_from": mark,
        "status": status,
        "seconds": round(seconds, 2),
        "peak_mb": round(peak, 1),
        "used": used,
        "config": config_to_dict(config),
    }
    write_aside(_record_of(target), lambda path: _write_json(path, record))
    return Outcome(pair.case, True, status, seconds, peak, used)


def _register(
    task: Task,
    pair: Pair,
    settings: Settings,
    config: Config,
    inputs: Mapping[str, Path],
    used: dict[str, str],
    target: Path,
    report: Report,
) -> tuple[str, dict[str, str]]:
    """Register and write; returns the status and what was used."""
    fixed, moving = read_image(inputs["fixed"]), read_image(inputs["moving"])
    shape = tuple(reversed(fixed.grid.shape_zyx))
    if task.shape_ijk is not None and shape != task.shape_ijk:
        raise GeometryError(
            f"{fixed.name}: expected {shape_text(task.shape_ijk)} as the task says, "
            f"got {shape_text(shape)}"
        )
    labels: dict[str, Any] = {}
    for side in ("fixed", "moving"):
        if f"{side} regions" in inputs:
            path, target_table = inputs[f"{side} regions"], rules_of(task).region_target
            loaded, names = load_regions(path, settings.label_table, target_table)
            labels[f"{side}_labels"] = loaded
            used = used | {"regions": f"{used['regions']} ({names})"} if side == "fixed" else used

    landmarks: dict[str, Any] = {
        f"{side}_landmarks": _landmarks(inputs[f"{side} keypoints"], image)
        for side, image in (("fixed", fixed), ("moving", moving))
        if f"{side} keypoints" in inputs
    }

    def progress(event: Progress) -> None:
        report(event.message, 0.9 * event.fraction)

    registration = optimize_pair(
        fixed,
        moving,
        **labels,
        **landmarks,
        fixed_mask=inputs.get("fixed mask"),
        moving_mask=inputs.get("moving mask"),
        preset=config,
        device=settings.device,
        seed=settings.seed,
        threads=settings.threads,
        progress=progress,
    )
    report("writing", 0.9)
    import nibabel

    affine_ras = getattr(nibabel.load(inputs["fixed"]), "affine")  # noqa: B009  its stub lacks it
    kept_regions = regions_path(settings.fields, pair)
    kept_regions.parent.mkdir(exist_ok=True)
    write_label_map(registration.fixed_labels, kept_regions)
    field_l2r = transform_to_l2r(registration.transform, moving.grid)
    write_field(field_l2r, target, affine_ras, settings.dtype)
    return registration.status.value, used | {"device": registration.device}


def _landmarks(path: Path, image: Image) -> Points:
    """Keypoints, voxel indices in nibabel's order, as points in space."""
    index_zyx = read_points(path)[:, ::-1]
    return Points(apply_affine(image.grid.index_to_lps, index_zyx))


def _inputs(task: Task, pair: Pair, settings: Settings) -> tuple[dict[str, Path], dict[str, str]]:
    """The files that a case is registered from, and what is told about them."""
    inputs = {"fixed": task.path(pair.fixed), "moving": task.path(pair.moving)}
    config = config_of(task, settings)
    used = {"preset": config.name, "regions": f"segmenter {config.segmenter}"}
    if settings.regions is not None:
        _add(inputs, "regions", _regions_of(settings.regions, pair))
        used["regions"] = str(settings.regions)
    elif settings.use_labels and (labels := task.label_maps(pair)) is not None:
        _add(inputs, "regions", labels)
        used["regions"] = "the task's labels"
    masks = task.masks(pair) if settings.use_masks else None
    used["masks"] = "none"
    if masks is not None:
        _add(inputs, "mask", masks)
        used["masks"] = "the task's"
    points = task.keypoints(pair)
    used["keypoints"] = "none" if points is None else "provided; not used for registration"
    if points is not None and settings.use_keypoints:
        _add(inputs, "keypoints", points)
        used["keypoints"] = "the task's"
    return inputs, used


def _regions_of(folder: Path, pair: Pair) -> tuple[Path, Path]:
    return find_regions(folder, pair.fixed), find_regions(folder, pair.moving)


def _add(inputs: dict[str, Path], kind: str, both: tuple[Path, Path]) -> None:
    inputs[f"fixed {kind}"], inputs[f"moving {kind}"] = both


def _mark(
    task: Task, pair: Pair, settings: Settings, config: Config, inputs: Mapping[str, Path]
) -> str:
    """What the field is made from, as a digest: where it is the same, the field is still good."""
    about: dict[str, Any] = {
        "case": pair.case,
        "config": config_to_dict(config),
        "version": own_version(),
        "format": [settings.extension, settings.dtype],
        "seed": settings.seed,
        "label_table": settings.label_table,
        "inputs": {},
    }
    for kind, path in sorted(inputs.items()):
        if path.is_file():
            told = path.stat()
            about["inputs"][kind] = [path.name, told.st_size, told.st_mtime_ns]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _finished(target: Path, mark: str) -> dict[str, Any] | None:
    """The record of a finished case, if its field is the very one that was written and checked."""
    try:
        record: dict[str, Any] = json.loads(_record_of(target).read_text("utf-8"))
        good = record["made_from"] == mark and record["sha256"] == _digest(target)
        complete = {"status", "seconds", "peak_mb", "used"} <= set(record)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if good and complete else None


def _discard(target: Path) -> None:
    """Remove an earlier field of the case, in whichever format it was: .npz would win."""
    record = _record_of(target)
    for extension in FIELD_EXTENSIONS if record.is_file() else ():
        record.with_suffix(extension).unlink(missing_ok=True)
    record.unlink(missing_ok=True)


def _record_of(target: Path) -> Path:
    stem = PurePosixPath(target.name.removesuffix(".gz")).stem
    return target.with_name(f"{stem}.json")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_json(path: Path, tables: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(tables, indent=2) + "\n", encoding="utf-8")


def reset_peak() -> None:
    """Forget the most memory held so far, where the system can (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_mb() -> float:
    """The most memory held, since :func:`reset_peak` where that works; NaN where unknown."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(float(row.split()[1]) / 1024 for row in lines if row.startswith("VmHWM"))
    except (OSError, StopIteration):
        return float("nan")
