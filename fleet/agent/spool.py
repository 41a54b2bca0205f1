"""What a robot tried, written down before it moves.

Rules:
- An attempt gets its number (1, 2, 3 … without gaps, for the life of the robot) and its index
  (0, 1, 2 … within salt, segment and stratum) in one durable transaction that ends before motion
  begins. Index and number are consumed by that alone: an agent killed one instruction later cannot
  draw its side again.
- At most one attempt is open. Whatever is open when a spool is opened belonged to an agent that is
  gone: it is closed as failure `agent_lost`.
- A closed attempt never changes. It is kept until the registry acknowledges it, then pruned beyond
  the newest `keep`. A spool with `limit` unacknowledged attempts refuses to open another: a robot
  that cannot record does not move, it never drops evidence.
- One process holds a spool (a lock on `<path>.lock`).

SQLite, WAL, synchronous=FULL: a commit that returned survives a killed process and a lost supply.
Times are Unix seconds.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from registry.attempts import AttemptReport
from registry.errors import Corrupt, PolicyctlError, Refused, ServiceFailed
from registry.storage import disk_errors

AGENT_LOST = "agent_lost"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS attempts (
  number INTEGER PRIMARY KEY, opening TEXT NOT NULL, result TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS counters (
  salt TEXT NOT NULL, segment INTEGER NOT NULL, stratum TEXT NOT NULL, next INTEGER NOT NULL,
  PRIMARY KEY (salt, segment, stratum)
) STRICT;
CREATE TABLE IF NOT EXISTS memory (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
"""


@dataclass(frozen=True)
class Opening:
    """What is known of an attempt before motion. `index` is what `next_index` answered."""

    policy: str
    version: int
    side: str
    generation: int
    salt: str
    segment: int
    stratum: str
    index: int
    task: str
    judge: str
    opened_at: float
    scene: Mapping[str, Any] = field(default_factory=dict)
    terms: str = ""


@dataclass(frozen=True)
class Result:
    """How an attempt ended. `duration_s` in the robot's own time, `steps` at policy rate."""

    outcome: str
    failure_mode: str = ""
    duration_s: float = 0.0
    steps: int = 0
    interventions: Mapping[str, int] = field(default_factory=dict)
    safety_events: tuple[str, ...] = ()


