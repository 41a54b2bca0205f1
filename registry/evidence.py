"""What was seen: an immutable snapshot of integers and digests that a verdict is computed from.

Rules: nothing here is an estimate; every number can be recounted from the attempts whose ordered
digests `attempts_digest` covers. Void attempts are counted but never enter a rate. Evidence is
scoped to a robot class. JSON goes both ways exactly, and `digest` is that of the canonical JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from registry.versions import digest_of


@dataclass(frozen=True)
class Tally:
    success: int = 0
    failure: int = 0
    void: int = 0

    def __post_init__(self) -> None:
        if min(self.success, self.failure, self.void) < 0:
            raise ValueError(f"a count is negative: {self}")

    @property
    def n(self) -> int:
        """Attempts with an outcome that counts: void ones do not."""
        return self.success + self.failure

    @property
    def total(self) -> int:
        return self.n + self.void

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.success + other.success, self.failure + other.failure, self.void + other.void
        )

    def to_json(self) -> list[int]:
        return [self.success, self.failure, self.void]


@dataclass(frozen=True)
class StratumCounts:
    """The complete blocks of one stratum (robot × task × instruction) in one segment.

    A block is complete when each of its attempts is closed with success or failure; a block with
    a void attempt never is. So candidate.n : baseline.n is the design ratio exactly.
    """

    stratum: str
    candidate: Tally
    baseline: Tally

    def to_json(self) -> dict[str, Any]:
        return {
            "stratum": self.stratum,
            "candidate": self.candidate.to_json(),
            "baseline": self.baseline.to_json(),
        }


@dataclass(frozen=True)
class Segment:
    """A stretch of a rollout with one design ratio, `candidates_per_block` of `block` attempts.

    `strata` hold complete blocks only. `candidate` and `baseline` hold every closed attempt of the
    segment on the robots that take part, in complete blocks or not, void ones too.
    """

    index: int
    candidates_per_block: int
    block: int
    strata: tuple[StratumCounts, ...] = ()
    candidate: Tally = Tally()
    baseline: Tally = Tally()

    def __post_init__(self) -> None:
        if not 1 <= self.candidates_per_block <= self.block:
            raise ValueError(f"{self.candidates_per_block} candidates in a block of {self.block}")
        controls = self.block - self.candidates_per_block
        for counts in self.strata:
            if counts.candidate.n * controls != counts.baseline.n * self.candidates_per_block:
                raise ValueError(
                    f"segment {self.index}, {counts.stratum}: {counts.candidate.n} candidate and "
                    f"{counts.baseline.n} baseline attempts are not complete blocks of "
                    f"{self.candidates_per_block} in {self.block}"
                )
        if len({counts.stratum for counts in self.strata}) != len(self.strata):
            raise ValueError(f"segment {self.index} lists a stratum twice")
        inside = sum(counts.candidate.n for counts in self.strata)
        if inside > self.candidate.n:
            raise ValueError(
                f"segment {self.index}: {inside} candidate attempts in complete blocks, "
                f"only {self.candidate.n} closed"
            )

    def to_json(self) -> dict[str, Any]:
        return {
            "index": self.index,
            "candidates_per_block": self.candidates_per_block,
            "block": self.block,
            "strata": [counts.to_json() for counts in self.strata],
            "candidate": self.candidate.to_json(),
            "baseline": self.baseline.to_json(),
        }


@dataclass(frozen=True)
class Subject:
    """The version that was tested: the digest is what ran, the rest is its name."""

    policy: str
    number: int
    digest: str

    def to_json(self) -> dict[str, Any]:
        return {"policy": self.policy, "number": self.number, "digest": self.digest}


@dataclass(frozen=True)
class Paired:
    """The drawn episodes against what `baseline` did on the same scenes, where that is known.

    `pairs` have a known baseline outcome; of them `regressions` succeeded with the baseline only,
    `fixes` with the subject only; `identical` have the same episode digest on both sides.
    """

    baseline: Subject
    pairs: int
    regressions: int
    fixes: int
    identical: int

    def __post_init__(self) -> None:
        if min(self.pairs, self.regressions, self.fixes, self.identical) < 0:
            raise ValueError("a count is negative")
        if self.regressions + self.fixes + self.identical > self.pairs:
            raise ValueError(
                f"{self.regressions} regressions, {self.fixes} fixes and {self.identical} "
                f"identical in {self.pairs} pairs"
            )

    def to_json(self) -> dict[str, Any]:
        return {
            "baseline": self.baseline.to_json(),
            "pairs": self.pairs,
            "regressions": self.regressions,
            "fixes": self.fixes,
            "identical": self.identical,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Paired:
        return Paired(**{**data, "baseline": Subject(**data["baseline"])})


@dataclass(frozen=True)
class GridEvidence:
    """`drawn` episodes of a fixed population of `population`, in the order that `nonce` names.

    `paired` is None where there was no baseline to compare with.
    """

    subject: Subject
    gate_digest: str
    robot_class: str
    engine: str  # fingerprint of the simulator and the code that drove it
    judge: str
    attempts_digest: str  # over the ordered outcomes
    population: int
    drawn: int
    successes: int
    nonce: str
    order_digest: str
    cells: tuple[tuple[str, Tally], ...] = ()
    paired: Paired | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.successes <= self.drawn <= self.population:
            raise ValueError(
                f"{self.successes} successes in {self.drawn} drawn of {self.population}"
            )
        if self.cells and sum(tally.n for _, tally in self.cells) != self.drawn:
            raise ValueError(f"the cells do not sum to the {self.drawn} episodes drawn")
        if self.cells and sum(tally.success for _, tally in self.cells) != self.successes:
            raise ValueError(f"the cells do not sum to the {self.successes} successes")
        if self.paired is not None:
            failures = self.drawn - self.successes
            found = self.paired
            if found.pairs > self.drawn:
                raise ValueError(f"{found.pairs} pairs of {self.drawn} episodes drawn")
            if found.regressions > failures or found.fixes > self.successes:
                raise ValueError(
                    f"{found.regressions} regressions and {found.fixes} fixes of {failures} "
                    f"failures and {self.successes} successes"
                )

    def to_json(self) -> dict[str, Any]:
        return {
            **_common(self, "grid"),
            "population": self.population,
            "drawn": self.drawn,
            "successes": self.successes,
            "nonce": self.nonce,
            "order_digest": self.order_digest,
            "cells": _tallies(self.cells),
        } | ({} if self.paired is None else {"paired": self.paired.to_json()})

    @property
    def digest(self) -> str:
        return digest_of(self.to_json())


@dataclass(frozen=True)
class TrialEvidence:
    """Trials on hardware, or on a lab's twin of it, in one sequence."""

    subject: Subject
    gate_digest: str
    robot_class: str
    engine: str
    judge: str
    attempts_digest: str
    success: int
    failure: int
    void: int = 0
    tasks: tuple[tuple[str, Tally], ...] = ()

    def __post_init__(self) -> None:
        if self.tasks and sum((t for _, t in self.tasks), Tally()) != self.tally:
            raise ValueError("the tasks do not sum to the trials")

    @property
    def tally(self) -> Tally:
        return Tally(self.success, self.failure, self.void)

    def to_json(self) -> dict[str, Any]:
        return {
            **_common(self, "trials"),
            "success": self.success,
            "failure": self.failure,
            "void": self.void,
            "tasks": _tallies(self.tasks),
        }

    @property
    def digest(self) -> str:
        return digest_of(self.to_json())


