"""What a door to a live twin's motors is; `harness.twin.doors` lists them.

Rules
- A door serves one arm. It hands over the frames that programs send, with who sent each, and
  delivers frames to all its programs, the sender of a frame excepted: as on a CAN bus.
- A door that carries classic frames only says so; the twin's motors are set up for it.
- Of a program that floods it takes so many at once and leaves the rest where it waits, in order:
  others, physics and answers have their turn between.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum, auto
from typing import Protocol

import can

from harness.twin.adapter import Adapter

AT_ONCE = 64
"""Frames taken from one source before the others have their turn: about a millisecond's work."""


class Word(Enum):
    """What a program says beside frames."""

    PURGE = auto()
    """Throw away what the adapter has queued."""
    REFUSED = auto()
    """A frame of mine did not fit the full queue that I was told of."""


Taken = tuple[object, can.Message | Word]
"""Who sent it, and what."""


class Door(Protocol):
    """One way in. Not for use from two threads."""

    classic: bool
    """Whether only classic frames pass."""

    @property
    def lost(self) -> int:
        """Frames that this door could not carry, one way or the other."""

    refuses: bool
    """Whether its programs' ends refuse what does not fit a full queue; what is taken did fit."""

    @property
    def where(self) -> Mapping[str, object]:
        """How to open it with python-can: interface, channel, …"""

    @property
    def programs(self) -> int | None:
        """How many are connected; None where nobody can know."""

    def sources(self) -> Iterable[int]:
        """File descriptors to wait on."""

    def take(self, source: int) -> Iterable[Taken]:
        """What has arrived there, at most about `AT_ONCE` frames of it."""

    def give(self, msg: can.Message, time_s: float, but: object) -> None:
        """Deliver a frame to every program but `but`; `time_s` is the epoch time of the frame."""

    def tell(self, adapter: Adapter) -> None:
        """Tell the programs the adapter's state, where they can be told."""

    def close(self) -> None: ...
