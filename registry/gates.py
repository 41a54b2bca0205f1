"""What a version must show, as plain values. `gates.yaml` is read into these by `registry/config`.

Rules: a gate is frozen when it is first used; its digest goes into the evidence, so a verdict
names exactly the thresholds it was judged by. Rates, shares and error probabilities are fractions
(0.85, never 85 %); times are seconds; ratios are exact fractions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any

from registry.grid_gate import GridGate, Regression, Term, require
from registry.versions import digest_of, is_policy_name

__all__ = [
    "SUITE_NAME",
    "CanaryGate",
    "Gate",
    "Gates",
    "GridGate",
    "Regression",
    "Term",
    "TrialGate",
    "TrialTest",
    "Weights",
    "gate_from_json",
    "is_suite_name",
    "suite_gate",
    "suite_of",
]  # fmt: skip


@dataclass(frozen=True)
class TrialTest:
    """A truncated sequential test of one success rate.

    A version whose rate is `reject_below` passes with probability at most `alpha`; one whose rate
    is `accept_at` fails with probability at most `beta`; it ends after `max_trials` at the latest.
    """

    reject_below: float = 0.70
    accept_at: float = 0.92
    alpha: float = 0.05
    beta: float = 0.10
    max_trials: int = 50

    def __post_init__(self) -> None:
        require(0 < self.reject_below < self.accept_at < 1, "0 < reject_below < accept_at < 1")
        require(0 < self.alpha < 0.5 and 0 < self.beta < 0.5, "alpha and beta lie in (0, .5)")
        require(self.max_trials >= 1, "max_trials is at least 1")

    def to_json(self) -> dict[str, Any]:
        return {
            "reject_below": self.reject_below,
            "accept_at": self.accept_at,
            "alpha": self.alpha,
            "beta": self.beta,
            "max_trials": self.max_trials,
        }


@dataclass(frozen=True)
class TrialGate:
    """Hardware in the loop: a `TrialTest` over the trials of a suite, void trials not counted.

    `suite_digest` is that of the suite file's bytes, so an edited suite is another gate: verdicts
    given under the old one no longer count. It is empty only where no file stands behind the gate.
    """

    suite: str
    reject_below: float = 0.70
    accept_at: float = 0.92
    alpha: float = 0.05
    beta: float = 0.10
    max_trials: int = 50
    max_void_fraction: float = 0.20
    name: str = "hil"
    suite_digest: str = ""

    def __post_init__(self) -> None:
        require(0 <= self.max_void_fraction < 1, "max_void_fraction lies in [0, 1)")
        self.test.to_json()  # checks the test's own numbers

    @property
    def test(self) -> TrialTest:
        return TrialTest(self.reject_below, self.accept_at, self.alpha, self.beta, self.max_trials)

    def to_json(self) -> dict[str, Any]:
        return {
            "gate": "trials",
            "name": self.name,
            "suite": self.suite,
            "suite_digest": self.suite_digest,
            **self.test.to_json(),
            "max_void_fraction": self.max_void_fraction,
        }

    @cached_property
    def digest(self) -> str:
        return digest_of(self.to_json())


@dataclass(frozen=True)
class Weights:
    """The alternatives a canary test bets on, frozen and hashed before the rollout.

    They change only the speed of a verdict, never its validity. `rates` are the baseline rates
    considered, `promote_rates` the common rates of both sides that the promotion test considers;
    these reach beyond `rates`, because a policy that hardly ever fails is shown to be no worse
    with fewer episodes. Both are weighted by a history of (successes, failures), ∝ p^s (1−p)^f,
    mixed with a uniform share `uniform`, so that a wrong history costs at most ln(1/uniform).
    `shifts` are the losses considered, in log-odds, with `shift_weights`.
    """

    rates: tuple[float, ...] = (0.50, 0.60, 0.70, 0.75, 0.80, 0.85, 0.90, 0.93, 0.95, 0.97, 0.99)
    history: tuple[int, int] = (90, 10)
    uniform: float = 0.10
    shifts: tuple[float, ...] = (-0.5, -1.0, -1.7, -2.6, -6.0)
    shift_weights: tuple[float, ...] = (0.15, 0.20, 0.25, 0.15, 0.25)
    promote_rates: tuple[float, ...] = (
        0.50, 0.60, 0.70, 0.75, 0.80, 0.85, 0.90, 0.93, 0.95, 0.97, 0.99, 0.995, 0.999,
    )  # fmt: skip

    def __post_init__(self) -> None:
        for rate in (*self.rates, *self.promote_rates):
            require(0 < rate < 1, f"a rate lies between 0 and 1: {rate}")
        require(all(shift < 0 for shift in self.shifts), "a shift is a loss: negative log-odds")
        require(len(self.shifts) == len(self.shift_weights), "one weight for each shift")
        require(abs(sum(self.shift_weights) - 1) < 1e-9, "shift weights sum to 1")
        require(all(weight > 0 for weight in self.shift_weights), "shift weights are positive")
        require(0 < self.uniform <= 1, "uniform lies in (0, 1]")
        require(min(self.history) >= 0, "history counts are not negative")

    def to_json(self) -> dict[str, Any]:
        return {
            "rates": list(self.rates),
            "history": list(self.history),
            "uniform": self.uniform,
            "shifts": list(self.shifts),
            "shift_weights": list(self.shift_weights),
            "promote_rates": list(self.promote_rates),
        }

    @cached_property
    def digest(self) -> str:
        return digest_of(self.to_json())


@dataclass(frozen=True)
class CanaryGate:
    """The fleet: candidate against baseline on the robots of a cohort, then the fleet in waves.

    `ratio` is the exact share of the cohort's attempts that run the candidate; `wave_baseline` the
    share of attempts that stay with the baseline while a wave bakes (the waves' ratio is 1 minus
    that). `absolute` judges the first version of a policy, which has no baseline.
    """

    fraction: float = 0.05
    cohort_min: int = 4
    ratio: Fraction = Fraction(1, 4)
    interleave: str = "attempt"
    alpha: float = 0.05
    promote_alpha: float = 0.05
    margin: float = 0.10
    max_candidate_episodes: int = 400
    deadline_s: float = 7 * 86400.0
    waves: tuple[int, ...] = (25, 50, 100)  # percent of the robots
    wave_baseline: Fraction = Fraction(1, 20)
    bake_episodes: int = 40
    absolute: TrialTest = field(default_factory=TrialTest)
    class_a: tuple[str, ...] = (
        "contact_force", "workspace_breach", "protection_failure", "operator_contact",
    )  # fmt: skip
    max_void_fraction: float = 0.20
    weights: Weights = field(default_factory=Weights)
    name: str = "canary"

    def __post_init__(self) -> None:
        # 0.05 in YAML means 1/20, not the binary number nearest to it.
        ratio = Fraction(str(self.ratio)).limit_denominator(1000)
        share = Fraction(str(self.wave_baseline)).limit_denominator(1000)
        object.__setattr__(self, "ratio", ratio)
        object.__setattr__(self, "wave_baseline", share)
        require(0 < self.fraction <= 1, "fraction lies in (0, 1]")
        require(self.cohort_min >= 1, "cohort_min is at least 1")
        require(0 < ratio < 1, "ratio lies between 0 and 1: a canary needs both sides")
        require(0 <= share < 1, "wave_baseline lies in [0, 1)")
        require(self.interleave == "attempt", "interleave: only 'attempt' is offered so far")
        require(0 < self.alpha < 0.5 and 0 < self.promote_alpha < 0.5, "alphas lie in (0, .5)")
        require(0 < self.margin < 1, "margin lies between 0 and 1")
        require(self.max_candidate_episodes >= 1, "max_candidate_episodes is at least 1")
        require(self.deadline_s > 0, "deadline is positive")
        rising = all(a < b for a, b in zip(self.waves, self.waves[1:], strict=False))
        require(rising and self.waves[-1:] == (100,), "waves rise and end at 100")
        require(all(0 < wave <= 100 for wave in self.waves), "waves are percentages")
        require(self.bake_episodes >= 1, "bake_episodes is at least 1")
        require(0 <= self.max_void_fraction < 1, "max_void_fraction lies in [0, 1)")

    @property
    def wave_ratio(self) -> Fraction:
        """The candidate's share of attempts while a wave bakes."""
        return 1 - self.wave_baseline

    def to_json(self) -> dict[str, Any]:
        return {
            "gate": "canary",
            "name": self.name,
            "fraction": self.fraction,
            "cohort_min": self.cohort_min,
            "ratio": str(self.ratio),
            "interleave": self.interleave,
            "alpha": self.alpha,
            "promote_alpha": self.promote_alpha,
            "margin": self.margin,
            "max_candidate_episodes": self.max_candidate_episodes,
            "deadline_s": self.deadline_s,
            "waves": list(self.waves),
            "wave_baseline": str(self.wave_baseline),
            "bake_episodes": self.bake_episodes,
            "absolute": self.absolute.to_json(),
            "class_a": list(self.class_a),
            "max_void_fraction": self.max_void_fraction,
            "weights": self.weights.to_json(),
        }

    @cached_property
    def digest(self) -> str:
        return digest_of(self.to_json())


