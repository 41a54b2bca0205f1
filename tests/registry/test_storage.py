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
from registry.errors import UsageError
from registry.storage import EarlySync, write_whole


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
    with EarlySync(stream.fileno(), 0) as disk:
        stream.write(bytes(99))
        disk.wrote(99)
        assert threading.active_count() == threads
    assert synced == []


def test_a_long_one_is_sent_on_its_way_and_the_thread_ends(
    stream: FileIO, synced: list[int]
) -> None:
    threads = threading.active_count()
    with EarlySync(stream.fileno(), 0) as disk:
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
    with pytest.raises(OSError, match="no space"), EarlySync(stream.fileno(), 0) as disk:
        disk.wrote(100)


def test_whoever_writes_may_fail_meanwhile(stream: FileIO, synced: list[int]) -> None:
    def write() -> None:
        with EarlySync(stream.fileno(), 0) as disk:
            disk.wrote(100)
            raise KeyError

    with pytest.raises(KeyError):
        write()
    assert synced == [0]


def blocks(stream: FileIO) -> int:
    return os.fstat(stream.fileno()).st_blocks * 512


def test_room_is_set_aside_before_the_first_byte(stream: FileIO) -> None:
    with EarlySync(stream.fileno(), 1 << 20) as disk:
        assert blocks(stream) >= 1 << 20
        stream.write(bytes(1 << 20))
        disk.wrote(1 << 20)


def test_a_file_that_is_shorter_than_expected_ends_where_it_ends(stream: FileIO) -> None:
    with EarlySync(stream.fileno(), 1 << 20) as disk:
        stream.write(b"short")
        disk.wrote(5)
    assert os.fstat(stream.fileno()).st_size == 5
    assert blocks(stream) < 1 << 20


def test_a_disk_without_room_says_so_and_is_not_filled(
    stream: FileIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_reserve", lambda *_: pytest.fail("took what there was"))
    disk = os.fstatvfs(stream.fileno())
    size = disk.f_bavail * disk.f_frsize + (1 << 30)
    with pytest.raises(OSError, match="No space"), EarlySync(stream.fileno(), size):
        pytest.fail("was entered")


def test_a_reservation_that_fails_gives_back_what_it_took(
    stream: FileIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    def some(handle: int, begin: int, size: int) -> None:
        os.posix_fallocate(handle, begin, size // 2)
        raise OSError(errno.ENOSPC, "No space left")

    monkeypatch.setattr(storage, "_reserve", some)
    with pytest.raises(OSError, match="No space"), EarlySync(stream.fileno(), 1 << 20):
        pytest.fail("was entered")
    assert blocks(stream) == 0


def test_a_file_system_that_reserves_nothing_is_written_all_the_same(
    stream: FileIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(handle: int, begin: int, size: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(storage, "_reserve", cannot)
    with EarlySync(stream.fileno(), 1 << 20) as disk:
        stream.write(b"whole")
        disk.wrote(5)
    assert os.fstat(stream.fileno()).st_size == 5


def test_a_whole_file_takes_no_pipes_place(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UsageError, match="no file"):
        write_whole(pipe, b"content")
    assert pipe.is_fifo()


def test_two_who_write_the_same_file_at_once_both_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, sync = tmp_path / "file", os.fsync

    def meanwhile(handle: int) -> None:
        monkeypatch.setattr(os, "fsync", sync)
        write_whole(path, b"the other's")
        assert path.read_bytes() == b"the other's"
        sync(handle)

    monkeypatch.setattr(os, "fsync", meanwhile)
    write_whole(path, b"the last one's")
    assert path.read_bytes() == b"the last one's"
    assert list(tmp_path.iterdir()) == [path]


def test_what_could_not_be_written_leaves_no_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(handle: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="full"):
        write_whole(tmp_path / "file", b"content")
    assert list(tmp_path.iterdir()) == []
