"""A robot file: what one robot is, read strictly before anything of it moves.

    robot: robot-01
    class: openarm-v2-right
    role: robot                       # or lab: a station, with lease and prompts
    on_host_loss: hold                # hold or fall; a real arm does not arm without it
    work: continuous                  # or on_rollout: attempts only while a rollout runs here
    servo_hz: 200
    servo: process                    # with a guardian; inline only for a lock-step twin or virtual
    servo_core: 3                     # a core that the kernel leaves alone
    cycle_log: /var/log/arm           # a folder: every servo cycle of each session, as MCAP
    speed_scale: 1.0                  # .5 runs the same path in twice the time
    arms:
      - name: right
        bus: {interface: socketcan, channel: can0, fd: true}
        calibration: right.json       # `arm limits` writes it; beside this file
    limits:                           # of each arm; they can only be narrower than the house's
      joint_speed: [1, 1, 1.5, 1.5, 3, 3, 3, 6]
      workspace: {low: [0.1, -0.5, -0.4], high: [0.5, 0.1, 0.3]}
    twin:                             # only with bus: {interface: twin}
      seed: 7
      physics_hz: 1000
      box: {mass: [.8, 1.0], friction: [.5, .5]}

Rules
- Arms are those of the robot class, in its order; on a twin all are emulated, or none.
- A real robot says what its motors do when this computer dies (`on_host_loss`); there is no
  default, because either answer can hurt: `hold` keeps pushing, `fall` drops the arm.
- A real arm's servo is a process of its own with a guardian, always: `inline` would leave nobody to
  hold the arm when the program dies. A twin in lock-step and a virtual bus are inline: they live in
  one process, and nothing falls.
- `calibration` and `limits` narrow what the arm may do, nothing widens it, and they come from this
  file alone: no policy and no message changes them.
- The servo period is a whole number of physics steps and divides the policy's.
Units SI. Ranges are [low, high], drawn uniformly: the robot's once per seed, the box's per scene.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from fleet.limits import CONTACT_MAX, DDQ_MAX, DQ_MAX, WORKSPACE_HIGH, WORKSPACE_LOW
from fleet.servo import check_period, ticks_per_step
from policies.contract import ROBOT_CLASSES, RobotClass
from registry.errors import ConfigError
from registry.yaml_file import Strict, load_yaml

POLICY_HZ = 50
"""The highest policy rate; lower ones that a contract may ask for divide it."""

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Range = tuple[Positive, Positive]
Triple = tuple[float, float, float]
PerArmJoint = tuple[float, float, float, float, float, float, float]
PerJoint = tuple[float, float, float, float, float, float, float, float]


def _rising(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError(f"a range is [low, high], not [{value[0]}, {value[1]}]")
    return value


class BusConfig(Strict):
    """One CAN bus. `options` go to python-can as they are."""

    interface: str = Field(min_length=1)
    channel: str | None = None
    fd: bool = False
    options: dict[str, Any] = Field(default_factory=dict)

    @property
    def twin(self) -> bool:
        return self.interface == "twin"

    def to_can(self) -> dict[str, object]:
        """What fleet.can.bus.open_bus takes."""
        found: dict[str, object] = {"interface": self.interface, **self.options}
        if self.channel is not None:
            found["channel"] = self.channel
        if self.fd:
            found["fd"] = True
        return found


class ArmConfig(Strict):
    """One arm: its name in the robot class, its bus, and where its joints were moved by hand."""

    name: str
    bus: BusConfig
    calibration: Path | None = None
    """A file of fleet/can/calibration.py; `load_robot` reads it as beside the robot file."""


class WorkspaceConfig(Strict):
    """Where a right arm's TCP may be [m], base frame; a left arm's is the mirror image."""

    low: Triple = WORKSPACE_LOW
    high: Triple = WORKSPACE_HIGH

    @model_validator(mode="after")
    def _narrower(self) -> Self:
        for axis, low, high, least, most in zip(
            "xyz", self.low, self.high, WORKSPACE_LOW, WORKSPACE_HIGH, strict=True
        ):
            if not least <= low < high <= most:
                raise ValueError(
                    f"{axis} from {low:g} to {high:g} m is no part of {least:g} to {most:g} m"
                )
        return self


class LimitsConfig(Strict):
    """What this station allows, of each arm; what is not named is the house's (fleet/limits.py)."""

    joint_speed: PerJoint = DQ_MAX
    """[rad/s]"""
    joint_acceleration: PerJoint = DDQ_MAX
    """[rad/s^2]"""
    contact_torque: PerArmJoint = CONTACT_MAX[:7]
    """[Nm] beyond what weight and motion explain; the gripper, which is to touch, has none"""
    workspace: WorkspaceConfig = WorkspaceConfig()

    @model_validator(mode="after")
    def _narrower(self) -> Self:
        for field, house in (
            ("joint_speed", DQ_MAX),
            ("joint_acceleration", DDQ_MAX),
            ("contact_torque", CONTACT_MAX[:7]),
        ):
            for joint, (value, most) in enumerate(zip(getattr(self, field), house, strict=True), 1):
                if not 0.0 < value <= most:
                    raise ValueError(
                        f"{field}: {value:g} of joint {joint} is not above 0 and up to {most:g};"
                        " a station can only narrow the house's limits"
                    )
        return self


