"""Register one case of a task, unless its finished field is there already."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iterreg.config import SCHEMA, Config, config_to_dict, load_config
from iterreg.errors import ExitCode, GeometryError
from iterreg.formats.headers import shape_text
from iterreg.formats.learn2reg import transform_to_l2r
from iterreg.formats.learn2reg_files import write_field
from iterreg.geometry import Points, apply_affine
from iterreg.image import Image
from iterreg.io import read_image, write_label_map
from iterreg.io.choices import DEFAULT, reading_choices
from iterreg.learn2reg.records import finished_record, remove_earlier, sha256_of, write_record
from iterreg.learn2reg.regions import find_regions, load_regions
from iterreg.learn2reg.rules import preset_of, rules_of
from iterreg.learn2reg.scores import read_points
from iterreg.learn2reg.task import Pair, Task
from iterreg.pair import optimize_pair
from iterreg.processes import peak_mb, reset_peak
from iterreg.progress import Progress, ProgressCallback
from iterreg.versions import own_version


@dataclass(frozen=True)
class Settings:
    """Settings for the registration of a task's cases.

    Args:
        fields: folder for the fields.
        preset: None takes the task's.
        overrides: changes of the preset, by dotted key.
        regions: folder with segmentations of both images.
        label_table: names of their numbers; None if the files name their labels.
        use_labels: use the task's labels as regions. Dice is scored with them, so this is fair only
            if the rules of the task provide them at test time.
        use_keypoints: use the task's keypoints as landmarks. TRE is scored with them.
        use_masks: ignore the images outside the task's masks, if both have one.
        extension: .nii.gz or .npz.
        dtype: float32 or float16.
        device, seed, threads, memory_gb: as in :func:`iterreg.optimize_pair`.
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
    memory_gb: float | None = None


@dataclass(frozen=True)
class Outcome:
    """The outcome of a case.

    Args:
        case: the evaluator's name of the case.
        ok: whether a valid field exists.
        message: the registration's status, or the reason why there is no field.
        seconds: for registering and writing; of the earlier run if the field was kept.
        peak_mb: peak memory of the process meanwhile; NaN if unknown.
        used: inputs of the registration, by kind.
        kept: whether the field existed already.
        exit_code: of the error, if there is no field.
    """

    case: str
    ok: bool
    message: str
    seconds: float
    peak_mb: float
    used: dict[str, str] = field(default_factory=dict)
    kept: bool = False
    exit_code: ExitCode = ExitCode.OK


def config_of(task: Task, settings: Settings) -> Config:
    """Resolve the configuration for a task.

    Raises:
        ConfigError: unknown preset, unknown key, value out of range.
    """
    if settings.preset is not None:
        return load_config(settings.preset, settings.overrides)
    name, overrides = preset_of(rules_of(task))
    return load_config(name, overrides | dict(settings.overrides))


def field_path(settings: Settings, pair: Pair) -> Path:
    """Return the file of a case's field."""
    return settings.fields / (pair.long_name + settings.extension)


def regions_path(fields: Path, pair: Pair) -> Path:
    """Return the file of the fixed regions that a case was registered with."""
    return fields / "regions" / f"{pair.long_name}.nii.gz"


def register_case(
    task: Task, pair: Pair, settings: Settings, progress: ProgressCallback
) -> Outcome:
    """Register a case and write its field, unless a finished one exists.

    Args:
        task, pair: the case.
        settings: how to register it.
        progress: called with the progress of this case.

    Raises:
        IterregError: the field cannot be made; no partial file is left.
    """
    config = config_of(task, settings)
    inputs, used = _inputs(task, pair, settings)
    digest = _digest_of_inputs(pair, settings, config, inputs)
    target = field_path(settings, pair)
    kept = finished_record(target, digest)
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
    remove_earlier(target)
    begun = time.perf_counter()
    reset_peak()
    status, used = _register(task, pair, settings, config, inputs, used, target, progress)
    seconds, peak = time.perf_counter() - begun, peak_mb()
    record = {
        "schema": SCHEMA,
        "case": pair.case,
        "field": target.name,
        "sha256": sha256_of(target),
        "made_from": digest,
        "status": status,
        "seconds": round(seconds, 2),
        "peak_mb": round(peak, 1),
        "used": used,
        "config": config_to_dict(config),
    }
    write_record(target, record)
    return Outcome(pair.case, True, status, seconds, peak, used)


def _register(
    task: Task,
    pair: Pair,
    settings: Settings,
    config: Config,
    inputs: Mapping[str, Path],
    used: dict[str, str],
    target: Path,
    progress: ProgressCallback,
) -> tuple[str, dict[str, str]]:
    """Register a case and write its field; return the status and the inputs used, in words."""
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

    def registering(event: Progress) -> None:
        progress(Progress(event.stage, 0.9 * event.fraction, event.message))

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
        memory_gb=settings.memory_gb,
        progress=registering,
    )
    progress(Progress("write", 0.9, "writing"))
    import nibabel

    affine_ras = getattr(nibabel.load(inputs["fixed"]), "affine")  # noqa: B009  its stub lacks it
    kept_regions = regions_path(settings.fields, pair)
    kept_regions.parent.mkdir(exist_ok=True)
    write_label_map(registration.fixed_labels, kept_regions)
    field_l2r = transform_to_l2r(registration.transform, moving.grid)
    write_field(field_l2r, target, affine_ras, settings.dtype)
    return registration.verdict.headline, used | {"device": registration.device}


def _landmarks(path: Path, image: Image) -> Points:
    """Read keypoints (voxel indices in nibabel's order) as points in space."""
    index_zyx = read_points(path)[:, ::-1]
    return Points(apply_affine(image.grid.index_to_lps, index_zyx))


def _inputs(task: Task, pair: Pair, settings: Settings) -> tuple[dict[str, Path], dict[str, str]]:
    """List the files that a case is registered from, and describe them in words."""
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


def _digest_of_inputs(
    pair: Pair, settings: Settings, config: Config, inputs: Mapping[str, Path]
) -> str:
    """Compute a digest of everything that the field depends on."""
    about: dict[str, Any] = {
        "case": pair.case,
        "config": config_to_dict(config),
        "version": own_version(),
        "format": [settings.extension, settings.dtype],
        "seed": settings.seed,
        "label_table": settings.label_table,
        "inputs": {},
    }
    about |= {} if settings.memory_gb is None else {"memory_gb": settings.memory_gb}
    geometry = reading_choices().geometry
    about |= {} if geometry == DEFAULT.geometry else {"geometry": geometry}
    for kind, path in sorted(inputs.items()):
        if os.path.isfile(path):
            status = path.stat()
            about["inputs"][kind] = [path.name, status.st_size, status.st_mtime_ns]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
