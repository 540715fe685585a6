"""The cache of weights: its folder, its contents, and downloads.

Nothing is downloaded unless :func:`fetch` is called.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from iterreg.atomic import folder_lock, reach_disk
from iterreg.errors import WeightsError
from iterreg.folders import system_folder
from iterreg.samreg.checkpoint import checksum
from iterreg.samreg.download import ByteCounter, download, require_link, writing
from iterreg.samreg.variants import VARIANTS, VariantSpec


@dataclass(frozen=True)
class CachedFile:
    """One variant's place in the cache.

    Args:
        spec: the variant.
        path: of its weights, whether they are there or not.
        sha256: checksum of that file; None if it does not exist.
    """

    spec: VariantSpec
    path: Path
    sha256: str | None

    @property
    def state(self) -> str:
        """``absent``, ``verified``, ``damaged``, or ``unverified`` (no checksum is known)."""
        if self.sha256 is None:
            return "absent"
        if self.spec.sha256 is None:
            return "unverified"
        return "verified" if self.sha256 == self.spec.sha256 else "damaged"


def cache_folder() -> Path:
    """Return the folder of weights: ``ITERREG_WEIGHTS`` if set, else in the user's cache folder.

    Raises:
        WeightsError: the user has no home, and ``ITERREG_WEIGHTS`` is not set.
    """
    if chosen := os.environ.get("ITERREG_WEIGHTS"):
        return Path(os.path.expanduser(chosen))
    own = system_folder()
    if own is None:
        raise WeightsError("weights: this user has no home to keep them in: set ITERREG_WEIGHTS")
    return own / "weights"


def cached_weights(spec: VariantSpec) -> Path:
    """Return the path of a variant's weights in the cache.

    Raises:
        WeightsError: they are not there; the message says how to get them.
    """
    path = cache_folder() / spec.file
    if os.path.exists(path):
        return path
    raise WeightsError(f"{spec.name}: no weights at {path}; {how_to_get(spec)}")


def how_to_get(spec: VariantSpec) -> str:
    """Explain in words how to get a variant's weights."""
    if spec.url is not None:
        get = f"run: iterreg weights fetch {spec.name}"
    else:
        get = (
            f"get {spec.file} from {spec.project} and put it there, or, if you have a link, run: "
            f"iterreg weights fetch {spec.name} --url URL --sha256 HEX"
        )
    return f"{get} (licence {spec.licence}); or pass a file that you have with --checkpoint"


def inspect_cache() -> Iterator[CachedFile]:
    """Yield every variant with its file in the cache; existing files are read to verify them."""
    for spec in VARIANTS.values():
        path = cache_folder() / spec.file
        yield CachedFile(spec, path, checksum(path) if os.path.isfile(path) else None)


def fetch(
    spec: VariantSpec,
    url: str | None = None,
    on_bytes: ByteCounter | None = None,
    sha256: str | None = None,
) -> Path:
    """Download a variant's weights into the cache, unless they are there already.

    Data goes into a ``.part`` file, which is renamed when it is complete and its checksum is right.
    An interrupted download is resumed. One process at a time downloads into a cache.

    Args:
        spec: the variant.
        url: http or https; None takes the authors' link.
        on_bytes: called as data arrives.
        sha256: the file's checksum, 64 hexadecimal digits, for a variant of which none is known.

    Returns:
        The path of the weights.

    Raises:
        WeightsError: no link or no checksum is known, the server cannot be reached or sends
            something else, the connection breaks, or the checksum is wrong.
        OutputError: the cache cannot be written, or another process is downloading into it.
    """
    path = cache_folder() / spec.file
    expected = _expected(spec, sha256)
    if os.path.isfile(path) and expected in (None, checksum(path)):
        return path
    source = url or spec.url
    if source is None:
        raise WeightsError(f"{spec.name}: no link to its weights is known; {how_to_get(spec)}")
    require_link(source)
    if expected is None:
        raise WeightsError(
            f"{spec.name}: no checksum of its weights is known: give the publisher's with --sha256"
        )
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with folder_lock(path.parent):
        _fetch_verified(spec, source, path, expected, on_bytes or (lambda done, total: None))
    return path


def _expected(spec: VariantSpec, given: str | None) -> str | None:
    """The checksum that the file must have.

    Raises:
        WeightsError: what was given is none, or contradicts the published one.
    """
    if given is None:
        return spec.sha256
    if not re.fullmatch("[0-9a-fA-F]{64}", given):
        raise WeightsError(f"sha256: expected 64 hexadecimal digits, got {given[:80]!r}")
    if spec.sha256 not in (None, given.lower()):
        raise WeightsError(f"sha256: the published one of {spec.name} is {spec.sha256}")
    return given.lower()


def _fetch_verified(
    spec: VariantSpec, source: str, path: Path, expected: str, on_bytes: ByteCounter
) -> None:
    # Part files are named by their link: never append one link's data to another's.
    part = path.with_name(f"{path.name}.{hashlib.sha256(source.encode()).hexdigest()[:8]}.part")
    resumed = os.path.exists(part)
    with writing(path):
        if not (resumed and checksum(part) == expected):
            download(source, part, on_bytes)
        got = checksum(part)
        if got != expected and resumed:  # the server's file may have changed in between
            part.unlink()
            download(source, part, on_bytes)
            got = checksum(part)
        if got != expected:
            part.unlink()
            raise WeightsError(
                f"{source}: not the weights of {spec.name}: expected sha256 {expected}, got "
                f"{got}; the download was deleted"
            )
        reach_disk(part)
        part.replace(path)
        reach_disk(path.parent)
