"""The simulation gate's part of the rule book: three questions asked of one run of a grid.

1. Absolute: does more than `threshold` of the full run succeed (registry/statistics/grid.py)?
2. Regression, where the gate asks it and the evidence is paired with a baseline
   (registry/statistics/paired.py): is the version worse on the same scenes, or surely not by the
   margin? Where every pair has identical episodes no test is needed beyond so many of them that a
   version which loses on a share `margin` of the scenes would have shown one (149 at .02 and .05).
3. Floor, where the gate asks it: is any cell proven below it (registry/statistics/cells.py)?

FAIL   when the absolute test fails, or the regression e-value reaches 1/alpha, or the list of cells
       below the floor is not empty, or so much of the population is paired that the difference over
       all of it is certain to be worse than −margin. Asked in this order, and before PASS.
PASS   when the absolute test passes and, where paired, all of enough pairs are identical, or the
       non-inferiority e-value reaches 1/alpha, or the difference over the whole population is
       certain to be no worse than −margin.
Else INCONCLUSIVE; `more` is the larger of what the open questions would still need.

`undecided` is the same question without the words, cheap enough to be asked after each episode.
A floor needs the tallies of cells: evidence that lists none does not pass under it. Edition 1 of
the rules has the absolute test only, with its first mixture.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from math import log

from registry.errors import Refused
from registry.evidence import GridEvidence, Paired
from registry.gates import GridGate, Regression
from registry.verdict_values import Number, Outcome, Verdict, shown_e, verdict_on


class _Why(Enum):
    """What decided."""

    BELOW = "below"
    WORSE = "worse"
    CELLS = "cells"
    LOST = "lost"
    PASSED = "passed"
    OPEN = "open"


def judge_grid(gate: GridGate, evidence: GridEvidence) -> Verdict:
    """The verdict on a run. Refused where it is not one of the gate's population in its order."""
    from registry.statistics import grid

    total, drawn, successes = gate.population, evidence.drawn, evidence.successes
    order = grid.order_digest(evidence.nonce, total)
    if (evidence.population, evidence.order_digest) != (total, order):
        raise Refused(
            "the episodes are not the gate's full run in the order of the registry's nonce",
            evidence=f"{evidence.population} episodes, order {evidence.order_digest}",
            hint="policyctl gate run sim VERSION",
        )
    if len(evidence.cells) > gate.cells:
        raise Refused(
            "the evidence lists more cells than the gate has",
            evidence=f"{len(evidence.cells)} cells, the grid has {gate.cells}",
            hint="policyctl gate run sim VERSION",
        )
    numbers = _absolute_numbers(gate, drawn, successes)
    seen = f"{successes} of {drawn} episodes succeeded, {drawn} of {total} run"
    paired = evidence.paired if gate.regression is not None else None
    counts = [(tally.success, tally.failure) for _, tally in evidence.cells]
    if gate.edition > 1:
        numbers |= _cell_numbers(gate, evidence)
        numbers |= _paired_numbers(gate, paired)
    why = _answer(gate, drawn, successes, counts, paired)
    if why is _Why.OPEN:
        more = _more(gate, drawn, successes, paired)
        return verdict_on(gate, evidence, Outcome.INCONCLUSIVE, seen, numbers, more)
    reason = f"{_reason(gate, evidence, why, numbers)}: {seen}"
    outcome = Outcome.PASS if why is _Why.PASSED else Outcome.FAIL
    return verdict_on(gate, evidence, outcome, reason, numbers)


def undecided(
    gate: GridGate,
    drawn: int,
    successes: int,
    cells: Iterable[Sequence[int]] = (),
    paired: Paired | None = None,
) -> bool:
    """Whether `judge_grid` would be inconclusive on these counts.

    `cells` are (success, failure) of the cells drawn so far, in any order. Costs some ten
    microseconds for a hundred cells.
    """
    compared = paired if gate.regression is not None else None
    return _answer(gate, drawn, successes, cells, compared) is _Why.OPEN


