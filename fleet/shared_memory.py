"""The newest value between two processes, with sequence, age and checksum: no queue, no lock.

Rules
- One writer, any number of readers; neither ever waits for the other. A reader sees the newest
  whole value or an error, never half of one value and half of the next.
- Two slots: the writer fills the one that no reader is sent to, then moves the head. A value is
  taken only if its slot says the sequence that the head named, before and after the copy, and its
  CRC-32 fits: so a reader that was overtaken looks again, and a writer killed at any instruction
  leaves the value before. What does not fit after `TRIES` looks is `torn`.
- A sequence is stored and loaded whole, by one aligned instruction: written byte by byte it is
  another number for an instant, or 0. Whoever has seen a value takes 0 for `torn`, not for `empty`.
- Age is measured with CLOCK_MONOTONIC, which all processes of one computer share. A reader that
  needs a fresh value asks for it by `max_age_s`; old is an answer of its own.
- Values are float64 vectors of a length both sides know; a block of another layout is refused.

Layout, little endian: head = magic u32, length u32, sequence u64; slot = sequence u64, written_ns
u64, crc32 u32, reserved u32, values f64 × length. The CRC covers sequence, time and values.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from registry.errors import Refused, ServiceFailed

Array = NDArray[np.float64]

MAGIC = 0x50434C31
HEAD = struct.Struct("<IIQ")
SLOT = struct.Struct("<QQII")
STAMP = struct.Struct("<QQ")
TRIES = 8


class Fault(Enum):
    """Why a read gave no value."""

    EMPTY = "empty"
    """Nothing has been written yet."""
    STALE = "stale"
    """The newest value is older than was asked for: the writer is late, or dead."""
    TORN = "torn"
    """No look found sequence and checksum in agreement."""


@dataclass(frozen=True)
class Reading:
    """One whole value. `values` is a copy."""

    values: Array
    sequence: int
    age_s: float


def _now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


class Newest:
    """One block: `create` on the writer's side, `attach` on the readers'."""

    def __init__(
        self,
        path: Path,
        memory: mmap.mmap,
        length: int,
        *,
        owner: bool,
        clock_ns: Callable[[], int] = _now_ns,
    ) -> None:
        self.path = path
        self._memory, self._owner, self._clock = memory, owner, clock_ns
        self._length = length
        self._slot = SLOT.size + 8 * length
        self._counts = memoryview(memory).cast("Q")
        self._sequence = 0
        self._seen = False
        self.torn = 0
        """Looks that found a value in two minds, since this object was made."""

    @classmethod
    def create(cls, name: str, length: int, clock_ns: Callable[[], int] = _now_ns) -> Newest:
        """A new empty block. ServiceFailed where the name is taken: two writers never share."""
        path = memory_folder() / name
        size = HEAD.size + 2 * (SLOT.size + 8 * length)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError as error:
            raise ServiceFailed(
                f"the shared memory {name} exists",
                evidence=str(path),
                hint="another servo runs, or one was killed: end it, then remove that file",
            ) from error
        try:
            reserve(handle, path, size)
            memory = mmap.mmap(handle, size)
        finally:
            os.close(handle)
        HEAD.pack_into(memory, 0, MAGIC, length, 0)
        return cls(path, memory, length, owner=True, clock_ns=clock_ns)

    @classmethod
    def attach(cls, name: str, length: int) -> Newest:
        """The block of another process. ServiceFailed where it is absent or laid out otherwise."""
        path = memory_folder() / name
        needed = HEAD.size + 2 * (SLOT.size + 8 * length)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise ServiceFailed(
                f"there is no shared memory {name}",
                evidence=str(path),
                hint="start the process that writes it first",
            ) from error
        try:
            size = os.fstat(handle).st_size
            memory = mmap.mmap(handle, size) if size == needed else None
        finally:
            os.close(handle)
        found = HEAD.unpack_from(memory, 0)[:2] if memory is not None else (0, 0)
        if memory is None or found != (MAGIC, length):
            raise ServiceFailed(
                f"the shared memory {name} has another layout",
                evidence=f"{size} bytes, magic and length {found}; expected {needed}, "
                f"{(MAGIC, length)}",
                hint="both processes must run the same policyctl",
            )
        return cls(path, memory, length, owner=False)

    def write(self, values: Array) -> int:
        """Publish values (length,); its sequence number, from 1."""
        if values.shape != (self._length,):
            raise ValueError(f"{values.shape} values, expected ({self._length},)")
        self._sequence += 1
        sequence, at = self._sequence, HEAD.size + self._slot * (self._sequence & 1)
        body = np.ascontiguousarray(values, dtype=np.float64).tobytes()
        stamp = STAMP.pack(sequence, self._clock())
        check = zlib.crc32(body, zlib.crc32(stamp))
        self._counts[at // 8] = 0  # from here on the slot belongs to nobody
        start = at + SLOT.size
        self._memory[start : start + len(body)] = body
        self._memory[at + 8 : at + SLOT.size] = stamp[8:] + struct.pack("<II", check, 0)
        self._counts[at // 8] = sequence
        self._counts[1] = sequence
        return sequence

    def read(self, max_age_s: float | None = None) -> Reading | Fault:
        """The newest whole value, or why there is none; never waits."""
        for _ in range(TRIES):
            sequence = self._counts[1]
            if sequence == 0 and not self._seen:
                return Fault.EMPTY
            at = HEAD.size + self._slot * (sequence & 1)
            whole = bytes(self._memory[at : at + self._slot])
            there, written, check, _ = SLOT.unpack_from(whole, 0)
            after = self._counts[at // 8]
            body = whole[SLOT.size :]
            if there == after == sequence and check == zlib.crc32(body, zlib.crc32(whole[:16])):
                self._seen = True
                age = max(0.0, 1e-9 * (self._clock() - written))
                if max_age_s is not None and age > max_age_s:
                    return Fault.STALE
                return Reading(np.frombuffer(body, dtype=np.float64), sequence, age)
            self.torn += 1
        return Fault.TORN

    def close(self) -> None:
        """Let go; the writer's side also removes the name. Safe any number of times."""
        self._counts.release()
        self._memory.close()
        if self._owner:
            self._owner = False
            self.path.unlink(missing_ok=True)


