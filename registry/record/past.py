"""What was in the fleet at a moment that is over.

Everything it needs is only ever added: stages in `climbs`, what a policy's robots ran in `serves`,
what each robot was told in `assignments`. So the same question has the same answer for ever.
"""

from __future__ import annotations

from sqlalchemy import Connection, select

from registry.ledger.tables import assignments, climbs, serves
from registry.record.assignments import newest_generations
from registry.record.model import FleetThen
from registry.record.versions import stage_of
from registry.stages import Stage


def fleet_at(connection: Connection, when: float, policy: str | None = None) -> list[FleetThen]:
    """By policy, those that had a version by then. `when` is seconds since the epoch."""
    stages: dict[str, dict[int, Stage]] = {}
    reached = select(climbs).where(climbs.c.at <= when).order_by(climbs.c.id)
    if policy is not None:
        reached = reached.where(climbs.c.policy == policy)
    for row in connection.execute(reached):
        stages.setdefault(row.policy, {})[row.number] = stage_of(row.stage)
    served = select(serves).where(serves.c.at <= when).order_by(serves.c.id)
    serving = {row.policy: row.number for row in connection.execute(served)}
    last = newest_generations(assignments.c.issued_at <= when)
    told = select(
        assignments.c.robot, assignments.c.policy, assignments.c.candidate, assignments.c.baseline
    ).join(
        last,
        (last.c.robot == assignments.c.robot) & (last.c.generation == assignments.c.generation),
    )
    robots: dict[str, dict[str, tuple[int, ...]]] = {}
    for row in connection.execute(told.order_by(assignments.c.robot)):
        numbers = tuple(n for n in (row.candidate, row.baseline) if n is not None)
        robots.setdefault(row.policy, {})[row.robot] = numbers
    return [
        FleetThen(name, serving.get(name), found, robots.get(name, {}))
        for name, found in sorted(stages.items())
    ]
