"""The disk works while a file is written, and its errors are not lost."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

import pytest

from registry import storage
from registry.storage import EarlySync


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes that the file had at each sync."""
    sizes: list[int] = []

    def sync(handle: int) -> None:
        sizes.append(os.fstat(handle).st_size)

    monkeypatch.setattr(storage, "SYNC_EVERY", 100)
    monkeypatch.setattr(storage, "_datasync", sync)
    return sizes


@pytest.fixture
def stream(tmp_path: Path) -> Iterator[FileIO]:
    with FileIO(tmp_path / "file", "w") as opened:
        yield opened


def test_a_short_file_needs_no_thread(stream: FileIO, synced: list[int]) -> None:
    threads = threading.active_count()
    with EarlySync(stream.fileno()) as disk:
        stream.write(bytes(99))
        disk.wrote(99)
        assert threading.active_count() == threads
    assert synced == []


def test_a_long_one_is_sent_on_its_way_and_the_thread_ends(
    stream: FileIO, synced: list[int]
) -> None:
    threads = threading.active_count()
    with EarlySync(stream.fileno()) as disk:
        for _ in range(30):
            stream.write(bytes(50))
            disk.wrote(50)
    assert synced == sorted(synced)
    assert synced[0] >= 100
    assert threading.active_count() == threads


def test_what_a_sync_failed_with_is_raised(stream: FileIO, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(storage, "SYNC_EVERY", 100)
    monkeypatch.setattr(storage, "_datasync", full)
    with pytest.raises(OSError, match="no space"), EarlySync(stream.fileno()) as disk:
        disk.wrote(100)


def test_whoever_writes_may_fail_meanwhile(stream: FileIO, synced: list[int]) -> None:
    def write() -> None:
        with EarlySync(stream.fileno()) as disk:
            disk.wrote(100)
            raise KeyError

    with pytest.raises(KeyError):
        write()
    assert synced == [0]