def weak_cells(gate: GridGate, evidence: GridEvidence) -> list[int]:
    """The cells proven below the gate's floor, the most certain first; none where it has no floor.

    They index the evidence's cells.
    """
    from registry.statistics.cells import below

    if gate.floor is None:
        return []
    tallies = [(tally.success, tally.failure) for _, tally in evidence.cells]
    return below(tallies, gate.floor, gate.floor_alpha, gate.cells)


def _answer(
    gate: GridGate,
    drawn: int,
    successes: int,
    cells: Iterable[Sequence[int]],
    paired: Paired | None,
) -> _Why:
    from registry.statistics import grid
    from registry.statistics.cells import below

    absolute = grid.decide(
        gate.population, gate.threshold, gate.alpha, drawn, successes, gate.edition
    )
    if absolute is False:
        return _Why.BELOW
    compared: bool | None = True
    if paired is not None and gate.regression is not None:
        compared, why = _compare(gate.regression, gate.population, paired, drawn)
        if why is _Why.WORSE:
            return why
    known = True
    if gate.floor is not None:
        listed = list(cells)
        known = bool(listed) or not drawn
        if below(listed, gate.floor, gate.floor_alpha, gate.cells):
            return _Why.CELLS
    if compared is False:
        return _Why.LOST
    return _Why.PASSED if absolute and compared and known else _Why.OPEN


def _compare(
    regression: Regression, population: int, paired: Paired, drawn: int
) -> tuple[bool | None, _Why]:
    """True: no worse; False: worse; None: open. And what says so where it is worse.

    Only a certainty answers for draws that are not paired: whoever leaves pairs out chooses.
    """
    from registry.statistics.paired import certain, log_regression, log_sound

    pairs, worse, better = paired.pairs, paired.regressions, paired.fixes
    enough = log(1 / regression.alpha)
    if log_regression(worse, better) >= enough:
        return False, _Why.WORSE
    sure = certain(population, pairs, worse, better, regression.margin)
    if sure is not None:
        return sure, _Why.LOST
    if pairs < drawn:
        return None, _Why.OPEN
    if paired.identical == pairs and identical_enough(regression, population, pairs):
        return True, _Why.OPEN
    if log_sound(pairs, worse, better, regression.margin) >= enough:
        return True, _Why.OPEN
    return None, _Why.OPEN


def identical_enough(regression: Regression, population: int, pairs: int) -> bool:
    """Whether pairs that are all identical show that the version is not worse by the margin.

    One that differs on a share `margin` of the scenes, and loses there, shows none of them in so
    many draws with probability at most (1 - margin) ** pairs.
    """
    return pairs == population or (1 - regression.margin) ** pairs <= regression.alpha


def _more(gate: GridGate, drawn: int, successes: int, paired: Paired | None) -> int:
    """Draws that would still decide if all went on as seen: the most that an open question needs.

    Once all are drawn, the episodes that the baseline has still to play.
    """
    from registry.statistics import grid
    from registry.statistics.paired import more_pairs

    absolute = (gate.population, gate.threshold, gate.alpha, drawn, successes, gate.edition)
    more = grid.more_draws(*absolute) if grid.decide(*absolute) is None else 0
    asked = gate.regression
    if asked and paired and _compare(asked, gate.population, paired, drawn)[0] is None:
        counts = (gate.population, paired.pairs, paired.regressions, paired.fixes)
        more = max(more, more_pairs(*counts, asked.margin, asked.alpha))
    left = gate.population - drawn
    return min(max(more, 1), left) if left else more


def _absolute_numbers(gate: GridGate, drawn: int, successes: int) -> dict[str, Number]:
    from registry.statistics import grid

    total = gate.population
    s0 = grid.limit(gate.threshold, total)
    return {
        "population": total,
        "drawn": drawn,
        "successes": successes,
        "rate": successes / drawn if drawn else None,
        "needed": s0 + 1,
        "pass_e": shown_e(grid.log_pass(total, s0, drawn, successes, gate.edition)),
        "fail_e": shown_e(grid.log_fail(total, s0, drawn, successes, gate.edition)),
        "threshold_e": 1 / gate.alpha,
    }


