"""Simulated episodes: what a policy did on a scene, kept by what made it.

A *key* names all that an episode follows from but its number: policy digest, task, population and
engine. So an episode under a key and a number can have one row only; the first one kept stays, and
keeping it again, from a retry or another worker, changes nothing. They are a cache: no audit, and
a run that was killed finds what it had kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import insert, select

from registry.ledger.tables import episodes
from registry.record.desk import Desk


class Episodes:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def of(self, key: str) -> dict[int, dict[str, Any]]:
        """Every row kept under a key, by its number in the population, in rising order."""
        query = (
            select(episodes.c.number, episodes.c.row)
            .where(episodes.c.key == key)
            .order_by(episodes.c.number)
        )
        with self._desk.ledger.read() as connection:
            return {row.number: row.row for row in connection.execute(query)}

    def keep(self, key: str, rows: Mapping[int, Mapping[str, Any]]) -> None:
        """Keeps the rows whose numbers are not kept yet: all of them, or none."""
        self._desk.actor.require("record_verdict")
        if not rows:
            return
        kept = select(episodes.c.number).where(episodes.c.key == key)
        with self._desk.ledger.write() as connection:
            there = set(connection.execute(kept).scalars())
            new = [
                {"key": key, "number": int(number), "row": dict(row)}
                for number, row in rows.items()
                if number not in there
            ]
            if new:
                connection.execute(insert(episodes), new)
