"""The report's sentences: what a run proves and with which error, for a reader without our docs.

Every output says it in these words, so that the page, the summary and JUnit cannot disagree.
"""

from __future__ import annotations

from collections.abc import Sequence

from ci.report.sim.model import EXIT_STATUS, Cell, Lineage, Paired, Rules, Share, SimReport
from registry.gates import suite_of
from registry.statistics import grid
from registry.statistics.paired import certain
from registry.verdicts import Outcome, Verdict

HEADLINE = {Outcome.PASS: "Passed", Outcome.FAIL: "Failed", Outcome.INCONCLUSIVE: "Undecided"}
MEANING = {
    Outcome.PASS: "the version may go on to the next stage",
    Outcome.FAIL: "the version must not go on",
    Outcome.INCONCLUSIVE: "nothing is proven either way; more episodes are needed",
}


def percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def interval(share: Share, digits: int = 0) -> str:
    """`79–97 %`."""
    return f"{100 * share.low:.{digits}f}–{100 * share.high:.{digits}f} %"


def p_value(p: float | None) -> str:
    if p is None:
        return "–"
    return "< .0001" if p < 1e-4 else f"{p:.4f}".lstrip("0") if p < 1 else "1"


def duration(seconds: float) -> str:
    """`48 s`, `12 min`, `3.4 h`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5970 else f"{seconds / 3600:.1f} h"


def many(count: int, noun: str) -> str:
    """`1 episode`, `5,000 episodes`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def exit_meaning(verdict: Verdict) -> str:
    """What a script learns from the verdict; a suite (`sim:NAME`) is a report only."""
    counts = suite_of(verdict.gate) is None
    meaning = MEANING[verdict.outcome] if counts else "a suite reports, it holds no version back"
    return f"exit status {EXIT_STATUS[verdict.outcome]}: {meaning}"


def full_run(low: float, high: float) -> str:
    """Bounds of the full run's mean; one number where all of it was played."""
    return percent(low) if low == high else f"{100 * low:.1f}–{100 * high:.1f} %"


def replay(key: str, policy: str, number: int, gate: str) -> str:
    """The command that plays one episode of a gate, or of a suite, again."""
    suite = suite_of(gate)
    command = f"policyctl replay {key} --version v{number} --policy {policy}"
    return command if suite is None else f"{command} --suite {suite}"


def claims(
    rules: Rules,
    verdict: Verdict,
    drawn: int,
    successes: int,
    paired: Paired | None,
    cells: Sequence[Cell],
) -> tuple[str, ...]:
    """What each test of the gate proves, in one sentence each."""
    said = [_of_mean(rules, verdict, drawn, successes)]
    if paired is not None:
        said.append(_of_pairs(paired, rules))
    if rules.floor is not None:
        said.append(
            _of_floor(rules, [cell.name for cell in cells if cell.bad.startswith("proven")])
        )
    return tuple(said)


def _of_mean(rules: Rules, verdict: Verdict, drawn: int, successes: int) -> str:
    answer = grid.decide(
        rules.population, rules.threshold, rules.alpha, drawn, successes, rules.edition
    )
    full, level = many(rules.population, "episode"), percent(rules.threshold, 0)
    if answer is None:
        more = f" About {verdict.more:,} more would decide." if verdict.more else ""
        return (
            f"{many(drawn, 'episode')} in random order do not yet tell whether the full run of "
            f"{full} would succeed in more than {level} of them.{more}"
        )
    if drawn == rules.population:
        return (
            f"All {full} of the full run were played and {successes:,} of them succeeded, so its "
            f"mean is certain; {level} must be exceeded."
        )
    side = "more" if answer else "no more"
    return (
        f"The full run of {full} would succeed in {side} than {level} of them. "
        f"{many(drawn, 'episode')} in random order told; the chance that the full run says "
        f"otherwise is at most {percent(rules.alpha, 0)}."
    )


