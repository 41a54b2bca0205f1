"""A truncated sequential test of one success rate, optimal in the mean number of trials.

A rate `bad` may pass with probability at most alpha, a rate `good` may fail with probability at
most beta. Among rules that end after `max_trials`, the one that minimises

    ½ E_bad[trials] + ½ E_good[trials] + ½ l0 P_bad(pass) + ½ l1 P_good(fail)

is found by backward induction; it is a pair of bounds on the number of failures after n trials:
pass at failures ≤ a(n), fail at failures ≥ r(n), go on between. At n = max_trials r = a + 1, so it
always ends. Rules:
1. The losses l0 and l1 are the only freedom. For .70/.92/5 %/10 %/50 they are 157.1 and 88.3. For
   other numbers they are searched: l0 and l1 in turn become the least value that keeps its own
   error beside the other, until the exact probabilities keep both. The search is deterministic,
   so a verdict is recomputable.
2. Where even the fixed test of `max_trials` trials cannot keep both errors, `plan` says so: a
   ValueError with the number of trials that would do.
3. All probabilities are exact sums over the lattice of (trials, failures); nothing is simulated.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import comb

import numpy as np
from numpy.typing import NDArray

from registry.gates import TrialTest

REFERENCE = TrialTest(0.70, 0.92, 0.05, 0.10, 50)
REFERENCE_LOSSES = (157.1, 88.3)
LARGEST_FIXED = 1000
"""Most trials that `fixed_trials` looks at: beyond it nobody tries a robot, and sums overflow."""
_LARGEST_LOSS = 1e6
_ROUNDS = 40
_EASE = 1.01  # steps over the lattice's jumps, where the least losses never meet


@dataclass(frozen=True)
class Plan:
    """The bounds after n = 0 … max_trials trials; None where that side cannot be reached yet."""

    test: TrialTest
    losses: tuple[float, float]
    accept: tuple[int | None, ...]
    reject: tuple[int | None, ...]

    def boundary(self, n: int) -> tuple[int | None, int | None]:
        """(a, r) after n trials; past max_trials the last bound holds as a rate, so r = a + 1."""
        limit = self.test.max_trials
        last = self.reject[limit]
        if n <= limit or last is None:
            return self.accept[min(n, limit)], self.reject[min(n, limit)]
        reject = -(-last * n // limit)
        return reject - 1, reject

    def decide(self, n: int, failures: int) -> bool | None:
        """True: passes; False: fails; None: go on."""
        accept, reject = self.boundary(n)
        if reject is not None and failures >= reject:
            return False
        if accept is not None and failures <= accept:
            return True
        return None


@dataclass(frozen=True)
class Performance:
    """What a plan does to a version of a given rate, exactly."""

    rate: float
    pass_probability: float
    expected_trials: float


def plan(test: TrialTest) -> Plan:
    """The optimal plan of a test; ValueError where `max_trials` are too few for its errors."""
    return _plan(test)


def performance(of: Plan, rate: float) -> Performance:
    passed, expected = _forward(of.accept, of.reject, rate, of.test.max_trials)
    return Performance(rate, passed, expected)


def fixed_trials(
    bad: float, good: float, alpha: float, beta: float, limit: int = LARGEST_FIXED
) -> tuple[int, int]:
    """(n, need): the smallest fixed number of trials, and successes, that keep both errors.

    ValueError where more than `limit` trials, at most LARGEST_FIXED, would be needed.
    """
    need = 0
    for n in range(1, min(limit, LARGEST_FIXED) + 1):
        while need <= n and _upper_tail(n, need, bad) > alpha:
            need += 1  # it never falls as n grows
        if need <= n and 1 - _upper_tail(n, need, good) <= beta:
            return n, need
    raise ValueError(
        f"rates {bad} and {good} are too close: to tell them apart with errors {alpha} and {beta} "
        f"takes more than {min(limit, LARGEST_FIXED)} trials"
    )


def more_trials(of: Plan, n: int, failures: int) -> int:
    """Trials that would still decide if they succeed at the rate seen so far (all, before any)."""
    rate = failures / n if n else 0.0
    for ahead in range(n, of.test.max_trials + 1):
        if of.decide(ahead, failures + round(rate * (ahead - n))) is not None:
            return ahead - n
    return max(of.test.max_trials - n, 0)


@lru_cache(maxsize=32)
def _plan(test: TrialTest) -> Plan:
    if test == REFERENCE:
        return _induct(test, REFERENCE_LOSSES)
    bad, good = test.reject_below, test.accept_at
    n, _ = fixed_trials(bad, good, test.alpha, test.beta, 4 * test.max_trials)
    if n > test.max_trials:
        raise ValueError(
            f"{test.max_trials} trials cannot tell {bad} from {good} with errors {test.alpha} and "
            f"{test.beta}: max_trials must be at least {n}"
        )
    return _search(test)


def _search(test: TrialTest) -> Plan:
    l0, l1 = REFERENCE_LOSSES
    for _ in range(_ROUNDS):
        l0 = _least_loss(test, l1, first=True)
        l1 = _least_loss(test, l0, first=False) * _EASE
        found = _induct(test, (l0, l1))
        alpha, beta = _errors(found)
        if alpha <= test.alpha and beta <= test.beta:
            return found
    raise ValueError(
        f"found no sequential test of at most {test.max_trials} trials between "
        f"{test.reject_below} and {test.accept_at}: raise max_trials by a few"
    )


def _least_loss(test: TrialTest, other: float, *, first: bool) -> float:
    """The least loss, to one part in a thousand, whose own error is kept beside the other loss."""

    def kept(loss: float) -> bool:
        errors = _errors(_induct(test, (loss, other) if first else (other, loss)))
        return errors[0] <= test.alpha if first else errors[1] <= test.beta

    low, high = 1.0, _LARGEST_LOSS
    while high > low * 1.001:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if kept(middle) else (middle, high)
    return high


def _errors(of: Plan) -> tuple[float, float]:
    """(P(pass) at the bad rate, P(fail) at the good rate)."""
    limit = of.test.max_trials
    passed, _ = _forward(of.accept, of.reject, of.test.reject_below, limit)
    held, _ = _forward(of.accept, of.reject, of.test.accept_at, limit)
    return passed, 1 - held


def _induct(test: TrialTest, losses: tuple[float, float]) -> Plan:
    """Backward induction. Values are joint with the likelihood, so continuing is a plain sum."""
    bad, good, limit = test.reject_below, test.accept_at, test.max_trials
    accept: list[int | None] = [None] * (limit + 1)
    reject: list[int | None] = [None] * (limit + 1)
    value: NDArray[np.float64] = np.zeros(0)
    for n in range(limit, -1, -1):
        failures = np.arange(n + 1)
        is_bad = 0.5 * bad ** (n - failures) * (1 - bad) ** failures
        is_good = 0.5 * good ** (n - failures) * (1 - good) ** failures
        if_pass, if_fail = losses[0] * is_bad, losses[1] * is_good
        stop = np.minimum(if_pass, if_fail)
        if n == limit:
            stops = np.ones(n + 1, dtype=bool)
            value = stop
        else:
            go_on = is_bad + is_good + value[:-1] + value[1:]
            stops = stop <= go_on
            value = np.minimum(stop, go_on)
        passes, fails = (
            failures[stops & (if_pass <= if_fail)],
            failures[stops & (if_pass > if_fail)],
        )
        accept[n] = int(passes.max()) if passes.size else None
        reject[n] = int(fails.min()) if fails.size else None
    return Plan(test, losses, tuple(accept), tuple(reject))


def _forward(
    accept: tuple[int | None, ...], reject: tuple[int | None, ...], rate: float, limit: int
) -> tuple[float, float]:
    """(P(pass), E[trials]) by pushing probability through the lattice; index is failures."""
    mass = np.zeros(limit + 2)
    mass[0] = 1.0
    failures = np.arange(limit + 2)
    passed = expected = 0.0
    for n in range(limit + 1):
        a, r = accept[n], reject[n]
        passing = failures <= a if a is not None else np.zeros_like(failures, dtype=bool)
        failing = failures >= r if r is not None else np.zeros_like(failures, dtype=bool)
        done = passing | failing
        passed += float(mass[passing].sum())
        expected += n * float(mass[done].sum())
        mass = np.where(done, 0.0, mass)
        mass = rate * mass + (1 - rate) * np.concatenate(([0.0], mass[:-1]))
    return passed, expected


def _upper_tail(n: int, need: int, rate: float) -> float:
    """P(at least `need` successes in n trials)."""
    return sum(comb(n, k) * rate**k * (1 - rate) ** (n - k) for k in range(need, n + 1))
