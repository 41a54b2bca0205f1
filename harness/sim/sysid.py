"""System identification: the joint parameters that make the scene move as a logged arm did.

- Fitted are frictionloss [Nm], damping, armature, kp and kd (multiples of the model's) of each
  joint, and the latency of commands [s], by least squares over a simulation of the whole log. The
  Jacobian is by finite differences, one simulation per parameter, all in one batch.
- Residuals are positions and speeds over their noise: what the log's third differences show, at
  least the resolution of the CAN fields. Each channel's constant offset is fitted with the rest,
  since encoders are zeroed by hand and the fields truncate.
- Where gains are fitted the motors' torque is a residual too, with its delay free: to positions and
  speeds damping and kd are one force, as the servo asks for no speed, and only what the motor says
  of its own torque tells them apart.
- A statistical error adds two as squares: from the Jacobian, scaled by chi2/dof where that is above
  1, and from the residuals' sums over quarter seconds, which also holds what quantisation and a
  model that is not quite the arm leave correlated. With few blocks either alone is too small.
- A standard error also holds, as a root of squares, what halving the physics step would change:
  the scene's Euler step shifts latency and kd by parts of a step, which no noise shows.
- What the motion does not excite is not fitted: as long as a parameter's statistical error exceeds
  `WANTED`, the worst is taken out and stays nominal, or those of one field are fitted as one common
  multiple, if that is determined. The singular values of the Jacobian, in units of `WANTED`, tell
  how well the rest is: below 1 is a direction that the log does not determine.
- Links keep the model's masses: friction, damping and gains are relative to them. The scene is
  simulated at 1 ms, the twin's step.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares
from scipy.signal import savgol_filter

from fleet.can.motors import OPENARM_MOTORS
from harness.episodes.log import MotionLog
from harness.sim.episode import Change
from harness.sim.motion import JOINTS, JointParameters, Resimulation
from policies.contract import ArmSpec
from registry.errors import ConfigError

Floats = npt.NDArray[np.float64]
Fields = tuple[str, ...]

GROUPS: Mapping[str, Fields] = {
    "friction": ("friction",),
    "damping": ("damping",),
    "armature": ("armature",),
    "gains": ("kp", "kd"),
    "latency": ("latency_s",),
}
"""What `--fit` names, and the fields behind it."""
OF_A_JOINT: Fields = ("friction", "damping", "armature", "kp", "kd")
WANTED: Mapping[str, float] = {
    "friction": 0.02, "damping": 0.1, "armature": 0.1, "kp": 0.1, "kd": 0.1, "latency_s": 0.001,
}  # fmt: skip
"""The largest standard error of a parameter that counts as determined."""
BOUNDS: Mapping[str, tuple[float, float]] = {
    "friction": (0.0, 2.0), "damping": (0.0, 10.0), "armature": (0.05, 10.0),
    "kp": (0.2, 5.0), "kd": (0.05, 5.0), "latency_s": (0.0, 0.1),
}  # fmt: skip
STEPS: Mapping[str, float] = {
    "friction": 2e-5, "damping": 5e-5, "armature": 5e-5, "kp": 2e-5, "kd": 5e-5, "latency_s": 2e-6,
}  # fmt: skip
"""Of the finite differences: small, since stick and slip bend the residuals within any larger."""
_DROPPED_FIRST = ("kd", "armature", "kp", "latency_s", "damping", "friction")
SETTLE_S, BLOCK_S = 0.2, 0.25
MIN_S, MIN_SAMPLES, MAX_GAP_S = 2.0, 200, 0.1
ROUNDS = 3
_RESOLUTION = np.array(
    [[2 * r.pmax / 65535, 2 * r.vmax / 4095, 2 * r.tmax / 4095]
     for r in (motor.type.ranges for motor in OPENARM_MOTORS)]
).T  # fmt: skip
"""(3, 8) of the CAN fields: rad, rad/s, Nm."""


@dataclass(frozen=True)
class Unknown:
    """One number that is fitted: a field of one joint, or of several by one common multiple."""

    field: str
    joints: tuple[int, ...] = ()

    @property
    def shared(self) -> bool:
        return len(self.joints) > 1

    @property
    def scaled(self) -> bool:
        return self.shared or self.field not in ("friction", "latency_s")

    @property
    def name(self) -> str:
        if not self.joints:
            return f"command.{self.field}"
        return f"{'+'.join(JOINTS[j] for j in self.joints)}.{self.field}"

    @property
    def wanted(self) -> float:
        return 0.1 if self.scaled else WANTED[self.field]

    @property
    def bounds(self) -> tuple[float, float]:
        return (0.0, 10.0) if self.shared and self.field == "friction" else BOUNDS[self.field]

    def start(self, friction: Floats) -> float:
        """The model's own value."""
        if self.scaled:
            return 1.0
        return float(friction[self.joints[0]]) if self.joints else 0.0

    def changes(self, value: float) -> tuple[Change, ...]:
        operation, value = "scale" if self.scaled else "set", float(f"{value:.6g}")
        targets = [JOINTS[j] for j in self.joints] or ["command"]
        return tuple(Change(target, self.field, operation, value) for target in targets)


