"""A real S3 server for the tests of one worker: SeaweedFS, on this machine's loopback only."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KEY, SECRET = "tester", "not-a-secret"
BUCKET = "vault"
WAIT_S = 60.0
_PORTS = ("master", "volume", "filer", "s3", "admin")


class Seaweed:
    """`weed mini` under a folder; `kill` and `start` again keep what was stored."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = _free_ports(2 * len(_PORTS) + 2)
        self._process: subprocess.Popen[bytes] | None = None
        self._holds = False
        self.endpoint = f"http://127.0.0.1:{self._ports[_PORTS.index('s3')]}"

    def url(self, prefix: str | None = None) -> str:
        """A store of its own in the bucket."""
        return f"s3://{BUCKET}/{prefix or uuid.uuid4().hex}?endpoint={self.endpoint}"

    def start(self) -> None:
        weed = shutil.which("weed") or str(Path(sys.executable).with_name("weed"))
        grpc = len(_PORTS)
        ports = [f"-{name}.port={self._ports[i]}" for i, name in enumerate(_PORTS)]
        ports += [f"-{name}.port.grpc={self._ports[grpc + i]}" for i, name in enumerate(_PORTS)]
        ports += [f"-s3.port.iceberg={self._ports[-2]}", f"-s3.port.lance={self._ports[-1]}"]
        logs = self._folder / "logs"
        logs.mkdir(exist_ok=True)
        (self._folder / "data").mkdir(exist_ok=True)
        command = [
            weed, f"-logdir={logs}", "mini", f"-dir={self._folder / 'data'}", "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1", f"-bucket={BUCKET}", "-admin.ui=false", "-webdav=false", *ports,
        ]  # fmt: skip
        account = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
        with (self._folder / "weed.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=os.environ | account | {"GOMEMLIMIT": "300MiB"},
            )
        self._wait()

    def kill(self) -> None:
        """kill -9, and the end of it."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def _wait(self) -> None:
        """Until the bucket gives what it held before a kill, and takes more.

        The object has content: an empty one needs no volume, and the volumes answer last.
        """
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        once = Config(retries={"total_max_attempts": 1}, connect_timeout=1, read_timeout=5)
        client = boto3.client(
            "s3", endpoint_url=self.endpoint, region_name="us-east-1", config=once,
            aws_access_key_id=KEY, aws_secret_access_key=SECRET,
        )  # fmt: skip
        deadline = time.monotonic() + WAIT_S
        while True:
            assert self._process is not None
            assert self._process.poll() is None, (self._folder / "weed.log").read_text()[-2000:]
            try:
                if self._holds:
                    client.get_object(Bucket=BUCKET, Key="ready")["Body"].read()
                client.put_object(Bucket=BUCKET, Key="ready", Body=b"ready")
                self._holds = True
                return
            except (BotoCoreError, ClientError):
                assert time.monotonic() < deadline, "SeaweedFS did not start"
                time.sleep(0.05)


@contextmanager
def running() -> Iterator[Seaweed]:
    with tempfile.TemporaryDirectory(prefix="weed-") as folder:
        server = Seaweed(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.kill()


def get(url: str) -> bytes:
    """What anyone who has the URL reads, without credentials. Raises HTTPError."""
    with contextlib.closing(urllib.request.urlopen(url, timeout=30)) as answer:
        content: bytes = answer.read()
        return content


def _free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    try:
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()
