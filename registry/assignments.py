"""The small document that tells one robot what to run.

| candidate | baseline | the robot                                                    |
|-----------|----------|--------------------------------------------------------------|
| number    | number   | interleaves: `interleave.side(salt, robot, stratum, index, ratio)` |
| number    | None     | runs the candidate only (first version of a policy, ratio 1) |
| None      | number   | runs that version only (ratio 0)                             |
| None      | None     | runs nothing of this policy                                  |

A document of a higher generation replaces one of a lower; never the other way round. `stop` says
how a running episode of a version that is no longer named ends: "" lets it end, "now" stops it.
`issued_at` is seconds since the epoch by the registry's clock; no robot goes by it.

Where trust is set up the director signs it (`envelope`), and signs it again while a candidate is to
go on, each time with the robot's newest challenge in `answers`: the permission to run a candidate
ends `max_offline_s` after the robot first said that challenge. Everything but `issued_at` and
`answers` are its *terms*. Robots name their digest in what they report, so that nobody can tell
later of another draw, another ratio or other versions than they ran under.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from registry.versions import canonical, digest_bytes, digest_of


@dataclass(frozen=True)
class Assignment:
    robot: str
    policy: str
    generation: int
    candidate: int | None
    baseline: int | None
    ratio: str  # "1/2"; "1" candidate only, "0" baseline only
    salt: str
    segment: int
    digests: Mapping[int, str] = field(default_factory=dict)  # version number -> manifest digest
    issued_at: float = 0.0
    answers: str = ""
    interleave: str = "attempt"
    stop: str = ""
    max_offline_attempts: int = 8  # a candidate ends after so many attempts out of contact,
    max_offline_s: float = 600.0  # or after so long; the baseline never expires
    envelope: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    @property
    def versions(self) -> tuple[int, ...]:
        """The numbers a robot must hold, candidate first."""
        return tuple(n for n in (self.candidate, self.baseline) if n is not None)

    @property
    def fraction(self) -> Fraction:
        return Fraction(self.ratio)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": "policyctl.assignment/1",
            "robot": self.robot,
            "policy": self.policy,
            "generation": self.generation,
            "candidate": self.candidate,
            "baseline": self.baseline,
            "ratio": self.ratio,
            "salt": self.salt,
            "segment": self.segment,
            "digests": {str(number): digest for number, digest in self.digests.items()},
            "issued_at": self.issued_at,
            "answers": self.answers,
            "interleave": self.interleave,
            "stop": self.stop,
            "max_offline_attempts": self.max_offline_attempts,
            "max_offline_s": self.max_offline_s,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Assignment:
        fields = dict(data)
        if fields.pop("schema", None) != "policyctl.assignment/1":
            raise ValueError(f"not an assignment: schema {data.get('schema')!r}")
        fields["digests"] = {int(number): digest for number, digest in fields["digests"].items()}
        found = Assignment(**fields)
        if not (math.isfinite(found.issued_at) and math.isfinite(found.max_offline_s)):
            raise ValueError(f"times are numbers: {found.issued_at}, {found.max_offline_s}")
        if not isinstance(found.answers, str):
            raise ValueError(f"an answer is text: {found.answers!r}")
        return found

    @property
    def digest(self) -> str:
        return digest_bytes(canonical(self.to_json()))

    @property
    def terms(self) -> str:
        """The digest of what it says, whenever it was said."""
        return terms_of(self.to_json())


def terms_of(document: Mapping[str, Any]) -> str:
    """The terms of a document as it was written, also by an older program."""
    said = document.keys() - {"issued_at", "answers"}
    return digest_of({key: document[key] for key in said})
