"""Signed statements beside versions and verdicts: kept, and checked against the record.

- A statement is kept with the change it speaks of, in one transaction. It is checked before that by
  the same rules as at a promotion, so a key that may not sign it stops the change.
- Promotion asks for a publisher's registration of this digest, and for a runner's verdict of each
  gate that counts; what was signed must be what the record holds, and what the rule computes again.
- Looking back (`verify`) also takes keys that were retired since, and leaves out what the audit
  held already when trust began.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sqlalchemy import Connection, insert, select

from registry.errors import Forged, NotSigned, PolicyctlError, WrongSigner
from registry.evidence import Evidence, Subject
from registry.gates import CanaryGate, Gate
from registry.ledger.tables import audit, statements
from registry.record.audit import Head
from registry.record.desk import Desk
from registry.record.model import StatementRecord, VerdictRecord, VersionRecord
from registry.stages import command_of
from registry.trust.authority import Trust
from registry.verdicts import Verdict, judge
from registry.versions import Provenance, VersionRef, digest_of

if TYPE_CHECKING:
    from registry.trust.sealing import Envelope

REGISTRATION, VERDICT = "registration", "verdict"


# Signing


def seal_registration(
    trust: Trust | None, policy: str, digest: str, origin: Provenance
) -> Envelope | None:
    """A publisher's statement, by this machine's key; None without trust. Raises NotAllowed."""
    if trust is None:
        return None
    from registry.trust.statements import registration

    return trust.seal_statement(registration(policy, digest, origin), "publisher")


def seal_verdict(
    trust: Trust | None,
    subject: Subject,
    gate: Gate,
    evidence: Evidence,
    said: Verdict,
    artifacts: dict[str, str],
) -> Envelope | None:
    """A runner's statement, of a canary the director's, by this machine's key; None without trust.

    Raises NotAllowed, Corrupt where the keyring is lost, and what else keeps the key from signing.
    """
    if trust is None:
        return None
    from registry.trust.statements import verdict

    return trust.seal_statement(verdict(subject, gate, evidence, said, artifacts), signs(gate))


def signs(gate: Gate) -> str:
    """The role whose keys sign a gate's verdicts."""
    return "director" if isinstance(gate, CanaryGate) else "runner"


# Keeping


def keep(
    desk: Desk,
    connection: Connection,
    ref: VersionRef,
    kind: str,
    envelope: Envelope,
    verdict: int | None = None,
) -> None:
    """Adds a statement to a version, unless it is there."""
    digest = digest_of(envelope)
    same = (
        (statements.c.policy == ref.policy)
        & (statements.c.number == ref.number)
        & (statements.c.digest == digest)
    )
    if connection.execute(select(statements.c.id).where(same)).first() is not None:
        return
    connection.execute(
        insert(statements).values(
            policy=ref.policy,
            number=ref.number,
            kind=kind,
            verdict=verdict,
            digest=digest,
            envelope=dict(envelope),
            at=desk.clock.now(),
            actor=desk.actor.name,
        )
    )


def read_statements(connection: Connection, ref: VersionRef) -> list[StatementRecord]:
    query = (
        select(statements)
        .where(statements.c.policy == ref.policy, statements.c.number == ref.number)
        .order_by(statements.c.id)
    )
    return [
        StatementRecord(row.kind, row.verdict, row.envelope, row.at, row.actor)
        for row in connection.execute(query)
    ]


# Checking


def check_registration(
    trust: Trust, record: VersionRecord, held: list[StatementRecord], *, past: bool = False
) -> str:
    """The id of the publisher's key that registered a version.

    Raises NotSigned, WrongSigner or Forged: what stands in the way of the newest statement.
    """
    found = [one for one in held if one.kind == REGISTRATION]
    what = f"the registration of {record}"
    hint = "a publisher registers the same files again: policyctl register DIR"
    if not found:
        raise NotSigned(f"{what} is not signed", evidence="no statement of a publisher", hint=hint)

    def look(one: StatementRecord) -> str:
        return check_registration_envelope(
            trust, one.envelope, record.policy, record.digest, what, hint, past=past
        )

    return _any_holds(found, look)