@dataclass(frozen=True)
class Estimate:
    """A fitted number with its standard error, in the field's unit or as a multiple."""

    unknown: Unknown
    nominal: float
    value: float
    error: float
    step_error: float
    """The part of it that halving the physics step would change."""


@dataclass(frozen=True)
class Fit:
    """What a log says about an arm."""

    arm: str
    estimates: tuple[Estimate, ...]
    left: Mapping[Unknown, float]
    """Not determined, so left as the model has it: the error it would have had."""
    chi2_dof: float
    samples: int
    singular_values: tuple[float, ...]
    simulations: int
    seconds: float

    def changes(self) -> tuple[Change, ...]:
        """What a scene has to change to move like this arm."""
        return tuple(c for e in self.estimates for c in e.unknown.changes(e.value))


def arm_of(log: MotionLog, path: Path) -> str:
    """Which arm a log is of. Raises ConfigError unless the log can be fitted."""
    arm = log.metadata.get("arm") or log.joints[0].partition("_")[0]
    arm = "right" if arm == JOINTS[0] else arm
    if arm not in ("right", "left"):
        _refuse(path, f"there is no arm '{arm}'", "metadata arm is right or left")
    if log.joints not in (JOINTS, ArmSpec(arm).joints):
        _refuse(path, f"the log is of {', '.join(log.joints)}", f"a fit needs {', '.join(JOINTS)}")
    for name in ("time", "q", "dq", "tau", "command", "command_dq", "feedforward"):
        array = getattr(log, name)
        if array is not None and not np.isfinite(array).all():
            where = np.argwhere(~np.isfinite(array))[0]
            joint = f" of {JOINTS[where[1]]}" if len(where) > 1 else ""
            _refuse(path, f"{name}{joint} is not a number", f"sample {where[0]}")
    steps = np.diff(log.time)
    if (steps <= 0).any():
        at = int(np.argmax(steps <= 0))
        _refuse(path, "time does not rise", f"sample {at + 1}, {log.time[at + 1]:.6f} s")
    span = float(log.time[-1] - log.time[0])
    if span < MIN_S or len(log.time) < MIN_SAMPLES:
        _refuse(path, f"the log is too short: {span:.2f} s, {len(log.time)} samples",
                f"a fit needs {MIN_S:g} s and {MIN_SAMPLES} samples")  # fmt: skip
    if steps.max() > MAX_GAP_S:
        at = int(steps.argmax())
        _refuse(path, f"the log has a gap of {steps[at]:.3f} s", f"after {log.time[at]:.3f} s")
    return arm


def fit(
    log: MotionLog, path: Path, groups: Sequence[str] = tuple(GROUPS), *, threads: int = 1
) -> Fit:
    """Fits the groups to a log; `path` names it in errors. Raises ConfigError."""
    began, arm = time.perf_counter(), arm_of(log, path)
    fields = [field for name in GROUPS if name in groups for field in GROUPS[name]]
    unknowns = tuple(
        unknown
        for field in fields
        for unknown in (
            [Unknown(field)]
            if field == "latency_s"
            else [Unknown(field, (joint,)) for joint in range(8)]
        )
    )
    problem = _Problem(log, arm, unknowns, torque="gains" in groups, threads=threads)
    x, left = problem.start(unknowns), dict[Unknown, float]()
    jacobian, errors, chi2_dof = problem.jacobian(unknowns, x), None, 0.0
    for _ in range(ROUNDS):
        kept = _determined(unknowns, jacobian, problem.friction, errors)
        if not kept.unknowns:
            _refuse(path, "the arm hardly moves in this log", "it determines no parameter")
        left |= kept.left
        if errors is not None and kept.unknowns == unknowns:
            break
        found = dict(zip(unknowns, x, strict=True))
        unknowns = kept.unknowns
        first = zip(unknowns, problem.start(unknowns), strict=True)
        x, jacobian, residual = problem.solve(
            unknowns, np.array([found.get(u, nominal) for u, nominal in first])
        )
        errors, chi2_dof = problem.errors(unknowns, jacobian, residual)
    wanted = np.array([unknown.wanted for unknown in unknowns])
    assert errors is not None
    steps = problem.step_errors(unknowns, x, jacobian)
    return Fit(
        arm=arm,
        estimates=tuple(
            Estimate(u, u.start(problem.friction), float(v), float(np.hypot(e, s)), float(s))
            for u, v, e, s in zip(unknowns, x, errors, steps, strict=True)
        ),
        left=left,
        chi2_dof=chi2_dof,
        samples=len(problem.time),
        singular_values=tuple(np.linalg.svd(jacobian * wanted, compute_uv=False).tolist()),
        simulations=problem.simulations,
        seconds=time.perf_counter() - began,
    )


