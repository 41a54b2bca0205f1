"""The demo's road, step by step. Every step can be run again: it looks at the record first.

A step acts through commands and reads the record as a viewer; what it must see to count as done
stands in it as an `expect`. The order is the road of requirements: v1 the whole way, v2 refused,
v3 caught by the canary, v4 promoted, and a person's rollback.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ci.demo.commands import Commands
from ci.demo.robots import robot_name, write_robot_files
from ci.demo.view import View
from registry.errors import ServiceFailed
from registry.home import find_home
from registry.rollouts import Phase, Rollout
from registry.service import Registry
from registry.stages import Stage
from registry.versions import VersionRef

POLICY = "box-grasp"
CHECKPOINTS = Path(__file__).parent / "checkpoints"
ROLLOUT_SECONDS = 600.0
ROLLBACK_SECONDS = 60.0
POLL_SECONDS = 0.25
ENDS = (Phase.DONE, Phase.ROLLED_BACK, Phase.ABORTED, Phase.HOLDING)


@dataclass
class Demo:
    """What the steps share."""

    home: Path
    robots: int
    checkpoints: Path
    commands: Commands
    view: View

    @property
    def robot_files(self) -> Path:
        return self.home / "robots"

    @property
    def facts_path(self) -> Path:
        return self.home / "demo.json"

    def facts(self) -> dict[str, Any]:
        """Figures that only the demo measures (wall times), kept for its closing table."""
        if not self.facts_path.exists():
            return {}
        known: dict[str, Any] = json.loads(self.facts_path.read_text())
        return known

    def remember(self, **figures: Any) -> None:
        self.facts_path.write_text(json.dumps({**self.facts(), **figures}, indent=2))

    def spent(self, seconds: float) -> None:
        """Adds the wall time of a run; a road may take several."""
        self.remember(wall_seconds=self.facts().get("wall_seconds", 0.0) + seconds)

    def stage(self, registry: Registry, number: int) -> Stage | None:
        known = {record.number: record.stage for record in registry.list_versions(POLICY)}
        return known.get(number)

    def outcome(self, registry: Registry, number: int, gate: str) -> str | None:
        """The newest verdict of a gate on a version, if there is one."""
        outcomes = [
            record.verdict.outcome.value
            for record in registry.verdicts(VersionRef(POLICY, number))
            if record.verdict.gate == gate
        ]
        return outcomes[-1] if outcomes else None


def expect(condition: bool, what: str, evidence: str = "") -> None:
    """The demo's own judgement: what must have happened did."""
    if not condition:
        raise ServiceFailed(f"the demo expected that {what}", evidence=evidence)


Step = Callable[[Demo, Registry], str]
"""Runs or finds done; returns one line of what was found. Raises when it is not as expected."""


def make_home(demo: Demo, registry: Registry) -> str:
    """Robot files and enrolment; the home itself exists by now."""
    _lab, robots = write_robot_files(demo.robot_files, demo.robots)
    known = {robot.name for robot in registry.robots()}
    new = [str(path) for path in robots if path.stem not in known]
    if new:
        demo.commands.policyctl("robot", "enrol", *new)
    expect(len(registry.robots()) == demo.robots, f"{demo.robots} robots are enrolled")
    return f"{demo.robots} robots and the lab's station, each a twin on its own CAN bus"


def register(number: int) -> Step:
    def run(demo: Demo, registry: Registry) -> str:
        if demo.stage(registry, number) is None:
            folder = demo.checkpoints / f"v{number}"
            done = demo.commands.policyctl("register", str(folder), "--policy", POLICY)
            expect(
                done.data["number"] == number,
                f"this checkpoint becomes v{number}",
                str(done.data),
            )
        record = registry.version(VersionRef(POLICY, number))
        return f"{POLICY} v{number} is {record.digest[:19]}…"

    return run


