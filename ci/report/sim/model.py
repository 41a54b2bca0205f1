"""What a report on one run of the simulation gate says: plain values that every output shares.

Nothing here is markup. Rates are fractions, times seconds, and each rate stands beside the counts
it comes from. Logarithms of e-values are to base 10, cut at ±`CUT` so that they are numbers.
`from_json(to_json(report))` is the same report but for the pictures, which JSON leaves out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from pydantic import TypeAdapter

from ci.output import SCHEMA
from harness.failures import Names
from harness.sim.results import Row
from registry.errors import GateFailed, Inconclusive
from registry.verdicts import Outcome, Verdict

KIND = "sim-report"
CUT = 12.0
EXIT_STATUS: Mapping[Outcome, int] = {
    Outcome.PASS: 0,
    Outcome.FAIL: GateFailed.exit_status,
    Outcome.INCONCLUSIVE: Inconclusive.exit_status,
}


class VersionLike(Protocol):
    """The version that was tried."""

    @property
    def policy(self) -> str: ...

    @property
    def number(self) -> int: ...

    @property
    def digest(self) -> str: ...


@dataclass(frozen=True)
class Clip:
    """A picture or film of one episode: `data` is base64."""

    media_type: str
    data: str
    caption: str = ""


@dataclass(frozen=True)
class Lineage:
    """Versions that this gate judged since `of` (`box-grasp v9`) became the fleet's, this one in.

    `of` is empty where no version has held the fleet yet.
    """

    attempts: int
    of: str = ""
    versions: tuple[str, ...] = ()


@dataclass(frozen=True)
class SuiteResult:
    """A named robustness suite. `nominal` is the success rate it is compared with."""

    name: str
    successes: int
    episodes: int
    nominal: float

    @property
    def drop(self) -> float:
        """Points of success lost against nominal."""
        return 100 * (self.nominal - self.successes / self.episodes)


@dataclass(frozen=True)
class PairedCounts:
    """The recorded comparison with the baseline on equal scenes, and its test.

    `regressions`: the baseline succeeded where this version failed; `fixes`: the reverse;
    `identical`: pairs whose episodes ended in the very same state. `alpha` bounds the chance that a
    version which is no worse is called worse, and that one worse by `margin` is called sound.
    """

    baseline: str
    pairs: int
    regressions: int
    fixes: int
    identical: int
    alpha: float
    margin: float
    regression_e: float
    sound_e: float


@dataclass(frozen=True)
class Share:
    """Successes among episodes with their 95 % Clopper–Pearson interval."""

    successes: int
    episodes: int
    low: float
    high: float

    @property
    def rate(self) -> float | None:
        return self.successes / self.episodes if self.episodes else None


@dataclass(frozen=True)
class Axis:
    """A grid axis names `values`; a random one (`values` empty) is drawn from [low, high]."""

    name: str
    values: tuple[float, ...]
    low: float = 0.0
    high: float = 0.0


@dataclass(frozen=True)
class Cell:
    name: str
    coordinates: tuple[int, ...]
    share: Share
    modes: tuple[tuple[str, int], ...]
    steps: int
    """Policy steps spent in it."""
    bad: str = ""
    """Why the cell counts as failed; "" where it does not."""


@dataclass(frozen=True)
class HeatMap:
    """Success per pair of axis values, summed over the other axes: `shares[down][across]`."""

    down: str
    across: str
    downs: tuple[float, ...]
    acrosses: tuple[float, ...]
    shares: tuple[tuple[Share, ...], ...]


@dataclass(frozen=True)
class Marginal:
    """Success per value of one axis, over everything else."""

    axis: str
    levels: tuple[tuple[float, Share], ...]


@dataclass(frozen=True)
class Curve:
    """Success over a random axis: bins (low, high, share) of equal count; `scenes` draws of it."""

    axis: str
    bins: tuple[tuple[float, float, Share], ...]
    scenes: int


@dataclass(frozen=True)
class Sensitivity:
    """How far one axis moves success: from its worst value to its best.

    `told` where the p-value stays below 5 % after Bonferroni's correction for all axes.

    Grid axes also count the scenes played at both of these values, all else equal, in which only
    one of them succeeded (`only_best`, `only_worst`, of `pairs`).
    """

    axis: str
    test: str
    points: float
    worst: str
    best: str
    statistic: float | None
    p: float | None
    pairs: int = 0
    only_best: int = 0
    only_worst: int = 0
    told: bool = False


@dataclass(frozen=True)
class Mode:
    """A failure mode and what the sources call it."""

    name: str
    count: int
    of_failures: float
    of_episodes: float
    names: Names


@dataclass(frozen=True)
class ModesOfAxis:
    """Failures by value of one axis: (value, episodes, count of each of the report's modes)."""

    axis: str
    levels: tuple[tuple[float, int, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Flip:
    """An episode whose outcome differs from the baseline's in the same scene."""

    kind: str  # regression | fix
    key: str
    cell: str
    mode: str
    """How it failed: this version's mode for a regression, the baseline's for a fix."""
    command: str


@dataclass(frozen=True)
class Paired:
    """The comparison as the report tells it; `p` is the exact McNemar test's, for orientation."""

    counts: PairedCounts
    p: float
    flips: tuple[Flip, ...]


@dataclass(frozen=True)
class Path:
    """log10 e-values after `drawn` episodes; a test decides at `decides`."""

    name: str
    drawn: tuple[int, ...]
    log10_e: tuple[float, ...]
    decides: float


@dataclass(frozen=True)
class Cost:
    """What the verdict took. `saved` counts the episodes of the full run that were not needed."""

    seconds: float
    played: int
    """Episodes this run played itself; the others came from the record."""
    drawn: int
    saved: int
    rate: float
    """Episodes per second, as measured; 0 where nothing was played."""
    saved_seconds: float
    cores: int
    price: float | None = None
    """Per core-hour, in the reader's currency."""

    @property
    def spent(self) -> float | None:
        return None if self.price is None else self.seconds / 3600 * self.cores * self.price

    @property
    def kept(self) -> float | None:
        """Money the early stop saved."""
        return None if self.price is None else self.saved_seconds / 3600 * self.cores * self.price


@dataclass(frozen=True)
class Intervention:
    """How often a layer changed the policy's command, by reason."""

    name: str
    layer: str  # protection | shaping
    total: int
    episodes: int
    per_episode: float
    per_failure: float
    per_success: float


@dataclass(frozen=True)
class Rules:
    """The gate's own numbers."""

    gate: str
    task: str
    threshold: float
    alpha: float
    population: int
    cells: int
    episodes_per_cell: int
    floor: float | None = None
    floor_alpha: float = 0.05
    edition: int = 2


@dataclass(frozen=True)
class Numbers:
    """The run in figures; `spread` is the standard deviation over cells, `chance` the one that
    equal cells would show by chance alone at these counts."""

    mean: Share
    full_low: float
    full_high: float
    worst: Cell
    best: Cell
    spread: float
    chance: float
    cells: int
    fewest: int
    most: int
    worst_bound: float
    """Upper bound of the worst cell's rate that holds for all cells at once."""


@dataclass(frozen=True)
class SimReport:
    policy: str
    number: int
    digest: str
    written: str
    verdict: Verdict
    claims: tuple[str, ...]
    """What is proven, one test a sentence, each with its error."""
    rules: Rules
    axes: tuple[Axis, ...]
    numbers: Numbers
    cells: tuple[Cell, ...]
    maps: tuple[HeatMap, ...]
    marginals: tuple[Marginal, ...]
    curves: tuple[Curve, ...]
    sensitivity: tuple[Sensitivity, ...]
    modes: tuple[Mode, ...]
    modes_by_axis: tuple[ModesOfAxis, ...]
    paired: Paired | None
    paths: tuple[Path, ...]
    cost: Cost
    lineage: Lineage
    lineage_error: float
    """Bound of the chance that at least one of the lineage's tries passes though it should not."""
    interventions: tuple[Intervention, ...]
    suites: tuple[SuiteResult, ...]
    digests: tuple[tuple[str, str], ...]
    rows: tuple[Row, ...]
    clips: tuple[tuple[str, Clip], ...] = ()
    """(key of the episode, its picture), worst first."""

    @property
    def name(self) -> str:
        return f"{self.policy} v{self.number}"

    @property
    def exit_status(self) -> int:
        return EXIT_STATUS[self.verdict.outcome]

    def to_json(self) -> dict[str, Any]:
        fields = asdict(replace(self, clips=()))
        del fields["clips"]
        return {"schema": SCHEMA, "kind": KIND, **fields}


def from_json(data: Mapping[str, Any]) -> SimReport:
    """The report that `to_json` wrote; ValueError for anything else."""
    fields = dict(data)
    if (fields.pop("schema", None), fields.pop("kind", None)) != (SCHEMA, KIND):
        raise ValueError(f"not a report of the simulation gate: schema {data.get('schema')!r}")
    return TypeAdapter(SimReport).validate_python(fields)