def check_registration_envelope(
    trust: Trust,
    envelope: Envelope,
    policy: str,
    digest: str,
    what: str,
    hint: str = "",
    *,
    past: bool = False,
) -> str:
    from registry.trust.sealing import IN_TOTO, open_sealed
    from registry.trust.statements import read_registration

    keyring = trust.keyring
    said, keyid = open_sealed(
        envelope, IN_TOTO, keyring.of_role("publisher", past=past),
        what=what, needs="publisher", keyring=keyring, hint=hint,
    )  # fmt: skip
    signed = read_registration(said)
    if (signed.policy, signed.digest) != (policy, digest):
        raise Forged(
            f"{what} was signed for something else",
            evidence=f"signed: {signed.policy}, {signed.digest}; the record: {policy}, {digest}",
            hint=hint,
        )
    return keyid


def check_verdict(
    trust: Trust,
    record: VersionRecord,
    one: VerdictRecord,
    held: list[StatementRecord],
    *,
    past: bool = False,
) -> str:
    """The id of the key that signed a verdict, which is the one that its rule gives.

    Raises NotSigned, WrongSigner or Forged: what stands in the way of the newest statement.
    """
    gate = one.verdict.gate
    what = f"the {gate} verdict of {record}"
    hint = command_of(gate, f"'{record}'")
    found = [s for s in held if s.kind == VERDICT and s.verdict == one.id]
    if not found:
        raise NotSigned(
            f"{what} is not signed", evidence=f"no statement of a {signs(one.gate)}", hint=hint
        )
    return _any_holds(
        found, lambda s: check_verdict_envelope(trust, s.envelope, record, one, hint, past=past)
    )


def check_verdict_envelope(
    trust: Trust,
    envelope: Envelope,
    record: VersionRecord,
    one: VerdictRecord,
    hint: str,
    *,
    past: bool = False,
) -> str:
    from registry.trust.sealing import IN_TOTO, open_sealed
    from registry.trust.statements import read_verdict

    keyring, role = trust.keyring, signs(one.gate)
    what = f"the {one.verdict.gate} verdict of {record}"
    said, keyid = open_sealed(
        envelope, IN_TOTO, keyring.of_role(role, past=past),
        what=what, needs=role, keyring=keyring, hint=hint,
    )  # fmt: skip
    signed = read_verdict(said)
    again = judge(one.gate, one.evidence)
    differs = {
        "version": (signed.subject, record.subject),
        "gate": (signed.gate_digest, one.gate.digest),
        "evidence": (signed.evidence_digest, one.evidence.digest),
        "artifacts": (signed.artifacts, dict(one.artifacts)),
    }
    for name, (there, here) in differs.items():
        if there != here:
            raise Forged(
                f"{what} was signed for another {name}",
                evidence=f"signed: {there}; the record: {here}",
                hint=hint,
            )
    for name, given in (("signed", signed.verdict), ("recorded", one.verdict)):
        if not again.agrees(given):
            raise Forged(
                f"{what} is not what its evidence gives",
                evidence=f"{name}: {given.outcome}; computed again: {again.outcome}: "
                f"{again.reason}",
                hint=hint,
            )
    return keyid


def _any_holds(found: list[StatementRecord], look: Callable[[StatementRecord], str]) -> str:
    """One good statement is enough; where none is, the newest one says why."""
    last: PolicyctlError | None = None
    for one in reversed(found):
        try:
            return look(one)
        except (NotSigned, WrongSigner, Forged) as error:
            last = last or error
    assert last is not None
    raise last


def from_before(
    connection: Connection, trust: Trust, record: VersionRecord, one: VerdictRecord | None = None
) -> bool:
    """Whether the audit held a registration, or a verdict, when trust began.

    It counts only while the audit is checked against that head (`Registry.verify_audit` does).
    """
    since = trust.keyring.since
    if not since:
        return False
    query = select(audit.c.detail).where(
        audit.c.seq <= Head.parse(since).seq,
        audit.c.policy == record.policy,
        audit.c.subject == str(record),
        audit.c.action == ("register" if one is None else "verdict"),
    )
    for detail in connection.execute(query).scalars():
        if one is None and detail.get("digest") == record.digest:
            return True
        if one is not None and (detail.get("gate"), detail.get("evidence")) == (
            one.verdict.gate,
            one.verdict.evidence,
        ):
            return True
    return False
