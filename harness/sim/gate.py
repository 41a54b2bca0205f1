"""The simulation gate: a fixed population in a fixed random order, until the verdict is certain.

1. The population is the gate's grid (harness/sim/grid.py), the order one permutation drawn from the
   nonce that the registry gave the version when it was registered.
2. Episodes count in that order and one at a time: after each, the gate's rule sees the counts so
   far, and the run stops at the first that decides. `full` plays the whole population first;
   `budget_s` stops undecided, with the episodes that are still needed.
3. Where the fleet runs a version, each episode is paired with what that one did on the same scene:
   from the record where it was ever played, else it is played now.
4. No axis may be dead: each is moved from end to end first (harness/sim/plan.py), once per gate,
   contract and engine.
5. Every episode that ends is kept (harness/sim/population.py): an interrupted run goes on where it
   was. A verdict is keyed by what made it: policies, task, gate, order and engine; where the same
   was judged before, that is the answer (`cached`).
6. A policy that cannot keep its control period on this machine fails every episode by that alone;
   those are not kept, since they say something about the machine too.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from harness.sim.episode import EpisodeRecord, EpisodeSpec
from harness.sim.executors import Executor, Job
from harness.sim.executors.threads import InProcess
from harness.sim.plan import keep_alive, refuse_dead
from harness.sim.population import EpisodeStore, Forgetful, Population, without_log
from harness.sim.results import Row, digest_rows, failure_modes, tally_cells
from harness.sim.simulation import Contestant, Simulation, drawer
from registry.errors import Interrupted
from registry.evidence import GridEvidence, Paired, Tally, evidence_from_json
from registry.gates import GridGate
from registry.grid_verdict import undecided
from registry.statistics.grid import order, order_digest
from registry.verdicts import Verdict, judge
from registry.versions import digest_of

PROGRESS_S = 0.2
"""How often a run tells how far it is [s]."""


class Keeper(EpisodeStore, Protocol):
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
    baseline_rows: Mapping[str, Row] = field(default_factory=dict)
    """What the baseline did in the same episodes, by key."""
    played: int = 0
    """Episodes played in this run, the baseline's with them; the others were known."""
    cached: bool = False

    @property
    def failure_modes(self) -> dict[str, int]:
        return failure_modes(self.rows)


MakeExecutor = Callable[[Job], Executor]


@dataclass(frozen=True)
class SimRun:
    """A gate about to be run on `candidate`, against `baseline` where there is one.

    `where` names the gate's file in errors.
    """

    candidate: Contestant
    gate: GridGate
    nonce: str
    baseline: Contestant | None = None
    full: bool = False
    budget_s: float | None = None
    where: str = "gates.yaml"

    @property
    def folders(self) -> list[Path]:
        """Of the policies that are played."""
        return [who.folder for who in (self.candidate, self.baseline) if who is not None]

    @property
    def paired(self) -> bool:
        return self.baseline is not None and self.gate.regression is not None

    def key(self, task: str, engine: str) -> str:
        """Names the verdict by all that it follows from; `task` is the task's digest."""
        subject, baseline = self.candidate.subject, self.baseline
        return digest_of(
            {
                "policy": subject.digest,
                "number": [subject.policy, subject.number],
                "baseline": baseline.subject.to_json() if baseline and self.paired else None,
                "task": task,
                "gate": self.gate.digest,
                "nonce": self.nonce,
                "engine": engine,
                "full": self.full,
            }
        )


def run_sim_gate(
    run: SimRun,
    simulation: Simulation,
    *,
    executor: MakeExecutor | None = None,
    progress: Callable[[Progress], None] | None = None,
    keeper: Keeper | None = None,
) -> SimResult:
    """Tries the candidate until the gate is decided, in the `simulation` that the gate asks for.

    Raises ConfigError before anything is played where the task and the policy's contract do not
    fit, and Interrupted on ctrl-C.
    """
    trial = _Trial(run, simulation, executor or (lambda job: InProcess.of(job, workers=2)), keeper)
    stored = trial.stored()
    if stored is not None:
        return stored
    began = time.perf_counter()
    try:
        trial.play(progress)
    except KeyboardInterrupt as interrupt:
        subject = run.candidate.subject
        raise Interrupted(
            f"the simulation of {subject.policy} v{subject.number} was interrupted",
            evidence=f"{trial.drawn} episodes are judged; no verdict was recorded",
            hint="run the same command to go on from here"
            if keeper
            else "run the same command to begin again",
        ) from interrupt
    return trial.result(time.perf_counter() - began)


class _Late:
    """Every episode of a policy that is slower than its control period."""

    def __init__(self, detail: str) -> None:
        self._detail = detail

    def map(self, specs: Iterable[EpisodeSpec]) -> Generator[EpisodeRecord]:
        for spec in specs:
            yield EpisodeRecord(spec, False, "policy_late", 0, detail=self._detail)


