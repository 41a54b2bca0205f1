"""What directors and robots sign: assignments, and attempts.

A document that was checked is the one in its envelope: what came beside it must say the same.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from registry.assignments import Assignment
from registry.attempts import AttemptReport
from registry.errors import Forged
from registry.trust.keyring import Keyring
from registry.trust.sealing import ASSIGNMENT, ATTEMPT, open_sealed, seal
from registry.versions import canonical

if TYPE_CHECKING:
    from registry.trust.keys import Signer


def seal_assignment(document: Assignment, signer: Signer) -> Assignment:
    return replace(document, envelope=seal(canonical(document.to_json()), ASSIGNMENT, signer))


def check_assignment(document: Assignment, keyring: Keyring) -> str:
    """The id of the director's key that signed it. Raises NotSigned, WrongSigner or Forged."""
    what = f"generation {document.generation} of {document.robot}"
    said, keyid = open_sealed(
        document.envelope,
        ASSIGNMENT,
        keyring.of_role("director"),
        what=what,
        needs="director",
        keyring=keyring,
        hint="the server signs assignments: see that `policyctl server` runs with its key",
    )
    try:
        signed = Assignment.from_json(said)
    except (KeyError, TypeError, ValueError) as wrong:
        raise Forged(f"{what} is no assignment", evidence=str(wrong)) from None
    if signed != document:
        raise Forged(
            f"{what} says something else than what was signed",
            evidence=f"signed: generation {signed.generation} for {signed.robot}",
        )
    return keyid


def seal_attempt(report: AttemptReport, signer: Signer) -> AttemptReport:
    return replace(report, envelope=seal(canonical(report.to_json()), ATTEMPT, signer))


def check_attempt(report: AttemptReport, keyring: Keyring) -> str:
    """The id of the robot's key that signed it. Raises NotSigned, WrongSigner or Forged."""
    what = f"attempt {report.number} of {report.robot}"
    said, keyid = open_sealed(
        report.envelope,
        ATTEMPT,
        keyring.of_robot(report.robot),
        what=what,
        needs=f"robot {report.robot}",
        keyring=keyring,
        hint=f"give {report.robot} its key: policyctl robot enrol ROBOT.yaml",
    )
    try:
        signed = AttemptReport.from_json(said)
    except (KeyError, TypeError, ValueError) as wrong:
        raise Forged(f"{what} is no attempt", evidence=str(wrong)) from None
    if signed != report:
        raise Forged(
            f"{what} says something else than what was signed",
            evidence=f"signed: {signed.side}, {signed.outcome}; "
            f"here: {report.side}, {report.outcome}",
            hint="somebody has altered it; compare with a backup",
        )
    return keyid
