"""Which side an attempt runs, so that anyone can recompute it.

Attempts of one stratum on one robot in one segment are counted from 0 and cut into blocks. For a
ratio a/b (lowest terms) a block is b attempts long and exactly a of them run the candidate, at the
positions whose hashes of (salt, robot, stratum, block, position) are smallest. So the ratio is
exact in every complete block, the order within a block is random but fixed by the salt, and an
agent that is killed draws the same side again. The salt belongs to one segment of one rollout
(`rollouts.segment_salt`), so that a new segment has new positions.
"""

from __future__ import annotations

import hashlib
from fractions import Fraction
from typing import Literal

Side = Literal["candidate", "baseline"]


def block_of(index: int, ratio: Fraction) -> tuple[int, int]:
    """(block, position in block) of the attempt number `index` (from 0) of its stratum."""
    if index < 0:
        raise ValueError(f"attempts are counted from 0, not from {index}")
    return divmod(index, ratio.denominator)


def candidate_positions(
    salt: str, robot: str, stratum: str, block: int, ratio: Fraction
) -> frozenset[int]:
    """The positions of a block that run the candidate: exactly `ratio.numerator` of them."""
    if not 0 <= ratio <= 1:
        raise ValueError(f"a ratio lies in [0, 1]: {ratio}")
    ranked = sorted(
        range(ratio.denominator),
        key=lambda position: hashlib.sha256(
            "\x1f".join((salt, robot, stratum, str(block), str(position))).encode()
        ).digest(),
    )
    return frozenset(ranked[: ratio.numerator])


def side(salt: str, robot: str, stratum: str, index: int, ratio: Fraction) -> Side:
    """The side that attempt `index` (from 0, of this stratum, segment and robot) must run."""
    block, position = block_of(index, ratio)
    chosen = candidate_positions(salt, robot, stratum, block, ratio)
    return "candidate" if position in chosen else "baseline"