Gate = GridGate | TrialGate | CanaryGate

_SUITE = "sim:"

SUITE_NAME = "at most 16 characters, lower-case words joined by hyphens"


def is_suite_name(name: str) -> bool:
    return is_policy_name(name) and len(name) <= 16


def suite_gate(name: str) -> str:
    """The gate under which the suite `name` is recorded."""
    return f"{_SUITE}{name}"


def suite_of(gate_name: str) -> str | None:
    """The suite that a gate of this name is; None for a gate that counts."""
    return gate_name.removeprefix(_SUITE) if gate_name.startswith(_SUITE) else None


@dataclass(frozen=True)
class Gates:
    """The gates of one policy. One that is None is not applicable; `not_applicable` says why.

    `suites` are robustness reports by name: run and recorded under `sim:NAME`, they move no stage.
    """

    sim: GridGate | None
    hil: TrialGate | None
    canary: CanaryGate
    not_applicable: Mapping[str, str] = field(default_factory=dict)
    suites: Mapping[str, GridGate] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, suite in self.suites.items():
            require(is_suite_name(name), f"{name!r} is not a suite's name: {SUITE_NAME}")
            require(suite.name == suite_gate(name), f"the suite {name} is called {suite.name}")
        for name, gate in (("sim", self.sim), ("hil", self.hil)):
            excused = bool(self.not_applicable.get(name, "").strip())
            require((gate is None) == excused, f"{name}: a gate, or the reason why there is none")

    def to_json(self) -> dict[str, Any]:
        data = {
            "sim": None if self.sim is None else self.sim.to_json(),
            "hil": None if self.hil is None else self.hil.to_json(),
            "canary": self.canary.to_json(),
            "not_applicable": dict(self.not_applicable),
        }
        suites = {name: suite.to_json() for name, suite in self.suites.items()}
        return data | ({"suites": suites} if suites else {})

    @cached_property
    def digest(self) -> str:
        return digest_of(self.to_json())

    def not_judged_by(
        self, contract: Mapping[str, Any], judged: Mapping[str, str]
    ) -> Iterator[tuple[str, Gate]]:
        """By name the gates below the canary that others stood for when a version was `judged`:
        by name the digest of the gate of its newest verdict. Where there is no verdict, or no such
        gate any more, none stood for it."""
        sim = self.sim.for_contract(contract) if self.sim else None
        for name, gate in (("sim", sim), ("hil", self.hil)):
            if gate is not None and judged.get(name, gate.digest) != gate.digest:
                yield name, gate


def gate_from_json(data: Mapping[str, Any]) -> Gate:
    """The gate that `to_json` wrote, exactly."""
    fields = dict(data)
    kind = fields.pop("gate")
    if kind == "grid":
        return GridGate.from_json(fields)
    if kind == "trials":
        return TrialGate(**fields)
    if kind != "canary":
        raise ValueError(f"no such kind of gate: {kind!r}")
    weights: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in fields["weights"].items()
    }
    return CanaryGate(
        **{
            **fields,
            "ratio": Fraction(fields["ratio"]),
            "wave_baseline": Fraction(fields["wave_baseline"]),
            "waves": tuple(fields["waves"]),
            "absolute": TrialTest(**fields["absolute"]),
            "class_a": tuple(fields["class_a"]),
            "weights": Weights(**weights),
        }
    )