# -- what a motion determines


@dataclass(frozen=True)
class _Choice:
    unknowns: tuple[Unknown, ...]
    left: Mapping[Unknown, float]


def _determined(
    unknowns: tuple[Unknown, ...], jacobian: Floats, friction: Floats, errors: Floats | None
) -> _Choice:
    """The unknowns that the log determines, with those of a field joined where that helps."""
    columns = {u: jacobian[:, i] * u.wanted for i, u in enumerate(unknowns)}
    inflation = np.ones(len(unknowns))
    if errors is not None:
        plain = _plain_errors(columns, unknowns)
        inflation = np.maximum(1.0, errors / np.array([u.wanted for u in unknowns]) / plain)
    by_unknown = dict(zip(unknowns, inflation, strict=True))
    kept, left = list(unknowns), dict[Unknown, float]()
    while kept:
        sizes = _plain_errors(columns, kept) * np.array([by_unknown[u] for u in kept])
        worst = max(
            range(len(kept)),
            key=lambda i: (min(sizes[i], 1e3), -_DROPPED_FIRST.index(kept[i].field)),
        )
        if sizes[worst] <= 1.0:
            break
        left[kept[worst]] = float(sizes[worst] * kept[worst].wanted)
        del kept[worst]
    for field in OF_A_JOINT:
        alone = [
            u for u in left if u.field == field and not u.shared
            and (field != "friction" or friction[u.joints[0]] > 0)
        ]  # fmt: skip
        if len(alone) < 2:
            continue
        joined = Unknown(field, tuple(sorted(u.joints[0] for u in alone)))
        rate = [friction[u.joints[0]] if field == "friction" else 1.0 for u in alone]
        columns[joined] = sum(
            (columns[u] / u.wanted * r * joined.wanted for u, r in zip(alone, rate, strict=True)),
            np.zeros(len(jacobian)),
        )
        if _plain_errors(columns, [*kept, joined]).max() <= 1.0:
            kept.append(joined)
            for unknown in alone:
                del left[unknown]
    order = sorted(kept, key=lambda u: ((*OF_A_JOINT, "latency_s").index(u.field), u.joints))
    return _Choice(tuple(order), left)


def _plain_errors(columns: Mapping[Unknown, Floats], chosen: Sequence[Unknown]) -> Floats:
    """Standard errors over `wanted`, from the singular values of the chosen columns."""
    _, s, v = np.linalg.svd(np.stack([columns[u] for u in chosen], axis=1), full_matrices=False)
    s = np.maximum(s, 1e-9 * max(float(s[0]), 1e-9))
    return np.asarray(np.sqrt(((v / s[:, None]) ** 2).sum(axis=0)))


# -- the least-squares problem


