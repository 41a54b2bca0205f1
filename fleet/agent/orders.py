"""Which document a robot obeys, and how long a candidate may run unheard of.

Rules:
- Generations only rise, also across restarts: the newest accepted document is in the spool. An
  older one, a different one of the same generation, and one for another robot are refused, and the
  refusal is reported with every heartbeat. The same terms signed once more renew a document.
- A candidate runs only in contact. Contact is lost `max_offline_attempts` attempts or
  `max_offline_s` seconds (monotonic) after the registry was last heard, whichever comes first; an
  agent that has just started has not heard it yet. The baseline never expires. No document can
  make that longer than `MOST_OFFLINE_S`: a stolen director's key permits nothing for ever.
- A robot that has a keyring obeys what a director's key signed, and nothing else; that holds for
  the document in its spool, too. Contact is then counted from when the robot first said the
  challenge that the newest document answers, not from when one was heard: who repeats an old one,
  or holds new ones back, keeps no candidate running. A challenge is random and known to one agent's
  life only, and both ends of the permission are on its monotonic time: no clock is believed, the
  robot's as little as the registry's.
- Generations are counted for each director's key. When the keyring drops a stolen one, what it
  signed binds no longer, however high it counted.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fleet.agent.spool import Spool
from registry.assignments import Assignment
from registry.errors import PolicyctlError
from registry.trust.keyring import Keyring

_KEY = "assignment"
_ENVELOPE = "assignment_envelope"
_FLOORS = "generations"
REFUSALS_KEPT = 5
ANSWER_S = 10.0
"""[s] a server looks once a second whether something is to be signed."""
OFFLINE_S, MOST_OFFLINE_S = 600.0, 3600.0
"""[s] what the registry's documents say, and what none can exceed."""


