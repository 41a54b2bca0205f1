"""A lab station at work: one robot file, one lease, one journal per version, gate and robot.

- Journals lie in `<home>/hil/<robot>/`, stock beside them. A run that was interrupted, or paused
  because nobody answered, goes on from its journal; a decided one answers again without moving the
  arm. An inconclusive one that is over stays as it is, and the next run begins another journal.
- The arm moves only under a lease of the registry, renewed while the run lasts.
- `scripted` prompts rehearse on twins: a technician who is sometimes late, wrong or silent, on a
  clock that jumps. Where nobody answered, the rehearsal is taken up again like a person would.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ci.app import home_option
from ci.fetching import checkpoint_of
from ci.pipeline import GateRun, PolicyGates, applicable, suite_path
from fleet.stopping import Stop, stop_on_signals
from registry.errors import Refused, ServiceFailed, UsageError
from registry.evidence import Subject
from registry.gates import TrialGate
from registry.home import find_home
from registry.service import Registry, VersionRecord
from registry.verdicts import Outcome
from registry.versions import VersionRef, digest_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fleet.robot import RobotConfig
    from harness.hil.bench import RuntimeRobot
    from harness.hil.journal import Record
    from harness.hil.model import Suite
    from harness.hil.ports import Clock
    from harness.hil.prompts.broker import Broker
    from harness.hil.run import HilResult

REHEARSED_PAUSES = 20
"""How often a rehearsal is taken up again after nobody answered."""


def run_hil(
    registry: Registry,
    ref: VersionRef,
    gates: PolicyGates,
    station: Path,
    *,
    prompts: str = "terminal",
    say: Callable[[str], None],
    repaired: str | None = None,
    listen: Callable[[Record], None] | None = None,
) -> GateRun:
    """Runs the hil gate on a version at a station and records its verdict.

    Raises Refused (not a station, station leased), Unanswered, ServiceFailed (the bench broke),
    Interrupted; the same command goes on.
    """
    from fleet.robot import load_robot
    from harness.hil.config import load_suite

    version = registry.version(ref)
    gate = applicable(gates, "hil", version)
    if not isinstance(gate, TrialGate):
        raise UsageError("the hil gate is not a sequence of trials", evidence=str(gates.path))
    suite = load_suite(suite_path(gates))
    config = load_robot(station)
    if config.role != "lab":
        raise Refused(
            f"{config.robot} is no station",
            evidence=f"{station}: role is {config.role}",
            hint="trials run where `role: lab`",
        )
    if prompts == "scripted" and not config.is_twin:
        raise Refused(
            "a script cannot reset the scene of a real arm",
            evidence=f"{config.robot} is not a twin",
            hint="answer at the station: `--prompts terminal`",
        )
    began = time.monotonic()
    folder = find_home(home_option()).root / "hil" / config.robot
    journal = journal_path(folder, version, gate.digest + suite.digest)
    subject = version.subject
    with tempfile.TemporaryDirectory(prefix="policyctl-") as scratch, stop_on_signals() as stop:
        checkpoint = checkpoint_of(registry, ref, Path(scratch) / "checkpoint")
        result = _run(
            registry, config, suite, gate, subject, checkpoint, journal,
            prompts, say, repaired, listen, stop,
        )  # fmt: skip
    if result.broken:
        raise ServiceFailed(
            f"the bench broke: {result.broken}",
            evidence=f"{result.evidence.tally.total} trials are in {journal}",
            hint="look at the arm, then run again with `--repaired 'who did what'`",
        )
    artifacts = {"journal.jsonl": registry.blobs.put(journal.read_bytes())}
    cached = any(r.evidence.digest == result.evidence.digest for r in registry.verdicts(ref))
    if not cached:
        version = registry.record_verdict(ref, gate, result.evidence, result.verdict, artifacts)
    modes = Counter(a.mode for a in result.attempts if a.outcome == "failure")
    return GateRun(
        version, gate, result.evidence, result.verdict, time.monotonic() - began,
        dict(modes), artifacts, cached, option=gates.option,
    )  # fmt: skip


def journal_path(folder: Path, version: VersionRecord, tried: str) -> Path:
    """The journal to go on with: the newest one of this version and gate that is not over."""
    from harness.hil.journal import read
    from harness.hil.replay import replay

    name = f"{version.policy}-v{version.number}-{digest_of(tried)[7:15]}"
    number = 1
    while (path := folder / f"{name}-{number}.jsonl").exists():
        verdict = replay(read(path.read_bytes(), str(path))[0]).verdict
        if verdict is None or verdict["outcome"] != Outcome.INCONCLUSIVE:
            return path
        number += 1
    return path


def _run(
    registry: Registry,
    config: RobotConfig,
    suite: Suite,
    gate: TrialGate,
    subject: Subject,
    checkpoint: Path,
    journal: Path,
    prompts: str,
    say: Callable[[str], None],
    repaired: str | None,
    listen: Callable[[Record], None] | None,
    stop: Stop,
) -> HilResult:
    from ci.hosting import host_for
    from harness.hil.hooks.stock import StockFile
    from harness.hil.lease import StationLease
    from harness.hil.prompts.broker import Unanswered
    from harness.hil.run import run_suite
    from policies.contract import ROBOT_CLASSES

    policy = host_for(config)(checkpoint)
    for task in suite.tasks:
        policy.contract.check(ROBOT_CLASSES[config.robot_class], task.task)
    holder = f"{getpass.getuser()}@{socket.gethostname()}:{os.getpid()}"
    tell = narrator(say, listen)
    pauses = 0
    while True:
        frames = journal.with_suffix(".frames.json")
        with open_bench(config, frames, lambda: stop.requested) as robot:
            clock, broker = people(prompts, robot, subject, stop)
            try:
                return run_suite(
                    suite, gate, subject, lambda: policy, robot, broker, journal, clock,
                    StationLease(registry, config.robot, holder), tell,
                    stock=StockFile(journal.with_name("stock.json")),
                    repaired=repaired,
                    stop_requested=lambda: stop.requested,
                )  # fmt: skip
            except Unanswered as nobody:
                if prompts != "scripted" or pauses == REHEARSED_PAUSES:
                    raise
                say(f"{nobody.what}: the rehearsal goes on as somebody runs it again")
                pauses += 1


@contextmanager
def open_bench(
    config: RobotConfig,
    frames: Path | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Iterator[RuntimeRobot]:
    """The station's arm, powered and holding, as trials see it.

    `frames` is where a twin's monitor leaves what it read of the bus. `stop_requested` stops the
    arm in the middle of any motion.
    """
    from ci.rig import build_rig
    from harness.hil.bench import RuntimeRobot, TwinRobot
    from harness.hil.model import OPERATOR_STOP

    def should_stop() -> str | None:
        return OPERATOR_STOP if stop_requested() else None

    with build_rig(config) as rig:
        common = (config.robot, config.robot_class, engine_of(config), rig.runtime, rig.poses)
        if rig.world is None:
            yield RuntimeRobot(*common, should_stop=should_stop)
            return
        try:
            yield TwinRobot(*common, rig.world, should_stop=should_stop)
        finally:
            if frames is not None:
                frames.write_text(json.dumps(rig.frames(), indent=2))


LATER = ("limits", "servo", "servo_core", "twin_control")
"""Keys of robot files that came after the first results."""


def engine_of(config: RobotConfig) -> str:
    """What moved and measured: a twin's emulator and physics, or the arm itself, by their file."""
    kind = "twin" if config.is_twin else "arm"
    said = config.model_dump(mode="json")
    for name in LATER:  # results of files that do not name a later key keep theirs
        if getattr(config, name) == type(config).model_fields[name].default:
            del said[name]
    del said["cycle_log"]
    for arm in said["arms"]:
        if arm["calibration"] is None:
            del arm["calibration"]
    return f"{kind}/{digest_of(said)[7:23]}"


