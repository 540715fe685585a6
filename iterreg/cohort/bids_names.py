"""The results of a cohort under the names of BIDS-Derivatives, as a data set of their own.

Source:
    K. J. Gorgolewski et al., "The brain imaging data structure", Scientific Data 3, 2016; the part
    on derivatives of its specification, version 1.10. Transforms have no names there yet; theirs
    are those that fMRIPrep and pybids use (``from-``, ``to-``, ``mode-image``, ``xfm``).
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from iterreg.atomic import write_aside, write_json, write_text
from iterreg.cohort.cases import Case
from iterreg.cohort.plan import Plan
from iterreg.cohort.records import case_folder, read_record
from iterreg.cohort.table import no_work, table_error
from iterreg.errors import OutputError
from iterreg.texts import one_line, parse_json
from iterreg.versions import own_version

BIDS_VERSION = "1.10.0"

BIDS_NAME = re.compile(r"sub-[A-Za-z0-9]+(_[a-z]+-[A-Za-z0-9+]+)*_[A-Za-z0-9]+")
DATATYPES = ("anat", "func", "dwi", "fmap", "perf", "pet")
ABOUT_SPACE = ("space", "res", "from", "to", "mode", "desc")
"""Entities of a name that say on which grid an image lies and how it was made: ours take their
place."""
AFTER_SPACE = ("chunk", "atlas", "seg", "scale", "label")
"""Entities that stand behind ``space`` in a name."""

ABOUT, IGNORED = "dataset_description.json", ".bidsignore"
README = """Registrations by iterreg

Each folder of a subject has moving images on the grid of a fixed image (desc-warped; the sidecar
names both), and the transforms, for ITK (xfm.h5) and as displacements in mm (desc-displacement).
The JSON file of a transform says how it was made, and whether it may be trusted.
"""


@dataclass(frozen=True)
class Name:
    """An image by BIDS.

    Args:
        dataset: folder that has the folders of the subjects.
        folder: of the image in it, such as ``sub-01/anat``.
        entities: such as ``sub`` and its value, in order.
        suffix: such as ``T1w``.
    """

    dataset: Path
    folder: str
    entities: Mapping[str, str]
    suffix: str

    def with_space(self, space: str, desc: str, suffix: str) -> str:
        """The path of an image made from this one, in another space."""
        before, after = self._sides()
        return self._path([*before, f"space-{space}", *after, f"desc-{desc}", suffix])

    def transform(self, space: str, *more: str) -> str:
        """The path of a transform from this image's own space to another, without its ending."""
        before, after = self._sides()
        own = self.entities.get("space", self.suffix)
        return self._path([*before, *after, f"from-{own}", f"to-{space}", "mode-image", *more])

    def _path(self, words: Sequence[str]) -> str:
        return f"{self.folder}/{'_'.join(words)}"

    def _sides(self) -> tuple[list[str], list[str]]:
        kept = {k: v for k, v in self.entities.items() if k not in ABOUT_SPACE}
        behind = [f"{k}-{v}" for k, v in kept.items() if k in AFTER_SPACE]
        return [f"{k}-{v}" for k, v in kept.items() if k not in AFTER_SPACE], behind


def read_name(path: str) -> Name | None:
    """Read the name of an image by BIDS; None if it has none.

    Example:
        >>> name = read_name("/data/sub-01/ses-b/anat/sub-01_ses-b_T1w.nii.gz")
        >>> name.folder, name.suffix
        ('sub-01/ses-b/anat', 'T1w')
        >>> name.with_space("mni", "warped", "T1w")
        'sub-01/ses-b/anat/sub-01_ses-b_space-mni_desc-warped_T1w'
        >>> read_name("/data/scan.nii.gz") is None
        True
    """
    place = Path(path)
    stem = place.name.partition(".")[0]
    if BIDS_NAME.fullmatch(stem) is None or place.parent.name not in DATATYPES:
        return None
    *words, suffix = stem.split("_")
    entities = dict(word.split("-", 1) for word in words)
    folders = [f"sub-{entities['sub']}"]
    folders += [f"ses-{entities['ses']}"] if "ses" in entities else []
    folders.append(place.parent.name)
    if place.parts[-len(folders) - 1 : -1] != tuple(folders):
        return None
    return Name(place.parents[len(folders)], "/".join(folders), entities, suffix)


def space_of(path: str) -> str:
    """The label of an image's space: its name without what BIDS forbids in labels.

    Example:
        >>> space_of("/data/sub-01/anat/sub-01_T1w.nii.gz"), space_of("MNI152 2mm.nii")
        ('sub01T1w', 'MNI1522mm')
    """
    stem = os.path.basename(path.rstrip("/")).partition(".")[0]
    return re.sub(r"[^A-Za-z0-9]", "", stem) or "fixed"


def files_of(case: Case) -> dict[str, str]:
    """The files of a case, by their names in its folder, with their paths in the data set.

    Args:
        case: whose moving image has a name by BIDS.

    Example:
        >>> moving = "/data/sub-01/anat/sub-01_T1w.nii.gz"
        >>> found = files_of(Case("a", {"fixed": "/mni.nii.gz", "moving": moving}, "brain"))
        >>> found["transform.h5"]
        'sub-01/anat/sub-01_from-T1w_to-mni_mode-image_xfm.h5'
    """
    name, space = read_name(case.files["moving"]), space_of(case.files["fixed"])
    assert name is not None
    transform = f"{name.transform(space)}_xfm"
    regions = {"warped_regions.nii.gz": f"{name.with_space(space, 'warped', 'dseg')}.nii.gz"}
    return {
        "warped.nii.gz": f"{name.with_space(space, 'warped', name.suffix)}.nii.gz",
        **(regions if "moving_labels" in case.files else {}),
        "transform.h5": f"{transform}.h5",
        "run.json": f"{transform}.json",
        "displacement_mm.nii.gz": f"{name.transform(space, 'desc-displacement')}_xfm.nii.gz",
    }


