"""``load_run``: a result read back from its folder, to go on with."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iterreg.config import load_config
from iterreg.displacement import resample_transform
from iterreg.errors import ImageReadError, IterregError
from iterreg.formats.reading import read_transform
from iterreg.image import Image, require_same_space
from iterreg.io import as_image
from iterreg.landmarks import read_landmarks
from iterreg.metrics import ImageSimilarity
from iterreg.optimize.history import LevelHistory
from iterreg.registration import Registration
from iterreg.report.source import ODD_VALUES, read_folder
from iterreg.report.words import table
from iterreg.verdict import Evidence, Kind, Reason, Status, Verdict

if TYPE_CHECKING:
    from iterreg.image.kinds import ImageLike


def load_run(
    folder: str | Path, *, fixed: ImageLike | None = None, moving: ImageLike | None = None
) -> Registration:
    """Read a result that a command or :meth:`iterreg.Registration.save` wrote.

    The transform of the file is in single precision, as ITK writes it; all else is as it was.

    Args:
        folder: of the result.
        fixed, moving: the pair, of any kind; None reads the files that ``run.json`` names. Images
            that were in memory have to be given.

    Returns:
        The result. Landmarks and the initial transform are read from the files that ``run.json``
        names; a note says so if they are gone.

    Raises:
        ImageReadError: no result in the folder, or its images are not found.
        GeometryError: an image of another grid than the run's.
        IterregError: a file cannot be read.

    Example:
        >>> import iterreg, numpy
        >>> texture = numpy.random.default_rng(0).random((12, 12, 12))
        >>> image = iterreg.Image.from_array(texture, axes="zyx", spacing_xyz_mm=(2.0, 2.0, 2.0))
        >>> result = iterreg.optimize_pair(image, image, preset="general")
        >>> folder = result.save("run", report=False)
        >>> load_run(folder, fixed=image, moving=image).status
        <Status.OK: 'ok'>
    """
    folder = Path(folder)
    source = read_folder(folder)
    images = _images(folder, source.images, fixed, moving)
    if source.labels is None:
        raise ImageReadError(f"{folder}: expected fixed_regions.nii.gz and moving_regions.nii.gz")
    for image, labels in zip(images, source.labels, strict=True):
        require_same_space(image, labels)
    transform = resample_transform(source.transform, images[0].grid)
    tables = source.tables
    try:
        notes: list[str] = list(map(str, tables["notes"]))
        return Registration(
            transform=transform,
            verdict=_verdict(tables["verdict"]),
            fixed_labels=source.labels[0],
            moving_labels=source.labels[1],
            history=tuple(_level(level) for level in tables["history"]),
            timings_s={str(k): float(v) for k, v in tables["timings_s"].items()},
            config=load_config(tables["config"]),
            start=str(tables["start"]),
            field_of_view={str(k): str(v) for k, v in tables["field_of_view"].items()},
            device=str(tables["device"]),
            seed=int(tables["seed"]),
            threads=int(tables["threads"]),
            versions={str(k): str(v) for k, v in tables["versions"].items()},
            fixed=images[0],
            moving=images[1],
            initial_transform=_again(
                tables, notes, ("initial_transform",), lambda p: read_transform(p, images[0].grid)
            ),
            landmarks=_again(
                tables, notes, ("fixed_landmarks", "moving_landmarks"), read_landmarks
            ),
            length_scale=float(tables["length_scale"]),
            dissolved={str(k): str(v) for k, v in tables.get("dissolved", {}).items()},
            notes=tuple(notes),
        )
    except ODD_VALUES as error:
        what = f"{type(error).__name__}: {error}".splitlines()[0][:120]
        raise ImageReadError(
            f"{folder / 'run.json'}: expected the run.json of a result, got values of another kind "
            f"({what})"
        ) from error


def _images(
    folder: Path,
    found: tuple[Image, Image] | None,
    fixed: ImageLike | None,
    moving: ImageLike | None,
) -> tuple[Image, Image]:
    given = fixed, moving
    both = []
    for k, side in enumerate(("fixed", "moving")):
        value = given[k]
        if value is None and found is None:
            raise ImageReadError(
                f"{folder}: the {side} image is not where run.json says: give {side}=..., a path "
                "or an image"
            )
        both.append(as_image(value, side) if value is not None else (found or ())[k])
    return both[0], both[1]


def _again(tables: Mapping[str, Any], notes: list[str], roles: tuple[str, ...], read: Any) -> Any:
    """Read files that guided the run again; None if there were none, or if they are gone."""
    named = [table(tables, "inputs", role).get("file") for role in roles]
    paths = [path for path in named if isinstance(path, str)]
    if len(paths) < len(roles):
        return None
    if all(os.path.exists(path) for path in paths):
        try:
            return read(*paths)
        except IterregError as error:
            notes.append(str(error))
            return None
    notes.append(f"{' and '.join(paths)}: not found, so left out of the measures")
    return None


def _number(value: Any) -> float:
    """A number; ``null`` stands for NaN."""
    return math.nan if value is None else float(value)


def _verdict(tables: Mapping[str, Any]) -> Verdict:
    evidence = dict(tables["evidence"])
    for key in ("before", "after"):
        evidence[key] = ImageSimilarity(**{k: _number(v) for k, v in evidence[key].items()})
    for item in fields(Evidence):
        if item.type == "float":
            evidence[item.name] = _number(evidence[item.name])
        elif item.name.startswith("region_") and item.name in evidence:
            evidence[item.name] = {k: _number(v) for k, v in evidence[item.name].items()}
    reasons = tuple(
        Reason(
            Kind(row["kind"]),
            str(row["message"]),
            _number(row["figure"]),
            _number(row["limit"]),
            str(row["unit"]),
        )
        for row in tables["reasons"]
    )
    return Verdict(Status(tables["status"]), reasons, Evidence(**evidence))


def _level(row: Mapping[str, Any]) -> LevelHistory:
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
    return LevelHistory(**values)