@dataclass(frozen=True)
class CanaryEvidence:
    """One rollout as it stands. `baseline` None: the first version of a policy, judged alone.

    `outstanding` counts candidate attempts that were opened and are not closed though their time
    is up (their block was overtaken, or their robot fell silent); an attempt still inside its
    horizon is not outstanding. `class_a_events` counts class A safety events of candidate attempts.

    Where robots sign their attempts, `attempts_root` is the Merkle root (`registry.trust.merkle`)
    of the signed reports that were counted, by robot and number, and `reports` says which: the
    numbers of each robot, as ranges ("3-7,9").
    """

    subject: Subject
    gate_digest: str
    robot_class: str
    engine: str
    judge: str
    attempts_digest: str
    rollout: str
    baseline: int | None
    segments: tuple[Segment, ...]
    outstanding: int = 0
    class_a_events: int = 0
    weights_digest: str = ""
    attempts_root: str = ""
    reports: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if min(self.outstanding, self.class_a_events) < 0:
            raise ValueError("a count is negative")
        indices = [segment.index for segment in self.segments]
        if indices != sorted(set(indices)):
            raise ValueError(f"segments out of order or twice: {indices}")

    @property
    def candidate_total(self) -> Tally:
        """Every closed candidate attempt of the rollout."""
        return sum((segment.candidate for segment in self.segments), Tally())

    @property
    def baseline_total(self) -> Tally:
        return sum((segment.baseline for segment in self.segments), Tally())

    def to_json(self) -> dict[str, Any]:
        return {
            **_common(self, "canary"),
            "rollout": self.rollout,
            "baseline": self.baseline,
            "segments": [segment.to_json() for segment in self.segments],
            "outstanding": self.outstanding,
            "class_a_events": self.class_a_events,
            "weights_digest": self.weights_digest,
        } | (
            {"attempts_root": self.attempts_root, "reports": dict(self.reports)}
            if self.attempts_root
            else {}
        )

    @property
    def digest(self) -> str:
        return digest_of(self.to_json())