def simulate(number: int, outcome: str) -> Step:
    def run(demo: Demo, registry: Registry) -> str:
        if demo.outcome(registry, number, "sim") is None:
            status = {"pass": 0, "fail": 3}[outcome]
            demo.commands.policyctl(
                "gate", "run", "sim", f"v{number}", "--policy", POLICY, expect=(status,)
            )
        found = demo.outcome(registry, number, "sim")
        expect(found == outcome, f"v{number} ends sim with {outcome}", f"it was {found}")
        return _verdict_line(registry, number, "sim")

    return run


def try_on_the_lab_robot(number: int) -> Step:
    def run(demo: Demo, registry: Registry) -> str:
        if demo.outcome(registry, number, "hil") is None:
            demo.commands.policyctl(
                "gate", "run", "hil", f"v{number}", "--policy", POLICY,
                "--station", str(demo.robot_files / "lab.yaml"),
                "--prompts", "scripted",
            )  # fmt: skip
        found = demo.outcome(registry, number, "hil")
        expect(found == "pass", f"v{number} passes hil", f"it was {found}")
        return _verdict_line(registry, number, "hil")

    return run


def refuse_the_weak_one(demo: Demo, registry: Registry) -> str:
    """v2 failed sim: promote says no, names the gate, and exits 5 or 3."""
    done = demo.commands.policyctl(
        "promote", "v2", "--policy", POLICY, "--stage", "canary", expect=(3, 5)
    )
    error = done.data["error"]
    expect("sim" in error["what"] + error["evidence"], "the refusal names the gate", str(error))
    expect(demo.stage(registry, 2) is Stage.REJECTED, "v2 is rejected")
    return f"exit {done.status}: {error['what']}"


def roll_out(number: int, end: Phase) -> Step:
    """Promotes to canary and watches until the rollout ends by itself, as it must."""

    def run(demo: Demo, registry: Registry) -> str:
        mine = [r for r in registry.rollouts(POLICY) if r.rollout.candidate == number]
        if not mine or mine[-1].rollout.phase not in ENDS:
            start_fleet(demo)
            if not mine:
                demo.commands.policyctl(
                    "promote", f"v{number}", "--policy", POLICY, "--stage", "canary"
                )
            mine = [r for r in registry.rollouts(POLICY) if r.rollout.candidate == number]
            rollout = _watch(demo, registry, mine[-1].id)
            wait_for_fleet(demo, registry, number if end is Phase.DONE else rollout.baseline)
        rollout = registry.rollout(mine[-1].id).rollout
        expect(
            rollout.phase is end,
            f"the rollout of v{number} ends {end.value}",
            f"{rollout.phase.value}: {rollout.reason}",
        )
        return _rollout_line(registry, rollout.id)

    return run


def _watch(demo: Demo, registry: Registry, identity: str) -> Rollout:
    """Follows a rollout until it ends or asks a person."""
    started = time.monotonic()
    while True:
        rollout = registry.rollout(identity).rollout
        if rollout.phase in ENDS:
            return rollout
        demo.commands.check()
        spent = time.monotonic() - started
        expect(spent < ROLLOUT_SECONDS, f"v{rollout.candidate}'s rollout ends", f"{spent:.0f} s")
        demo.view.progress(_rollout_line(registry, identity))
        time.sleep(POLL_SECONDS)


def roll_back_by_hand(demo: Demo, registry: Registry) -> str:
    """A person takes v4 back; timed from the command to the last robot's runtime."""
    if "rollback_seconds" not in demo.facts():
        start_fleet(demo)
        wait_for_fleet(demo, registry, 4)
        started = time.time()
        demo.commands.policyctl(
            "rollback", "--policy", POLICY, "--yes",
            "--reason", "demo: a person wants the previous version back",
        )  # fmt: skip
        wait_for_fleet(demo, registry, 1)
        demo.remember(rollback_seconds=time.time() - started)
    seconds = demo.facts()["rollback_seconds"]
    return f"every robot runs v1 again, {seconds:.2f} s after the command"


