"""Which volumes a folder of DICOM files holds, and which of them is meant."""

from __future__ import annotations

import filecmp
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from iterreg.errors import ImageReadError
from iterreg.io.choices import reading_choices
from iterreg.io.dicom.files import find_files, read_header
from iterreg.io.dicom.frames import PHASE_KEYS, About, Frame, about, frames_of, modality

SCOUT = "LOCALIZER"
LEAST_SLICES = 3
"""Fewer images beside a stack are no volume."""

SMALL_SHARE = 0.1
"""Nor are images that are less than this share of the largest stack of their series."""

SAME_PLACE_MM = 0.01
"""Slices that are nearer to each other lie at one place."""

MOST_LISTED = 8


@dataclass(frozen=True)
class Volume:
    """Slices of one series that belong together.

    Args:
        name: by which it is picked: the number of its series, with a letter if another series has
            the same number, and ``/2`` for the second of several volumes.
        about: its series.
        frames: its slices, in no order.
        phase: what sets it apart from others of its series, in words.
        notes: what was left out.
    """

    name: str
    about: About
    frames: tuple[Frame, ...]
    phase: str = ""
    notes: tuple[str, ...] = ()

    @property
    def selector(self) -> str:
        """A text that picks this volume again, whatever else lies beside it."""
        _, slash, part = self.name.partition("/")
        return f"{self.about.uid}{slash}{part}"

    @property
    def is_scout(self) -> bool:
        """Whether it serves to plan others."""
        return all(SCOUT in frame.kind for frame in self.frames)

    def __str__(self) -> str:
        """One line for people."""
        words = [f"{self.name}:"]
        words += [f"{self.about.description!r},"] if self.about.description else []
        words += [f"{part}," for part in (self.about.modality, self.about.date, self.phase) if part]
        count = len(self.frames)
        size = f"{self.frames[0].columns} x {self.frames[0].rows}"
        words.append(f"{count} slice{'s' if count > 1 else ''} of {size}")
        return " ".join(words)


def list_volumes(place: Path) -> list[Volume]:
    """Find the volumes of a folder, of a DICOMDIR or of one file.

    Raises:
        ImageReadError: a file is damaged.
    """
    frames: dict[str, list[Frame]] = defaultdict(list)
    series: dict[str, About] = {}
    for file in find_files(place):
        dataset = read_header(file)
        found = frames_of(file, dataset)
        if found:
            known = about(file, dataset)
            series.setdefault(known.uid, known)
            frames[known.uid] += found
    names = _names(series)
    ordered = sorted(series, key=lambda uid: _natural(names[uid]))
    return [v for uid in ordered for v in _volumes(names[uid], series[uid], frames[uid])]


def pick(place: Path, volumes: Sequence[Volume], wanted: str | None) -> Volume:
    """The one volume that is meant.

    Args:
        place: for messages.
        volumes: from :func:`list_volumes`.
        wanted: name, UID, or part of the description or phase; None if there is one alone.

    Raises:
        ImageReadError: none, or several; the message lists them.
    """
    if not volumes:
        what = "a folder with a DICOM series, found none"
        if not os.path.isdir(place):
            kind = modality(place, read_header(place)) or "unknown"
            what = f"a DICOM image, got an object without intensities (modality {kind})"
        raise ImageReadError(f"{place}: expected {what}")
    if wanted is not None:
        return _matching(place, volumes, wanted)
    stacks = [v for v in volumes if not _is_minor(v, volumes)]
    if len(stacks) != 1:
        stacks = stacks or list(volumes)
        what = "DICOM series"
        if len({v.about.uid for v in stacks}) == 1 and stacks[0].phase:
            one_plane = len({v.frames[0].plane for v in stacks}) == 1
            what = "phases at the same positions" if one_plane else "stacks in one series"
        raise ImageReadError(
            f"{place}: expected one volume, found {len(stacks)} {what}: {_listed(stacks)}. Pick "
            f"one with {reading_choices().series_options}, such as {stacks[0].name}"
        )
    left_out = [v for v in volumes if v is not stacks[0]]
    note = f"left out beside the series that is read: {_listed(left_out)}"
    notes = (note,) if left_out else ()
    return replace(stacks[0], notes=(*stacks[0].notes, *notes))


def _matching(place: Path, volumes: Sequence[Volume], wanted: str) -> Volume:
    by_name = [v for v in volumes if wanted in (v.name, v.selector)]
    by_series = [v for v in volumes if wanted in (v.about.uid, v.about.number)]
    word = wanted.lower()
    by_words = [v for v in volumes if word in f"{v.about.description} {v.phase}".lower()]
    for found in (by_name, by_series, by_words):
        if len(found) > 1 and len(kept := [v for v in found if not _is_minor(v, found)]) == 1:
            found = kept
        if len(found) == 1:
            return found[0]
        if found:
            raise ImageReadError(
                f"{place}: expected one volume by {wanted!r}, found {len(found)}: {_listed(found)}"
            )
    raise ImageReadError(
        f"{place}: expected a series with the number, the UID or a part of the description "
        f"{wanted!r}; found {_listed(volumes)}"
    )


def _is_minor(volume: Volume, others: Sequence[Volume]) -> bool:
    """Whether it is a scout or too thin to be meant, beside a volume that is neither."""
    most = max(len(v.frames) for v in others)
    return (volume.is_scout and not all(v.is_scout for v in others)) or (
        len(volume.frames) < LEAST_SLICES <= most
    )


