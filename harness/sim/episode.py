"""What an episode follows from, and how it ended: plain values, the same for every simulator.

- An `EpisodeSpec` names all that an episode follows from besides the policy: its task, its seeds
  (cell and episode) and what is changed against the task's nominal world. Equal specs give equal
  records on one engine, whatever the batch, slot, thread, process or machine of that kind.
- A record's `digest` covers the final state, so equal digests mean equal episodes.
- Both are hashable or plain, and travel between processes by pickle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Change:
    """`operation` (set, scale or add) with `value` on `field` of `target`; see randomization."""

    target: str
    field: str
    operation: str
    value: float
    at_s: float = 0.0
    """Seconds into the episode; 0 is the reset."""


@dataclass(frozen=True)
class EpisodeSpec:
    """Everything an episode follows from."""

    cell: tuple[int, ...]
    episode: int
    changes: tuple[Change, ...] = ()
    task: str = "box-grasp"


@dataclass(frozen=True)
class EpisodeRecord:
    """How an episode ended."""

    spec: EpisodeSpec
    success: bool
    failure_mode: str
    """"" for a success; modes are those of harness/failures.py."""
    steps: int
    metrics: Mapping[str, float] = field(default_factory=dict, compare=False)
    """What the task measures besides its outcome, by name with the unit: `lift_m`."""
    interventions: Mapping[str, int] = field(default_factory=dict, compare=False)
    digest: str = ""
    """sha256 of the final state: equal for equal episodes on one machine."""
    actions: bytes = field(default=b"", compare=False, repr=False)
    """The policy's outputs, float32 (steps, joints) in C order: enough to play it without one."""
    detail: str = ""
    """What went wrong in words, where there is more to say: a policy's exception."""
