"""The submission's zip: written flat, as the evaluator reads it, and checked before uploading."""

from __future__ import annotations

import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np

from iterreg.errors import ImageContentError, ImageReadError, IterregError
from iterreg.formats.learn2reg_files import FIELD_EXTENSIONS, Shape, check_field
from iterreg.io import write_aside
from iterreg.learn2reg.rules import Evaluation
from iterreg.learn2reg.task import Pair

SLACK_BYTES = 1 << 20
"""What a field's file may hold beside its numbers."""

LITTER = ("__MACOSX", ".DS_Store", "Thumbs.db")
"""What file managers add; the evaluator does not look at it."""

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The same fields make the same zip."""


@dataclass(frozen=True)
class CheckReport:
    """What the leaderboard would say of a zip.

    Args:
        refusals: why it would be, or should be, refused; each names its member or case.
        warnings: what is odd, but would be accepted.
        fields: how many fields are as they should be.
    """

    refusals: tuple[str, ...]
    warnings: tuple[str, ...]
    fields: int

    @property
    def is_accepted(self) -> bool:
        """Whether there is nothing to refuse."""
        return not self.refusals


def write_zip(paths: Sequence[Path], out: str | Path) -> None:
    """Put fields into a zip, without folders; it appears whole or not at all.

    They are compressed already and are stored as they are.

    Args:
        paths: one field a case, under the name that the evaluator looks for.
        out: the zip.

    Raises:
        ImageReadError: a field is missing.
        OutputError: the zip cannot be written.
    """
    missing = [path.name for path in paths if not path.is_file()]
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
    progress: Callable[[str, float], None] = lambda message, fraction: None,
) -> CheckReport:
    """Look for everything that the leaderboard would refuse; nothing is unpacked by its own name.

    Args:
        path: the zip.
        evaluation: the cases that must be there.
        shapes: a pair's shape, without components.
        progress: told what is going on.

    Returns:
        All refusals, not the first alone.

    Raises:
        ImageReadError: no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise ImageReadError(f"{path}: no such file")
    try:
        with zipfile.ZipFile(path) as packed:
            members = packed.infolist()
            refusals = _refuse_names(members)
            warnings = _odd_members(members, evaluation.pairs)
            good = 0
            for number, pair in enumerate(evaluation.pairs):
                progress(f"checking {pair.case}", number / len(evaluation.pairs))
                told = _check_case(packed, pair, shapes(pair), refusals, warnings)
                good += told
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        return CheckReport((f"{path.name}: not a zip that can be read: {error}",), (), 0)
    return CheckReport(tuple(refusals), tuple(warnings), good)


@contextmanager
def unpacked(path: str | Path, evaluation: Evaluation) -> Iterator[Path]:
    """The fields of a zip in a folder of their own, for as long as the block runs.

    Raises:
        ImageReadError: not a zip, or a member cannot be read.
        ImageContentError: a member is larger than a field can be.
    """
    with tempfile.TemporaryDirectory(prefix=".iterreg-") as folder:
        try:
            with zipfile.ZipFile(path) as packed:
                for pair in evaluation.pairs:
                    member = _member_of(packed, pair)
                    if member is not None:
                        name = PurePosixPath(member.filename).name
                        _copy(packed, member, Path(folder) / name, evaluation.shape_ijk)
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise ImageReadError(f"{path}: not a zip that can be read: {error}") from error
        yield Path(folder)


def _refuse_names(members: Sequence[zipfile.ZipInfo]) -> list[str]:
    """Names that leave the folder, links, encryption, doubles: before anything is read."""
    refusals, seen = [], set()
    for member in members:
        name = member.filename
        # zipfile itself turns a backslash into a slash on Windows alone: look at both.
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
    """Members that no case asks for."""
    wanted = {name for pair in pairs for name in pair.file_names}
    odd = [
        m.filename
        for m in members
        if not m.is_dir()
        and m.filename not in wanted
        and not any(part in LITTER for part in PurePosixPath(m.filename).parts)
    ]
    return [f"{name}: belongs to no case of the task" for name in odd]


def _check_case(
    packed: zipfile.ZipFile,
    pair: Pair,
    shape: Shape | None,
    refusals: list[str],
    warnings: list[str],
) -> bool:
    """Check the field of one case; tells whether it is good."""
    member = _member_of(packed, pair)
    if member is None:
        refusals.append(_why_missing(packed, pair))
        return False
    extras = [n for n in pair.file_names if n in packed.NameToInfo and n != member.filename]
    warnings += [f"{n}: not read, {member.filename} comes first" for n in extras]
    with tempfile.TemporaryDirectory(prefix=".iterreg-") as folder:
        target = Path(folder) / member.filename
        try:
            _copy(packed, member, target, shape)
            largest = check_field(target, shape)
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
    """The member that the evaluator would take, at the top level."""
    return next((packed.NameToInfo[n] for n in pair.file_names if n in packed.NameToInfo), None)


def _why_missing(packed: zipfile.ZipFile, pair: Pair) -> str:
    expected = pair.long_name + FIELD_EXTENSIONS[0]
    for name in packed.namelist():
        last = PurePosixPath(name).name
        if last in pair.file_names:
            return f"{pair.case}: {name} lies in a folder; expected it at the top of the zip"
        if last.startswith(f"disp_{pair.fixed_subject}_{pair.moving_subject}."):
            return (
                f"{pair.case}: {name}: the short name stands for fixed 0000 and moving 0001 "
                f"alone; expected {expected}"
            )
    return f"{pair.case}: missing; expected {expected}"


def _copy(
    packed: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, shape: Shape | None
) -> None:
    """Copy a member to a name of our own choosing, no more than a field can hold."""
    numbers = int(np.prod(shape)) * 3 if shape is not None else 1 << 28
    with packed.open(member) as source:
        _copy_limited(source, target, numbers * 8 + SLACK_BYTES)


def _copy_limited(source: IO[bytes], target: Path, limit: int) -> None:
    """Copy a stream to a file, but never more than ``limit`` bytes.

    Raises:
        ImageContentError: there is more.
    """
    with target.open("wb") as file:
        shutil.copyfileobj(_Limited(source, limit, target.name), file, 1 << 20)


class _Limited:
    def __init__(self, source: IO[bytes], limit: int, name: str) -> None:
        self._source, self._left, self._name = source, limit, name

    def read(self, size: int = -1) -> bytes:
        piece = self._source.read(size)
        self._left -= len(piece)
        if self._left < 0:
            raise ImageContentError(f"{self._name}: larger than a field of this shape can be")
        return piece