class BoxConfig(Strict):
    """The boxes this robot handles: mass [kg], sliding friction."""

    mass: Range = (0.2, 0.2)
    friction: Range = (0.5, 0.5)

    _ranges = field_validator("mass", "friction")(_rising)


class TwinSettings(Strict):
    """How an emulated robot differs from its sisters."""

    seed: int = Field(ge=0)
    task: str = "box-grasp"
    physics_hz: int = Field(default=1000, gt=0)
    box: BoxConfig = BoxConfig()
    joint_friction_scale: Range = (0.8, 1.2)
    joint_damping_scale: Range = (0.8, 1.2)
    latency_s: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]] = (0.001, 0.003)

    _ranges = field_validator("joint_friction_scale", "joint_damping_scale", "latency_s")(_rising)


class RobotConfig(Strict):
    """A robot file."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    robot: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    robot_class: str = Field(alias="class")
    role: Literal["robot", "lab"] = "robot"
    on_host_loss: Literal["hold", "fall"] | None = None
    work: Literal["continuous", "on_rollout"] = "continuous"
    servo_hz: int = Field(default=200, gt=0, le=1000)
    servo: Literal["inline", "process"] | None = None
    """See `servo_process`."""
    servo_core: int | None = Field(default=None, ge=0)
    """The core that a servo of its own process stays on."""
    cycle_log: Path | None = None
    """A folder; as beside the robot file."""
    twin_control: Path | None = None
    """The control socket of a `policyctl twin run`: it sees the object and lays out boxes."""
    speed_scale: float = Field(default=1.0, gt=0, le=1)
    table_z: float | None = None
    """Table top [m] in the base frame where the task does not say it."""
    arms: tuple[ArmConfig, ...] = Field(min_length=1)
    limits: LimitsConfig = LimitsConfig()
    twin: TwinSettings | None = None

    @field_validator("robot_class")
    @classmethod
    def _known_class(cls, value: str) -> str:
        if value not in ROBOT_CLASSES:
            raise ValueError(f"unknown robot class '{value}' (known: {', '.join(ROBOT_CLASSES)})")
        if ROBOT_CLASSES[value].cameras:
            raise ValueError(
                f"'{value}' has cameras, which robots do not read yet; its policies are simulated"
            )
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        wanted = [arm.name for arm in self.class_.arms]
        found = [arm.name for arm in self.arms]
        if found != wanted:
            raise ValueError(f"arms: {self.robot_class} has {wanted}, this file has {found}")
        kinds = {arm.bus.twin for arm in self.arms}
        if len(kinds) > 1:
            raise ValueError("arms: some are twins and some are real; a robot is one or the other")
        if self.is_twin != (self.twin is not None):
            raise ValueError("twin: settings are needed with `interface: twin`, and only with it")
        if self.servo == "process" and self._in_one_process:
            raise ValueError(
                "servo: a twin in lock-step and a virtual bus live in one process, inline; "
                "`policyctl twin run` serves a twin that a servo process can drive"
            )
        if self.servo == "inline" and not self._in_one_process:
            raise ValueError(
                "servo: inline has no guardian, so nobody would hold a real arm when the program "
                "dies; say process, or leave it out"
            )
        virtual = {arm.bus.interface == "virtual" for arm in self.arms}
        if len(virtual) > 1:
            raise ValueError("arms: some are on virtual buses and some on real ones")
        if self.is_twin and self.twin_control is not None:
            raise ValueError("twin_control: is of a twin process; this twin is in lock-step")
        if not self.is_twin and self.on_host_loss is None:
            raise ValueError(
                "on_host_loss: a real arm has to say hold (motors keep pushing) or fall"
            )
        channels = [(arm.bus.interface, arm.bus.channel) for arm in self.arms]
        if not self.is_twin and len(set(channels)) < len(channels):
            raise ValueError("arms: two arms on one bus; each arm has its own")
        try:
            check_period(self.period_s, self.physics_s)
            ticks_per_step(POLICY_HZ, self.period_s, self.speed_scale)
        except ConfigError as error:
            raise ValueError(f"{error.field}: {error.what}") from None
        return self

    @property
    def class_(self) -> RobotClass:
        """The robot class: arms, joints, rates."""
        return ROBOT_CLASSES[self.robot_class]

    @property
    def is_twin(self) -> bool:
        return self.arms[0].bus.twin

    @property
    def _in_one_process(self) -> bool:
        return any(arm.bus.interface in ("twin", "virtual") for arm in self.arms)

    @property
    def servo_process(self) -> bool:
        """Whether the servo is a process of its own."""
        if self.servo is None:
            return not self._in_one_process
        return self.servo == "process"

    @property
    def period_s(self) -> float:
        """The servo's period."""
        return 1.0 / self.servo_hz

    @property
    def physics_s(self) -> float | None:
        """A twin's physics step; None for a real arm."""
        return 1.0 / self.twin.physics_hz if self.twin is not None else None


def load_robot(path: Path) -> RobotConfig:
    """The robot file at `path`; ConfigError names file, line and field."""
    config = load_yaml(path, RobotConfig)
    arms = tuple(
        arm
        if arm.calibration is None
        else arm.model_copy(update={"calibration": path.parent / arm.calibration})
        for arm in config.arms
    )
    log = None if config.cycle_log is None else path.parent / config.cycle_log
    return config.model_copy(update={"arms": arms, "cycle_log": log})
