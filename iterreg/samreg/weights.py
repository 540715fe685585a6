"""The cache of weights: where it is, what lies in it, and fetching when asked to.

Nothing is downloaded unless :func:`fetch` is called.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from iterreg.errors import OutputError, WeightsError
from iterreg.samreg.checkpoint import checksum
from iterreg.samreg.variants import VARIANTS, VariantSpec

PIECE_BYTES = 1 << 20
PATIENCE_S = 60.0
"""How long a server may be silent."""

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are here and how many there are in all, where that is known."""


@dataclass(frozen=True)
class CachedFile:
    """One variant's place in the cache.

    Args:
        spec: the variant.
        path: where its weights are or would be.
        sha256: what lies there; None where nothing does.
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
    """Where weights are kept: ``ITERREG_WEIGHTS``, or the platform's folder for caches."""
    if chosen := os.environ.get("ITERREG_WEIGHTS"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "iterreg" / "weights"


def cached_weights(spec: VariantSpec) -> Path:
    """A variant's weights in the cache.

    Raises:
        WeightsError: they are not there; the message says what to do.
    """
    path = cache_folder() / spec.file
    if path.exists():
        return path
    raise WeightsError(f"{spec.name}: no weights at {path}; {how_to_get(spec)}")


def how_to_get(spec: VariantSpec) -> str:
    """What a user does to have a variant's weights, in words."""
    if spec.url is not None:
        get = f"run: iterreg weights fetch {spec.name}"
    else:
        get = (
            f"get {spec.file} from {spec.project} and put it there, or, with a link to it, run: "
            f"iterreg weights fetch {spec.name} --url URL"
        )
    return f"{get} (licence {spec.licence}); or name a file that you have with --checkpoint"


def inspect_cache() -> Iterator[CachedFile]:
    """Every variant and what the cache holds for it; files that are there are read whole."""
    for spec in VARIANTS.values():
        path = cache_folder() / spec.file
        yield CachedFile(spec, path, checksum(path) if path.is_file() else None)


def fetch(spec: VariantSpec, url: str | None = None, progress: Progress | None = None) -> Path:
    """Download a variant's weights into the cache, unless they are there.

    What arrives is kept in a ``.part`` file and takes its name once it is whole and its checksum
    right; an interrupted download goes on where it stopped.

    Args:
        spec: the variant.
        url: http or https; None takes the authors'.
        progress: called as it arrives.

    Returns:
        Where the weights are.

    Raises:
        WeightsError: no link is known, the server cannot be reached or has something else, the
            connection broke, or the checksum is wrong.
        OutputError: the cache cannot be written.
    """
    path = cache_folder() / spec.file
    if path.is_file() and spec.sha256 in (None, checksum(path)):
        return path
    source = url or spec.url
    if source is None:
        raise WeightsError(f"{spec.name}: no link to its weights is known; {how_to_get(spec)}")
    if urlsplit(source).scheme not in ("http", "https"):
        raise WeightsError(f"{source}: expected a link that begins with http:// or https://")
    # Another link's beginning must not be continued with this one's end.
    part = path.with_name(f"{path.name}.{hashlib.sha256(source.encode()).hexdigest()[:8]}.part")
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not (part.exists() and checksum(part) == spec.sha256):
            _download(source, part, progress or (lambda done, total: None))
        got = checksum(part)
        if spec.sha256 not in (None, got):
            part.unlink()
            raise WeightsError(
                f"{source}: not the weights of {spec.name}: expected sha256 {spec.sha256}, got "
                f"{got}; nothing was kept"
            )
        part.replace(path)
    return path


def _download(url: str, part: Path, progress: Progress) -> None:
    """Bring ``part`` to its full length."""
    have = part.stat().st_size if part.exists() else 0
    answer = _asked(url, have)
    if answer is None:
        part.unlink()
        have, answer = 0, _asked(url, 0)
        assert answer is not None
    with answer:
        if answer.headers.get_content_type() == "text/html":
            raise WeightsError(f"{url}: expected a file, got a web page")
        goes_on = answer.status == http.HTTPStatus.PARTIAL_CONTENT
        have = have if goes_on else 0
        coming = answer.headers.get("Content-Length") or ""
        total = have + int(coming) if coming.isdigit() else None
        with part.open("ab" if goes_on else "wb") as file:
            for piece in _pieces(answer, url):
                file.write(piece)
                have += len(piece)
                progress(have, total)
    if total is not None and have < total:
        raise WeightsError(
            f"{url}: the connection ended after {have} of {total} bytes; run it again to go on"
        )


def _asked(url: str, have: int) -> http.client.HTTPResponse | None:
    """The server's answer from byte ``have`` on; None where it says that there is no such byte."""
    request = urllib.request.Request(url, headers={"User-Agent": "iterreg"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with _network(url):
        try:
            answer: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=PATIENCE_S)
            return answer
        except urllib.error.HTTPError as error:
            if have and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return None
            raise


def _pieces(answer: http.client.HTTPResponse, url: str) -> Iterator[bytes]:
    while True:
        with _network(url):
            piece = answer.read(PIECE_BYTES)
        if not piece:
            return
        yield piece


@contextmanager
def _network(url: str) -> Iterator[None]:
    try:
        yield
    except urllib.error.HTTPError as error:
        raise WeightsError(f"{url}: the server answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error or type(error).__name__
        raise WeightsError(f"{url}: cannot be fetched: {reason}") from error


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{path}: the weights cannot be written: {error.strerror or error}"
        ) from error