def _listed(volumes: Sequence[Volume]) -> str:
    words = [str(v) for v in volumes[:MOST_LISTED]]
    if len(volumes) > MOST_LISTED:
        words.append(f"and {len(volumes) - MOST_LISTED} more (iterreg dicom list shows all)")
    # The UID tells apart what looks alike.
    if len({v.about.uid for v in volumes}) > 1:
        words[: len(volumes)] = [
            f"{w} (UID {v.about.uid})" for w, v in zip(words, volumes, strict=False)
        ] + words[len(volumes[:MOST_LISTED]) :]
    return "; ".join(words)


def _names(series: dict[str, About]) -> dict[str, str]:
    """A name for each series: its number, and a letter if the number is shared."""
    shared = Counter(known.number for known in series.values())
    letters: Counter[str] = Counter()
    names = {}
    for uid in sorted(series):
        number = series[uid].number
        names[uid] = number or "0"
        if shared[number] > 1:
            names[uid] += _letter(letters[number])
        letters[number] += 1
    return names


def _letter(count: int) -> str:
    return _letter(count // 26 - 1) + chr(97 + count % 26) if count >= 26 else chr(97 + count)


def _natural(name: str) -> tuple[int, str]:
    digits = "".join(c for c in name if c.isdigit())
    return (int(digits[:12]) if digits else 0), name


def _volumes(name: str, series: About, frames: list[Frame]) -> list[Volume]:
    """Split a series into the stacks and the phases that it holds."""
    frames, notes = _without_copies(frames)
    groups: list[list[Frame]] = []
    for frame in frames:
        same = next((group for group in groups if _alike(group[0], frame)), None)
        if same is None:
            groups.append([frame])
        else:
            same.append(frame)
    groups.sort(key=len, reverse=True)
    planned = [g for g in groups if SCOUT not in g[0].kind] or groups
    largest = len(planned[0])
    kept = [g for g in planned if len(g) >= max(LEAST_SLICES, SMALL_SHARE * largest)] or planned[:1]
    lost = [f for g in groups if not any(g is k for k in kept) for f in g]
    if lost:
        kind = "scouts" if all(SCOUT in f.kind for f in lost) else "images of another size or plane"
        files = ", ".join(sorted({str(f.file) for f in lost})[:3])
        notes.append(f"left out of series {name}: {len(lost)} {kind} ({files})")
    found = [
        (part, phase or (group[0].plane if len(kept) > 1 else ""))
        for group in kept
        for part, phase in _phases(group)
    ]
    if len(found) == 1:
        return [Volume(name, series, tuple(found[0][0]), "", tuple(notes))]
    return [
        Volume(f"{name}/{k}", series, tuple(part), phase, tuple(notes))
        for k, (part, phase) in enumerate(found, 1)
    ]


def _alike(first: Frame, second: Frame) -> bool:
    """Whether two slices may lie in one stack: one size, one plane, rounding aside."""
    for one, other in ((first.axes, second.axes), (first.spacing, second.spacing)):
        if (one is None) != (other is None):
            return False
        if one is not None and other is not None and not np.allclose(one, other, 1e-3, 5e-3):
            return False
    sizes = (first.rows, first.columns) == (second.rows, second.columns)
    return sizes and (SCOUT in first.kind) == (SCOUT in second.kind)


def _without_copies(frames: list[Frame]) -> tuple[list[Frame], list[str]]:
    """Leave out files that hold the same object again."""
    seen: dict[tuple[str, int], Frame] = {}
    kept, copies = [], []
    for frame in frames:
        first = seen.setdefault((frame.uid, frame.index), frame)
        if first is not frame and filecmp.cmp(first.file, frame.file, shallow=False):
            copies.append(frame)
        else:
            kept.append(frame)
    notes = [f"{len(copies)} copies of files left out ({copies[0].file})"] if copies else []
    return kept, notes


def _phases(frames: list[Frame]) -> list[tuple[list[Frame], str]]:
    """Split slices that lie at the same places into one stack for each.

    Without anything that tells them apart, there must be as many at each place.
    """
    if any(f.position is None or f.axes is None for f in frames):
        return [(frames, "")]
    places = _by_place(frames)
    count = max(map(len, places))
    if count == 1:
        return [(frames, "")]
    for key in PHASE_KEYS:
        values = sorted({f.phase.get(key, "") for f in frames}, key=_natural)
        if len(values) == count and all(
            len({f.phase.get(key, "") for f in place}) == len(place) for place in places
        ):
            parts = [[f for f in frames if f.phase.get(key, "") == v] for v in values]
            return [(part, f"{key} {v}") for part, v in zip(parts, values, strict=True)]
    if any(len(place) != count for place in places):
        return [(frames, "")]
    ordered = [sorted(place, key=lambda f: (f.instance, f.index)) for place in places]
    return [
        ([place[k] for place in ordered], f"phase {k + 1} of {count} by InstanceNumber")
        for k in range(count)
    ]


def _by_place(frames: list[Frame]) -> list[list[Frame]]:
    """The slices at each place along the stack."""
    along = heights(frames)
    order = np.argsort(along, kind="stable")
    places: list[list[Frame]] = []
    last = -np.inf
    for k in order:
        if along[k] - last > SAME_PLACE_MM:
            places.append([])
            last = along[k]
        places[-1].append(frames[k])
    return places


def heights(frames: Sequence[Frame]) -> NDArray[np.float64]:
    """How far along the normal of the first slice each lies, mm."""
    axes = np.asarray(frames[0].axes, np.float64)
    normal = np.cross(axes[:3], axes[3:])
    positions = np.array([frame.position for frame in frames], np.float64)
    along: NDArray[np.float64] = positions @ normal
    return along