def _of_pairs(paired: Paired, rules: Rules) -> str:
    c = paired.counts
    seen = (
        f"in {c.pairs:,} scenes that both versions played, {c.regressions} regressed and "
        f"{c.fixes} were fixed"
    )
    if c.pairs and c.identical == c.pairs:
        return f"The version behaves as {c.baseline} does, to the last bit: {seen}."
    if c.regression_e >= 1 / c.alpha:
        return (
            f"It is worse than {c.baseline}: {seen}; the chance to say so of a version that is no "
            f"worse over the full run's scenes is at most {percent(c.alpha, 0)}."
        )
    sure = certain(rules.population, c.pairs, c.regressions, c.fixes, c.margin)
    if sure is not None:
        return (
            f"It is {'at most' if sure else 'more than'} {100 * c.margin:g} points worse than "
            f"{c.baseline} over the full run's scenes: {seen}; the scenes left cannot change that."
        )
    if c.sound_e >= 1 / c.alpha:
        return (
            f"It is at most {100 * c.margin:g} points worse than {c.baseline}: {seen}; the chance "
            f"to say so of a version that is worse by more over the full run's scenes is at most "
            f"{percent(c.alpha, 0)}."
        )
    return f"No regression against {c.baseline} is proven: {seen}."


def _of_floor(rules: Rules, weak: Sequence[str]) -> str:
    level = percent(rules.floor, 0)
    chance = percent(rules.floor_alpha, 0)
    error = f"the chance to list a cell where none is that weak is at most {chance}"
    if not weak:
        return f"No cell is proven to succeed in less than {level} of its episodes; {error}."
    listed = "; ".join(weak[:5]) + (" …" if len(weak) > 5 else "")
    return (
        f"{len(weak)} of {many(rules.cells, 'cell')} are proven to succeed in less than {level} of "
        f"their episodes; {error}. {listed}"
    )


def of_lineage(lineage: Lineage, alpha: float, error: float) -> str:
    """How often something like this was tried, and what that does to the error."""
    since = f"since {lineage.of} became the fleet's" if lineage.of else "since the policy began"
    verb = "was" if lineage.attempts == 1 else "were"
    count = many(lineage.attempts, "version")
    first = f"{count} {verb} judged by this gate {since}, this one included."
    if lineage.attempts <= 1:
        return f"{first} A version that is not good enough passes with at most {percent(alpha, 0)}."
    return (
        f"{first} Each try of a version that is not good enough passes with a chance of at most "
        f"{percent(alpha, 0)}; if none of the {lineage.attempts} were good enough, at least one "
        f"would still pass with a chance of up to 1 − (1 − {alpha:g})^{lineage.attempts} = "
        f"{percent(error)}. The more often one tries, the less a single pass proves."
    )


def of_cost(report: SimReport) -> str:
    """Time and money spent and saved; of an undecided run, what the rest would take."""
    cost = report.cost
    played = f"{many(cost.played, 'episode')} played in {duration(cost.seconds)}"
    if cost.rate:
        played += f" ({cost.rate:.1f} a second on {many(cost.cores, 'core')})"
    if cost.drawn > cost.played:
        played += f"; {cost.drawn - cost.played:,} came from the record"
    undecided = report.verdict.outcome is Outcome.INCONCLUSIVE
    rest = "are not played yet" if undecided else "were not needed"
    rest = f"{cost.saved:,} of the full run's {report.rules.population:,} {rest}"
    if not cost.saved:
        rest = "That is the full run" if cost.played == cost.drawn else "The full run is complete"
    if cost.saved and cost.rate:
        rest += f", {duration(cost.saved_seconds)} at that rate"
    money = ""
    if cost.spent is not None and cost.kept is not None:
        kept = f", {cost.kept:.3g} saved" if cost.saved and not undecided else ""
        money = f" Cost: {cost.spent:.3g} spent{kept}, at {cost.price:g} a core-hour."
    return f"{played}. {rest}.{money}"


def of_spread(report: SimReport) -> str:
    """Whether the differences between cells are more than chance."""
    n = report.numbers
    count = f"{n.fewest}" if n.fewest == n.most else f"{n.fewest}–{n.most}"
    return (
        f"Cells that were all alike would show a standard deviation of about "
        f"{100 * n.chance:.1f} points by chance, at {count} episodes a cell."
    )
