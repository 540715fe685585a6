"""Read a series: a 4-D NIfTI file, a folder of volumes, or a DICOM folder with phases."""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from iterreg.atomic import scratch_folder
from iterreg.errors import NO_ROOM, GeometryError, ImageContentError, ImageReadError, IterregError
from iterreg.image import Image
from iterreg.io import VOLUME_EXTENSIONS, extension_of, read_image
from iterreg.io.bounded import require_explained
from iterreg.io.dicom.series import Volume, list_volumes
from iterreg.io.nifti import is_gzip

LEAST_PHASES, MOST_PHASES = 2, 500
PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")
NIFTI = (".nii", ".nii.gz")


@dataclass(frozen=True)
class Phase:
    """One volume of a series.

    Args:
        name: of its file, or its number in the file.
        image: of rank 3.
    """

    name: str
    image: Image


def read_series(path: str | Path, series: str | None = None) -> tuple[Phase, ...]:
    """Read all phases of a series, in their order.

    Args:
        path: a 4-D NIfTI file; a folder of volumes, which are taken in the order of their names,
            numbers as numbers; or a DICOM folder: one series with phases, or a series a phase
            whose descriptions say 0 %, 10 % and so on.
        series: which series of a DICOM folder, if it holds several; its number or UID.

    Returns:
        At least two phases of rank 3.

    Raises:
        ImageReadError: no such file, or not a series.
        ImageContentError: fewer than two phases.
        GeometryError: the phases differ in size, spacing or axes.
    """
    place = Path(path)
    if not os.path.exists(place):
        raise ImageReadError(f"{place}: no such file or folder")
    if not os.path.isdir(place):
        phases = _of_file(place)
    elif files := _volume_files(place):
        phases = [Phase(name, read_image(place / name)) for name in files]
    else:
        phases = _of_dicom(place, series)
    if not LEAST_PHASES <= len(phases) <= MOST_PHASES:
        raise ImageContentError(
            f"{place}: expected {LEAST_PHASES} to {MOST_PHASES} phases, got {len(phases)}"
        )
    _require_alike(place, phases)
    return tuple(phases)


def _of_file(path: Path) -> list[Phase]:
    """The volumes of a 4-D file, read one by one as files of their own."""
    import nibabel

    if extension_of(path) not in NIFTI:
        raise ImageReadError(
            f"{path}: expected a 4-D NIfTI file (.nii, .nii.gz) or a folder, got another format"
        )
    with _quiet_nibabel(path):
        whole: Any = nibabel.load(path)
        shape = tuple(whole.shape)
        stated = math.prod(shape) * whole.get_data_dtype().itemsize
    stored = os.path.getsize(path)
    if is_gzip(path):
        require_explained(path, stated, stored)
    elif not 0 < stated <= stored:
        raise ImageReadError(
            f"{path}: truncated: expected {stated} bytes of voxels by its header, got a file of "
            f"{stored} bytes"
        )
    if len(shape) != 4:
        words = " x ".join(map(str, shape))
        raise ImageContentError(f"{path}: expected a 4-D file, got one of {words} voxels")
    if shape[3] > MOST_PHASES:
        raise ImageContentError(f"{path}: expected at most {MOST_PHASES} phases, got {shape[3]}")
    phases = []
    with scratch_folder() as scratch:
        for number in range(shape[3]):
            one = scratch / "phase.nii"
            with _quiet_nibabel(path):
                nibabel.save(whole.slicer[..., number], one)
            with warnings.catch_warnings():
                if number:  # the header is the same for all
                    warnings.simplefilter("ignore")
                phases.append(
                    Phase(f"{number}", replace(read_image(one), name=f"{path}, {number}"))
                )
    return phases


@contextmanager
def _quiet_nibabel(path: Path) -> Iterator[None]:
    """Turn what nibabel raises on damage into one line."""
    try:
        yield
    except (IterregError, MemoryError):
        raise
    except Exception as error:  # nibabel has many ways to say so
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise
        reason = " ".join(str(error).split())[:200]
        raise ImageReadError(f"{path}: expected a whole 4-D NIfTI file: {reason}") from error


def _volume_files(folder: Path) -> list[str]:
    """The names of the volumes in a folder, numbers in them as numbers."""
    names = [n for n in os.listdir(folder) if not n.startswith(".")]
    return sorted((n for n in names if extension_of(Path(n)) in VOLUME_EXTENSIONS), key=_natural)


def _natural(name: str) -> list[Any]:
    """Sorts ``t2`` before ``t10``."""
    parts = re.split(r"(\d+)", name.lower())
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts]


def _of_dicom(folder: Path, wanted: str | None) -> list[Phase]:
    volumes = list_volumes(folder)
    if wanted is not None:
        volumes = [v for v in volumes if wanted in (v.about.uid, v.about.number)]
    uids = {v.about.uid for v in volumes}
    groups = [[v for v in volumes if v.about.uid == uid] for uid in sorted(uids)]
    several = [group for group in groups if len(group) >= LEAST_PHASES] or _by_percent(volumes)
    if len(several) != 1:
        found = ", ".join(v.name for v in volumes[:12]) or "none"
        raise ImageReadError(
            f"{folder}: expected volumes, one DICOM series with phases, or a series a phase with "
            f"0 %, 10 % and so on in their descriptions; found {len(several)} (DICOM volumes: "
            f"{found}); --dicom-series picks one by its number or UID"
        )
    return [Phase(v.name, read_image(folder, v.selector)) for v in several[0]]


def _by_percent(volumes: Sequence[Volume]) -> list[list[Volume]]:
    """Series of one study whose descriptions say where in the cycle they are, each at another
    place; as scanners store a 4-D CT. Others, such as an average, are left out."""
    studies: dict[str, dict[float, list[Volume]]] = {}
    for volume in volumes:
        if (told := PERCENT.search(volume.about.description)) is not None:
            places = studies.setdefault(volume.about.study, {})
            places.setdefault(float(told[1]), []).append(volume)
    return [
        [places[percent][0] for percent in sorted(places)]
        for places in studies.values()
        if len(places) >= LEAST_PHASES and all(len(v) == 1 for v in places.values())
    ]


def _require_alike(place: Path, phases: Sequence[Phase]) -> None:
    first = phases[0]
    for phase in phases:
        if phase.image.grid.rank != 3:
            raise ImageContentError(f"{place}: {phase.name}: expected a volume, got a picture")
        if not phase.image.grid.same_space(first.image.grid):
            raise GeometryError(
                f"{place}: expected phases on one grid, got {phase.image.grid!r} ({phase.name}) "
                f"and {first.image.grid!r} ({first.name})"
            )
