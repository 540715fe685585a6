"""Write the submission's zip, without folders, as the evaluator reads it, and check it."""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from iterreg.atomic import scratch_folder, write_aside
from iterreg.errors import ImageReadError, IterregError, OutputError
from iterreg.formats.learn2reg_files import FIELD_EXTENSIONS, Shape, check_field
from iterreg.io import grid_of_file
from iterreg.learn2reg.limited import copy_limited
from iterreg.learn2reg.rules import Evaluation
from iterreg.learn2reg.task import Pair, Task
from iterreg.progress import Progress, ProgressCallback, ignore_progress

SLACK_BYTES = 1 << 20
"""Bytes that a field's file may have in addition to its numbers."""

FILE_MANAGER_NAMES = ("__MACOSX", ".DS_Store", "Thumbs.db")
"""Names that file managers add; the evaluator ignores them."""

EPOCH = (1980, 1, 1, 0, 0, 0)
"""A fixed date, so that equal fields make equal zips."""


@dataclass(frozen=True)
class CheckReport:
    """The result of checking a zip.

    Args:
        refusals: reasons why it would be, or should be, refused; each names its member or case.
        warnings: oddities that would be accepted.
        fields: number of valid fields.
    """

    refusals: tuple[str, ...]
    warnings: tuple[str, ...]
    fields: int

    @property
    def is_accepted(self) -> bool:
        """Whether there is no reason to refuse it."""
        return not self.refusals


def write_zip(paths: Sequence[Path], out: str | Path) -> None:
    """Put fields into a zip, without folders; it appears whole or not at all.

    The fields are compressed already, so they are stored without further compression.

    Args:
        paths: one field per case, with the name that the evaluator looks for.
        out: the zip.

    Raises:
        ImageReadError: a field is missing.
        OutputError: the zip cannot be written.
    """
    missing = [path.name for path in paths if not os.path.isfile(path)]
    if missing:
        raise ImageReadError(f"{out}: fields are missing: {', '.join(missing)}")

    def write(target: Path) -> None:
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as packed:
            for path in sorted(paths):
                entry = zipfile.ZipInfo(path.name, EPOCH)
                entry.file_size = path.stat().st_size
                with path.open("rb") as source, packed.open(entry, "w") as member:
                    while piece := source.read(1 << 22):
                        member.write(piece)

    write_aside(out, write)


def check_zip(
    path: str | Path,
    evaluation: Evaluation,
    shapes: Callable[[Pair], Shape | None],
    progress: ProgressCallback = ignore_progress,
) -> CheckReport:
    """Find everything for which the leaderboard would refuse a zip.

    Members are never unpacked under their own names, which may be malicious.

    Args:
        path: the zip.
        evaluation: the required cases.
        shapes: gives a pair's shape, without components; None if unknown.
        progress: called for each case.

    Returns:
        All refusals and warnings.

    Raises:
        ImageReadError: no such file.
    """
    path = Path(path)
    if not os.path.isfile(path):
        raise ImageReadError(f"{path}: no such file")
    try:
        with zipfile.ZipFile(path) as packed:
            members = packed.infolist()
            refusals = _refuse_names(members)
            warnings = _odd_members(members, evaluation.pairs)
            good = 0
            for number, pair in enumerate(evaluation.pairs):
                done = number / len(evaluation.pairs)
                progress(Progress("check", done, f"checking {pair.case}"))
                good += _check_case(packed, pair, shapes(pair), refusals, warnings)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        return CheckReport((f"{path.name}: not a zip that can be read: {error}",), (), 0)
    return CheckReport(tuple(refusals), tuple(warnings), good)


@contextmanager
def unpacked(path: str | Path, evaluation: Evaluation) -> Iterator[Path]:
    """Unpack the fields of a zip into a temporary folder, which is removed after the block.

    Raises:
        ImageReadError: not a zip, or a member cannot be read.
        ImageContentError: a member is larger than a field can be.
    """
    with scratch_folder() as folder:
        try:
            with zipfile.ZipFile(path) as packed:
                for pair in evaluation.pairs:
                    member = _member_of(packed, pair)
                    if member is not None:
                        name = PurePosixPath(member.filename).name
                        _copy(packed, member, folder / name, evaluation.shape_ijk)
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise ImageReadError(f"{path}: not a zip that can be read: {error}") from error
        yield folder


@contextmanager
def open_fields(fields: Path, task: Task, evaluation: Evaluation) -> Iterator[Path]:
    """Give the folder of fields for as long as the block runs; check and unpack a zip first.

    Raises:
        IterregError: the leaderboard would refuse the zip.
        ImageReadError: it cannot be read.
    """
    if os.path.isdir(fields):
        yield fields
        return
    checked = check_zip(fields, evaluation, field_shapes(task, evaluation))
    if not checked.is_accepted:
        raise IterregError(f"{fields}: would be refused: {checked.refusals[0]}")
    with unpacked(fields, evaluation) as folder:
        yield folder