class Spool:
    """The durable record of one robot's attempts. `recovered` are those a dead agent left open."""

    def __init__(self, path: Path, robot: str, *, keep: int = 1000, limit: int = 100_000) -> None:
        self.robot = robot
        self._keep = keep
        self._limit = limit
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = _hold(path.with_name(path.name + ".lock"))
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=10.0)
        except sqlite3.Error as failed:
            os.close(self._lock)
            raise _unusable(path, failed) from failed
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
            self._refuse_other_robot(path)
            self.recovered = self._close_lost()
        except sqlite3.Error as failed:
            self.close_file()
            raise _unusable(path, failed) from failed
        except BaseException:
            self.close_file()
            raise

    # -- attempts ------------------------------------------------------------------------------

    def next_index(self, salt: str, segment: int, stratum: str) -> int:
        """The index the next attempt of this stratum will take; asking consumes nothing."""
        row = self._db.execute(
            "SELECT next FROM counters WHERE salt=? AND segment=? AND stratum=?",
            (salt, segment, stratum),
        ).fetchone()
        return int(row[0]) if row else 0

    def open(self, opening: Opening) -> int:
        """Consumes number and index durably and returns the number. Motion may begin after it.

        Refused: another attempt is open, the index is not the next one, the spool is full.
        ServiceFailed: the disk does not take it.
        """
        with self._transaction():
            number, open_number = self._last()
            if open_number:
                raise Refused(f"attempt {open_number} is still open")
            expected = self.next_index(opening.salt, opening.segment, opening.stratum)
            if opening.index != expected:
                raise Refused(
                    "the attempt's index is not the next one",
                    evidence=f"index {opening.index}, expected {expected}",
                )
            if number - self.acknowledged >= self._limit:
                raise Refused(
                    f"{self._limit} attempts wait for the registry",
                    hint="connect the robot; it records again once they are reported",
                )
            self._db.execute(
                "INSERT INTO attempts (number, opening) VALUES (?, ?)",
                (number + 1, json.dumps(asdict(opening))),
            )
            self._db.execute(
                "INSERT INTO counters VALUES (?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET next=excluded.next",
                (opening.salt, opening.segment, opening.stratum, expected + 1),
            )
        return number + 1

    def close(self, number: int, result: Result) -> AttemptReport:
        """Writes how the open attempt ended; it can be written once."""
        with self._transaction():
            row = self._db.execute(
                "SELECT opening FROM attempts WHERE number=? AND result IS NULL", (number,)
            ).fetchone()
            if row is None:
                raise Refused(f"attempt {number} is not open")
            self._db.execute(
                "UPDATE attempts SET result=? WHERE number=?", (json.dumps(asdict(result)), number)
            )
        return self._report(number, row[0], json.dumps(asdict(result)))

    def unreported(self, limit: int = 100) -> list[AttemptReport]:
        """The oldest closed attempts the registry has not acknowledged, in order of number."""
        rows = self._db.execute(
            "SELECT number, opening, result FROM attempts"
            " WHERE number > ? AND result IS NOT NULL ORDER BY number LIMIT ?",
            (self.acknowledged, limit),
        )
        return [self._report(*row) for row in rows]

    def acknowledge(self, number: int) -> None:
        """The registry holds every attempt up to `number`; its word is the truth, also if lower.

        Refused when the registry knows more attempts than this spool ever opened: the robot lost
        its disk, and its counters with it; numbering again from 1 would hide its attempts. Refused,
        too, when it lacks attempts that were pruned here: nobody has those, and none after them
        would ever be acknowledged.
        """
        with self._transaction():
            last, _ = self._last()
            if number > last:
                raise Refused(
                    f"{self.robot} reported {number} attempts, its spool knows of {last}",
                    evidence="the robot's state directory was lost or replaced",
                    hint="restore the state directory, or enrol the robot under a new name",
                )
            first = self._first()
            if number < first - 1:
                raise Refused(
                    f"the registry lacks attempts that {self.robot} no longer has",
                    evidence=f"it holds them up to {number}, the spool from {first} on",
                    hint="restore a newer backup of the registry, or enrol the robot under a new "
                    "name",
                )
            self._remember("acknowledged", number)
            self._db.execute(
                "DELETE FROM attempts WHERE number <= ?", (min(number, last - self._keep),)
            )

    @property
    def acknowledged(self) -> int:
        return int(self.recall("acknowledged") or 0)

    @property
    def last_number(self) -> int:
        return self._last()[0]

    @property
    def waiting(self) -> int:
        """Attempts the registry has not acknowledged yet."""
        return self.last_number - self.acknowledged

    # -- small facts that must outlive the agent -------------------------------------------------

    def remember(self, key: str, value: Any) -> None:
        """Keeps a JSON value durably under `key`."""
        self.remember_all({key: value})

    def remember_all(self, said: Mapping[str, Any]) -> None:
        """Keeps all of them, or none."""
        with self._transaction():
            for key, value in said.items():
                self._remember(key, value)

    def recall(self, key: str) -> Any:
        row = self._db.execute("SELECT value FROM memory WHERE key=?", (key,)).fetchone()
        return json.loads(row[0]) if row else None

    def close_file(self) -> None:
        """Lets the file go. An attempt still open stays open, for the next agent to find."""
        self._db.close()
        os.close(self._lock)

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_file()

    # -- inside ----------------------------------------------------------------------------------

    def _last(self) -> tuple[int, int]:
        """The last number given, and the number of the open attempt (0: none)."""
        row = self._db.execute(
            "SELECT number, result IS NULL FROM attempts ORDER BY number DESC LIMIT 1"
        ).fetchone()
        if row is None:
            return 0, 0
        return int(row[0]), int(row[0]) if row[1] else 0

    def _first(self) -> int:
        """The oldest number that is still here; 1 where there is none."""
        return int(self._db.execute("SELECT coalesce(min(number), 1) FROM attempts").fetchone()[0])

    def _remember(self, key: str, value: Any) -> None:
        self._db.execute(
            "INSERT INTO memory VALUES (?, ?) ON CONFLICT DO UPDATE SET value=excluded.value",
            (key, json.dumps(value)),
        )

    def _close_lost(self) -> tuple[int, ...]:
        lost = json.dumps(asdict(Result("failure", AGENT_LOST)))
        with self._transaction():
            rows = self._db.execute(
                "UPDATE attempts SET result=? WHERE result IS NULL RETURNING number", (lost,)
            ).fetchall()
        return tuple(int(row[0]) for row in rows)

    def _refuse_other_robot(self, path: Path) -> None:
        owner = self.recall("robot")
        if owner is None:
            self.remember("robot", self.robot)
        elif owner != self.robot:
            raise Refused(
                f"{path} holds the attempts of {owner}, not of {self.robot}",
                hint="give each robot a state directory of its own",
            )

    def _report(self, number: int, opening: str, result: str) -> AttemptReport:
        fields = json.loads(opening)
        del fields["salt"]
        return AttemptReport.from_json(
            {"robot": self.robot, "number": number, **fields, **json.loads(result)}
        )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing, on disk when it returns."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except sqlite3.Error as failed:
            self._roll_back()
            raise ServiceFailed(
                "the robot cannot write its attempts",
                evidence=str(failed),
                hint="free space in the agent's state directory; until then nothing moves",
            ) from failed
        except BaseException:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")


def _unusable(path: Path, failed: sqlite3.Error) -> PolicyctlError:
    """A spool that does not open. Nothing moves without it, and a new one would hide attempts."""
    code = (getattr(failed, "sqlite_errorcode", 0) or 0) & 0xFF
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return Corrupt(
            "the robot's record of its attempts is damaged",
            evidence=f"{path}: {failed}",
            hint="restore the state directory, or enrol the robot under a new name",
        )
    return ServiceFailed(
        "the robot's record of its attempts cannot be opened",
        evidence=f"{path}: {failed}",
        hint="check whose the state directory is, its permissions and its disk; then start again",
    )


def _hold(path: Path) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise Refused(
            "another agent runs on this state directory",
            evidence=str(path),
            hint="stop it first, or give this robot a state directory of its own",
        ) from None
    return handle
