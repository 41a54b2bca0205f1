"""policy.yaml and gates.yaml: what a policy is called and what its versions must show.

Both are read strictly (`registry.yaml_file`): a wrong key, type or number is a ConfigError with
file, line and field, before anything else happens. Paths in a file are relative to its folder.
A gate that does not apply to a policy says so, with the reason, where the gate would stand:

    hil: {not_applicable: "the robot class has no lab station yet"}

Every default is that of `registry.gates`; rates are fractions, ratios may be written 1/4, and
durations as 90s, 30m, 12h or 7d.
"""

from __future__ import annotations

import re
from dataclasses import fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from registry.errors import ConfigError, NotFound
from registry.gates import CanaryGate, Gates, GridGate, Term, TrialGate, TrialTest, Weights
from registry.versions import digest_bytes, is_policy_name
from registry.yaml_file import Strict, load_yaml, read_yaml

__all__ = [
    "PolicyConfig", "Strict", "find_policy", "load_gates_yaml", "load_policy_yaml", "load_yaml",
    "read_yaml",
]  # fmt: skip

POLICY_FILE = "policy.yaml"
GATES_FILE = "gates.yaml"

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _name(value: Any) -> Any:
    if not isinstance(value, str) or not is_policy_name(value):
        raise ValueError(f"name: {value!r} is not lower-case words joined by hyphens")
    return value


def _ratio(value: Any) -> Any:
    """1/4, "1/4" or 0.25, exactly as written."""
    try:
        return Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{value!r} is not a ratio like 1/4") from None


