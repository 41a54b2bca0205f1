"""The fetcher on real sockets: cut, slow, silent, endless, and servers that know no ranges."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tuf.api.exceptions import SlowRetrievalError
from tuf.api.metadata import TargetFile

import registry.trust.fetcher as fetcher
from registry.errors import Corrupt, NotFound, ServiceFailed
from registry.trust.fetcher import HttpSource, download

CONTENT = bytes(range(256)) * 2000
Behaviour = Callable[["Server", bytes], None]


class Server(BaseHTTPRequestHandler):
    """Serves CONTENT at /file; `behave` sends the body."""

    behave: Behaviour
    ranges = True
    asked: list[int]

    def do_GET(self) -> None:
        start = 0
        if found := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(found[1])
        type(self).asked.append(start)
        if self.path != "/file":
            self.send_error(404)
            return
        body = CONTENT[start:] if self.ranges else CONTENT
        self.send_response(206 if start and self.ranges else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        type(self).behave(self, body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(behave: Behaviour, ranges: bool = True) -> Iterator[tuple[str, list[int]]]:
    asked: list[int] = []
    handler = type("Handler", (Server,), {"behave": behave, "ranges": ranges, "asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/file", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def whole(server: Server, body: bytes) -> None:
    server.wfile.write(body)


def target(content: bytes = CONTENT) -> TargetFile:
    return TargetFile.from_data("file", content, ["sha256", "sha512"])


def test_a_download_has_its_name_when_it_is_whole(tmp_path: Path) -> None:
    with serving(whole) as (url, asked):
        assert download(HttpSource(), url, target(), tmp_path / "file") == len(CONTENT)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert asked == [0]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_download_goes_on_at_the_byte(tmp_path: Path, ranges: bool) -> None:
    cuts = iter([70_000, 10, 100_000])

    def cut(server: Server, body: bytes) -> None:
        server.wfile.write(body[: next(cuts, len(body))] if ranges else body[:-1])

    with serving(cut if ranges else whole, ranges) as (url, asked):
        if not ranges:
            (tmp_path / "file.part").write_bytes(CONTENT[:1000])
        came = download(HttpSource(), url, target(), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    if ranges:
        assert came == len(CONTENT), "no byte came twice"
        assert asked == [0, 70_000, 70_010, 170_010]
    else:
        assert came == len(CONTENT) - 1000


def test_what_a_killed_agent_left_is_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT[:300_000])
    with serving(whole) as (url, asked):
        assert download(HttpSource(), url, target(), tmp_path / "file") == len(CONTENT) - 300_000
    assert asked == [300_000]


@pytest.mark.parametrize("left", [b"x" * 1000, b"x" * len(CONTENT), b"x" * (len(CONTENT) + 9)])
def test_what_was_left_and_is_not_its_beginning_is_fetched_anew(
    tmp_path: Path, left: bytes
) -> None:
    (tmp_path / "file.part").write_bytes(left)
    with serving(whole) as (url, _):
        download(HttpSource(), url, target(), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("wrong", [CONTENT[:-1] + b"!", CONTENT[:-5], CONTENT + b"!"])
def test_other_bytes_than_approved_leave_nothing(tmp_path: Path, wrong: bytes) -> None:
    with serving(whole) as (url, _), pytest.raises(Corrupt):
        download(HttpSource(), url, target(wrong), tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_never_sends_a_byte_more_is_given_up(tmp_path: Path) -> None:
    def stuck(server: Server, body: bytes) -> None:
        server.wfile.write(body[: max(0, 5000 - (len(CONTENT) - len(body)))])

    with serving(stuck) as (url, asked), pytest.raises(ServiceFailed, match="cut"):
        download(HttpSource(), url, target(), tmp_path / "file")
    assert len(asked) == 1 + fetcher.TRIES
    assert (tmp_path / "file.part").stat().st_size == 5000, "what came is kept"


def test_a_trickle_does_not_hold_a_robot_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte now and then never lets a socket time out; the average rate does."""
    monkeypatch.setattr(fetcher, "GRACE_S", 0.5)
    enough = threading.Event()

    def trickle(server: Server, body: bytes) -> None:
        for byte in body:
            if enough.wait(0.02):
                return
            server.wfile.write(bytes([byte]))
            server.wfile.flush()

    with serving(trickle) as (url, _):
        began = time.monotonic()
        with pytest.raises(SlowRetrievalError, match="bytes in"):
            for _ in fetcher.paced(HttpSource()(url, 0)):
                pass
        enough.set()
        assert time.monotonic() - began < 10


def test_a_server_that_falls_silent_is_given_up(tmp_path: Path) -> None:
    enough = threading.Event()

    def silent(server: Server, body: bytes) -> None:
        server.wfile.write(body[:10])
        server.wfile.flush()
        enough.wait(30)

    with serving(silent) as (url, _):
        began = time.monotonic()
        with pytest.raises(SlowRetrievalError, match="nothing came"):
            list(HttpSource(silence_s=0.3)(url, 0))
        enough.set()
        assert time.monotonic() - began < 10


def test_what_is_not_there_and_nobody_home_are_two_things(tmp_path: Path) -> None:
    with serving(whole) as (url, _):
        with pytest.raises(NotFound):
            list(HttpSource()(url + "s", 0))
        gone = url
    with pytest.raises(ServiceFailed, match="not reached"):
        list(HttpSource()(gone, 0))