class _Trial:
    """One run: the counts so far, and where its episodes come from."""

    def __init__(
        self, run: SimRun, simulation: Simulation, executor: MakeExecutor, keeper: Keeper | None
    ) -> None:
        self._run, self._simulation, self._keeper = run, simulation, keeper
        self._grid, self._engine = simulation.grid, simulation.engine
        self._executor = executor
        self._numbers = [int(n) for n in order(run.nonce, self._grid.population)]
        self._rows: list[Row] = []
        self._baseline_rows: dict[str, Row] = {}
        self._successes = 0
        self._cells: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        self._pairs = {"pairs": 0, "regressions": 0, "fixes": 0, "identical": 0}
        self._robot_class = ""
        self._played = 0

    @property
    def _key(self) -> str:
        return self._run.key(self._simulation.task_digest, self._engine)

    @property
    def drawn(self) -> int:
        return len(self._rows)

    def stored(self) -> SimResult | None:
        """The answer, where the same was judged before and its episodes are still known."""
        keeper, run = self._keeper, self._run
        found = keeper.cached_result(self._key) if keeper else None
        if found is None:
            return None
        evidence = evidence_from_json(found["evidence"])
        if not isinstance(evidence, GridEvidence):
            raise ValueError("the stored result is not that of a grid")
        drawn = self._numbers[: evidence.drawn]
        rows = self._known(run.candidate, drawn)
        baseline = self._known(run.baseline, drawn) if run.baseline and run.paired else []
        if None in rows or None in baseline:
            return None
        return SimResult(
            evidence=evidence,
            verdict=Verdict.from_json(found["verdict"]),
            rows=tuple(row for row in rows if row),
            baseline_rows={row.key: row for row in baseline if row},
            seconds=found["seconds"],
            engine=self._engine,
            digest=evidence.attempts_digest,
            cached=True,
        )

    def _known(self, contestant: Contestant, numbers: Sequence[int]) -> list[Row | None]:
        population = self._population(contestant)
        return [population.known(number) for number in numbers]

    def _population(self, who: Contestant, late: str = "") -> Population:
        key = drawer(self._simulation, who.subject.digest)
        if late:
            return Population(self._grid, key, lambda: _Late(late), Forgetful())
        make, job = self._executor, self._simulation.job
        return Population(self._grid, key, lambda: make(job(who)), self._keeper or Forgetful())

    def play(self, progress: Callable[[Progress], None] | None) -> None:
        """Episodes in drawn order until the verdict, or the budget's end."""
        run, began, told = self._run, time.monotonic(), 0.0
        populations = [self._population(run.candidate, self._check(run.candidate))]
        if run.baseline is not None and run.paired:
            self._check(run.baseline)
            populations.append(self._population(run.baseline))
        with contextlib.ExitStack() as stack:
            streams = [
                stack.enter_context(contextlib.closing(each.rows(self._numbers)))
                for each in populations
            ]
            for rows in zip(*streams, strict=True):
                self._count(*rows)
                now = time.monotonic()
                if progress and now - told > PROGRESS_S:
                    progress(self._progress())
                    told = now
                if not run.full and not self._undecided():
                    break
                if run.budget_s is not None and now - began > run.budget_s:
                    break
        self._played = sum(each.played for each in populations)
        if progress:
            progress(self._progress())

    def _check(self, who: Contestant) -> str:
        """How the policy is late, "" where it is not. ConfigError where it does not fit."""
        found = self._simulation.examine(who)
        if who is self._run.candidate:
            self._robot_class = found.robot_class
            if not found.late:
                self._refuse_dead_axes(who, found.axes_key)
        return found.late

    def _refuse_dead_axes(self, who: Contestant, key: str) -> None:
        keeper = self._keeper
        if keeper and keeper.cached_result(key):
            return
        reports = self._simulation.try_axes(who)
        refuse_dead(reports, self._run.where)
        if keeper:
            keep_alive(keeper, key, reports)

    def _count(self, row: Row, other: Row | None = None) -> None:
        flipped = other is not None and other.success != row.success
        self._rows.append(row if flipped else without_log(row))
        self._successes += row.success
        self._cells[row.cell][not row.success] += 1
        if other is None:
            return
        self._baseline_rows[other.key] = other
        pairs = self._pairs
        pairs["pairs"] += 1
        pairs["regressions"] += other.success and not row.success
        pairs["fixes"] += row.success and not other.success
        pairs["identical"] += row.digest == other.digest

    def _undecided(self) -> bool:
        return undecided(
            self._run.gate, self.drawn, self._successes, self._cells.values(), self._paired()
        )

    def _paired(self) -> Paired | None:
        baseline = self._run.baseline
        if baseline is None or not self._run.paired:
            return None
        return Paired(baseline.subject, **self._pairs)

    def _progress(self) -> Progress:
        return Progress(
            drawn=self.drawn,
            successes=self._successes,
            population=self._grid.population,
            verdict=judge(self._run.gate, self._evidence("")),
        )

    def result(self, seconds: float) -> SimResult:
        """What the run found, kept where it decided."""
        run = self._run
        evidence = self._evidence(digest_rows(self._rows))
        result = SimResult(
            evidence=evidence,
            verdict=judge(run.gate, evidence),
            rows=tuple(self._rows),
            seconds=seconds,
            engine=self._engine,
            digest=evidence.attempts_digest,
            baseline_rows=self._baseline_rows,
            played=self._played,
        )
        late = any(row.failure_mode == "policy_late" for row in self._rows)
        decided = not self._run.full and not self._undecided()
        complete = self.drawn == self._grid.population or decided
        if self._keeper and complete and not late:
            self._keeper.store_result(
                self._key,
                {
                    "evidence": evidence.to_json(),
                    "verdict": result.verdict.to_json(),
                    "seconds": seconds,
                },
            )
        return result

    def _evidence(self, attempts_digest: str) -> GridEvidence:
        run, population = self._run, self._grid.population
        cells: tuple[tuple[str, Tally], ...] = tally_cells(self._grid, self._rows)
        return GridEvidence(
            subject=run.candidate.subject,
            gate_digest=run.gate.digest,
            robot_class=self._robot_class,
            engine=self._engine,
            judge=self._simulation.judge,
            attempts_digest=attempts_digest,
            population=population,
            drawn=self.drawn,
            successes=self._successes,
            nonce=run.nonce,
            order_digest=order_digest(run.nonce, population),
            cells=cells,
            paired=self._paired(),
        )
