"""Orders as they are read: the newest of each robot, and each as it was last signed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, Row, Subquery, and_, func, select

from registry.assignments import Assignment
from registry.errors import Corrupt
from registry.ledger.tables import assignments, renewals


def newest_generations(*where: ColumnElement[bool]) -> Subquery:
    """`robot` and its highest `generation`, of the assignments that are `where`."""
    return (
        select(assignments.c.robot, func.max(assignments.c.generation).label("generation"))
        .where(*where)
        .group_by(assignments.c.robot)
        .subquery()
    )


def with_renewal() -> Any:
    """Assignments, each beside its renewal."""
    return select(
        assignments,
        renewals.c.document.label("renewed"),
        renewals.c.envelope.label("renewed_envelope"),
    ).outerjoin(
        renewals,
        and_(
            renewals.c.robot == assignments.c.robot,
            renewals.c.generation == assignments.c.generation,
        ),
    )


def document_of(row: Row[Any]) -> Assignment:
    """What a robot was last told, as it was last signed; `row` is one of `with_renewal`."""
    said, envelope = row.document, row.envelope
    if row.renewed is not None:
        said, envelope = row.renewed, row.renewed_envelope
    try:
        return replace(Assignment.from_json(said), envelope=envelope)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Corrupt(
            "an assignment in the record is none",
            evidence=f"generation {row.generation} of {row.robot}: {error}",
            hint="`policyctl audit verify` finds edits; a newer policyctl may know it",
        ) from error