def field_shapes(task: Task, evaluation: Evaluation) -> Callable[[Pair], Shape | None]:
    """Make a function that gives a case's shape: the configuration's, else its fixed image's."""

    def shape(pair: Pair) -> Shape | None:
        if evaluation.shape_ijk is not None:
            return evaluation.shape_ijk
        if not os.path.isfile(task.path(pair.fixed)):
            return None
        k, j, i = grid_of_file(task.path(pair.fixed)).shape_zyx
        return i, j, k

    return shape


def _refuse_names(members: Sequence[zipfile.ZipInfo]) -> list[str]:
    """Refuse names that leave the folder, links, encryption and duplicates; nothing is read."""
    refusals, seen = [], set()
    for member in members:
        name = member.filename
        # zipfile turns backslashes into slashes on Windows only, so check both.
        raw = member.orig_filename
        parts = PurePosixPath(raw.replace("\\", "/")).parts
        if raw.startswith(("/", "\\")) or ".." in parts or "\\" in raw or raw[1:2] == ":":
            refusals.append(f"{raw}: its name leaves the folder that it is unpacked in")
        elif stat.S_ISLNK(member.external_attr >> 16):
            refusals.append(f"{name}: is a symbolic link")
        elif member.flag_bits & 0x1:
            refusals.append(f"{name}: is encrypted")
        elif name in seen:
            refusals.append(f"{name}: is there twice")
        seen.add(name)
    return refusals


def _odd_members(members: Sequence[zipfile.ZipInfo], pairs: Sequence[Pair]) -> list[str]:
    """Warn about members that belong to no case."""
    wanted = {name for pair in pairs for name in pair.file_names}
    unexpected = [
        m.filename
        for m in members
        if not m.is_dir()
        and m.filename not in wanted
        and not any(part in FILE_MANAGER_NAMES for part in PurePosixPath(m.filename).parts)
    ]
    return [f"{name}: belongs to no case of the task" for name in unexpected]


def _check_case(
    packed: zipfile.ZipFile,
    pair: Pair,
    shape: Shape | None,
    refusals: list[str],
    warnings: list[str],
) -> bool:
    """Check the field of one case; return whether it is valid."""
    member = _member_of(packed, pair)
    if member is None:
        refusals.append(_why_missing(packed, pair))
        return False
    extras = [n for n in pair.file_names if n in packed.NameToInfo and n != member.filename]
    warnings += [f"{n}: not read, because {member.filename} comes first" for n in extras]
    with scratch_folder() as folder:
        target = folder / member.filename
        try:
            _copy(packed, member, target, shape)
            largest = check_field(target, shape)
        except OutputError:
            raise
        except (
            IterregError,
            zipfile.BadZipFile,
            OSError,
            EOFError,
            ValueError,
            RuntimeError,
            NotImplementedError,
            zlib.error,
        ) as error:
            reason = " ".join(str(error).split())
            if not reason.startswith(member.filename):
                reason = f"{member.filename}: cannot be read: {reason}"
            refusals.append(reason)
            return False
    if largest == 0:
        warnings.append(f"{member.filename}: every displacement is 0")
    elif shape is not None and largest > max(shape):
        warnings.append(
            f"{member.filename}: moves by {largest:.0f} voxels, more than the image is wide"
        )
    return True


def _member_of(packed: zipfile.ZipFile, pair: Pair) -> zipfile.ZipInfo | None:
    """Find the member that the evaluator would read, at the top level."""
    return next((packed.NameToInfo[n] for n in pair.file_names if n in packed.NameToInfo), None)


def _why_missing(packed: zipfile.ZipFile, pair: Pair) -> str:
    expected = pair.long_name + FIELD_EXTENSIONS[0]
    for name in packed.namelist():
        last = PurePosixPath(name).name
        if last in pair.file_names:
            return f"{pair.case}: {name} lies in a folder; expected it at the top of the zip"
        if last.startswith(f"disp_{pair.fixed_subject}_{pair.moving_subject}."):
            return (
                f"{pair.case}: {name}: the short name is allowed only for fixed 0000 and moving "
                f"0001; expected {expected}"
            )
    return f"{pair.case}: missing; expected {expected}"


def _copy(
    packed: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, shape: Shape | None
) -> None:
    """Copy a member to a safe name, at most as many bytes as a field can have."""
    numbers = int(np.prod(shape)) * 3 if shape is not None else 1 << 28
    with packed.open(member) as source:
        copy_limited(source, target, numbers * 8 + SLACK_BYTES)
