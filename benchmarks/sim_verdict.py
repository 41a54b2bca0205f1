"""Episodes until the simulation gate speaks, over fresh random orders, and how often it is wrong.

Absolute: a population of 5,000 episodes of which a fixed share succeeds, threshold .85, in random
orders, looked at after every episode. Mean episodes to the verdict, against those of the full run
stopped as soon as its own verdict is certain; the share of orders with the full run's verdict, as
seen in these orders, and summed exactly over all orders of populations S at the threshold's edge.

Regression: old .90, outcomes of old and new on a scene by a Gaussian copula of correlation .95,
5,000 scenes, looked at after every one. Median new episodes until a version worse by two points is
called worse, against an oracle that knows both rates (a sequential likelihood ratio test of the
same error); and how often one of equal rate is, simulated and summed exactly over all paths.

Every test depends on counts only, so an order is a running count and a test is a table. Seeds are
drawn anew and printed; --seed repeats a run.

    benchmarks/sim_verdict.py [--seed N] [--orders N]
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from math import log

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, multivariate_normal, norm
from shared.figures import line

from registry.statistics.grid import bounds, limit
from registry.statistics.paired import log_regression, log_sound

POPULATION, THRESHOLD, ALPHA = 5000, 0.85, 0.01
FLOORS = {0.95: 120.0, 0.90: 500.0, 0.80: 650.0}
EDGES = (4150, 4200, 4240, 4250, 4251, 4260, 4300, 4350)  # S0 = 4250 does not pass
OLD, CORRELATION, ERROR, MARGIN = 0.90, 0.95, 0.05, 0.02
CAUGHT_FLOOR = 800.0
BATCH = 100  # orders at a time: 100 × 5,000 counts

Counts = NDArray[np.int64]


def first(hit: NDArray[np.bool_]) -> Counts:
    """The look, from 1, at which each row first hits; one past the last where it never does."""
    return np.asarray(np.where(hit.any(axis=1), hit.argmax(axis=1), hit.shape[1]) + 1)


def verdicts(
    mean: float, orders: int, rng: np.random.Generator
) -> tuple[Counts, NDArray[np.bool_], Counts]:
    """(orders,) each: episodes to the verdict, whether it is wrong, episodes to certainty."""
    passes, fails = (bound[1:] for bound in bounds(POPULATION, THRESHOLD, ALPHA))
    s0 = limit(THRESHOLD, POPULATION)
    drawn = np.arange(1, POPULATION + 1)
    outcomes = np.arange(POPULATION) < round(mean * POPULATION)
    found = []
    for begin in range(0, orders, BATCH):
        count = min(BATCH, orders - begin)
        paths = np.cumsum(rng.permuted(np.tile(outcomes, (count, 1)), axis=1), axis=1)
        passed = first(paths >= passes)
        failed = first(paths <= fails)
        certain = first((paths > s0) | (drawn - paths >= POPULATION - s0))
        wrong = (passed < failed) != (round(mean * POPULATION) > s0)
        found.append((np.minimum(passed, failed), wrong, certain))
    episodes, wrong, certain = (np.concatenate(part) for part in zip(*found, strict=True))
    return episodes, wrong, certain


def absolute(orders: int, rng: np.random.Generator) -> list[bool]:
    met, share = [], {}
    for mean, floor in FLOORS.items():
        episodes, wrong, certain = verdicts(mean, orders, rng)
        share[mean] = float(wrong.mean())
        figure = f"mean episodes to the verdict at true mean {mean:.2f}"
        line(
            figure, float(episodes.mean()), "episodes", "the full run until it is certain",
            float(certain.mean()), less_is_better=True,
        )  # fmt: skip
        met.append(
            line(figure, float(episodes.mean()), "episodes", "floor", floor, 1.0,
                 less_is_better=True)
        )  # fmt: skip
    least = 100 * (1 - ALPHA)
    figure = f"per cent of {orders} orders with the full run's verdict, the worst of the means"
    right = 100 * (1 - max(share.values()))
    met.append(line(figure, right, "%", "1 − alpha", least, 1.0))
    exact = {successes: wrong_chance(successes) for successes in EDGES}
    worst = max(exact, key=lambda successes: exact[successes])
    figure = f"per cent of all orders with the full run's verdict, exact, the worst at S = {worst}"
    met.append(line(figure, 100 * (1 - exact[worst]), "%", "1 − alpha", least, 1.0))
    return met


def wrong_chance(successes: int) -> float:
    """The chance of the wrong verdict on a population, summed over all orders."""
    passes, fails = bounds(POPULATION, THRESHOLD, ALPHA)
    passing = successes > limit(THRESHOLD, POPULATION)
    alive = np.zeros(POPULATION + 2)  # by successes drawn, given no verdict yet
    alive[0] = 1.0
    k = np.arange(POPULATION + 2)
    wrong = 0.0
    for n in range(1, POPULATION + 1):
        low, high = max(0, int(fails[n - 1])), min(int(passes[n - 1]), n) + 1
        part, drawn = alive[low:high], k[low:high]
        hit = part * np.clip((successes - drawn) / (POPULATION - n + 1), 0.0, 1.0)
        alive[low:high] = part - hit
        alive[low + 1 : high + 1] += hit
        beyond = alive[passes[n] : high + 2].sum(), alive[: fails[n] + 1].sum()
        wrong += float(beyond[1] if passing else beyond[0])
        alive[passes[n] : high + 2] = 0.0
        alive[: fails[n] + 1] = 0.0
    return wrong


def rates(new: float) -> tuple[float, float]:
    """(regressions, fixes): the shares of scenes on which only the old, only the new succeeds."""
    cut = [norm.ppf(OLD), norm.ppf(new)]
    both = multivariate_normal([0, 0], [[1, CORRELATION], [CORRELATION, 1]]).cdf(cut)
    return float(OLD - both), float(new - both)


def pair_paths(new: float, runs: int, rng: np.random.Generator) -> tuple[Counts, Counts]:
    """Running counts of regressions and fixes, (runs, 5000) each."""
    worse, better = rates(new)
    drawn = rng.random((runs, POPULATION), dtype=np.float32)
    regressions = np.cumsum(drawn < worse, axis=1, dtype=np.int64)
    fixed = (drawn >= worse) & (drawn < worse + better)
    return regressions, np.cumsum(fixed, axis=1, dtype=np.int64)


def alarm_bound(most: int) -> Counts:
    """For 0 … most fixes, the least regressions at which the test speaks."""
    bound, least = [], 0
    for fixes in range(most + 1):
        while log_regression(least, fixes) < log(1 / ERROR):
            least += 1
        bound.append(least)
    return np.array(bound)


def false_alarm() -> float:
    """The chance that equal rates are ever called worse, summed over all paths.

    The walk over discordant scenes is a fair coin's; how many there are is binomial.
    """
    discordant = sum(rates(OLD))
    most = int(binom.ppf(1 - 1e-12, POPULATION, discordant))
    bound = alarm_bound(most)
    alive = np.ones(1)  # by regressions, given that no alarm has sounded
    chance = 0.0
    for n in range(1, most + 1):
        alive = (np.append(alive, 0.0) + np.append(0.0, alive)) / 2
        worse = np.arange(n + 1)
        sounds = worse >= bound[n - worse]
        chance += float(alive[sounds].sum()) * float(binom.sf(n - 1, POPULATION, discordant))
        alive[sounds] = 0.0
    return chance


def sound_bound(most: int) -> Counts:
    """(most + 1, most + 1): the least pairs that show non-inferiority, by regressions, fixes."""
    found = np.full((most + 1, most + 1), POPULATION + 1)
    for regressions in range(most + 1):
        least = 1
        for fixes in range(most, -1, -1):
            least = max(least, regressions + fixes)
            while least <= POPULATION and (
                log_sound(least, regressions, fixes, MARGIN) < log(1 / ERROR)
            ):
                least += 1
            found[regressions, fixes] = least
            if least > POPULATION:
                break
    return found


def called_worse(new: float, runs: int, rng: np.random.Generator) -> Counts:
    found = []
    for begin in range(0, runs, BATCH):
        regressions, fixes = pair_paths(new, min(BATCH, runs - begin), rng)
        found.append(first(regressions >= alarm_bound(int(fixes.max()))[fixes]))
    return np.concatenate(found)


def oracle(new: float, runs: int, rng: np.random.Generator) -> Counts:
    """Knows the share of regressions among discordant scenes; the same error."""
    worse, better = rates(new)
    share = worse / (worse + better)
    found = []
    for begin in range(0, runs, BATCH):
        regressions, fixes = pair_paths(new, min(BATCH, runs - begin), rng)
        found.append(
            first(regressions * log(2 * share) + fixes * log(2 * (1 - share)) >= log(1 / ERROR))
        )
    return np.concatenate(found)


def regression(runs: int, rng: np.random.Generator) -> list[bool]:
    loss = OLD - MARGIN
    caught = float(np.median(called_worse(loss, runs, rng)))
    known = float(np.median(oracle(loss, runs, rng)))
    figure = "median new episodes until a loss of two points is caught"
    line(figure, caught, "episodes", "an oracle that knows the rates", known, less_is_better=True)
    met = [line(figure, caught, "episodes", "floor", CAUGHT_FLOOR, 1.0, less_is_better=True)]
    alarms = 100 * float((called_worse(OLD, runs, rng) <= POPULATION).mean())
    exact, allowed = 100 * false_alarm(), 100 * ERROR
    figure = f"per cent of false alarms over {POPULATION} scenes at equal rates"
    met.append(line(f"{figure}, exact", exact, "%", "alpha", allowed, 1.0, less_is_better=True))
    line(f"{figure}, in {runs} runs", alarms, "%", "the exact chance", exact, less_is_better=True)
    table = sound_bound(200)
    regressions, fixes = pair_paths(OLD, BATCH, rng)
    enough = np.minimum(regressions, 200), np.minimum(fixes, 200)
    shown = first(np.arange(1, POPULATION + 1) >= table[enough])
    line(
        "median new episodes until equal rates are shown within two points",
        float(np.median(shown)), "episodes", "all scenes", POPULATION, less_is_better=True,
    )  # fmt: skip
    return met


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--seed", type=int, default=secrets.randbits(32))
    options.add_argument("--orders", type=int, default=1000)
    given = options.parse_args()
    print(json.dumps({"seed": given.seed, "orders": given.orders}), flush=True)
    rng = np.random.default_rng(given.seed)
    met = absolute(given.orders, rng) + regression(given.orders, rng)
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
