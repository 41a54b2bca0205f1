"""Known answers of the truncated sequential test (statistics reference, 4.4), and its search."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.gates import TrialTest
from registry.statistics.trials import REFERENCE, fixed_trials, more_trials, performance, plan


def expected_bounds(text: str) -> dict[int, int]:
    """`n2-4:2, 5-10:3` as {2: 2, 3: 2, 4: 2, 5: 3 …}."""
    bounds = {}
    for part in text.split(","):
        span, value = part.split(":")
        first, _, last = span.strip().partition("-")
        for n in range(int(first), int(last or first) + 1):
            bounds[n] = int(value)
    return bounds


def test_boundary_of_the_reference_test() -> None:
    reject = expected_bounds("2-4:2, 5-10:3, 11-16:4, 17-22:5, 23-28:6, 29-35:7, 36-43:8, 44-50:9")
    accept = expected_bounds(
        "11-16:0, 17-21:1, 22-27:2, 28-33:3, 34-38:4, 39-43:5, 44-48:6, 49:7, 50:8"
    )
    found = plan(REFERENCE)
    for n in range(51):
        assert found.boundary(n) == (accept.get(n), reject.get(n)), n


@pytest.mark.parametrize(
    ("rate", "passes", "trials"),
    [
        (0.95, 0.9737, 14.71),
        (0.92, 0.9104, 17.04),
        (0.90, 0.8379, 18.28),
        (0.85, 0.5709, 19.17),
        (0.80, 0.3000, 16.98),
        (0.75, 0.1283, 13.59),
        (0.70, 0.0484, 10.55),
        (0.60, 0.0059, 6.68),
        (0.50, 0.0006, 4.74),
        (0.0, 0.0, 2.00),
    ],
)
def test_performance_of_the_reference_test(rate: float, passes: float, trials: float) -> None:
    found = performance(plan(REFERENCE), rate)
    assert found.pass_probability == pytest.approx(passes, abs=6e-5)
    assert found.expected_trials == pytest.approx(trials, abs=6e-3)


def test_the_fixed_test_with_the_same_errors() -> None:
    assert fixed_trials(0.70, 0.92, 0.05, 0.10) == (28, 24)


@pytest.mark.parametrize(
    "test",
    [
        TrialTest(0.8, 0.95, 0.05, 0.1, 60),
        TrialTest(0.6, 0.9, 0.05, 0.1, 20),
        TrialTest(0.7, 0.92, 0.05, 0.1, 28),
        TrialTest(0.5, 0.9, 0.1, 0.1, 12),
        TrialTest(0.85, 0.98, 0.05, 0.05, 100),
    ],
)
def test_other_numbers_are_searched_and_keep_both_errors(test: TrialTest) -> None:
    found = plan(test)
    assert performance(found, test.reject_below).pass_probability <= test.alpha
    good = performance(found, test.accept_at)
    assert 1 - good.pass_probability <= test.beta
    fixed, _ = fixed_trials(test.reject_below, test.accept_at, test.alpha, test.beta)
    assert good.expected_trials < fixed


def test_too_few_trials_are_refused_with_the_number_that_would_do() -> None:
    with pytest.raises(ValueError, match="at least 28"):
        plan(TrialTest(0.70, 0.92, 0.05, 0.10, 20))


@given(st.integers(0, 80), st.data())
@settings(max_examples=100)
def test_it_always_ends_and_a_failure_never_helps(n: int, data: st.DataObject) -> None:
    found = plan(REFERENCE)
    failures = data.draw(st.integers(0, n))
    answer = found.decide(n, failures)
    if n >= REFERENCE.max_trials:
        assert answer is not None
    if answer is False:
        assert found.decide(n, min(failures + 1, n)) is False
    if answer is True and failures:
        assert found.decide(n, failures - 1) is True


def test_more_trials_at_the_rate_seen() -> None:
    found = plan(REFERENCE)
    assert more_trials(found, 0, 0) == 11
    assert more_trials(found, 5, 0) == 6
    assert more_trials(found, 1, 1) == 1
