"""The shape of gates.yaml: hil and canary, and how the whole becomes the gates of a policy.

The simulation's section is in `registry.sim_section`. A model here is checked by making the frozen
value of `registry.gates` from it, so both have the same rules; the complaint then names its key.
"""

from __future__ import annotations

from dataclasses import fields
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from registry.gates import CanaryGate, TrialGate, TrialTest, Weights
from registry.sim_section import Duration, Excused, SimSection, excused
from registry.yaml_file import Strict


def _ratio(value: Any) -> Any:
    """1/4, "1/4" or 0.25, exactly as written."""
    try:
        return Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{value!r} is not a ratio like 1/4") from None


Ratio = Annotated[Fraction, BeforeValidator(_ratio)]


class _Test(Strict):
    reject_below: float = TrialTest.reject_below
    accept_at: float = TrialTest.accept_at
    alpha: float = TrialTest.alpha
    beta: float = TrialTest.beta
    max_trials: int = TrialTest.max_trials

    @model_validator(mode="after")
    def _sound(self) -> _Test:
        _decidable(
            TrialTest(self.reject_below, self.accept_at, self.alpha, self.beta, self.max_trials)
        )
        return self


class HilSection(Excused):
    suite: str | None = None
    reject_below: float = TrialGate.reject_below
    accept_at: float = TrialGate.accept_at
    alpha: float = TrialGate.alpha
    beta: float = TrialGate.beta
    max_trials: int = TrialGate.max_trials
    max_void_fraction: float = TrialGate.max_void_fraction

    @model_validator(mode="after")
    def _sound(self) -> HilSection:
        gate = self.gate()
        if gate is not None:
            _decidable(gate.test)
        return self

    def gate(self) -> TrialGate | None:
        if excused(self):
            return None
        if self.suite is None:
            raise ValueError("hil: missing key 'suite'")
        given = self.model_dump(exclude={"not_applicable"})
        return TrialGate(**given)


class _Weights(Strict):
    rates: tuple[float, ...] = Weights.rates
    history: tuple[int, int] = Weights.history
    uniform: float = Weights.uniform
    shifts: tuple[float, ...] = Weights.shifts
    shift_weights: tuple[float, ...] = Weights.shift_weights
    promote_rates: tuple[float, ...] = Weights.promote_rates

    @model_validator(mode="after")
    def _sound(self) -> _Weights:
        self.weights()
        return self

    def weights(self) -> Weights:
        return Weights(**{f.name: getattr(self, f.name) for f in fields(Weights)})


class CanarySection(Strict):
    fraction: float = CanaryGate.fraction
    cohort_min: int = CanaryGate.cohort_min
    ratio: Ratio = CanaryGate.ratio
    interleave: Literal["attempt"] = "attempt"
    alpha: float = CanaryGate.alpha
    promote_alpha: float = CanaryGate.promote_alpha
    margin: float = CanaryGate.margin
    max_candidate_episodes: int = CanaryGate.max_candidate_episodes
    deadline: Duration = CanaryGate.deadline_s
    waves: tuple[int, ...] = CanaryGate.waves
    wave_baseline: Ratio = CanaryGate.wave_baseline
    bake_episodes: int = CanaryGate.bake_episodes
    absolute: _Test = Field(default_factory=_Test)
    class_a: tuple[str, ...] = CanaryGate.class_a
    max_void_fraction: float = CanaryGate.max_void_fraction
    weights: _Weights = _Weights()

    @model_validator(mode="after")
    def _sound(self) -> CanarySection:
        self.gate()
        return self

    def gate(self) -> CanaryGate:
        given = {name: getattr(self, name) for name in type(self).model_fields}
        given["deadline_s"] = given.pop("deadline")
        given["absolute"] = TrialTest(**self.absolute.model_dump())
        given["weights"] = self.weights.weights()
        return CanaryGate(**given)


class GatesFile(Strict):
    sim: SimSection
    hil: HilSection
    canary: CanarySection = Field(default_factory=CanarySection)


def _decidable(test: TrialTest) -> None:
    """ValueError unless some rule of at most `max_trials` trials keeps both errors.

    Asked when the file is read: found out later, it would stop a station, or the controller that
    has to call robots back.
    """
    from registry.statistics import trials

    trials.plan(test)