def count_frames(demo: Demo, registry: Registry) -> str:
    """Sums what the monitors read of every CAN bus, the lab's and the fleet's."""
    demo.commands.stop()
    root = find_home(demo.home).root
    paths = [*root.glob("agents/*/monitor.json"), *root.glob("hil/*/*.frames.json")]
    reports = [json.loads(path.read_text()) for path in sorted(paths)]
    frames = sum(report["frames"] for report in reports)
    broken = [example for report in reports for example in report["examples"]]
    expect(frames > 0, "the monitors read frames")
    expect(
        sum(report["violations"] for report in reports) == 0, "no bound was broken", str(broken[:1])
    )
    demo.remember(frames=frames)
    return f"{frames:,} CAN frames on {len(reports)} buses, bounds never broken"


def start_fleet(demo: Demo) -> None:
    """The controller and one agent process per robot; those that run already stay."""
    demo.commands.start("server", "policyctl", "server")
    for index in range(1, demo.robots + 1):
        name = robot_name(index)
        demo.commands.start(name, "policyctl-agent", str(demo.robot_files / f"{name}.yaml"))


def wait_for_fleet(demo: Demo, registry: Registry, number: int | None) -> None:
    """Waits until the runtime of every robot reports the version its assignment names."""
    deadline = time.monotonic() + ROLLBACK_SECONDS
    while True:
        behind = [robot.name for robot in registry.robots() if robot.running != number]
        if not behind:
            return
        demo.commands.check()
        expect(time.monotonic() < deadline, f"every robot runs v{number}", f"not yet: {behind}")
        time.sleep(POLL_SECONDS / 5)


def _verdict_line(registry: Registry, number: int, gate: str) -> str:
    records = registry.verdicts(VersionRef(POLICY, number))
    verdict = [record for record in records if record.verdict.gate == gate][-1].verdict
    return f"v{number} {gate}: {verdict.outcome.value} — {verdict.reason}"


def _rollout_line(registry: Registry, identity: str) -> str:
    rollout = registry.rollout(identity).rollout
    evidence = registry.canary_evidence(identity)
    total = evidence.candidate_total
    parts = [
        f"v{rollout.candidate} {rollout.phase.value}",
        f"{total.success}/{total.n} candidate episodes succeeded",
    ]
    if rollout.reason:
        parts.append(rollout.reason)
    return " · ".join(parts)


ROAD: tuple[tuple[str, str, Step], ...] = (
    ("home", "a registry home, the lab's station and the fleet", make_home),
    ("v1-register", "v1: a good policy gets its version", register(1)),
    ("v1-sim", "v1 in simulation, over the whole grid", simulate(1, "pass")),
    ("v1-hil", "v1 on the lab's robot", try_on_the_lab_robot(1)),
    ("v1-fleet", "v1 to the fleet, judged absolutely", roll_out(1, Phase.DONE)),
    ("v2-register", "v2: a weak policy", register(2)),
    ("v2-sim", "v2 fails in simulation", simulate(2, "fail")),
    ("v2-refused", "promoting v2 is refused", refuse_the_weak_one),
    ("v3-register", "v3: a softer grip", register(3)),
    ("v3-sim", "v3 in simulation", simulate(3, "pass")),
    ("v3-hil", "v3 on the lab's robot", try_on_the_lab_robot(3)),
    ("v3-canary", "v3 meets the fleet's heavy boxes", roll_out(3, Phase.ROLLED_BACK)),
    ("v4-register", "v4: more robust", register(4)),
    ("v4-sim", "v4 in simulation", simulate(4, "pass")),
    ("v4-hil", "v4 on the lab's robot", try_on_the_lab_robot(4)),
    ("v4-fleet", "v4 through canary and waves to the fleet", roll_out(4, Phase.DONE)),
    ("rollback", "a person rolls back to v1", roll_back_by_hand),
    ("frames", "what an independent monitor read of every bus", count_frames),
)
