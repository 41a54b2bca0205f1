"""Which version the next attempt runs, and where it stands in the comparison: a pure function.

A comparison takes turns by the order's draw, in contact only. Everything else runs the baseline
alone, outside of it (side "only", segment `OUTSIDE`), or nothing: where the answer that permits the
candidate is on its way, the robot waits for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fleet.agent.updater import Ready
from registry.assignments import Assignment
from registry.interleave import side as side_of

OUTSIDE = -1
"""The segment of attempts outside a comparison."""

NextIndex = Callable[[str, int, str], int]
"""The index that the next attempt of a salt, segment and stratum takes."""


@dataclass(frozen=True)
class Work:
    """What this robot does besides obeying: its task, and when it works at all."""

    robot: str
    task: str
    judge: str
    stratum: str
    on_rollout_only: bool = False
    max_attempts: int | None = None
    poll_s: float = 0.5
    heartbeat_s: float = 5.0


@dataclass(frozen=True)
class Prepared:
    """An assignment whose versions are all ready."""

    assignment: Assignment
    candidate: Ready | None
    baseline: Ready | None


@dataclass(frozen=True)
class Choice:
    """The next attempt: which version, and where it stands in the comparison."""

    ready: Ready
    side: str
    generation: int
    salt: str
    segment: int
    index: int
    terms: str


def choose(
    work: Work,
    newest: Assignment | None,
    prepared: Prepared | None,
    next_index: NextIndex,
    *,
    in_contact: bool,
    is_asked: bool,
) -> Choice | None:
    """The next attempt, or None where there is nothing to do.

    `newest` is the order that holds, `prepared` the newest whose versions are ready; `in_contact`:
    the registry could call a candidate back; `is_asked`: it is about to say whether it could.
    """
    if prepared is None:
        return None
    if newest is None:
        return _alone(work, prepared, next_index)
    if not newest.versions:
        return None
    if work.on_rollout_only and newest.candidate is None:
        return None
    document = prepared.assignment
    if document != newest and newest.stop == "now" and not names(newest, prepared.baseline):
        return None
    if document != newest or prepared.candidate is None:
        return _alone(work, prepared, next_index)
    if not in_contact:
        return None if is_asked else _alone(work, prepared, next_index)
    index = next_index(document.salt, document.segment, work.stratum)
    side = side_of(document.salt, work.robot, work.stratum, index, document.fraction)
    ready = prepared.candidate if side == "candidate" else prepared.baseline
    if ready is None:
        return None
    return Choice(
        ready, side, document.generation, document.salt, document.segment, index, document.terms
    )


def _alone(work: Work, prepared: Prepared, next_index: NextIndex) -> Choice | None:
    """The baseline outside the comparison; without one there is nothing to fall back on."""
    if prepared.baseline is None:
        return None
    index = next_index("", OUTSIDE, work.stratum)
    document = prepared.assignment
    return Choice(
        prepared.baseline, "only", document.generation, "", OUTSIDE, index, document.terms
    )


def names(document: Assignment, ready: Ready | None) -> bool:
    """Whether a document still names this version."""
    digests = {document.digests[version] for version in document.versions}
    return ready is not None and ready.digest in digests
