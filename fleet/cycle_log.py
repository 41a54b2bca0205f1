"""A ring of every servo cycle in shared memory: the servo writes and never waits, one reader reads.

- A row is written whole, then its number. A reader that sees another number in a row than it
  expects was overtaken: what it missed is counted (`dropped`), never hidden, and it goes on with
  the oldest row that is still there.
- 4,096 rows are 20 s at 200 Hz. A reader that is killed loses nothing that is still in the ring.

Row: time [s], stopped (0 or 1), interventions since `begin` in the order of `INTERVENTIONS`, then
command [rad], q [rad], dq [rad/s], tau [Nm], (J,) each.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fleet.safety import INTERVENTIONS
from fleet.shared_memory import memory_folder, reserve
from registry.errors import ServiceFailed

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]

ROWS = 4096
MAGIC = 0x4359434C
HEAD = 5
"""magic, joints, rows, how many rows were ever written, how many the reader has seen: int64."""
FIELDS = ("command", "q", "dq", "tau")


def width(joints: int) -> int:
    """Numbers in a row."""
    return 2 + len(INTERVENTIONS) + len(FIELDS) * joints


@dataclass(frozen=True)
class Cycles:
    """Rows in their order, oldest first; `dropped` were overwritten before they were read."""

    rows: Array
    joints: int
    dropped: int

    @property
    def time(self) -> Array:
        return self.rows[:, 0]

    @property
    def stopped(self) -> Array:
        return self.rows[:, 1]

    @property
    def counts(self) -> Array:
        return self.rows[:, 2 : 2 + len(INTERVENTIONS)]

    def field(self, name: str) -> Array:
        """One of `FIELDS`, (T, J)."""
        at = 2 + len(INTERVENTIONS) + FIELDS.index(name) * self.joints
        return self.rows[:, at : at + self.joints]


class Ring:
    """`create` on the servo's side, `attach` on the reader's."""

    def __init__(self, path: Path, memory: mmap.mmap, joints: int, *, owner: bool) -> None:
        self.path, self.joints = path, joints
        self._memory, self._owner = memory, owner
        size = width(joints)
        self._head: Numbers = np.frombuffer(memory, np.int64, HEAD)
        self._numbers: Numbers = np.frombuffer(memory, np.int64, ROWS, 8 * HEAD)
        at = 8 * (HEAD + ROWS)
        self._rows: Array = np.frombuffer(memory, np.float64, ROWS * size, at).reshape(ROWS, size)
        self._next = 0

    @classmethod
    def create(cls, name: str, joints: int) -> Ring:
        """A new empty ring. ServiceFailed where the name is taken."""
        path = memory_folder() / name
        size = 8 * (HEAD + ROWS + ROWS * width(joints))
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError as error:
            raise ServiceFailed(f"the cycle log {name} exists", evidence=str(path)) from error
        try:
            reserve(handle, path, size)
            memory = mmap.mmap(handle, size)
        finally:
            os.close(handle)
        ring = cls(path, memory, joints, owner=True)
        ring._head[:] = MAGIC, joints, ROWS, 0, 0
        return ring

    @classmethod
    def attach(cls, name: str) -> Ring:
        """Another process's ring. ServiceFailed where it is absent or laid out otherwise."""
        path = memory_folder() / name
        try:
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise ServiceFailed(f"there is no cycle log {name}", evidence=str(path)) from error
        try:
            memory = mmap.mmap(handle, 0)
        finally:
            os.close(handle)
        magic, joints, rows, *_ = np.frombuffer(memory, np.int64, HEAD).tolist()
        if (magic, rows) != (MAGIC, ROWS) or len(memory) != 8 * (
            HEAD + ROWS + ROWS * width(joints)
        ):
            raise ServiceFailed(
                f"the cycle log {name} has another layout",
                evidence=f"{len(memory)} bytes, magic {magic:#x}, {rows} rows",
                hint="both processes must run the same policyctl",
            )
        return cls(path, memory, joints, owner=False)

    @property
    def unread(self) -> int:
        """Rows that no reader has seen; whoever may wait (a lock-step twin) waits by this."""
        return int(self._head[3] - self._head[4])

    def append(
        self, time_s: float, stopped: bool, counts: Array | Numbers, fields: tuple[Array, ...]
    ) -> None:
        """The next row; `fields` (J,) each in the order of `FIELDS`."""
        number = self._next
        at = number % ROWS
        self._numbers[at] = -1  # from here on the row is nobody's
        row = self._rows[at]
        row[0], row[1] = time_s, stopped
        start = 2 + len(INTERVENTIONS)
        row[2:start] = counts
        for values in fields:
            row[start : start + self.joints] = values
            start += self.joints
        self._numbers[at] = number
        self._next = number + 1
        self._head[3] = number + 1

    def drain(self) -> Cycles:
        """What was written since the last call, as far as it is still there."""
        written = int(self._head[3])
        first = max(self._next, written - ROWS + 1)
        dropped = first - self._next
        places = np.arange(first, written) % ROWS
        rows = self._rows[places]
        whole = self._numbers[places] == np.arange(first, written)
        dropped += int(np.count_nonzero(~whole))
        self._next = self._head[4] = written
        return Cycles(rows[whole], self.joints, dropped)

    def hide(self) -> None:
        """Take the name away once the reader has attached: a side that is killed leaves nothing."""
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go; the servo's side also removes the name, its last rows read or not."""
        for view in ("_head", "_numbers", "_rows"):
            self.__dict__.pop(view, None)
        self._memory.close()
        if self._owner:
            self._owner = False
            self.path.unlink(missing_ok=True)
