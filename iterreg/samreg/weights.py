"""The cache of weights: its folder, its contents, and downloads.

Nothing is downloaded unless :func:`fetch` is called.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from iterreg.errors import OutputError, WeightsError
from iterreg.folders import system_folder
from iterreg.samreg.checkpoint import checksum
from iterreg.samreg.variants import VARIANTS, VariantSpec

CHUNK_BYTES = 1 << 20
"""Bytes that are read at once."""

TIMEOUT_S = 60.0
"""Longest silence of a server before a download fails."""

ByteCounter = Callable[[int, int | None], None]
"""Called with the number of bytes received, and the total number if the server tells it."""


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
            f"iterreg weights fetch {spec.name} --url URL"
        )
    return f"{get} (licence {spec.licence}); or pass a file that you have with --checkpoint"


def inspect_cache() -> Iterator[CachedFile]:
    """Yield every variant with its file in the cache; existing files are read to verify them."""
    for spec in VARIANTS.values():
        path = cache_folder() / spec.file
        yield CachedFile(spec, path, checksum(path) if os.path.isfile(path) else None)


def fetch(spec: VariantSpec, url: str | None = None, on_bytes: ByteCounter | None = None) -> Path:
    """Download a variant's weights into the cache, unless they are there already.

    Data goes into a ``.part`` file, which is renamed when it is complete and its checksum is right.
    An interrupted download is resumed.

    Args:
        spec: the variant.
        url: http or https; None takes the authors' link.
        on_bytes: called as data arrives.

    Returns:
        The path of the weights.

    Raises:
        WeightsError: no link is known, the server cannot be reached or sends something else, the
            connection breaks, or the checksum is wrong.
        OutputError: the cache cannot be written.
    """
    path = cache_folder() / spec.file
    if os.path.isfile(path) and spec.sha256 in (None, checksum(path)):
        return path
    source = url or spec.url
    if source is None:
        raise WeightsError(f"{spec.name}: no link to its weights is known; {how_to_get(spec)}")
    _require_link(source)
    # Part files are named by their link: never append one link's data to another's.
    part = path.with_name(f"{path.name}.{hashlib.sha256(source.encode()).hexdigest()[:8]}.part")
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not (os.path.exists(part) and checksum(part) == spec.sha256):
            _download(source, part, on_bytes or (lambda done, total: None))
        got = checksum(part)
        if spec.sha256 not in (None, got):
            part.unlink()
            raise WeightsError(
                f"{source}: not the weights of {spec.name}: expected sha256 {spec.sha256}, got "
                f"{got}; the download was deleted"
            )
        part.replace(path)
    return path


def _require_link(url: str) -> None:
    """Refuse what is no link to a file on a server."""
    try:
        parts = urlsplit(url)
        host, _ = (parts.hostname or "").encode("idna"), parts.port
    except ValueError as error:
        raise WeightsError(f"{url}: expected a link, got: {error}") from error
    if parts.scheme not in ("http", "https"):
        raise WeightsError(f"{url}: expected a link that begins with http:// or https://")
    if not host or not url.isascii() or not url.isprintable() or " " in url:
        raise WeightsError(f"{url}: expected a link in plain ASCII letters, with a host")


def _download(url: str, part: Path, on_bytes: ByteCounter) -> None:
    """Download the rest of ``part``."""
    have = part.stat().st_size if os.path.exists(part) else 0
    response = _request(url, have)
    if response is None:
        part.unlink()
        have, response = 0, _request(url, 0)
        assert response is not None
    with response:
        if response.headers.get_content_type() == "text/html":
            raise WeightsError(f"{url}: expected a file, got a web page")
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        have = have if resumed else 0
        length = response.headers.get("Content-Length") or ""
        total = have + int(length) if length.isdigit() else None
        with part.open("ab" if resumed else "wb") as file:
            for chunk in _chunks(response, url):
                file.write(chunk)
                have += len(chunk)
                on_bytes(have, total)
    if total is not None and have < total:
        raise WeightsError(
            f"{url}: the connection ended after {have} of {total} bytes; run it again to resume"
        )


def _request(url: str, have: int) -> http.client.HTTPResponse | None:
    """Request a file from byte ``have`` on; return None if it has no such byte."""
    request = urllib.request.Request(url, headers={"User-Agent": "iterreg"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with _network(url):
        try:
            response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT_S)
            return response
        except urllib.error.HTTPError as error:
            if have and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return None
            raise


def _chunks(response: http.client.HTTPResponse, url: str) -> Iterator[bytes]:
    while True:
        with _network(url):
            chunk = response.read(CHUNK_BYTES)
        if not chunk:
            return
        yield chunk


@contextmanager
def _network(url: str) -> Iterator[None]:
    try:
        yield
    except urllib.error.HTTPError as error:
        raise WeightsError(f"{url}: the server answered {error.code} {error.reason}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
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
