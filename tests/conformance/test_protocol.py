"""The client under test by itself: the protocol of tuf-conformance on our own repository.

The public suite is on no package registry; `make conformance SUITE=DIR` runs a checkout of it.
"""

from __future__ import annotations

import functools
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from trust import Vault
from world import Clock

CLIENT = Path(__file__).with_name("tuf_client.py")

pytestmark = pytest.mark.slow


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


class Suite:
    """A repository behind HTTP, and the client's two folders."""

    def __init__(self, folder: Path, url: str, vault: Vault) -> None:
        self.vault = vault
        self.url = url
        self.metadata = folder / "metadata"
        self.targets = folder / "targets"
        self.metadata.mkdir()
        self.targets.mkdir()

    def run(self, *words: str) -> int:
        return subprocess.run(
            [sys.executable, str(CLIENT), "--metadata-dir", str(self.metadata), *words],
            cwd=CLIENT.parents[2], check=False, capture_output=True,
        ).returncode  # fmt: skip

    def init(self) -> int:
        return self.run("init", str(self.vault.folder / "metadata" / "1.root.json"))

    def refresh(self) -> int:
        return self.run("--metadata-url", f"{self.url}/metadata", "refresh")

    def download(self, *names: str) -> int:
        wanted = [word for name in names for word in ("--target-name", name)]
        return self.run(
            "--metadata-url", f"{self.url}/metadata", *wanted,
            "--target-base-url", f"{self.url}/targets", "--target-dir", str(self.targets),
            "download",
        )  # fmt: skip


@pytest.fixture
def suite(tmp_path: Path) -> Iterator[Suite]:
    import time

    vault = Vault(tmp_path / "home", Clock(time.time())).init()
    vault.approvals.put_file("keyring.json", b'{"keys": []}')
    handler = functools.partial(Quiet, directory=str(vault.folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Suite(tmp_path, f"http://127.0.0.1:{server.server_address[1]}", vault)
    server.shutdown()
    server.server_close()
    thread.join()


def test_init_refresh_and_download(suite: Suite) -> None:
    assert suite.init() == 0
    assert suite.refresh() == 0
    assert {"root.json", "timestamp.json", "snapshot.json", "targets.json"} <= {
        path.name for path in suite.metadata.iterdir()
    }
    assert suite.download("keyring.json") == 0
    assert [path.read_bytes() for path in suite.targets.iterdir()] == [b'{"keys": []}']
    assert suite.download("keyring.json", "nothing.json") == 1


def test_forged_metadata_is_exit_status_1(suite: Suite) -> None:
    assert suite.init() == 0
    path = suite.vault.folder / "metadata" / "timestamp.json"
    path.write_bytes(path.read_bytes().replace(b'"version":2', b'"version":3'))
    path.write_bytes(path.read_bytes().replace(b'"version": 2', b'"version": 3'))
    assert suite.refresh() == 1