class Orders:
    """The newest accepted document of one robot. `monotonic` is seconds that never jump.

    `keyring` answers the newest keyring that the robot trusts, or None where it was given none.
    """

    def __init__(
        self,
        robot: str,
        spool: Spool,
        monotonic: Callable[[], float],
        keyring: Callable[[], Keyring | None] = lambda: None,
    ) -> None:
        self.robot = robot
        self._spool = spool
        self._monotonic = monotonic
        self._keyring = keyring
        self._heard_at: float | None = None
        self._silent = False
        self._alone = 0
        self.refused: list[str] = []
        self._floors: dict[str, int] = spool.recall(_FLOORS) or {}
        self._asked: dict[str, float] = {}  # challenge -> when it was first said
        self._checked_by: Keyring | None = None  # the keyring under which `_held` was found good
        self._held = self.kept()

    @property
    def newest(self) -> Assignment | None:
        """What holds now: the newest document, while whoever signed it is trusted."""
        held, keyring = self._held, self._keyring()
        if keyring is None or self._checked_by is keyring:
            return held
        held = held or self.kept()  # an older keyring may have been the damaged one
        if held is None:
            self._checked_by = keyring
            return None
        why = self._signature_trouble(held, keyring)
        if why:
            self._refuse(f"kept generation {held.generation}: {why}")
        self._held, self._checked_by = None if why else held, keyring
        return self._held

    @property
    def generation(self) -> int:
        newest = self.newest
        return newest.generation if newest else 0

    def kept(self) -> Assignment | None:
        """The document in the spool; what is none there is told, and asked for again."""
        stored = self._spool.recall(_KEY)
        try:
            held = Assignment.from_json(stored) if stored else None
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            self._refuse(f"the order in the spool is none: {error}")
            return None
        return held and replace(held, envelope=self._spool.recall(_ENVELOPE))

    def challenge(self) -> str:
        """What the next heartbeat says: a new one where the last has used up a third of the time
        that its answer permits."""
        now, newest = self._monotonic(), self.newest
        last = next(reversed(self._asked), "")
        offline_s = OFFLINE_S if newest is None else _offline_s(newest)
        if not last or now - self._asked[last] >= offline_s / 3:
            last = secrets.token_hex(16)
            young = {one: at for one, at in self._asked.items() if now - at < MOST_OFFLINE_S}
            self._asked = {**young, last: now}
        return last

    def heard(self, document: Assignment | None) -> None:
        """The registry answered; a newer document is accepted durably."""
        self._heard_at = self._monotonic()
        self._silent = False
        self._alone = 0
        newest, keyring = self.newest, self._keyring()
        if document is None or document == newest:
            return
        why = self._signature_trouble(document, keyring) if keyring else ""
        why = why or self._objection(document, newest)
        if why:
            self._refuse(why)
            return
        self._accept(document, keyring)

    def unheard(self) -> None:
        """The registry was asked and not reached."""
        self._silent = True

    def unreadable(self, why: str) -> None:
        """The registry answered with what is no order."""
        self._silent = True
        self._refuse(why)

    def attempt_begins(self) -> None:
        if self._silent:
            self._alone += 1

    @property
    def in_contact(self) -> bool:
        """A candidate may run: the registry could have called it back."""
        newest = self.newest
        if self._heard_at is None or newest is None:
            return False
        elapsed = self._monotonic() - self._heard_at
        if elapsed > _offline_s(newest):
            return False
        if self._keyring() is not None and not self._permitted_s(newest) > 0:
            return False
        return not self._silent or self._alone < newest.max_offline_attempts

    @property
    def is_asked(self) -> bool:
        """The answer that permits the candidate is worth waiting for: after a start or a long
        attempt, while the registry answers at all."""
        newest = self.newest
        if self._silent or self._heard_at is None or newest is None or newest.candidate is None:
            return False
        if self._keyring() is None or self._permitted_s(newest) > 0:
            return False
        last = self.challenge()
        return self._monotonic() - self._asked[last] < ANSWER_S

    # -- inside ----------------------------------------------------------------------------------

    def _permitted_s(self, document: Assignment) -> float:
        """How long the document still lets its candidate run."""
        return self._asked_at(document) + _offline_s(document) - self._monotonic()

    def _asked_at(self, document: Assignment) -> float:
        """When what it answers was first said; before all time where that was another agent."""
        return self._asked.get(document.answers, float("-inf"))

    def _directors(self) -> list[str]:
        keyring = self._keyring()
        return [key.keyid for key in keyring.of_role("director", past=True)] if keyring else []

    def _accept(self, document: Assignment, keyring: Keyring | None) -> None:
        from registry.trust.documents import check_assignment

        said: dict[str, Any] = {_KEY: document.to_json(), _ENVELOPE: document.envelope}
        if keyring is not None:
            keyid = check_assignment(document, keyring)  # not whoever else the envelope names
            self._floors[keyid] = max(self._floors.get(keyid, 0), document.generation)
            said[_FLOORS] = self._floors
        self._spool.remember_all(said)
        self._held, self._checked_by = document, keyring

    def _objection(self, document: Assignment, newest: Assignment | None) -> str:
        floor = max(newest.generation if newest else 0, self._floor())
        if document.robot != self.robot:
            return f"generation {document.generation} is for {document.robot}"
        if document.generation < floor:
            return f"generation {document.generation} is older than {floor}"
        if newest is not None and document.generation == newest.generation:
            if document.terms != newest.terms:
                return f"generation {document.generation} came twice with different content"
            if self._asked_at(document) < self._asked_at(newest):
                return f"generation {document.generation} was signed before the one that holds"
        if not all(version in document.digests for version in document.versions):
            return f"generation {document.generation} names a version without its digest"
        return ""

    def _floor(self) -> int:
        """The highest generation that a key signed which is a director's still."""
        return max((self._floors.get(keyid, 0) for keyid in self._directors()), default=0)

    @staticmethod
    def _signature_trouble(document: Assignment, keyring: Keyring) -> str:
        from registry.trust.documents import check_assignment

        try:
            check_assignment(document, keyring)
        except PolicyctlError as error:
            return f"{error.what} ({error.evidence})"
        return ""

    def _refuse(self, why: str) -> None:
        if why not in self.refused:
            self.refused = [*self.refused, why][-REFUSALS_KEPT:]


def _offline_s(document: Assignment) -> float:
    """How long this robot runs the document's candidate unheard of."""
    return min(MOST_OFFLINE_S, document.max_offline_s)
