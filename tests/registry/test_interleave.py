"""The side of an attempt: exact in every block, random between blocks, the same for ever."""

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.interleave import block_of, candidate_positions, side

RATIOS = [Fraction(1, 2), Fraction(1, 4), Fraction(19, 20), Fraction(3, 4), Fraction(2, 5)]


@given(st.text(max_size=8), st.text(max_size=8), st.sampled_from(RATIOS), st.integers(0, 50))
@settings(max_examples=100)
def test_every_complete_block_has_exactly_the_ratio(
    salt: str, robot: str, ratio: Fraction, block: int
) -> None:
    b = ratio.denominator
    sides = [side(salt, robot, "lift", i, ratio) for i in range(block * b, (block + 1) * b)]
    assert Counter(sides)["candidate"] == ratio.numerator
    assert Counter(sides)["baseline"] == b - ratio.numerator


@given(st.integers(0, 10_000), st.sampled_from(RATIOS))
def test_a_killed_agent_draws_the_same_side_again(index: int, ratio: Fraction) -> None:
    assert side("salt", "robot-01", "lift", index, ratio) == side(
        "salt", "robot-01", "lift", index, ratio
    )


@pytest.mark.parametrize("ratio", RATIOS)
def test_every_position_is_about_equally_likely(ratio: Fraction) -> None:
    blocks = 2000
    hits = Counter(
        position
        for block in range(blocks)
        for position in candidate_positions("s", "r", "t", block, ratio)
    )
    share = float(ratio)
    slack = 5 * (share * (1 - share) / blocks) ** 0.5
    for position in range(ratio.denominator):
        assert abs(hits[position] / blocks - share) < slack


def test_salt_robot_and_stratum_each_change_the_draw() -> None:
    def draws(salt: str, robot: str, stratum: str) -> str:
        return "".join(side(salt, robot, stratum, i, Fraction(1, 2))[0] for i in range(200))

    base = draws("a", "r1", "lift")
    assert base != draws("b", "r1", "lift")
    assert base != draws("a", "r2", "lift")
    assert base != draws("a", "r1", "place")


def test_the_draw_is_frozen() -> None:
    """A change of the hash would make every stored attempt look like one of the wrong side."""
    drawn = "".join(side("salt", "robot-01", "lift", i, Fraction(1, 4))[0] for i in range(24))
    assert drawn == FROZEN


def test_ratios_of_nothing_and_everything() -> None:
    assert side("s", "r", "t", 3, Fraction(0)) == "baseline"
    assert side("s", "r", "t", 3, Fraction(1)) == "candidate"


def test_blocks_are_counted_from_zero() -> None:
    assert [block_of(i, Fraction(1, 4)) for i in (0, 3, 4, 9)] == [(0, 0), (0, 3), (1, 0), (2, 1)]
    with pytest.raises(ValueError, match="from 0"):
        block_of(-1, Fraction(1, 4))
    with pytest.raises(ValueError, match="lies in"):
        candidate_positions("s", "r", "t", 0, Fraction(3, 2))


FROZEN = "bbbcbbcbbbcbbbbcbcbbbbcb"
