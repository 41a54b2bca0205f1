"""What is particular to blobs in a folder: killed writers, full disks, read-only files."""

import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from registry.blobs.folder import FolderBlobs
from registry.errors import Corrupt, ServiceFailed
from registry.versions import digest_bytes


@pytest.fixture
def blobs(tmp_path: Path) -> FolderBlobs:
    return FolderBlobs(tmp_path / "blobs")


def test_a_stored_file_is_read_only(blobs: FolderBlobs) -> None:
    mode = blobs.path(blobs.put(b"x")).stat().st_mode
    assert not mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)


@pytest.mark.parametrize("damage", ["flip", "cut", "grow"])
def test_damaged_bytes_are_repaired_by_putting_the_right_ones(
    blobs: FolderBlobs, damage: str
) -> None:
    content = b"policy" * 1000
    digest = blobs.put(content)
    path = blobs.path(digest)
    path.chmod(0o644)
    bad = {"flip": b"P" + content[1:], "cut": content[:-1], "grow": content + b"."}[damage]
    path.write_bytes(bad)
    with pytest.raises(Corrupt) as refused:
        blobs.read(digest)
    assert str(path) in refused.value.evidence
    assert blobs.put(content) == digest
    assert blobs.read(digest) == content


PUT = """
import sys
from pathlib import Path
from registry.blobs.folder import FolderBlobs
FolderBlobs(Path(sys.argv[1])).put(sys.stdin.buffer)
"""


def test_a_writer_killed_in_the_middle_leaves_no_blob(blobs: FolderBlobs) -> None:
    command = [sys.executable, "-c", PUT, str(blobs.root)]
    writer = subprocess.Popen(command, stdin=subprocess.PIPE)
    assert writer.stdin is not None
    half = os.urandom(3 << 20)
    writer.stdin.write(half)
    writer.stdin.flush()
    tmp = blobs.root / "tmp"
    while not any(path.stat().st_size for path in (tmp.iterdir() if tmp.is_dir() else ())):
        assert writer.poll() is None
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert not (blobs.root / "sha256").exists()
    assert blobs.put(half) == digest_bytes(half)
    assert blobs.sweep(older_than_s=-1.0) == 1
    assert blobs.read(digest_bytes(half)) == half


FULL = """
import resource, sys
from pathlib import Path
from registry.blobs.folder import FolderBlobs
from registry.errors import ServiceFailed
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    FolderBlobs(Path(sys.argv[1])).put(bytes(2 << 20))
except ServiceFailed as error:
    print(error)
    sys.exit(error.exit_status)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no file size limits here")
def test_a_full_disk_is_said_and_leaves_nothing(blobs: FolderBlobs) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(blobs.root)], capture_output=True, text=True, check=False
    )
    assert done.returncode == ServiceFailed.exit_status, done.stderr
    assert "the disk is full" in done.stdout
    assert [path for path in blobs.root.rglob("*") if path.is_file()] == []