def attached(
    name: str, length: int, within_s: float, meanwhile: Callable[[], object] = lambda: None
) -> Newest:
    """Another process's block, as soon as it is there; `meanwhile` is called every 10 ms until
    then. Raises ServiceFailed after `within_s`."""
    until = time.monotonic() + within_s
    while True:
        try:
            return Newest.attach(name, length)
        except ServiceFailed:
            if time.monotonic() > until:
                raise
            meanwhile()
            time.sleep(0.01)


def take_lock(name: str) -> IO[str]:
    """What one process of this computer has at a time; it is given back when that process ends.

    Raises Refused where another has it. Hold what it returns.
    """
    path = memory_folder() / f"policyctl-{name}.lock"
    lock = path.open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        holder = lock.read().strip()
        lock.close()
        raise Refused(
            f"{name} runs already",
            evidence=f"process {holder or 'unknown'} holds {path}",
            hint="look at the arm, then end that process",
        ) from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def reserve(handle: int, path: Path, size: int) -> None:
    """Makes the new file `size` zeros long, its memory taken now: what is full later would be a
    SIGBUS in a write. Raises ServiceFailed, the file gone again."""
    try:
        if hasattr(os, "posix_fallocate"):  # macOS has none
            os.posix_fallocate(handle, 0, size)
        else:
            os.ftruncate(handle, size)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise ServiceFailed(
            "no shared memory is left",
            evidence=f"{path}, {size} bytes: {error.strerror}",
            hint=f"`df -h {path.parent}` says how full it is; free some, then start again",
        ) from error


def memory_folder() -> Path:
    """Memory where the system has a file system for it. Not `multiprocessing.shared_memory`: its
    tracker removes a block when any process that looked at it ends."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() else Path(tempfile.gettempdir())