def people(prompts: str, robot: RuntimeRobot, subject: Subject, stop: Stop) -> tuple[Clock, Broker]:
    """Who answers, and the clock they live by."""
    from harness.hil.bench import TwinRobot
    from harness.hil.clocks import JumpClock, WallClock
    from harness.hil.prompts.broker import Broker, Prompt
    from harness.hil.prompts.scripted import ScriptedTechnician, moody

    def stopped() -> bool:
        return stop.requested

    if prompts != "scripted":
        from harness.hil.prompts.terminal import Terminal

        wall = WallClock()
        return wall, Broker([Terminal()], wall, stop_requested=stopped)

    def hands(prompt: Prompt) -> None:
        if isinstance(robot, TwinRobot) and prompt.question.goal is not None:
            robot.put_box(prompt.question.goal)

    def eyes(prompt: Prompt) -> str:
        return (robot.truth() if isinstance(robot, TwinRobot) else None) or "failure"

    clock = JumpClock(time.time())
    script = moody(subject.number, late=0.25, wrong=0.2, silent=0.08)
    technician = ScriptedTechnician(clock, script, hands, eyes)
    return clock, Broker([technician], clock, stop_requested=stopped)


def narrator(
    say: Callable[[str], None], listen: Callable[[Record], None] | None
) -> Callable[[Record], None]:
    """One line per closed trial and per noteworthy answer; every record goes to `listen`."""

    def tell(record: Record) -> None:
        if listen is not None:
            listen(record)
        if record.kind == "edge" and record.data["state"] == "record":
            done = record.data["record"]
            mode = f" ({done['mode']})" if done["mode"] else ""
            say(f"trial {done['trial'] + 1} {done['task']}: {done['outcome']}{mode}")
        elif record.kind == "escalated":
            say(f"  nobody answered yet: {record.data['level']}")
        elif record.kind == "scene" and not record.data["ok"]:
            say(f"  the scene is not ready: {record.data['why']}; asked again")
        elif record.kind == "refused":
            say(f"  an answer was refused: {record.data['why']}")

    return tell
