"""A downloaded Learn2Reg task: its JSON, its pairs, and the files of an image."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from iterreg.errors import ConfigError, ImageReadError
from iterreg.texts import parse_json

SPLITS = {
    "val": ("registration_val", "numRegistration_val"),
    "test": ("registration_test", "numRegistration_test"),
}
"""The keys of each split in the JSON: the pairs, and their number."""

IMAGE_NAME = re.compile(r"([0-9]{4})_([0-9]{4})\.nii\.gz$")
"""Subject and modality, which the evaluator takes from the end of a file's name."""


@dataclass(frozen=True)
class Pair:
    """One registration of a task.

    Args:
        fixed, moving: paths inside the task's folder, as in its JSON.
        fixed_subject, fixed_modality, moving_subject, moving_modality: four digits each.
    """

    fixed: PurePosixPath
    moving: PurePosixPath
    fixed_subject: str
    fixed_modality: str
    moving_subject: str
    moving_modality: str

    @property
    def case(self) -> str:
        """The evaluator's name of the case, such as ``0011_0001<--0011_0000``."""
        return (
            f"{self.fixed_subject}_{self.fixed_modality}<--"
            f"{self.moving_subject}_{self.moving_modality}"
        )

    @property
    def long_name(self) -> str:
        """The field's file name without extension, which is always accepted."""
        return (
            f"disp_{self.fixed_subject}_{self.fixed_modality}_"
            f"{self.moving_subject}_{self.moving_modality}"
        )

    @property
    def short_name(self) -> str | None:
        """The short name, read first if it is allowed: for fixed 0000 and moving 0001 only."""
        if (self.fixed_modality, self.moving_modality) != ("0000", "0001"):
            return None
        return f"disp_{self.fixed_subject}_{self.moving_subject}"

    @property
    def file_names(self) -> tuple[str, ...]:
        """File names that the evaluator looks for; it reads the first that exists."""
        stems = [s for s in (self.short_name, self.long_name) if s is not None]
        return tuple(f"{stem}{ext}" for stem in stems for ext in (".npz", ".nii.gz"))


@dataclass(frozen=True)
class Task:
    """A task folder.

    Args:
        folder: of the task.
        name: such as ThoraxCBCT.
        pairs: of one split, in the order of the JSON.
        split: ``val`` or ``test``.
        shape_ijk: voxels of an image in nibabel's order; None if the JSON does not say.
        provided: kinds of data that the JSON lists (image, label, mask, keypoints ...).
        notes: inconsistencies of the JSON.
        is_part: whether ``pairs`` are only some of the split's.
    """

    folder: Path
    name: str
    pairs: tuple[Pair, ...]
    split: str
    shape_ijk: tuple[int, int, int] | None
    provided: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    is_part: bool = False

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.shape_ijk)) if self.shape_ijk else "unknown shape"
        return f"Task({self.name}, {len(self.pairs)} {self.split} pairs, {shape})"

    def path(self, inside: PurePosixPath) -> Path:
        """Return the full path of a file of the task."""
        return self.folder / inside

    def companion(self, image: PurePosixPath, kind: str, extension: str = ".nii.gz") -> Path:
        """Return an image's file of another kind: ``imagesTr/x`` -> ``labelsTr/x``.

        Args:
            image: path of the image inside the folder.
            kind: replaces ``images`` in the folder's name.
            extension: of the companion.
        """
        swapped = PurePosixPath(*(part.replace("images", kind) for part in image.parent.parts))
        return self.path(swapped / (image.name.removesuffix(".nii.gz") + extension))

    def label_maps(self, pair: Pair) -> tuple[Path, Path] | None:
        """Return the label maps of both images, if both exist."""
        return self._both(pair, "labels")

    def masks(self, pair: Pair) -> tuple[Path, Path] | None:
        """Return the masks of both images, if both exist."""
        return self._both(pair, "masks")

    def keypoints(self, pair: Pair, kind: str = "keypoints") -> tuple[Path, Path] | None:
        """Return the corresponding points of both images: CSV without header, voxel indices.

        For two modalities other than 0000 and 0001 the folder names both of them: the evaluator's
        is ``keypoints00000001Tr``, the download's ``keypoints01Tr``.

        Args:
            pair: the case.
            kind: ``keypoints`` or ``landmarks``.
        """
        kinds = [kind]
        low, high = sorted((pair.fixed_modality, pair.moving_modality))
        if low != high and pair.short_name is None:
            kinds = [f"{kind}{low}{high}", f"{kind}{int(low)}{int(high)}", kind]
        return next((both for k in kinds if (both := self._both(pair, k, ".csv"))), None)

    def _both(self, pair: Pair, kind: str, extension: str = ".nii.gz") -> tuple[Path, Path] | None:
        fixed = self.companion(pair.fixed, kind, extension)
        moving = self.companion(pair.moving, kind, extension)
        return (fixed, moving) if os.path.isfile(fixed) and os.path.isfile(moving) else None


