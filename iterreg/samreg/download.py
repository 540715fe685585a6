"""Download a file over http: resumed where it stopped, within limits, https kept."""

from __future__ import annotations

import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from iterreg.errors import OutputError, WeightsError

CHUNK_BYTES = 1 << 20
"""Bytes that are read at once."""

TIMEOUT_S = 60.0
"""Longest silence of a server before a download fails."""

LONGEST_S = 6 * 3600.0
"""Longest time that a download may take."""

LARGEST_BYTES = 4 << 30
"""Most bytes of a file; the largest weights have 2.6 GB."""

ByteCounter = Callable[[int, int | None], None]
"""Called with the number of bytes received, and the total number if the server tells it."""


def require_link(url: str) -> None:
    """Refuse what is no link to a file on a server.

    Raises:
        WeightsError: it is not.

    Example:
        >>> require_link("http://[::1")
        Traceback (most recent call last):
        iterreg.errors.WeightsError: http://[::1: expected a link, got: Invalid IPv6 URL
    """
    try:
        parts = urlsplit(url)
        host, _ = (parts.hostname or "").encode("idna"), parts.port
    except ValueError as error:
        raise WeightsError(f"{url}: expected a link, got: {error}") from error
    if parts.scheme not in ("http", "https"):
        raise WeightsError(f"{url}: expected a link that begins with http:// or https://")
    if not host or not url.isascii() or not url.isprintable() or " " in url:
        raise WeightsError(f"{url}: expected a link in plain ASCII letters, with a host")


def download(url: str, part: Path, on_bytes: ByteCounter) -> None:
    """Download a file, or the rest of one.

    Args:
        url: http or https; redirects may lead to https from either, and to http from http alone.
        part: gets the data; what it holds already is not asked for again.
        on_bytes: called as data arrives.

    Raises:
        WeightsError: the server cannot be reached, sends something else, too much, or for too
            long, or the connection ends early. What arrived is kept.
        OSError: the file cannot be written.
    """
    have = part.stat().st_size if os.path.exists(part) else 0
    response = _request(url, have)
    if response is None or not _continues(response, have):
        if response is not None:
            response.close()
        part.unlink(missing_ok=True)
        have, response = 0, _request(url, 0)
        assert response is not None
    with response:
        if response.headers.get_content_type() == "text/html":
            raise WeightsError(f"{url}: expected a file, got a web page")
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        have = have if resumed else 0
        length = response.headers.get("Content-Length") or ""
        total = have + int(length) if re.fullmatch("[0-9]{1,18}", length) else None
        _require_size(url, total or 0)
        with _open(part, resumed) as file:
            have = _receive(response, url, file, (have, total), on_bytes)
    if total is not None and have < total:
        raise WeightsError(
            f"{url}: the connection ended after {have} of {total} bytes; run it again to resume"
        )


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's refusals into one line about a file.

    Raises:
        OutputError: naming it.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{path}: the weights cannot be written: {error.strerror or error}"
        ) from error


def _receive(
    response: http.client.HTTPResponse,
    url: str,
    file: IO[bytes],
    progress: tuple[int, int | None],
    on_bytes: ByteCounter,
) -> int:
    have, total = progress
    end = time.monotonic() + LONGEST_S
    for chunk in _chunks(response, url):
        have += len(chunk)
        _require_size(url, have)
        file.write(chunk)
        on_bytes(have, total)
        if time.monotonic() > end:
            raise WeightsError(
                f"{url}: not complete after {LONGEST_S / 3600:g} hours; run it again to resume"
            )
    return have


def _require_size(url: str, size: int) -> None:
    if size > LARGEST_BYTES:
        raise WeightsError(f"{url}: expected at most {LARGEST_BYTES} bytes, got more")


def _open(part: Path, append: bool) -> IO[bytes]:
    """Open the file, but never what a link of that name leads to."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | (os.O_APPEND if append else os.O_TRUNC)
    return open(os.open(part, flags, 0o666), "wb")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a link elsewhere, but never from https to anything weaker."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        before, after = (urlsplit(url).scheme.lower() for url in (req.full_url, newurl))
        if after not in ("http", "https") or (before == "https" and after != "https"):
            fp.close()
            raise WeightsError(f"{req.full_url}: refused to follow it from {before} to {after}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _request(url: str, have: int) -> http.client.HTTPResponse | None:
    """Request a file from byte ``have`` on; return None if it has no such byte."""
    headers = {"User-Agent": "iterreg", "Accept-Encoding": "identity"}
    request = urllib.request.Request(url, headers=headers)
    if have:
        request.add_header("Range", f"bytes={have}-")
    with _network(url):
        try:
            opener = urllib.request.build_opener(_Redirects)
            response: http.client.HTTPResponse = opener.open(request, timeout=TIMEOUT_S)
            return response
        except urllib.error.HTTPError as error:
            if have and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return None
            raise


def _continues(response: http.client.HTTPResponse, have: int) -> bool:
    """Whether an answer begins at the byte that was asked for, as far as it says so."""
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        return True
    says = response.headers.get("Content-Range")
    return have > 0 and (says is None or says.strip().startswith(f"bytes {have}-"))


def _chunks(response: http.client.HTTPResponse, url: str) -> Iterator[bytes]:
    while True:
        with _network(url):
            chunk = response.read1(CHUNK_BYTES)
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