def _seconds(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", str(value))
    if match is None:
        raise ValueError(f"{value!r} is not a duration like 90s, 30m, 12h or 7d")
    return float(match[1]) * _UNITS[match[2]]


Ratio = Annotated[Fraction, BeforeValidator(_ratio)]
Duration = Annotated[float, BeforeValidator(_seconds)]


class PolicyConfig(Strict):
    """`policy.yaml`: the policy this folder releases."""

    name: Annotated[str, BeforeValidator(_name)]
    task: str
    robot_class: str
    checkpoint: str | None = None
    gates: str = GATES_FILE
    environment: str | None = None
    recipe: str | None = None
    description: str = ""
    folder: Path = Field(default=Path(), exclude=True)

    @property
    def gates_path(self) -> Path:
        return self.folder / self.gates

    @property
    def checkpoint_path(self) -> Path | None:
        return self.folder / self.checkpoint if self.checkpoint else None

    @model_validator(mode="before")
    @classmethod
    def _folder_is_ours(cls, data: Any) -> Any:
        if isinstance(data, dict) and "folder" in data:
            raise ValueError("folder: is where the file lies, not a key of it")
        return data


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


class _Excused(Strict):
    not_applicable: str | None = None


class _Term(Strict):
    values: tuple[float, ...] = ()
    range: tuple[float, float] | None = None
    target: str = ""
    field: str = ""
    operation: str = ""
    when: Literal["reset"] | Duration = "reset"

    @model_validator(mode="after")
    def _sound(self) -> _Term:
        self.term()
        return self

    def term(self) -> Term:
        return Term(**{name: getattr(self, name) for name in type(self).model_fields})


class _Sim(_Excused):
    task: str | None = None
    axes: dict[str, tuple[float, ...] | _Term] | None = None
    episodes_per_cell: int = GridGate.episodes_per_cell
    threshold: float = GridGate.threshold
    alpha: float = GridGate.alpha

    @model_validator(mode="after")
    def _sound(self) -> _Sim:
        self.gate()
        return self

    def gate(self) -> GridGate | None:
        if _excused(self):
            return None
        if self.task is None or self.axes is None:
            raise ValueError(f"sim: missing key {'task' if self.task is None else 'axes'!r}")
        axes = {
            name: data.term() if isinstance(data, _Term) else Term(data)
            for name, data in self.axes.items()
        }
        return GridGate(self.task, axes, self.episodes_per_cell, self.threshold, self.alpha)


class _Hil(_Excused):
    suite: str | None = None
    reject_below: float = TrialGate.reject_below
    accept_at: float = TrialGate.accept_at
    alpha: float = TrialGate.alpha
    beta: float = TrialGate.beta
    max_trials: int = TrialGate.max_trials
    max_void_fraction: float = TrialGate.max_void_fraction

    @model_validator(mode="after")
    def _sound(self) -> _Hil:
        gate = self.gate()
        if gate is not None:
            _decidable(gate.test)
        return self

    def gate(self) -> TrialGate | None:
        if _excused(self):
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


class _Canary(Strict):
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
    def _sound(self) -> _Canary:
        self.gate()
        return self

    def gate(self) -> CanaryGate:
        given = {name: getattr(self, name) for name in type(self).model_fields}
        given["deadline_s"] = given.pop("deadline")
        given["absolute"] = TrialTest(**self.absolute.model_dump())
        given["weights"] = self.weights.weights()
        return CanaryGate(**given)


class _GatesFile(Strict):
    sim: _Sim
    hil: _Hil
    canary: _Canary = Field(default_factory=_Canary)


def load_policy_yaml(path: Path) -> PolicyConfig:
    """Reads a policy.yaml, given the file or its folder. Raises ConfigError."""
    if path.is_dir():
        path = path / POLICY_FILE
    return load_yaml(path, PolicyConfig).model_copy(update={"folder": path.parent})


def load_gates_yaml(path: Path) -> Gates:
    """Reads a gates.yaml as the frozen gates of `registry.gates`, with the suite file it names.

    Raises ConfigError.
    """
    file = load_yaml(path, _GatesFile)
    hil = file.hil.gate()
    if hil is not None:
        hil = replace(hil, suite_digest=_suite_digest(path, hil.suite))
    excused = {
        name: section.not_applicable.strip()
        for name, section in (("sim", file.sim), ("hil", file.hil))
        if section.not_applicable is not None
    }
    return Gates(file.sim.gate(), hil, file.canary.gate(), excused)


def _suite_digest(gates: Path, suite: str) -> str:
    """The digest of the suite file beside a gates.yaml."""
    path = gates.parent / suite
    try:
        return digest_bytes(path.read_bytes())
    except OSError as error:
        _, lines = read_yaml(gates)
        raise ConfigError(
            f"cannot read the suite {path}: {error.strerror}",
            where=f"{gates}:{lines['hil', 'suite']}",
            field="hil.suite",
            hint="name a file beside gates.yaml",
        ) from None


def find_policy(start: Path, name: str | None = None) -> PolicyConfig:
    """The policy of the folder that `start` lies in, or the one called `name` in the repository.

    Looks at `start` and the folders above for a policy.yaml, and in `policies/*` beside them.
    Raises NotFound.
    """
    start = start.absolute()
    for folder in (start, *start.parents):
        if (folder / POLICY_FILE).is_file():
            found = load_policy_yaml(folder)
            if name is None or found.name == name:
                return found
        if name is not None:
            for path in sorted(folder.glob(f"policies/*/{POLICY_FILE}")):
                if (found := load_policy_yaml(path)).name == name:
                    return found
    wanted = "policy" if name is None else f"policy {name}"
    raise NotFound(
        f"no {wanted} here",
        evidence=f"no {POLICY_FILE} of it at or above {start}, or in policies/*",
        hint="go to the policy's folder, or name its gates with --gates",
    )


def _decidable(test: TrialTest) -> None:
    """ValueError unless some rule of at most `max_trials` trials keeps both errors.

    Asked when the file is read: found out later, it would stop a station, or the controller that
    has to call robots back.
    """
    from registry.statistics import trials

    trials.plan(test)


def _excused(section: _Excused) -> bool:
    """True when the section is a reason instead of a gate; both at once is an error."""
    if section.not_applicable is None:
        return False
    if not section.not_applicable.strip():
        raise ValueError("not_applicable: say why the gate does not apply")
    others = section.model_fields_set - {"not_applicable"}
    if others:
        raise ValueError(f"not_applicable: stands alone, without {', '.join(sorted(others))}")
    return True
