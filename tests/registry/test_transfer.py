"""Transfers move what is missing, go on where they were killed, and keep no wrong byte."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from checkpoints import noise

from registry.blobs import transfer as module
from registry.blobs.batch import FolderBatch
from registry.blobs.folder import FolderBlobs
from registry.blobs.transfer import SEGMENT, WORKERS, Moved, Span, fetch_in_order, transfer
from registry.errors import Corrupt, ServiceFailed
from registry.ports import BlobStore
from registry.versions import Piece, digest_bytes

if TYPE_CHECKING:
    from stores import Seaweed


class Line(FolderBlobs):
    """A folder at the end of a line that counts, and that can be cut or bent."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.sent = 0
        self.cut_after: int | None = None
        self.bent: set[str] = set()
        self.at_once = self.most_at_once = 0
        self.slow_s = 0.0
        self._lock = threading.Lock()

    def stream(self, digest: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            time.sleep(self.slow_s)
            for data in super().stream(digest, start, length):
                if self.cut_after is not None and self.sent + len(data) > self.cut_after:
                    raise ServiceFailed("the cable")
                self.sent += len(data)
                yield bytes([data[0] ^ 1]) + data[1:] if digest in self.bent else data
        finally:
            with self._lock:
                self.at_once -= 1


def fill(store: BlobStore, *sizes: int) -> list[Piece]:
    return [Piece(store.put(noise(size, i)), size) for i, size in enumerate(sizes)]


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(tmp_path / "there")


@pytest.fixture
def here(tmp_path: Path) -> FolderBlobs:
    return FolderBlobs(tmp_path / "here")


def test_only_what_is_missing_moves_and_is_checked(line: Line, here: FolderBlobs) -> None:
    pieces = fill(line, 0, 10, 5_000_000, 3_000_000, 200)
    here.put(noise(3_000_000, 3))
    told: list[tuple[int, int]] = []
    moved = transfer(line, here, pieces * 2, lambda done, total: told.append((done, total)))
    assert (moved.fetched, moved.present) == (5_000_210, 3_000_000)
    assert line.sent == 5_000_210
    assert [here.check(piece.sha256) for piece in pieces] == [piece.size for piece in pieces]
    assert told[0] == (3_000_000, 8_000_210)
    assert told[-1] == (8_000_210, 8_000_210)
    assert told == sorted(told)
    assert transfer(line, here, pieces).fetched == 0


def test_segments_come_in_parallel_and_are_handed_on_in_order(line: Line) -> None:
    pieces = fill(line, 3_000_000, 10, 2_500_000)
    line.slow_s = 0.02
    spans = [Span(piece.sha256, 0, piece.size) for piece in pieces]
    got = [(span, data) for span, data in fetch_in_order(line.stream, spans)]
    assert b"".join(data for _, data in got) == b"".join(
        noise(piece.size, i) for i, piece in enumerate(pieces)
    )
    assert [span.sha256 for span, _ in got] == [pieces[0].sha256] * 3 + [pieces[1].sha256] + [
        pieces[2].sha256
    ] * 3
    assert line.most_at_once == WORKERS


@pytest.mark.parametrize("cut", [0, 700_000, 2_000_001, 4_500_000])
def test_a_transfer_that_was_cut_goes_on_where_it_was(
    line: Line, here: FolderBlobs, cut: int
) -> None:
    pieces = fill(line, 1_500_000, 2_000_000, 1_200_000)
    line.cut_after = cut
    with pytest.raises(ServiceFailed):
        transfer(line, here, pieces)
    assert list(here.digests()) == [], "names appear when a group is complete"
    line.cut_after, before = None, line.sent
    moved = transfer(line, here, pieces)
    assert moved.fetched <= 4_700_000 - before + WORKERS * SEGMENT
    assert line.sent <= 4_700_000 + WORKERS * SEGMENT
    assert [here.check(piece.sha256) for piece in pieces] == [piece.size for piece in pieces]
    assert not list(here.drafts.iterdir())


def test_pieces_that_came_whole_before_the_cut_are_not_fetched_again(
    line: Line, here: FolderBlobs
) -> None:
    size = 100_000
    pieces = fill(line, *[size] * 60)
    line.cut_after = 50 * size
    with pytest.raises(ServiceFailed):
        transfer(line, here, pieces)
    before, line.cut_after = line.sent, None
    moved = transfer(line, here, pieces)
    assert moved.fetched <= 60 * size - before + WORKERS * size
    assert moved.fetched + moved.present == 60 * size
    assert [here.check(piece.sha256) for piece in pieces] == [size] * 60
    assert not list(here.drafts.iterdir())


@pytest.mark.parametrize("cut", [0, 1000])
def test_a_cut_transfer_leaves_no_file_that_nobody_goes_on_with(
    line: Line, here: FolderBlobs, cut: int
) -> None:
    first, second = fill(line, 1000, 2000)
    here.drafts.mkdir(parents=True)
    others = here.drafts / f"partial-{first.sha256[7:]}"
    with others.open("wb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        line.cut_after = cut
        with pytest.raises(ServiceFailed):
            transfer(line, here, [first, second])
    assert {path.name[-64:] for path in here.drafts.iterdir()} == {
        first.sha256[7:],
        second.sha256[7:],
    }


def test_wrong_bytes_are_never_kept(line: Line, here: FolderBlobs) -> None:
    pieces = fill(line, 10, 2_000_000)
    line.bent = {pieces[1].sha256}
    with pytest.raises(Corrupt, match="not what their digest says"):
        transfer(line, here, pieces)
    assert not here.has(pieces[1].sha256)
    line.bent = set()
    transfer(line, here, pieces)
    assert here.check(pieces[1].sha256) == 2_000_000


@pytest.mark.parametrize("left", [b"wrong" * 100_000, b"x" * 3_000_000])
def test_what_a_dead_transfer_left_is_not_believed(
    line: Line, here: FolderBlobs, left: bytes
) -> None:
    """Another beginning, or more than there should be: the first is found at the end, and gone."""
    (piece,) = fill(line, 2_000_000)
    here.drafts.mkdir(parents=True)
    (here.drafts / f"partial-{piece.sha256[7:]}").write_bytes(left)
    if len(left) < piece.size:
        with pytest.raises(Corrupt):
            transfer(line, here, [piece])
    transfer(line, here, [piece])
    assert here.check(piece.sha256) == piece.size


def test_a_source_that_ends_early_is_corrupt(line: Line, here: FolderBlobs) -> None:
    (piece,) = fill(line, 1000)
    path = line.path(piece.sha256)
    path.chmod(0o644)
    path.write_bytes(noise(999, 0))
    with pytest.raises(Corrupt, match="fewer bytes"):
        transfer(line, here, [piece])
    assert not here.has(piece.sha256)


def test_two_transfers_of_the_same_piece_both_end_well(line: Line, here: FolderBlobs) -> None:
    pieces = fill(line, 3_000_000, 2_000_000)
    line.slow_s = 0.01
    errors: list[BaseException] = []

    def run() -> None:
        try:
            transfer(line, here, pieces)
        except BaseException as error:  # noqa: BLE001 - asserted on below
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert [here.check(piece.sha256) for piece in pieces] == [piece.size for piece in pieces]
    assert not list(here.drafts.iterdir())


def test_a_piece_is_locked_until_it_has_its_name(
    line: Line, here: FolderBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another transfer of it begins when all bytes are there and nothing has its name yet."""
    pieces, commit, meanwhile = fill(line, 100_000), FolderBatch._commit, []

    def interrupted(batch: FolderBatch) -> None:
        if not meanwhile:
            meanwhile.append("begun")
            meanwhile.append(transfer(line, here, pieces))
        commit(batch)

    monkeypatch.setattr(FolderBatch, "_commit", interrupted)
    transfer(line, here, pieces)
    assert meanwhile[1:] == [Moved(100_000, 0)]
    assert here.check(pieces[0].sha256) == 100_000
    assert not list(here.drafts.iterdir())


def test_a_file_that_lost_its_path_before_it_was_locked_is_not_gone_on_with(
    line: Line, here: FolderBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    (piece,) = fill(line, 100_000)
    path, lock = here.drafts / f"partial-{piece.sha256[7:]}", fcntl.flock

    def late(handle: int, how: int) -> None:
        path.unlink()  # whoever had it gave it its name
        path.write_bytes(b"a third transfer's")
        lock(handle, how)

    monkeypatch.setattr(module.fcntl, "flock", late)
    transfer(line, here, [piece])
    assert here.check(piece.sha256) == 100_000
    assert path.read_bytes() == b"a third transfer's"


def test_many_pieces_move_in_groups(
    line: Line, here: FolderBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GROUP", 7)
    pieces = fill(line, *range(1, 40))
    transfer(line, here, pieces)
    assert sum(here.check(piece.sha256) for piece in pieces) == sum(range(1, 40))


@pytest.mark.slow
def test_to_and_from_a_bucket(
    seaweed: Seaweed, s3_account: None, line: Line, here: FolderBlobs
) -> None:
    from registry.blobs.s3 import S3Blobs

    bucket = S3Blobs(seaweed.url())
    pieces = fill(line, 0, 10, 3_000_000)
    assert transfer(line, bucket, pieces).fetched == 3_000_010
    assert transfer(line, bucket, pieces).fetched == 0
    assert transfer(bucket, here, pieces).fetched == 3_000_010
    assert [here.read(piece.sha256) for piece in pieces] == [
        noise(piece.size, i) for i, piece in enumerate(pieces)
    ]


NOBODY = 65534
AS_NOBODY = r"""
import os, signal, sys
from pathlib import Path
from registry.blobs.folder import FolderBlobs
from registry.blobs.transfer import transfer
from registry.versions import Piece
if os.geteuid() == 0:  # what a file's mode forbids, it does not forbid root
    os.setgid(int(sys.argv[4]))
    os.setuid(int(sys.argv[4]))
def told(there, total):
    if there > int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
pieces = [Piece(sha256, int(size)) for sha256, size in (one.split("=") for one in sys.argv[5:])]
there, here = FolderBlobs(Path(sys.argv[1])), FolderBlobs(Path(sys.argv[2]))
print(transfer(there, here, pieces, told).fetched)
"""


@pytest.mark.parametrize("being_named", [False, True])
def test_a_transfer_goes_on_after_a_kill_also_for_who_is_not_root(being_named: bool) -> None:
    """Pieces that had come whole, and had no name yet; or were about to have it, read-only."""
    with tempfile.TemporaryDirectory() as name:  # a folder of pytest's nobody else may enter
        there, here = FolderBlobs(Path(name) / "there"), FolderBlobs(Path(name) / "here")
        pieces = fill(there, *[SEGMENT] * 6)
        if os.geteuid() == 0:
            os.chown(name, NOBODY, NOBODY)
        words = [f"{piece.sha256}={piece.size}" for piece in pieces]

        def run(until: int) -> subprocess.CompletedProcess[str]:
            told = [str(there.root), str(here.root), str(until), str(NOBODY), *words]
            return subprocess.run(
                [sys.executable, "-c", AS_NOBODY, *told], capture_output=True, text=True
            )

        assert run(4 * SEGMENT).returncode == -signal.SIGKILL
        if being_named:
            for path in here.drafts.iterdir():
                path.chmod(0o444)
        ended = run(7 * SEGMENT)
        assert ended.returncode == 0, ended.stderr
        assert int(ended.stdout) == (6 if being_named else 1) * SEGMENT
        assert [here.check(piece.sha256) for piece in pieces] == [SEGMENT] * 6
        assert not any(here.path(piece.sha256).stat().st_mode & 0o222 for piece in pieces)


FETCH = r"""
import os, sys, time
from pathlib import Path
from registry.blobs.folder import FolderBlobs
from registry.blobs.transfer import transfer
from registry.versions import Piece
class Slow(FolderBlobs):
    def stream(self, digest, start=0, length=None):
        for data in super().stream(digest, start, length):
            time.sleep(0.02)
            os.write(1, f"{len(data)}\n".encode())
            yield data
words = [word.split("=") for word in sys.argv[3:]]
pieces = [Piece(sha256, int(size)) for sha256, size in words]
transfer(Slow(Path(sys.argv[1])), FolderBlobs(Path(sys.argv[2])), pieces)
"""


@pytest.mark.slow
def test_a_transfer_killed_again_and_again_loses_nothing_and_wastes_little(
    line: Line, here: FolderBlobs
) -> None:
    """kill -9 at random moments: over the line came the pieces, and a few segments per kill."""
    pieces = fill(line, 2_500_000, 900_000, 14_000_000, 10, 5_700_000)
    total = sum(piece.size for piece in pieces)
    words = [f"{piece.sha256}={piece.size}" for piece in pieces]
    command = [sys.executable, "-c", FETCH, str(line.root), str(here.root), *words]
    chance, sent, kills = random.Random(11), 0, 0
    while True:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        lives = chance.randint(1, 2)
        for _ in range(lives):
            if not (said := process.stdout.readline()):
                break
            sent += int(said)
        else:
            time.sleep(chance.random() * 0.01)
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        sent += sum(int(said) for said in process.stdout.read().split())
        if process.wait() == 0:
            break
        assert process.returncode == -signal.SIGKILL
    assert kills > 3
    assert [here.check(piece.sha256) for piece in pieces] == [piece.size for piece in pieces]
    assert sent <= total + kills * WORKERS * SEGMENT
    assert digest_bytes(here.read(pieces[0].sha256)) == pieces[0].sha256
