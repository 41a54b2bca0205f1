"""The simulation gate's three questions: when it passes, when it fails, and when it goes on."""

import time
from dataclasses import replace
from statistics import median
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import Refused
from registry.evidence import GridEvidence, Paired, Subject, Tally
from registry.gates import GridGate, Regression
from registry.grid_verdict import undecided
from registry.statistics.grid import order_digest
from registry.verdicts import Outcome, Verdict, judge

PLAIN = GridGate("box-grasp", {"friction": (0.3, 0.5), "mass": (1.0, 2.0)}, episodes_per_cell=250)
GATE = replace(PLAIN, regression=Regression(), floor=0.6)
SUBJECT = Subject("box-grasp", 4, "sha256:" + "1" * 64)
FLEET = Subject("box-grasp", 3, "sha256:" + "2" * 64)


def pairs(pairs: int, regressions: int = 0, fixes: int = 0, identical: int = 0) -> Paired:
    return Paired(FLEET, pairs, regressions, fixes, identical)


def even(drawn: int, successes: int, cells: int = 4) -> list[Tally]:
    """The counts spread over cells."""
    n = [drawn // cells + (i < drawn % cells) for i in range(cells)]
    s = [0] * cells
    left = successes
    for i in range(cells):
        s[i] = min(n[i], round(successes * n[i] / drawn) if drawn else 0, left)
        left -= s[i]
    for i in range(cells):
        add = min(n[i] - s[i], left)
        s[i], left = s[i] + add, left - add
    return [Tally(s[i], n[i] - s[i]) for i in range(cells)]


def seen(
    drawn: int,
    successes: int,
    paired: Paired | None = None,
    gate: GridGate = GATE,
    cells: list[Tally] | None = None,
) -> GridEvidence:
    found = even(drawn, successes) if cells is None else cells
    return GridEvidence(
        subject=SUBJECT,
        gate_digest=gate.digest,
        robot_class="openarm-v2-right",
        engine="exact",
        judge="exact",
        attempts_digest="sha256:" + "3" * 64,
        population=gate.population,
        drawn=drawn,
        successes=successes,
        nonce="nonce",
        order_digest=order_digest("nonce", gate.population),
        cells=tuple((f"cell={i}", tally) for i, tally in enumerate(found)),
        paired=paired,
    )


def outcome(*given: Any, **options: Any) -> Outcome:
    return judge(GATE, seen(*given, **options)).outcome


def test_without_a_baseline_the_absolute_test_alone_decides() -> None:
    assert outcome(100, 98) is Outcome.PASS
    assert outcome(100, 60) is Outcome.FAIL
    assert outcome(20, 20) is Outcome.INCONCLUSIVE


def test_a_version_that_is_no_worse_needs_proof_of_it() -> None:
    waiting = judge(GATE, seen(100, 98, pairs(100, 1, 1)))
    assert waiting.outcome is Outcome.INCONCLUSIVE
    assert waiting.more
    total = 100 + waiting.more
    worse = round(total / 100)
    assert outcome(total + 5, total - 1, pairs(total + 5, worse, worse)) is Outcome.PASS


def test_enough_identical_episodes_need_no_test() -> None:
    """A version that loses on 2 % of the scenes shows none of them in 149 with at most 5 %."""
    verdict = judge(GATE, seen(149, 146, pairs(149, identical=149)))
    assert verdict.outcome is Outcome.PASS
    assert "identical to those of v3" in verdict.reason
    assert 0.98**149 <= 0.05 < 0.98**148
    assert outcome(148, 145, pairs(148, identical=148)) is Outcome.INCONCLUSIVE
    assert outcome(149, 146, pairs(149, identical=148)) is Outcome.INCONCLUSIVE
    assert outcome(200, 196, pairs(149, identical=149)) is Outcome.INCONCLUSIVE
    assert outcome(100, 98, pairs(0)) is Outcome.INCONCLUSIVE
    assert outcome(100, 60, pairs(100, identical=100)) is Outcome.FAIL


def test_a_version_worse_than_the_fleets_fails_though_its_mean_is_high() -> None:
    verdict = judge(GATE, seen(300, 288, pairs(300, 11, 1)))
    assert verdict.outcome is Outcome.FAIL
    assert verdict.numbers["regression_e"] >= 20
    assert "worse than v3" in verdict.reason
    assert "11 regressions and 1 fixes in 300 same scenes" in verdict.reason


def test_a_cell_proven_below_the_floor_fails_a_version_with_a_high_mean() -> None:
    cells = [Tally(60, 0), Tally(60, 0), Tally(60, 0), Tally(2, 12)]
    verdict = judge(GATE, seen(194, 182, cells=cells))
    assert verdict.outcome is Outcome.FAIL
    assert "1 cell is proven below 0.6, cell=3 succeeded in 2 of 14" in verdict.reason
    assert (verdict.numbers["cells_below"], verdict.numbers["worst_cell"]) == (1, 3)
    assert verdict.numbers["floor_e"] >= verdict.numbers["floor_threshold_e"] == 80
    unasked = replace(GATE, floor=None)
    again = judge(unasked, seen(194, 182, cells=cells, gate=unasked))
    assert again.outcome is Outcome.PASS
    assert again.numbers["cell_min"] == pytest.approx(1 / 7)


def test_a_floor_does_not_pass_unseen() -> None:
    assert outcome(100, 98, cells=[]) is Outcome.INCONCLUSIVE


@pytest.mark.parametrize(
    ("regressions", "fixes", "passes"), [(30, 10, True), (31, 10, False), (20, 40, True)]
)
def test_the_whole_population_decides_by_its_difference(
    regressions: int, fixes: int, passes: bool
) -> None:
    """A margin of .02 of 1,000 scenes is 20; alpha so small that no e-value speaks before."""
    gate = replace(GATE, regression=Regression(alpha=1e-9))
    evidence = seen(1000, 900, pairs(1000, regressions, fixes), gate=gate)
    verdict = judge(gate, evidence)
    assert verdict.outcome is (Outcome.PASS if passes else Outcome.FAIL)
    if not passes:
        assert "more than 0.02" in verdict.reason


def test_scenes_without_a_pair_leave_the_whole_population_open() -> None:
    gate = replace(GATE, regression=Regression(alpha=1e-9))
    verdict = judge(gate, seen(1000, 900, pairs(990, 31, 10), gate=gate))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.more == 10


def test_the_numbers_hold_everything() -> None:
    numbers = judge(GATE, seen(300, 285, pairs(300, 3, 4, 200))).numbers
    assert {
        "population", "drawn", "successes", "rate", "needed", "pass_e", "fail_e", "threshold_e",
        "cells", "cells_drawn", "cell_mean", "cell_min", "cell_max", "cell_std", "worst_cell",
        "worst_low", "worst_high", "best_cell", "best_low", "best_high", "floor", "floor_e",
        "floor_threshold_e", "cells_below", "baseline", "pairs", "regressions", "fixes",
        "identical", "difference", "margin", "regression_e", "sound_e", "regression_threshold_e",
    } == set(numbers)  # fmt: skip
    assert (numbers["baseline"], numbers["difference"]) == (3, pytest.approx(1 / 300))


def test_edition_one_judges_as_it_did() -> None:
    gate = replace(PLAIN, edition=1)
    assert "edition" not in gate.to_json()
    verdict = judge(gate, seen(100, 98, pairs(100, 2), gate=gate, cells=[Tally(98, 2)]))
    assert verdict.outcome is Outcome.PASS
    assert verdict.reason == (
        "the full run's mean is above 0.85: 98 of 100 episodes succeeded, 100 of 1000 run"
    )
    assert set(verdict.numbers) == {
        "population", "drawn", "successes", "rate", "needed", "pass_e", "fail_e", "threshold_e",
    }  # fmt: skip


def test_evidence_of_more_cells_than_the_grid_has_is_refused() -> None:
    with pytest.raises(Refused, match="more cells"):
        judge(GATE, seen(5, 5, cells=[Tally(1, 0)] * 5))


def test_the_verdict_survives_its_json() -> None:
    verdict = judge(GATE, seen(300, 285, pairs(300, 3, 4, 200)))
    assert Verdict.from_json(verdict.to_json()) == verdict


def test_verdicts_agree_where_only_the_last_digits_of_a_number_differ() -> None:
    verdict = judge(GATE, seen(300, 285, pairs(300, 3, 4, 200)))
    numbers = dict(verdict.numbers)
    floor_e = numbers["floor_e"]
    assert floor_e is not None
    assert verdict.agrees(replace(verdict, numbers=numbers | {"floor_e": floor_e * (1 + 1e-12)}))
    assert not verdict.agrees(replace(verdict, numbers=numbers | {"floor_e": floor_e * 1.001}))
    assert not verdict.agrees(replace(verdict, numbers=numbers | {"floor_e": None}))
    assert not verdict.agrees(replace(verdict, numbers=numbers | {"other": 1}))
    assert not verdict.agrees(replace(verdict, outcome=Outcome.FAIL))


@st.composite
def counts(draw: st.DrawFn) -> tuple[int, int, list[Tally], Paired | None]:
    cells = [
        Tally(draw(st.integers(0, 250 - lost)), lost)
        for lost in draw(st.lists(st.integers(0, 60), min_size=1, max_size=4))
    ]
    drawn, successes = sum(t.n for t in cells), sum(t.success for t in cells)
    if draw(st.booleans()):
        return drawn, successes, cells, None
    worse = draw(st.integers(0, min(drawn - successes, 40)))
    better = draw(st.integers(0, min(successes, 40)))
    same = draw(st.integers(0, drawn - worse - better))
    total = draw(st.integers(worse + better + same, drawn))
    return drawn, successes, cells, pairs(total, worse, better, same)


@given(counts())
@settings(max_examples=150)
def test_undecided_is_always_the_verdicts_own_answer(
    found: tuple[int, int, list[Tally], Paired | None],
) -> None:
    drawn, successes, cells, paired = found
    verdict = judge(GATE, seen(drawn, successes, paired, cells=cells))
    tallies = [(tally.success, tally.failure) for tally in cells]
    open_ = verdict.outcome is Outcome.INCONCLUSIVE
    assert undecided(GATE, drawn, successes, tallies, paired) is open_


@given(counts())
@settings(max_examples=150)
def test_a_version_never_passes_below_threshold_worse_or_with_a_weak_cell(
    found: tuple[int, int, list[Tally], Paired | None],
) -> None:
    drawn, successes, cells, paired = found
    verdict = judge(GATE, seen(drawn, successes, paired, cells=cells))
    numbers = verdict.numbers
    if verdict.outcome is Outcome.PASS:
        assert numbers["pass_e"] >= 100 or successes >= numbers["needed"]
        assert numbers["cells_below"] == 0
        assert paired is None or numbers["regression_e"] < 20
    if verdict.outcome is not Outcome.FAIL:
        assert numbers["fail_e"] < 100
        assert numbers.get("regression_e", 0) < 20


@given(counts())
@settings(max_examples=80)
def test_the_full_run_always_decides_where_every_scene_has_a_pair(
    found: tuple[int, int, list[Tally], Paired | None],
) -> None:
    paired = found[3]
    successes = min(max(found[1], 40), 960)
    whole = None if paired is None else replace(paired, pairs=1000, identical=0)
    assert outcome(1000, successes, whole) is not Outcome.INCONCLUSIVE


def test_asking_after_each_of_five_thousand_episodes_costs_little() -> None:
    """A hundred cells, all questions open: an answer is as a few passes over the cells."""
    axes = {"a": tuple(range(10)), "b": tuple(range(10))}
    gate = GridGate("t", axes, 50, regression=Regression(), floor=0.6)
    ratios = []
    for _ in range(9):
        cells = [[0, 0] for _ in range(100)]
        drawn = successes = regressions = fixes = 0
        undecided(gate, 0, 0, cells, pairs(0))
        began = time.perf_counter()
        for number in range(500):
            ok = number * 7 % 20 not in (0, 1, 2)
            cells[number * 37 % 100][not ok] += 1
            drawn, successes = drawn + 1, successes + ok
            regressions += number % 50 == 0 and not ok
            fixes += number % 50 == 7 and ok
            undecided(gate, drawn, successes, cells, pairs(drawn, regressions, fixes))
        took, began = time.perf_counter() - began, time.perf_counter()
        for _ in range(500):
            sum(good / (good + bad + 1) for good, bad in cells)
        ratios.append(took / (time.perf_counter() - began))
    assert median(ratios) < 15, ratios
