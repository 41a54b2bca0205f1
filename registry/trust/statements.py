"""What publishers and runners sign: in-toto statements (v1) about a version's digest.

| predicate                  | signed by           | it says                                       |
|----------------------------|---------------------|-----------------------------------------------|
| `policyctl:registration/v1`| publisher           | these bytes are a version of this policy, and |
|                            |                     | where they came from                          |
| `policyctl:verdict/v1`     | runner; of a canary | this gate, on this evidence, with these       |
|                            | the director        | artifacts, says that of this version          |

The subject's sha256 is the version's digest. A verdict's statement carries the verdict itself with
the digests of gate and evidence; those lie in the ledger, where anyone can judge them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from registry.errors import Forged
from registry.evidence import Evidence, Subject
from registry.gates import Gate
from registry.verdicts import Verdict
from registry.versions import Provenance, canonical

TYPE = "https://in-toto.io/Statement/v1"
REGISTRATION = "policyctl:registration/v1"
VERDICT = "policyctl:verdict/v1"


@dataclass(frozen=True)
class Registered:
    """What a publisher said."""

    policy: str
    digest: str
    provenance: Mapping[str, Any]


@dataclass(frozen=True)
class Judged:
    """What a runner said."""

    subject: Subject
    gate_digest: str
    evidence_digest: str
    verdict: Verdict
    artifacts: Mapping[str, str]


def registration(policy: str, digest: str, provenance: Provenance) -> bytes:
    """The bytes that a publisher signs."""
    return _statement(policy, digest, REGISTRATION, {"provenance": provenance.to_json()})


def verdict(
    subject: Subject,
    gate: Gate,
    evidence: Evidence,
    said: Verdict,
    artifacts: Mapping[str, str],
) -> bytes:
    """The bytes that a runner signs."""
    predicate = {
        "number": subject.number,
        "gate": gate.name,
        "gate_digest": gate.digest,
        "evidence_digest": evidence.digest,
        "verdict": said.to_json(),
        "artifacts": dict(artifacts),
    }
    return _statement(subject.policy, subject.digest, VERDICT, predicate)


def read_registration(said: Mapping[str, Any]) -> Registered:
    """Raises Forged for what is no such statement."""
    policy, digest, predicate = _read(said, REGISTRATION)
    try:
        return Registered(policy, digest, dict(predicate["provenance"]))
    except (KeyError, TypeError, ValueError) as wrong:
        raise _strange(REGISTRATION, wrong) from None


def read_verdict(said: Mapping[str, Any]) -> Judged:
    """Raises Forged for what is no such statement."""
    policy, digest, predicate = _read(said, VERDICT)
    try:
        return Judged(
            subject=Subject(policy, predicate["number"], digest),
            gate_digest=predicate["gate_digest"],
            evidence_digest=predicate["evidence_digest"],
            verdict=Verdict.from_json(predicate["verdict"]),
            artifacts=dict(predicate["artifacts"]),
        )
    except (KeyError, TypeError, ValueError) as wrong:
        raise _strange(VERDICT, wrong) from None


def _statement(policy: str, digest: str, kind: str, predicate: Mapping[str, Any]) -> bytes:
    said = {
        "_type": TYPE,
        "subject": [{"name": policy, "digest": {"sha256": digest.removeprefix("sha256:")}}],
        "predicateType": kind,
        "predicate": predicate,
    }
    _validate(said)
    return canonical(said)


def _read(said: Mapping[str, Any], kind: str) -> tuple[str, str, Mapping[str, Any]]:
    """Policy, digest and predicate of a statement about one version."""
    try:
        _validate(said)
        if said["predicateType"] != kind or len(said["subject"]) != 1:
            raise ValueError(f"{said['predicateType']} about {len(said['subject'])} subjects")
        (subject,) = said["subject"]
        return subject["name"], "sha256:" + subject["digest"]["sha256"], said["predicate"]
    except (KeyError, TypeError, ValueError) as wrong:
        raise _strange(kind, wrong) from None


def _validate(said: Mapping[str, Any]) -> None:
    """By the library of the in-toto project. Raises ValueError.

    Its protobuf holds every number as a double, so the signed bytes are our canonical JSON.
    """
    from google.protobuf.json_format import ParseDict, ParseError
    from in_toto_attestation.v1 import statement_pb2
    from in_toto_attestation.v1.statement import Statement

    try:
        Statement.copy_from_pb(ParseDict(dict(said), statement_pb2.Statement())).validate()
    except ParseError as wrong:
        raise ValueError(str(wrong)) from None


def _strange(kind: str, wrong: Exception) -> Forged:
    return Forged(
        f"a signed statement is no {kind}",
        evidence=f"{type(wrong).__name__}: {wrong}",
        hint="it was signed by a program that is not this one",
    )