def check_bids_out(cases: Sequence[Case], folder: Path) -> None:
    """Check that results can be named by BIDS, before any work begins.

    Raises:
        ConfigError: a moving image has no name by BIDS, or two pairs get the same; ``details`` has
            a line for each.
        OutputError: the folder holds something else than our data set.
    """
    problems: list[str] = []
    seen: dict[str, Case] = {}
    for case in cases:
        where = f"row {case.row}" if case.row else one_line(case.id, 60)
        moving = case.files["moving"]
        if read_name(moving) is None:
            problems.append(
                f"{where}: moving: expected a name by BIDS such as sub-01/anat/sub-01_T1w.nii.gz, "
                f"got {one_line(moving, 200)}"
            )
            continue
        twin = seen.setdefault(files_of(case)["warped.nii.gz"], case)
        if twin is not case:
            problems.append(f"{where}: has the same images as {twin.id}, so the same names by BIDS")
    if problems:
        raise table_error(f"bids-out: {no_work(problems)}", problems)
    found = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    if found and ABOUT not in found:
        raise OutputError(
            f"{folder}: expected an empty folder or a BIDS data set, got one with {len(found)} "
            f"entries ({found[0]}) and no {ABOUT}"
        )


def write_bids(plan: Plan, folder: Path) -> int:
    """Copy the results of all cases that are done to a data set of BIDS-Derivatives.

    Args:
        plan: the cohort, checked by :func:`check_bids_out`.
        folder: of the data set. Files that are there already and the same are left alone.

    Returns:
        How many cases are in it.

    Raises:
        OutputError: a file cannot be written.
    """
    links = _links(plan.cases)
    _make(folder)
    about = {
        "Name": "Registrations by iterreg",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "iterreg", "Version": own_version()}],
        "DatasetLinks": {n: _relative(place, folder) for place, n in links.items()},
    }
    write_json(about, folder / ABOUT)
    write_text("*_xfm.*\n", folder / IGNORED)
    write_text(README, folder / "README")
    count = 0
    for case in plan.cases:
        if (record := read_record(plan.folder, case.id)) is not None:
            count += 1
            _write_case(case, case_folder(plan.folder, case.id), folder, links, record)
    return count


def _write_case(
    case: Case, place: Path, folder: Path, links: Mapping[Path, str], record: Mapping[str, Any]
) -> None:
    for name, path in files_of(case).items():
        if name not in record["files"]:
            continue
        target = folder / path
        _make(target.parent)
        if not _same(place / name, target):
            write_aside(target, partial(_copy, place / name))
        if name.startswith("warped"):
            about = _about(case, name, links)
            write_json(about, folder / f"{path.removesuffix('.nii.gz')}.json")


def _about(case: Case, name: str, links: Mapping[Path, str]) -> dict[str, Any]:
    """The sidecar of an image."""
    about: dict[str, Any] = {
        "Description": "moving image, or its label map, on the fixed image",
        "SpatialReference": _uri(case.files["fixed"], links),
        "Sources": list(_sources(case, name, links)),
    }
    if "regions" not in name:
        about["SkullStripped"] = _is_skull_stripped(case.files["moving"])
    return about


def _is_skull_stripped(path: str) -> bool:
    """What the image's own sidecar says; else by its name. Raw images of BIDS are not."""
    place = Path(path)
    with suppress(OSError, ValueError):
        tables = parse_json(
            (place.parent / f"{place.name.partition('.')[0]}.json").read_text("utf-8")
        )
        if isinstance(tables, dict) and isinstance(tables.get("SkullStripped"), bool):
            return bool(tables["SkullStripped"])
    name = read_name(path)
    return name is not None and name.entities.get("desc") == "brain"


def _sources(case: Case, name: str, links: Mapping[Path, str]) -> Iterator[str]:
    roles = ("moving_labels", "moving") if "regions" in name else ("moving",)
    yield from (_uri(case.files[role], links) for role in roles if role in case.files)


def _copy(source: Path, target: Path) -> None:
    shutil.copy2(source, target)


def _same(source: Path, target: Path) -> bool:
    """Whether a file was copied before."""
    try:
        one, other = os.stat(source), os.stat(target)
    except FileNotFoundError:
        return False
    return (one.st_size, one.st_mtime_ns) == (other.st_size, other.st_mtime_ns)


def _dataset(path: str) -> Path:
    name = read_name(path)
    return Path(path).parent if name is None else name.dataset


def _links(cases: Sequence[Case]) -> dict[Path, str]:
    """The data sets that the images come from, with the names that URIs give them."""
    roles = ("moving", "fixed", "moving_labels")
    files = (case.files[role] for case in cases for role in roles if role in case.files)
    places = dict.fromkeys(map(_dataset, files))
    return {place: f"source{number}" for number, place in enumerate(places, 1)}


def _uri(path: str, links: Mapping[Path, str]) -> str:
    place = _dataset(path)
    return f"bids:{links[place]}:{Path(path).relative_to(place).as_posix()}"


def _relative(place: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(place, folder)).as_posix()
    except ValueError:  # another drive of Windows
        return place.as_uri()


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from error