def read_task(folder: str | Path, split: str = "val", cases: Sequence[str] = ()) -> Task:
    """Read a task's JSON.

    Args:
        folder: the task's folder, which contains one ``*_dataset.json``; or that file.
        split: ``val`` or ``test``.
        cases: the cases to keep, each given as a subject (``0011``), an image of it
            (``0011_0001``) or a case (``0011_0001<--0011_0000``); empty keeps all.

    Raises:
        ImageReadError: no such folder or JSON.
        ConfigError: more than one JSON, no name or no pairs in it, names that the evaluator cannot
            read, paths that leave the folder, or an unknown case.
    """
    if split not in SPLITS:
        raise ConfigError(f"split {split}: expected one of {', '.join(SPLITS)}")
    path = _find_json(Path(folder))
    content = read_json(path)
    name = content.get("name")
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{path}: expected the task's name under the key name")
    pairs = tuple(_pair(entry, path) for entry in _listed_pairs(content, split, path))
    if len({pair.case for pair in pairs}) != len(pairs):
        raise ConfigError(f"{path}: expected each case once, got {len(pairs)} with repetitions")
    return Task(
        folder=path.parent,
        name=name,
        pairs=_chosen(pairs, cases, path),
        split=split,
        shape_ijk=_shape(content, path),
        provided=_provided(content),
        notes=_count_notes(content, split, len(pairs)),
        is_part=bool(cases),
    )


def pair_of(fixed: str, moving: str, where: Path) -> Pair:
    """Make a pair from two paths of a JSON.

    Raises:
        ConfigError: a path that leaves the folder, or a name without subject and modality.
    """
    inside, digits = list[PurePosixPath](), list[str]()
    for text in (fixed, moving):
        path = PurePosixPath(text)
        found = IMAGE_NAME.search(path.name)
        if path.is_absolute() or ".." in path.parts or "\\" in text:
            raise ConfigError(f"{where}: expected a path inside the task's folder, got {text}")
        if found is None:
            raise ConfigError(
                f"{where}: expected an image named TASK_0001_0000.nii.gz (subject, modality), "
                f"got {text}"
            )
        inside.append(path)
        digits += found.groups()
    return Pair(inside[0], inside[1], *digits)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that contains one object.

    Raises:
        ImageReadError: missing or unreadable.
        ConfigError: not JSON, or not an object.
    """
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ImageReadError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def _find_json(folder: Path) -> Path:
    if os.path.isfile(folder):
        return folder
    if not os.path.isdir(folder):
        raise ImageReadError(f"{folder}: no such folder")
    files = sorted(folder.glob("*_dataset.json"))
    if not files:
        raise ImageReadError(f"{folder}: expected a Learn2Reg task with a *_dataset.json, got none")
    if len(files) > 1:
        names = ", ".join(f.name for f in files)
        raise ConfigError(f"{folder}: expected one *_dataset.json, got {names}: name the file")
    return files[0]


def _listed_pairs(content: Mapping[str, Any], split: str, path: Path) -> list[Any]:
    """Return the split's pairs; a plain list under ``pairs`` belongs to the validation split."""
    key = SPLITS[split][0]
    pairs = content.get("pairs")
    if isinstance(pairs, Mapping):
        pairs = pairs.get(split, pairs.get(key))
    elif split != "val":
        pairs = None
    listed = content.get(key) or pairs
    if not isinstance(listed, list) or not listed:
        raise ConfigError(f"{path}: expected pairs under {key}, got none; is this the right split?")
    return listed


def _pair(entry: Any, path: Path) -> Pair:
    """Read a pair in any of its forms: an object or a list of two, each a path or an object."""
    if isinstance(entry, Mapping):
        ends = [entry.get("fixed"), entry.get("moving")]
    else:
        ends = list(entry) if isinstance(entry, list) else []
    texts = [e.get("image") if isinstance(e, Mapping) else e for e in ends]
    if len(texts) != 2 or not all(isinstance(t, str) for t in texts):
        raise ConfigError(f"{path}: expected a pair with fixed and moving, got {entry!r:.80}")
    return pair_of(str(texts[0]), str(texts[1]), path)


def _chosen(pairs: tuple[Pair, ...], cases: Sequence[str], path: Path) -> tuple[Pair, ...]:
    chosen = set()
    for case in cases:
        found = [p for p in pairs if case in (p.case, p.long_name) or case in _short_cases(p)]
        if not found:
            known = ", ".join(p.case for p in pairs)
            raise ConfigError(f"case {case}: not in {path.name}, which has {known}")
        chosen |= {p.case for p in found}
    return tuple(p for p in pairs if not cases or p.case in chosen)


def _short_cases(pair: Pair) -> tuple[str, str]:
    return pair.fixed_subject, f"{pair.fixed_subject}_{pair.fixed_modality}"


def _shape(content: Mapping[str, Any], path: Path) -> tuple[int, int, int] | None:
    shapes = content.get("tensorImageShape")
    if not shapes:
        return None
    first = next(iter(shapes.values())) if isinstance(shapes, Mapping) else shapes
    if (
        not isinstance(first, list)
        or len(first) != 3
        or not all(isinstance(n, int) and n > 0 for n in first)
    ):
        raise ConfigError(f"{path}: tensorImageShape: expected three numbers, got {first!r:.60}")
    return first[0], first[1], first[2]


def _provided(content: Mapping[str, Any]) -> tuple[str, ...]:
    """List the kinds of data of all modalities together."""
    provided = content.get("provided_data")
    lists = provided.values() if isinstance(provided, Mapping) else [provided]
    kinds = (str(kind) for each in lists if isinstance(each, list) for kind in each)
    return tuple(dict.fromkeys(kinds))


def _count_notes(content: Mapping[str, Any], split: str, count: int) -> tuple[str, ...]:
    key = SPLITS[split][1]
    stated = content.get(key, count)
    return () if stated == count else (f"{key} says {stated!r:.40}, but {count} pairs are listed",)
