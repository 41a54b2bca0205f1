"""One attempt of one version on one robot, by hand: to look at it, not to judge it.

It runs what a station and the fleet run: the checked files of the version, a dry probe, the
runtime with its protection and the task's judge. It is no trial: nothing is counted for a gate, and
the record does not change.

- Every attempt is in `<home>/runs/<robot>.jsonl`: a line before the first motion, on the disk, and
  one when it is over. A line without its end is an attempt whose program died.
- A station's arm moves only under its lease; a twin that is built in this process needs none.
- ctrl-C stops the arm at once, whatever it does: before the attempt is opened there is none (void),
  and under the policy it is a failure like any that an operator stops.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fleet.attempt import SceneCheck
from fleet.stopping import stop_on_signals
from registry.errors import Refused
from registry.storage import disk_errors, sync_folder

if TYPE_CHECKING:
    from ci.rig import Rig
    from fleet.attempt import Array, Episode, Judge, Scene
    from fleet.robot import RobotConfig
    from registry.service import Registry, VersionRecord

Watch = Callable[["Rig", float], None]
"""Called at every policy step with the robot and the seconds of the attempt so far."""


@dataclass(frozen=True)
class SoloRun:
    """What one attempt came to."""

    version: VersionRecord
    robot: str
    task: str
    number: int
    episode: Episode
    frames: Mapping[str, Any]
    log: Path

    def to_json(self) -> dict[str, Any]:
        return {
            "version": str(self.version),
            "robot": self.robot,
            "task": self.task,
            "run": self.number,
            **_told(self.episode),
            "frames": {key: self.frames[key] for key in ("frames", "violations")},
            "log": str(self.log),
        }


@dataclass
class RunLog:
    """The runs of one robot, a line at each beginning and each end, durable when written."""

    path: Path
    number: int = 0
    unfinished: tuple[int, ...] = field(default=())

    def __post_init__(self) -> None:
        begun: set[int] = set()
        ended: set[int] = set()
        if self.path.exists():
            for line in self.path.read_text().splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:  # the last line of a program that died while writing it
                    continue
                (begun if entry["event"] == "opened" else ended).add(entry["run"])
        self.number = max(begun, default=0)
        self.unfinished = tuple(sorted(begun - ended))

    def opened(self, facts: Mapping[str, Any]) -> None:
        self.number += 1
        self._append({"event": "opened", "run": self.number, **facts})

    def closed(self, facts: Mapping[str, Any]) -> None:
        self._append({"event": "closed", "run": self.number, **facts})

    def _append(self, entry: Mapping[str, Any]) -> None:
        with disk_errors(self.path):
            new = not self.path.exists()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b") as stream:
                if not new and self.path.read_bytes()[-1:] not in (b"", b"\n"):
                    stream.write(b"\n")
                stream.write(json.dumps({"at": time.time(), **entry}).encode() + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
            if new:
                sync_folder(self.path.parent)


def twin_of(robot_class: str, seed: int) -> RobotConfig:
    """A twin of a robot class: the seed draws the robot and its boxes."""
    from fleet.robot import RobotConfig
    from policies.contract import ROBOT_CLASSES

    known = ROBOT_CLASSES.get(robot_class)
    arms = [{"name": arm.name, "bus": {"interface": "twin"}} for arm in known.arms] if known else []
    return RobotConfig.model_validate(
        {"robot": "twin", "class": robot_class, "arms": arms, "twin": {"seed": seed}}
    )


def run_solo(
    registry: Registry,
    version: VersionRecord,
    task: str,
    config: RobotConfig,
    folder: Path,
    *,
    ready: Callable[[], bool],
    say: Callable[[str], None],
    watch: Watch = lambda rig, seconds: None,
    cycle_log: Path | None = None,
) -> SoloRun:
    """One attempt of `version` at `task` on the robot of `config`; its log lies in `folder`.

    `ready` is asked before anything moves, once the arm stands and its scene has to be laid out; on
    a twin it is not. `cycle_log` is where every servo cycle goes, as MCAP. Raises ConfigError
    (contract), Refused (probe, lease, not a station), ServiceFailed (arm).
    """
    from ci.fetching import checkpoint_of
    from ci.hosting import host_for
    from harness.tasks import find_robot_task
    from policies.probe import probe

    goal = find_robot_task(task)
    if not config.is_twin and config.role != "lab":
        raise Refused(
            f"{config.robot} is no station",
            evidence=f"role is {config.role}",
            hint="attempts by hand are for a robot whose file says `role: lab`",
        )
    log = RunLog(folder / f"{config.robot}.jsonl")
    for number in log.unfinished:
        say(f"run {number} of {config.robot} has no end: its program died")
    with tempfile.TemporaryDirectory(prefix="policyctl-") as scratch, stop_on_signals() as stop:
        checkpoint = checkpoint_of(registry, version.ref, Path(scratch) / "checkpoint")
        policy = host_for(config)(checkpoint)
        try:
            policy.contract.check(config.class_, task)
            probe(policy)
            from ci.rig import build_rig

            with _right_to_move(registry, config), build_rig(config, log=cycle_log) as rig:
                began: list[float] = []

                def open_attempt(facts: Mapping[str, Any]) -> None:
                    log.opened({"version": str(version), "task": task, "scene": dict(facts)})
                    began.append(rig.servo.now())

                judge = _Watched(rig.judge(task), lambda: watch(rig, rig.servo.now() - began[0]))
                episode = rig.runtime.run_attempt(
                    policy, goal, judge, open_attempt, _scene(rig, ready),
                    should_stop=lambda: "operator_stop" if stop.requested else None,
                )  # fmt: skip
                if episode.opened:
                    log.closed(_told(episode))
                return SoloRun(
                    version, config.robot, task, log.number, episode, rig.frames(), log.path
                )
        finally:
            policy.close()


@dataclass(frozen=True)
class _Watched:
    """The task's judge; somebody looks on whenever it does, which is at every policy step."""

    judge: Judge
    look: Callable[[], None]

    @property
    def version(self) -> str:
        return self.judge.version

    def reset(self) -> None:
        self.judge.reset()

    def update(self, q: Array, dq: Array, tau: Array, dt: float) -> None:
        self.look()
        self.judge.update(q, dq, tau, dt)

    def outcome(self) -> str | None:
        return self.judge.outcome()

    def failure_mode(self) -> str:
        return self.judge.failure_mode()


def _told(episode: Episode) -> dict[str, Any]:
    return {
        "outcome": episode.outcome,
        "failure_mode": episode.failure_mode,
        "detail": episode.detail,
        "opened": episode.opened,
        "duration_s": round(episode.duration_s, 3),
        "steps": episode.steps,
        "interventions": dict(episode.interventions),
        "safety_events": list(episode.safety_events),
        "late_ticks": episode.overruns,
        "judge": episode.judge,
        "scene": dict(episode.scene),
    }


@contextmanager
def _right_to_move(registry: Registry, config: RobotConfig) -> Iterator[None]:
    if config.role != "lab":
        yield
        return
    from harness.hil.lease import StationLease

    holder = f"{getpass.getuser()}@{socket.gethostname()}:{os.getpid()}"
    with StationLease(registry, config.robot, holder):
        yield


def _scene(rig: Rig, ready: Callable[[], bool]) -> Scene:
    alone = rig.world is not None or rig.config.twin_control is not None
    return rig.conveyor() if alone else _ByHand(ready)


@dataclass
class _ByHand:
    """A person lays the scene out and says so."""

    ready: Callable[[], bool]

    def prepare(self) -> SceneCheck:
        return SceneCheck(self.ready(), "nobody said that the scene is ready")
