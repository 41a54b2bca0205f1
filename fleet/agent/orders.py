"""Which document a robot obeys, and how long a candidate may run unheard of.

Rules:
- Generations only rise, also across restarts: the newest accepted document is in the spool. An
  older one, a different one of the same generation, and one for another robot are refused, and the
  refusal is reported with every heartbeat.
- A candidate runs only in contact. Contact is lost `max_offline_attempts` attempts or
  `max_offline_s` seconds (monotonic) after the registry was last heard, whichever comes first; an
  agent that has just started has not heard it yet. The baseline never expires.
"""

from __future__ import annotations

from collections.abc import Callable

from fleet.agent.spool import Spool
from registry.assignments import Assignment

_KEY = "assignment"
REFUSALS_KEPT = 5


class Orders:
    """The newest accepted document of one robot. `monotonic` is seconds that never jump."""

    def __init__(self, robot: str, spool: Spool, monotonic: Callable[[], float]) -> None:
        self.robot = robot
        self._spool = spool
        self._monotonic = monotonic
        self._heard_at: float | None = None
        self._silent = False
        self._alone = 0
        self.refused: list[str] = []
        stored = spool.recall(_KEY)
        self.newest = Assignment.from_json(stored) if stored else None

    @property
    def generation(self) -> int:
        return self.newest.generation if self.newest else 0

    def heard(self, document: Assignment | None) -> None:
        """The registry answered; a newer document is accepted durably."""
        self._heard_at = self._monotonic()
        self._silent = False
        self._alone = 0
        if document is None or document == self.newest:
            return
        why = self._objection(document)
        if why:
            self._refuse(why)
            return
        self._spool.remember(_KEY, document.to_json())
        self.newest = document

    def unheard(self) -> None:
        """The registry was asked and not reached."""
        self._silent = True

    def attempt_begins(self) -> None:
        if self._silent:
            self._alone += 1

    @property
    def in_contact(self) -> bool:
        """A candidate may run: the registry could have called it back."""
        if self._heard_at is None or self.newest is None:
            return False
        elapsed = self._monotonic() - self._heard_at
        if elapsed > self.newest.max_offline_s:
            return False
        return not self._silent or self._alone < self.newest.max_offline_attempts

    def _objection(self, document: Assignment) -> str:
        if document.robot != self.robot:
            return f"generation {document.generation} is for {document.robot}"
        if document.generation < self.generation:
            return f"generation {document.generation} is older than {self.generation}"
        if document.generation == self.generation:
            return f"generation {document.generation} came twice with different content"
        if not all(version in document.digests for version in document.versions):
            return f"generation {document.generation} names a version without its digest"
        return ""

    def _refuse(self, why: str) -> None:
        if why not in self.refused:
            self.refused = [*self.refused, why][-REFUSALS_KEPT:]
