"""From stored attempts to the integers of canary evidence. Pure: rows in, counts out.

- Only attempts that a rollout assigned count: a robot that runs the candidate is its own control,
  one that does not is none.
- A stratum is robot × task × instruction. Its attempts are cut into blocks by their index; a block
  is complete when all its attempts are closed with success or failure. One void attempt keeps its
  block out, whichever side it was on; void attempts stay in the totals.
- A candidate attempt is outstanding when it was opened and nothing is known of its end: a later
  attempt of its stratum was reported, or its robot has been silent for `SILENT_S`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from registry.evidence import Segment, StratumCounts, Tally
from registry.interleave import block_of, side
from registry.record.model import CanaryBlock

SILENT_S = 300.0


@dataclass(frozen=True)
class Counted:
    """What counting needs of one stored attempt."""

    robot: str
    number: int
    side: str
    segment: int
    stratum: str
    index: int
    outcome: str
    received_at: float

    @property
    def name(self) -> str:
        """The stratum as evidence names it; the robot is part of it."""
        return f"{self.robot}/{self.stratum}"


def segments(attempts: Sequence[Counted], ratios: Mapping[int, Fraction]) -> tuple[Segment, ...]:
    """The evidence's segments, from attempts and each segment's design ratio."""
    blocks_of = defaultdict(list)
    for block in complete_blocks(attempts, ratios):
        blocks_of[block.segment].append(block)
    found = []
    for index in sorted({attempt.segment for attempt in attempts}):
        ratio = ratios[index]
        mine = [attempt for attempt in attempts if attempt.segment == index]
        strata: dict[str, StratumCounts] = {}
        for block in sorted(blocks_of[index], key=lambda block: block.stratum):
            so_far = strata.get(block.stratum, StratumCounts(block.stratum, Tally(), Tally()))
            strata[block.stratum] = StratumCounts(
                block.stratum,
                so_far.candidate + block.candidate,
                so_far.baseline + block.baseline,
            )
        found.append(
            Segment(
                index,
                ratio.numerator,
                ratio.denominator,
                tuple(strata.values()),
                tally(attempt for attempt in mine if attempt.side == "candidate"),
                tally(attempt for attempt in mine if attempt.side == "baseline"),
            )
        )
    return tuple(found)


def complete_blocks(
    attempts: Sequence[Counted], ratios: Mapping[int, Fraction]
) -> list[CanaryBlock]:
    """Complete blocks in the order in which their last attempt arrived."""
    members: dict[tuple[int, str, int], list[Counted]] = defaultdict(list)
    for attempt in attempts:
        block, _ = block_of(attempt.index, ratios[attempt.segment])
        members[attempt.segment, attempt.name, block].append(attempt)
    found = []
    for (index, name, _), inside in members.items():
        ratio = ratios[index]
        if len(inside) < ratio.denominator or any(one.outcome == "void" for one in inside):
            continue
        found.append(
            CanaryBlock(
                index,
                ratio.numerator,
                ratio.denominator,
                name,
                tally(one for one in inside if one.side == "candidate"),
                tally(one for one in inside if one.side == "baseline"),
                max(one.received_at for one in inside),
            )
        )
    return sorted(found, key=lambda block: (block.completed_at, block.segment, block.stratum))


def overtaken(
    attempts: Iterable[Counted], ratios: Mapping[int, Fraction], salts: Mapping[int, str]
) -> int:
    """Candidate places of a stratum that were passed without a report of what happened there."""
    seen: dict[tuple[int, str, str], set[int]] = defaultdict(set)
    for attempt in attempts:
        seen[attempt.segment, attempt.robot, attempt.stratum].add(attempt.index)
    return sum(
        side(salts[segment], robot, stratum, index, ratios[segment]) == "candidate"
        for (segment, robot, stratum), indices in seen.items()
        for index in set(range(max(indices))) - indices
    )


def tally(attempts: Iterable[Counted]) -> Tally:
    outcomes = [attempt.outcome for attempt in attempts]
    return Tally(outcomes.count("success"), outcomes.count("failure"), outcomes.count("void"))