class _Problem:
    def __init__(
        self, log: MotionLog, arm: str, unknowns: Sequence[Unknown], *, torque: bool, threads: int
    ) -> None:
        self._log, self._arm = log, arm
        self._sim = Resimulation(log, arm, len(unknowns), threads=threads)
        self.friction = self._sim.nominal_friction
        self.simulations = 0
        since = log.time - log.time[0]
        self._used = np.flatnonzero(since >= SETTLE_S)
        self.time = since[self._used]
        signals = np.stack([log.q, log.dq, log.tau])[: 3 if torque else 2]
        self._noise = np.maximum(noise(signals), _RESOLUTION[: len(signals)] / np.sqrt(12.0))
        self._measured = signals[:, self._used]
        """(S, T, 8)"""
        basis = [np.ones_like(self._measured)]
        if torque:
            late = np.zeros_like(self._measured)
            late[2] = savgol_filter(self._measured[2], 21, 3, deriv=1, axis=0)
            basis.append(late - late.mean(axis=1, keepdims=True))
        self._basis = [
            b / np.maximum(np.linalg.norm(b, axis=1, keepdims=True), 1e-12) for b in basis
        ]
        self._free = 8 * (len(signals) + (1 if torque else 0))
        blocks = (self.time / BLOCK_S).astype(np.intp)
        self._starts = np.flatnonzero(np.diff(blocks, prepend=-1))

    def start(self, unknowns: Sequence[Unknown]) -> Floats:
        return np.array([u.start(self.friction) for u in unknowns])

    def solve(self, unknowns: Sequence[Unknown], x: Floats) -> tuple[Floats, Floats, Floats]:
        """Parameters, Jacobian and residuals at the least sum of squares."""
        low, high = np.array([u.bounds for u in unknowns]).T
        done = least_squares(
            lambda x: self.residuals(unknowns, x[None])[0],
            np.clip(x, low, high),
            jac=lambda x: self.jacobian(unknowns, x),
            bounds=(low, high),
            x_scale=[u.wanted for u in unknowns],
            ftol=1e-5,
            xtol=1e-5,
            gtol=None,
            max_nfev=40,
        )
        return done.x, done.jac, done.fun

    def step_errors(self, unknowns: Sequence[Unknown], x: Floats, jacobian: Floats) -> Floats:
        """(P,): how far the parameters would move if the physics step were halved."""
        finer = Resimulation(self._log, self._arm, 1, timestep=self._sim.timestep / 2)
        moved = self.residuals(unknowns, x[None], finer) - self.residuals(unknowns, x[None])
        scale = np.array([u.wanted for u in unknowns])
        return np.asarray(np.abs(np.linalg.lstsq(jacobian * scale, moved[0])[0]) * scale)

    def residuals(
        self, unknowns: Sequence[Unknown], x: Floats, sim: Resimulation | None = None
    ) -> Floats:
        """(n, S T 8) of parameters (n, P), over their noise and less what is free."""
        found = (sim or self._sim).run(self._sets(unknowns, x))[:, : len(self._measured)]
        self.simulations += len(x)
        rest = (found[:, :, self._used] - self._measured) / self._noise[:, None]
        for b in self._basis:
            rest -= b * (rest * b).sum(axis=2, keepdims=True)
        return np.asarray(np.clip(np.nan_to_num(rest, nan=1e3), -1e6, 1e6).reshape(len(x), -1))

    def jacobian(self, unknowns: Sequence[Unknown], x: Floats) -> Floats:
        """(S T 8, P) at x, by finite differences."""
        steps = np.array([STEPS[u.field] for u in unknowns])
        steps *= np.where(x + steps > np.array([u.bounds[1] for u in unknowns]), -1.0, 1.0)
        here = self.residuals(unknowns, x[None])
        return np.asarray((self.residuals(unknowns, x + np.diag(steps)) - here).T / steps)

    def errors(
        self, unknowns: Sequence[Unknown], jacobian: Floats, residual: Floats
    ) -> tuple[Floats, float]:
        """Standard errors (P,), and chi2/dof."""
        scale = np.array([u.wanted for u in unknowns])
        _, s, v = np.linalg.svd(jacobian * scale, full_matrices=False)
        s = np.maximum(s, 1e-9 * s[0])
        covariance = (v.T / s**2) @ v
        chi2_dof = float(residual @ residual) / (len(residual) - len(unknowns) - self._free)
        shape = (*self._measured.shape, len(unknowns))
        scores = ((jacobian * scale).reshape(shape) * residual.reshape(shape[:3])[..., None]).sum(
            axis=(0, 2)
        )
        sums = np.add.reduceat(scores, self._starts, axis=0)
        blocks = np.sqrt(((sums @ covariance) ** 2).sum(axis=0))
        plain = np.sqrt(np.diag(covariance) * max(1.0, chi2_dof))
        return scale * np.hypot(plain, blocks), chi2_dof

    def _sets(self, unknowns: Sequence[Unknown], x: Floats) -> JointParameters:
        n = len(x)
        values = {field: np.ones((n, 8)) for field in OF_A_JOINT}
        values["friction"] = np.tile(self.friction, (n, 1))
        latency = np.zeros(n)
        for i, unknown in enumerate(unknowns):
            if not unknown.joints:
                latency = x[:, i]
            elif unknown.shared:
                values[unknown.field][:, list(unknown.joints)] *= x[:, i, None]
            else:
                values[unknown.field][:, unknown.joints[0]] = x[:, i]
        return JointParameters(**values, latency_s=latency)


def noise(signals: Floats) -> Floats:
    """(S, 8) deviations of (S, T, 8), from third differences: motion is smooth, noise is not."""
    third = np.abs(np.diff(signals, 3, axis=1))
    return np.asarray(1.4826 * np.median(third, axis=1) / np.sqrt(20.0))


def _refuse(path: Path, what: str, field: str) -> None:
    raise ConfigError(
        what,
        where=str(path),
        field=field,
        hint="log an excitation of one whole arm at servo rate; see `policyctl sysid --help`",
    )