def _cell_numbers(gate: GridGate, evidence: GridEvidence) -> dict[str, Number]:
    """Over cells with episodes. `worst_cell` and `best_cell` index the evidence's cells."""
    from registry.statistics.cells import log_below, summary

    found = summary([tally for _, tally in evidence.cells], gate.cells, gate.floor_alpha)
    if found is None:
        return {}
    numbers: dict[str, Number] = {
        "cells": gate.cells,
        "cells_drawn": found.count,
        "cell_mean": found.mean,
        "cell_min": found.min,
        "cell_max": found.max,
        "cell_std": found.std,
        "worst_cell": found.worst,
        "worst_low": found.worst_interval[0],
        "worst_high": found.worst_interval[1],
        "best_cell": found.best,
        "best_low": found.best_interval[0],
        "best_high": found.best_interval[1],
    }
    if gate.floor is None:
        return numbers
    counts = [(tally.success, tally.failure) for _, tally in evidence.cells]
    return numbers | {
        "floor": gate.floor,
        "floor_e": shown_e(max(log_below(*pair, gate.floor) for pair in counts)),
        "floor_threshold_e": gate.cells / gate.floor_alpha,
        "cells_below": len(weak_cells(gate, evidence)),
    }


def _paired_numbers(gate: GridGate, paired: Paired | None) -> dict[str, Number]:
    from registry.statistics.paired import log_regression, log_sound

    if paired is None or gate.regression is None:
        return {}
    pairs, worse, better = paired.pairs, paired.regressions, paired.fixes
    margin = gate.regression.margin
    return {
        "baseline": paired.baseline.number,
        "pairs": pairs,
        "regressions": worse,
        "fixes": better,
        "identical": paired.identical,
        "difference": (better - worse) / pairs if pairs else None,
        "margin": margin,
        "regression_e": shown_e(log_regression(worse, better)),
        "sound_e": shown_e(log_sound(pairs, worse, better, margin)),
        "regression_threshold_e": 1 / gate.regression.alpha,
    }


def _reason(gate: GridGate, evidence: GridEvidence, why: _Why, numbers: dict[str, Number]) -> str:
    paired, regression = evidence.paired, gate.regression
    if why is _Why.BELOW:
        return f"the full run's mean is not above {gate.threshold:g}"
    if why is _Why.CELLS:
        return _reason_of_cells(gate, evidence)
    above = f"the full run's mean is above {gate.threshold:g}"
    if paired is None or regression is None:
        return above
    fleet = f"v{paired.baseline.number}, the fleet's version,"
    counts = (
        f"{paired.regressions} regressions and {paired.fixes} fixes in {paired.pairs} same scenes"
    )
    if why is _Why.WORSE:
        return (
            f"worse than {fleet} e-value {numbers['regression_e']:.3g} ≥ "
            f"{1 / regression.alpha:g}, {counts}"
        )
    if why is _Why.LOST:
        return f"worse than {fleet} by more than {regression.margin:g} over all scenes, {counts}"
    if paired.identical == paired.pairs:
        return f"{above} and all {paired.pairs} episodes are identical to those of {fleet}"
    return f"{above}, and at most {regression.margin:g} worse than {fleet} {counts}"


def _reason_of_cells(gate: GridGate, evidence: GridEvidence) -> str:
    weak = weak_cells(gate, evidence)
    name, tally = evidence.cells[weak[0]]
    worst = f"{name} succeeded in {tally.success} of {tally.n}"
    cells = "cell is" if len(weak) == 1 else "cells are"
    return f"{len(weak)} {cells} proven below {gate.floor:g}, {worst}"