Evidence = GridEvidence | TrialEvidence | CanaryEvidence


def evidence_from_json(data: Mapping[str, Any]) -> Evidence:
    """The evidence that `to_json` wrote, exactly; anything else is a ValueError or TypeError."""
    fields = dict(data)
    if fields.pop("schema", None) != "policyctl.evidence/1":
        raise ValueError(f"not evidence: schema {data.get('schema')!r}")
    kind = fields.pop("kind")
    fields["subject"] = Subject(**fields["subject"])
    if kind == "grid":
        if "paired" in fields:
            fields["paired"] = Paired.from_json(fields["paired"])
        return GridEvidence(**{**fields, "cells": _read_tallies(fields["cells"])})
    if kind == "trials":
        return TrialEvidence(**{**fields, "tasks": _read_tallies(fields["tasks"])})
    if kind != "canary":
        raise ValueError(f"no such kind of evidence: {kind!r}")
    segments = tuple(
        Segment(
            **{
                **segment,
                "candidate": Tally(*segment["candidate"]),
                "baseline": Tally(*segment["baseline"]),
                "strata": tuple(
                    StratumCounts(c["stratum"], Tally(*c["candidate"]), Tally(*c["baseline"]))
                    for c in segment["strata"]
                ),
            }
        )
        for segment in fields["segments"]
    )
    reports = tuple(sorted(fields.get("reports", {}).items()))
    return CanaryEvidence(**{**fields, "segments": segments, "reports": reports})


def _common(evidence: Evidence, kind: str) -> dict[str, Any]:
    return {
        "schema": "policyctl.evidence/1",
        "kind": kind,
        "subject": evidence.subject.to_json(),
        "gate_digest": evidence.gate_digest,
        "robot_class": evidence.robot_class,
        "engine": evidence.engine,
        "judge": evidence.judge,
        "attempts_digest": evidence.attempts_digest,
    }


def _tallies(pairs: tuple[tuple[str, Tally], ...]) -> list[list[Any]]:
    return [[name, tally.to_json()] for name, tally in pairs]


def _read_tallies(pairs: Any) -> tuple[tuple[str, Tally], ...]:
    return tuple((name, Tally(*counts)) for name, counts in pairs)
