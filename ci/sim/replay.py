"""`replay KEY`: one simulated episode of a version again, and what it looked like."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ci.sim.contest import bench
from harness.episodes.log import write_log
from harness.sim.env import BatchEnv
from harness.sim.episode import EpisodeSpec
from harness.sim.population import Population
from harness.sim.recorder import Recorder
from harness.sim.replay import Replay, Replayer, compared
from harness.sim.results import Row
from harness.sim.simulation import Contestant, RobotSimulation, Simulation, drawer_at
from harness.simulations import simulation_of
from policies import Policy
from policies.loading import load_policy
from registry.errors import Corrupt, NotFound, PolicyctlError, UsageError
from registry.evidence import GridEvidence
from registry.gates import GridGate, suite_gate
from registry.service import Registry, VersionRecord
from registry.storage import disk_errors
from registry.versions import VersionRef

if TYPE_CHECKING:
    from harness.sim.film import Filming


@dataclass(frozen=True)
class Replayed:
    """`log` is what came of the action log, where one was kept."""

    key: str
    version: str
    result: Replay
    log: Replay | None
    files: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        record = self.result.record
        return {
            "key": self.key,
            "version": self.version,
            "outcome": "success" if record.success else "failure",
            "failure_mode": record.failure_mode,
            "detail": record.detail,
            "steps": record.steps,
            "metrics": dict(record.metrics),
            "digest": record.digest,
            "by": self.result.by,
            "identical": self.result.identical,
            "same_outcome": self.result.same_outcome,
            "log_identical": self.log.identical if self.log else None,
            "files": list(self.files),
        }


def replay_episode(
    registry: Registry,
    ref: VersionRef,
    key: str,
    *,
    suite: str | None = None,
    video: Path | None = None,
    mcap: Path | None = None,
) -> Replayed:
    """Plays the episode `key` of the version's newest sim verdict that has it.

    Raises NotFound where it was not played, and Corrupt where the engine that made the record
    gives other bits now.
    """
    version = registry.version(ref)
    gate = "sim" if suite is None else suite_gate(suite)
    with bench(registry) as table:
        who = table.contestant(version)
        simulation, row, engine = _find(registry, version, gate, key, who)
        spec = simulation.grid.spec(simulation.grid.number(key))
        same = engine == simulation.engine
        if not isinstance(simulation, RobotSimulation):
            if mcap or video:
                raise UsageError(
                    "an episode of a Gymnasium task is neither logged nor filmed",
                    evidence=f"the task is {simulation.grid.task}",
                    hint="leave --mcap and --video out",
                )
            (record,) = simulation.job(who).make_player()([spec])
            return _told(key, version, compared(record, row, "inference", same_engine=same))
        policy = load_policy(who.folder)
    about = {"key": key, "version": str(version), "engine": simulation.engine}
    result, log = _played(policy, spec, row, same_engine=same, about=about, video=video, mcap=mcap)
    files = tuple(str(path) for path in (mcap, video) if path)
    return _told(key, version, result, log, files)


def _played(
    policy: Policy,
    spec: EpisodeSpec,
    row: Row,
    *,
    same_engine: bool,
    about: Mapping[str, str],
    video: Path | None,
    mcap: Path | None,
) -> tuple[Replay, Replay | None]:
    """Plays the episode, of which recording and film are; and once more by its action log."""
    recorders: list[Recorder] = []
    with contextlib.ExitStack() as stack:
        filming = stack.enter_context(contextlib.closing(_filming(policy))) if video else None

        def watch(env: BatchEnv) -> None:
            if not recorders:
                recorders.append(Recorder(env))
            if filming:
                filming(env)

        player = Replayer(policy, filming.scene if filming else None)
        result = player.replay(spec, row, same_engine=same_engine, watch=watch)
        if mcap:
            write_log(mcap, recorders[0].log(result.record, about))
        if video and filming:
            from harness.sim.film import mp4

            with disk_errors(video):
                mp4(filming.film(result.record), video)
        return result, player.replay_log(spec, row, same_engine=same_engine)


def _filming(policy: Policy) -> Filming:
    from harness.sim.film import Filming, View

    return Filming(policy.contract, View(width=640, height=480, samples=4, shadows=True))


def _told(
    key: str,
    version: VersionRecord,
    result: Replay,
    log: Replay | None = None,
    files: tuple[str, ...] = (),
) -> Replayed:
    """Raises Corrupt where the engine that made the record gives other bits now."""
    for each in (result, log):
        if each is not None and each.identical is False:
            raise Corrupt(
                f"{key} does not give the bits that were recorded",
                evidence=each.words,
                hint="the engine is the same: compare CPU, BLAS and memory of both machines",
            )
    return Replayed(key, str(version), result, log, files)


def _find(
    registry: Registry, version: VersionRecord, gate: str, key: str, who: Contestant
) -> tuple[Simulation, Row, str]:
    """The simulation of the newest verdict whose run played the episode, its row and its engine."""
    verdicts = [
        (each.gate, each.evidence)
        for each in reversed(registry.verdicts(version.ref))
        if each.verdict.gate == gate
    ]
    missing: PolicyctlError = NotFound(
        f"{version} has no verdict of the {gate} gate",
        hint=f"policyctl gate run sim '{version}'",
    )
    for given, evidence in verdicts:
        if not isinstance(given, GridGate) or not isinstance(evidence, GridEvidence):
            raise TypeError("a sim verdict holds a grid and its evidence")
        simulation = simulation_of(given, "the gate as recorded", [who.folder])
        try:
            number = simulation.grid.number(key)
        except UsageError as error:
            missing = error
            continue
        drawer = drawer_at(simulation, version.digest, evidence.engine)
        row = Population(simulation.grid, drawer, _nobody, registry).known(number)
        if row is not None:
            return simulation, row, evidence.engine
        missing = NotFound(
            f"{key} was not played",
            evidence=f"{evidence.drawn} of {evidence.population} episodes were drawn",
            hint=f"policyctl gate run sim '{version}' --full",
        )
    raise missing


def _nobody() -> Any:
    raise RuntimeError("a replay plays its one episode itself")
