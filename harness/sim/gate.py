"""The simulation gate: a fixed population in a fixed random order, until the verdict is certain.

1. The population is the gate's grid (harness/sim/grid.py), the order one permutation drawn from the
   nonce that the registry gave the version when it was registered.
2. Episodes count in that order and one at a time: after each, the gate's test sees the counts so
   far, and the run stops at the first that decides. Episodes that were under way by then are thrown
   away unseen. `full` plays the whole population first.
3. A result is keyed by what made it: policy, task, gate, order and engine. Where the same key was
   run before, its stored result is the answer (`cached`).
4. Nothing is stored before the end: an interrupted run leaves no trace and can be begun again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, Protocol

from harness.sim.engine import JUDGE, fingerprint
from harness.sim.executors import Executor, InProcess
from harness.sim.grid import Grid
from harness.sim.results import Row, digest_rows, failure_modes, row, tally_cells
from harness.sim.runner import in_order
from harness.tasks import TASKS
from harness.tasks.task import Task
from policies.loading import load_policy
from registry.errors import ConfigError, Interrupted
from registry.evidence import GridEvidence, Subject, Tally, evidence_from_json
from registry.gates import GridGate
from registry.statistics.grid import decide, order, order_digest
from registry.verdicts import Verdict, judge
from registry.versions import digest_of

PROGRESS_S = 0.2
"""How often a run tells how far it is [s]."""


class ResultCache(Protocol):
    """The registry, as far as this gate needs it."""

    def cached_result(self, key: str) -> dict[str, Any] | None: ...

    def store_result(self, key: str, result: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Progress:
    """How far a run is; `verdict` is that of the episodes so far."""

    drawn: int
    successes: int
    population: int
    verdict: Verdict


@dataclass(frozen=True)
class SimResult:
    """What a run of the gate found. `seconds` is the wall time of the run that was made."""

    evidence: GridEvidence
    verdict: Verdict
    rows: tuple[Row, ...]
    seconds: float
    engine: str
    digest: str
    cached: bool = False

    @property
    def failure_modes(self) -> dict[str, int]:
        return failure_modes(self.rows)

    def to_json(self) -> dict[str, Any]:
        return {
            "evidence": self.evidence.to_json(),
            "verdict": self.verdict.to_json(),
            "rows": [each.to_json() for each in self.rows],
            "seconds": self.seconds,
            "engine": self.engine,
            "digest": self.digest,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> SimResult:
        evidence = evidence_from_json(data["evidence"])
        if not isinstance(evidence, GridEvidence):
            raise ValueError("the stored result is not that of a grid")
        return SimResult(
            evidence=evidence,
            verdict=Verdict.from_json(data["verdict"]),
            rows=tuple(Row(**each) for each in data["rows"]),
            seconds=data["seconds"],
            engine=data["engine"],
            digest=data["digest"],
            cached=True,
        )


def run_sim_gate(
    policy_dir: Path,
    subject: Subject,
    gate: GridGate,
    nonce: str,
    *,
    threads: int = 2,
    slots: int = 64,
    full: bool = False,
    progress: Callable[[Progress], None] | None = None,
    cache: ResultCache | None = None,
    executor: Executor | None = None,
    where: str = "gates.yaml",
) -> SimResult:
    """Tries the policy in `policy_dir`, which is version `subject`, against `gate`.

    `where` names the gate's file in errors. Raises ConfigError before anything is played where the
    gate, the task and the policy's contract do not fit, and Interrupted on ctrl-C.
    """
    if gate.task not in TASKS:
        raise ConfigError(
            f"there is no task '{gate.task}'",
            where=where,
            field="sim.task",
            hint=f"tasks: {', '.join(TASKS)}",
        )
    grid = Grid.of(gate.task, gate.axes, gate.episodes_per_cell, where=where)
    engine = fingerprint()
    key = result_key(subject, gate, nonce, engine, full=full)
    stored = cache.cached_result(key) if cache else None
    if stored is not None:
        return SimResult.from_json(stored)

    policy = load_policy(policy_dir)
    if policy.contract.task != gate.task:
        raise ConfigError(
            "the policy's contract does not fit: task",
            where=where,
            field=f"sim.task is {gate.task}, the policy was made for {policy.contract.task}",
            hint="simulate the policy on the task it was trained for",
        )
    executor = executor or InProcess(policy, slots=slots, threads=threads)
    run = _Run(subject, gate, grid, nonce, policy.contract.robot_class)
    began = time.perf_counter()
    try:
        rows = run.play(executor, full, progress)
    except KeyboardInterrupt as interrupt:
        raise Interrupted(
            f"the simulation of {subject.policy} v{subject.number} was interrupted",
            evidence="nothing was recorded",
            hint="run the same command to begin again",
        ) from interrupt
    evidence = run.evidence(rows, engine)
    result = SimResult(
        evidence=evidence,
        verdict=judge(gate, evidence),
        rows=rows,
        seconds=time.perf_counter() - began,
        engine=engine,
        digest=evidence.attempts_digest,
    )
    if cache:
        cache.store_result(key, result.to_json())
    return result


def result_key(subject: Subject, gate: GridGate, nonce: str, engine: str, *, full: bool) -> str:
    """Names a result by all that it follows from."""
    return digest_of(
        {
            "policy": subject.digest,
            "number": [subject.policy, subject.number],
            "task": task_digest(TASKS[gate.task]),
            "gate": gate.digest,
            "nonce": nonce,
            "engine": engine,
            "full": full,
        }
    )


def task_digest(task: Task) -> str:
    """Names a task by its numbers."""
    if not is_dataclass(task) or isinstance(task, type):
        raise TypeError(f"{task.name} is no dataclass of numbers")
    return digest_of(asdict(task))


@dataclass(frozen=True)
class _Run:
    subject: Subject
    gate: GridGate
    grid: Grid
    nonce: str
    robot_class: str

    def play(
        self, executor: Executor, full: bool, progress: Callable[[Progress], None] | None
    ) -> tuple[Row, ...]:
        """Rows in drawn order until the verdict."""
        gate, population = self.gate, self.grid.population
        numbers = [int(number) for number in order(self.nonce, population)]
        specs = [self.grid.spec(number) for number in numbers]
        rows: list[Row] = []
        successes, told = 0, 0.0
        with contextlib.closing(executor.map(specs)) as records:
            for number, record in zip(numbers, in_order(records, specs), strict=False):
                rows.append(row(self.grid, number, record))
                successes += record.success
                if progress and time.monotonic() - told > PROGRESS_S:
                    progress(self._progress(len(rows), successes))
                    told = time.monotonic()
                counts = (population, gate.threshold, gate.alpha, len(rows), successes)
                if not full and decide(*counts) is not None:
                    break
        if progress:
            progress(self._progress(len(rows), successes))
        return tuple(rows)

    def _progress(self, drawn: int, successes: int) -> Progress:
        return Progress(
            drawn=drawn,
            successes=successes,
            population=self.grid.population,
            verdict=judge(self.gate, self._evidence(drawn, successes)),
        )

    def evidence(self, rows: tuple[Row, ...], engine: str) -> GridEvidence:
        return self._evidence(
            len(rows),
            sum(each.success for each in rows),
            engine=engine,
            attempts_digest=digest_rows(rows),
            cells=tally_cells(self.grid, rows),
        )

    def _evidence(
        self,
        drawn: int,
        successes: int,
        *,
        engine: str = "",
        attempts_digest: str = "",
        cells: tuple[tuple[str, Tally], ...] = (),
    ) -> GridEvidence:
        return GridEvidence(
            subject=self.subject,
            gate_digest=self.gate.digest,
            robot_class=self.robot_class,
            engine=engine,
            judge=JUDGE,
            attempts_digest=attempts_digest,
            population=self.grid.population,
            drawn=drawn,
            successes=successes,
            nonce=self.nonce,
            order_digest=order_digest(self.nonce, self.grid.population),
            cells=cells,
        )
