"""The cache of weights, and fetching into it from a real server on this machine."""

from __future__ import annotations

import hashlib
import re
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from iterreg.cli import iterreg
from iterreg.errors import ExitCode, OutputError, WeightsError
from iterreg.samreg import download, weights
from iterreg.samreg.loading import load_segmenter
from iterreg.samreg.variants import VARIANTS

CONTENT = bytes(range(256)) * 4000
SPEC = replace(VARIANTS["sam_vit_b"], sha256=hashlib.sha256(CONTENT).hexdigest())


class Server(ThreadingHTTPServer):
    """Serves one file; ``behaviour`` says how, ``ranges`` is what was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behaviour = "ranges"
        self.ranges: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_port}/weights.pth"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has seen enough hangs up."""


class Handler(BaseHTTPRequestHandler):
    """Answers as a file server does, or as a bad one."""

    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        if self.server.behaviour == "missing":
            return self.send_error(404)
        if self.server.behaviour.startswith("to "):
            self.send_response(302)
            self.send_header("Location", self.server.behaviour.removeprefix("to "))
            return self.end_headers()
        if self.server.behaviour == "endless":
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                while True:
                    self.wfile.write(CONTENT)
            return None
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if self.server.behaviour == "no ranges":
            start = 0
        if start >= len(CONTENT):
            self.send_response(416)
            return self.end_headers()
        body = CONTENT[start:]
        self.send_response(206 if start else 200)
        if self.server.behaviour == "another range":
            self.send_header("Content-Range", f"bytes 0-9/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(body)))
        html = self.server.behaviour == "web page"
        self.send_header("Content-Type", "text/html" if html else "application/octet-stream")
        self.end_headers()
        if self.server.behaviour == "cut":
            body = body[: len(body) // 2]
        if self.server.behaviour == "corrupt":
            body = body[:-1] + b"!"
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("ITERREG_WEIGHTS", str(folder))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(f.name for f in folder.iterdir())


def test_fetch(server: Server, cache: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    path = weights.fetch(SPEC, server.url, lambda done, total: seen.append((done, total)))
    assert path == cache / SPEC.file
    assert path.read_bytes() == CONTENT
    assert names(cache) == [SPEC.file]
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_what_is_there_is_not_fetched_again(server: Server, cache: Path) -> None:
    cache.mkdir()
    (cache / SPEC.file).write_bytes(CONTENT)
    weights.fetch(SPEC, server.url)
    assert server.ranges == []


def test_a_damaged_file_is_replaced(server: Server, cache: Path) -> None:
    cache.mkdir()
    (cache / SPEC.file).write_bytes(CONTENT[:-1])
    assert weights.fetch(SPEC, server.url).read_bytes() == CONTENT


def test_a_cut_download_goes_on_where_it_stopped(server: Server, cache: Path) -> None:
    server.behaviour = "cut"
    half = len(CONTENT) // 2
    with pytest.raises(WeightsError, match=f"after {half} of {len(CONTENT)} bytes"):
        weights.fetch(SPEC, server.url)
    assert not (cache / SPEC.file).exists()
    server.behaviour = "ranges"
    assert weights.fetch(SPEC, server.url).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={half}-"]
    assert names(cache) == [SPEC.file]


def test_a_server_without_ranges_sends_it_all_again(server: Server) -> None:
    server.behaviour = "cut"
    with pytest.raises(WeightsError):
        weights.fetch(SPEC, server.url)
    server.behaviour = "no ranges"
    seen: list[tuple[int, int | None]] = []
    path = weights.fetch(SPEC, server.url, lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def part_of(server: Server, cache: Path) -> Path:
    """The name of the unfinished file of this link."""
    server.behaviour = "cut"
    with pytest.raises(WeightsError):
        weights.fetch(SPEC, server.url)
    server.behaviour = "ranges"
    server.ranges.clear()
    (part,) = cache.glob("*.part")
    return part


def test_an_unfinished_file_that_is_whole_is_taken(server: Server, cache: Path) -> None:
    part_of(server, cache).write_bytes(CONTENT)
    assert weights.fetch(SPEC, server.url).read_bytes() == CONTENT
    assert server.ranges == []


def test_an_unfinished_file_that_is_too_long_is_begun_anew(server: Server, cache: Path) -> None:
    part_of(server, cache).write_bytes(b"?" * (len(CONTENT) + 5))
    assert weights.fetch(SPEC, server.url).read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(CONTENT) + 5}-", None]


def test_a_wrong_checksum_leaves_nothing(server: Server, cache: Path) -> None:
    server.behaviour = "corrupt"
    with pytest.raises(WeightsError, match=f"expected sha256 {SPEC.sha256}"):
        weights.fetch(SPEC, server.url)
    assert names(cache) == []


def test_a_file_that_changed_on_the_server_is_begun_anew(server: Server, cache: Path) -> None:
    part_of(server, cache).write_bytes(b"of an older file")
    assert weights.fetch(SPEC, server.url).read_bytes() == CONTENT
    assert server.ranges == ["bytes=16-", None]
    assert names(cache) == [SPEC.file]


def test_an_answer_for_another_range_is_not_appended(server: Server, cache: Path) -> None:
    part_of(server, cache)
    server.behaviour = "another range"
    assert weights.fetch(SPEC, server.url).read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(CONTENT) // 2}-", None]


def test_a_file_that_is_too_large_is_refused_at_once(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "LARGEST_BYTES", len(CONTENT) - 1)
    with pytest.raises(WeightsError, match=f"at most {len(CONTENT) - 1} bytes"):
        weights.fetch(SPEC, server.url)
    assert names(cache) == []


def test_a_server_that_never_ends_does_not_fill_the_disk(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.behaviour = "endless"
    monkeypatch.setattr(download, "LARGEST_BYTES", 5_000_000)
    with pytest.raises(WeightsError, match="at most 5000000 bytes"):
        weights.fetch(SPEC, server.url)
    assert sum(f.stat().st_size for f in cache.iterdir()) <= 5_000_000


def test_a_download_has_an_end(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.behaviour = "endless"
    monkeypatch.setattr(download, "LONGEST_S", 0.0)
    with pytest.raises(WeightsError, match="not complete after 0 hours"):
        weights.fetch(SPEC, server.url)


def test_redirects_keep_what_kind_of_link_it_is(server: Server, cache: Path) -> None:
    with Server() as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        server.behaviour = f"to {other.url}"
        assert weights.fetch(SPEC, server.url).read_bytes() == CONTENT
        other.shutdown()
        thread.join()
    (cache / SPEC.file).unlink()
    for target in ("ftp://127.0.0.1/x", "file:///etc/hostname", "x://y"):
        server.behaviour = f"to {target}"
        with pytest.raises(WeightsError):
            weights.fetch(SPEC, server.url)
    assert names(cache) == []
    request = urllib.request.Request("https://127.0.0.1/weights.pth")
    with pytest.raises(WeightsError, match="from https to http"):
        download._Redirects().redirect_request(
            request, BytesIO(), 302, "", {}, "http://127.0.0.1/x"
        )


def test_a_link_in_place_of_the_unfinished_file_is_not_followed(
    server: Server, cache: Path, tmp_path: Path
) -> None:
    part = part_of(server, cache)
    part.unlink()
    part.symlink_to(tmp_path / "somewhere")
    with pytest.raises(OutputError, match="cannot be written"):
        weights.fetch(SPEC, server.url)
    assert not (tmp_path / "somewhere").exists()


def test_a_second_download_at_the_same_time_is_told(server: Server, cache: Path) -> None:
    cache.mkdir()
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from iterreg.atomic import folder_lock\n"
        "with folder_lock(Path(sys.argv[1])):\n"
        "    print('locked', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(cache)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"locked\n"
        with pytest.raises(OutputError, match="another run of iterreg"):
            weights.fetch(SPEC, server.url)
        holder.communicate(b"")
    assert weights.fetch(SPEC, server.url).read_bytes() == CONTENT


def test_without_a_checksum_nothing_is_fetched(server: Server, cache: Path) -> None:
    unknown = replace(SPEC, sha256=None)
    with pytest.raises(WeightsError, match="--sha256"):
        weights.fetch(unknown, server.url)
    assert server.ranges == [] and not cache.exists()
    for wrong in ("", "abc", "g" * 64, "0" * 65):
        with pytest.raises(WeightsError, match="64 hexadecimal digits"):
            weights.fetch(unknown, server.url, sha256=wrong)
    with pytest.raises(WeightsError, match="expected sha256 0000"):
        weights.fetch(unknown, server.url, sha256="0" * 64)
    with pytest.raises(WeightsError, match="the published one"):
        weights.fetch(SPEC, server.url, sha256="0" * 64)
    assert SPEC.sha256 is not None
    path = weights.fetch(unknown, server.url, sha256=SPEC.sha256.upper())
    assert path.read_bytes() == CONTENT


ODD_LINKS = (
    "http://[::1",
    "http://☃.invalid/x",
    "http://",
    "http:///x",
    "http://x:99999999/y",
    "http://x:abc/y",
    "http://a b/c",
    "http://..a/x",
    "http://[::ffff:1.1.1.1.1]/",
    "http://" + "x" * 100_000 + "/y",
    "http://x\n.invalid/y",
    "ftp://x/y",
    "data:text/plain,x",
    "weights.pth",
)


@pytest.mark.parametrize("url", ODD_LINKS, ids=lambda url: ascii(url[:30]))
def test_odd_links_are_refused(url: str, cache: Path) -> None:
    with pytest.raises(WeightsError, match="expected a link"):
        weights.fetch(SPEC, url)
    assert not cache.exists()


@pytest.mark.parametrize(
    ("behaviour", "phrase"), [("missing", "404"), ("web page", "got a web page")]
)
def test_servers_that_have_something_else(
    behaviour: str, phrase: str, server: Server, cache: Path
) -> None:
    server.behaviour = behaviour
    with pytest.raises(WeightsError, match=phrase):
        weights.fetch(SPEC, server.url)
    assert names(cache) == []


def test_no_server() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(WeightsError, match=r"cannot be fetched: .*refused"):
        weights.fetch(SPEC, f"http://127.0.0.1:{port}/weights.pth")


def test_links_of_another_kind() -> None:
    with pytest.raises(WeightsError, match="http"):
        weights.fetch(SPEC, "file:///etc/hostname")


def test_a_cache_that_cannot_be_written(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ITERREG_WEIGHTS", str(tmp_path / "file" / "cache"))
    with pytest.raises(OutputError, match="cannot be written"):
        weights.fetch(SPEC, server.url)


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ITERREG_WEIGHTS")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert weights.cache_folder() == tmp_path / "iterreg" / "weights"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert weights.cache_folder() == tmp_path / ".cache" / "iterreg" / "weights"


@pytest.mark.parametrize("name", VARIANTS)
def test_without_weights_the_message_says_what_to_do(
    name: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **more: object) -> None:
        raise AssertionError("something was downloaded without being asked for")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(WeightsError) as caught:
        load_segmenter(name, None, torch.device("cpu"))
    text = str(caught.value)
    assert text.startswith(f"{name}: no weights at {cache / VARIANTS[name].file}")
    assert f"iterreg weights fetch {name}" in text
    assert "--checkpoint" in text


def test_damaged_weights_in_the_cache_are_not_used(cache: Path) -> None:
    cache.mkdir()
    torch.save({"weight": torch.zeros(3)}, cache / SPEC.file)
    with pytest.raises(WeightsError, match="damaged: expected sha256"):
        load_segmenter(SPEC.name, None, torch.device("cpu"))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(iterreg, ["weights", *arguments])


def require_refused(result: Result, code: ExitCode, phrase: str) -> None:
    assert result.exit_code == code, result.output
    (line,) = [line for line in result.stderr.splitlines() if " %  " not in line]
    assert line.startswith("iterreg: error: ")
    assert "bug in iterreg" not in line
    assert phrase in line


def test_list(cache: Path) -> None:
    cache.mkdir()
    (cache / VARIANTS["sam_vit_b"].file).write_bytes(b"not the weights")
    (cache / VARIANTS["medsam"].file).write_bytes(b"anything")
    result = run("list")
    assert result.exit_code == ExitCode.OK
    rows = [re.split(r" {2,}", line) for line in result.stdout.splitlines()]
    table = {row[0]: row for row in rows if row[0] in VARIANTS}
    assert list(table) == list(VARIANTS)
    assert table["sam_vit_b"][3] == "damaged"
    assert table["medsam"][3] == "yes"
    assert table["mobile_sam"][3:] == ["no", "yes"]
    assert {row[4] for name, row in table.items() if name != "mobile_sam"} == {"no"}
    assert str(cache) in result.stdout


def test_verify(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VARIANTS, SPEC.name, SPEC)
    assert "no weights" in run("verify").stdout
    cache.mkdir()
    (cache / SPEC.file).write_bytes(CONTENT)
    (cache / VARIANTS["medsam"].file).write_bytes(b"anything")
    good = run("verify")
    assert good.exit_code == ExitCode.OK
    assert "sam_vit_b: sha256 matches the published one" in good.stdout
    assert "medsam: no published sha256" in good.stdout
    (cache / SPEC.file).write_bytes(CONTENT[1:])
    require_refused(run("verify"), ExitCode.WEIGHTS, "sam_vit_b: damaged")
    assert run("verify", "medsam").exit_code == ExitCode.OK
    require_refused(run("verify", "sam_vit_l"), ExitCode.WEIGHTS, "sam_vit_l: absent")


def test_fetch_from_the_command_line(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(VARIANTS, SPEC.name, SPEC)
    result = run("fetch", "sam_vit_b", "--url", server.url)
    assert result.exit_code == ExitCode.OK, result.output
    assert result.stdout.strip() == str(cache / SPEC.file)
    quiet = run("fetch", "sam_vit_b", "--url", server.url, "--quiet")
    assert (quiet.exit_code, quiet.output) == (ExitCode.OK, "")


def test_fetch_from_the_command_line_refuses(server: Server) -> None:
    require_refused(run("fetch", "sam_vit_x"), ExitCode.CONFIG, "sam_vit_b")
    require_refused(run("fetch", "medsam"), ExitCode.WEIGHTS, "--url")
    server.behaviour = "corrupt"
    refused = run("fetch", "sam_vit_b", "--url", server.url)
    require_refused(refused, ExitCode.WEIGHTS, "expected sha256")
    assert run("fetch").exit_code == ExitCode.USAGE
