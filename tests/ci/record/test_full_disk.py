"""A full disk can be read: what only looks needs no room of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from record import Record
from said import Run

ROOM = 20_000  # bytes that a file may have: a bundle has room, SQLite's index of 32 kB does not
TYPED = """
import resource, sys
from ci.cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, ROOM))
main(sys.argv[1:])
""".replace("ROOM", str(ROOM))
KILLED = """
import os, resource, signal, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("INSERT INTO tags SELECT policy, 'kept', number, 0, 'me' FROM versions")
os.kill(os.getpid(), signal.SIGKILL)
"""


def begin(*words: str) -> subprocess.Popen[str]:
    """A command on a disk that takes no more."""
    return subprocess.Popen(
        [sys.executable, "-c", TYPED, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


@pytest.fixture
def closed(record: Record) -> Record:
    """A version in a home that nobody has open."""
    record.register()
    record.registry.close()
    return record


@pytest.mark.parametrize(
    "words",
    [
        ("list",),
        ("show", "v1"),
        ("export", "v1", "bundle.tar"),
        ("history",),
        ("status",),
        ("verify",),
        ("audit", "verify"),
    ],
    ids=" ".join,
)
def test_a_command_that_only_reads_works(closed: Record, words: tuple[str, ...]) -> None:
    assert end(begin(*words))


def test_readers_take_turns_and_none_waits_for_ever(closed: Record) -> None:
    for one in [begin("list", "--output", "json") for _ in range(4)]:
        assert '"total": 1' in end(one)


def test_what_a_killed_writer_left_in_the_wal_is_read(closed: Record, run: Run, work: Path) -> None:
    database = work / ".policyctl" / "registry.db"
    subprocess.run([sys.executable, "-c", KILLED, str(database)], check=False)
    database.with_name("registry.db-shm").unlink()
    assert database.with_name("registry.db-wal").stat().st_size > 0
    assert '"kept"' in end(begin("show", "v1", "--output", "json"))
    assert run("list", "--tag", "kept", "--output", "json").data["total"] == 1


def test_a_command_that_writes_says_that_nothing_was_changed(closed: Record, run: Run) -> None:
    process = begin("tag", "v1", "good")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 9
    assert "the disk is full or fails: nothing was changed" in err
    assert run("list", "--tag", "good", "--output", "json").data["total"] == 0
