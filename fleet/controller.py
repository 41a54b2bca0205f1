"""Moves rollouts: for each open one observe, decide (pure), command.

Rules:
- Every decision is `registry.rollouts.step`; every change of the record is one transaction of
  `Registry.advance`, which compares the revision, steps and applies the commands together. So a
  controller killed at any instruction leaves the record before or after a decision, never inside
  one, and the next round of any controller goes on from there.
- Level-triggered: a round looks at all stored evidence, not at what is new. Nothing is kept between
  rounds but a cache of verdicts by the digest of the evidence they judged.
- Somebody else (a person, another controller) who moves a rollout first wins; the next round sees
  what they did.
- An error with one rollout, a bug included, is told and left to the next round: it keeps no other
  rollout from being watched, nor from being rolled back. What repeats is told once.

Times are Unix seconds by the registry's clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from fleet.stopping import Stop
from registry.errors import PolicyctlError
from registry.evidence import CanaryEvidence
from registry.rollouts import Notify, Observed, Rollout, step
from registry.service import Registry, RolloutRecord
from registry.verdicts import Verdict, judge

POLL_S = 1.0
TRUST_S = 60.0  # between two looks at signatures that expire and approvals to take back


class Controller:
    """One controller of one registry. `say` takes a line for people about what has changed."""

    def __init__(self, registry: Registry, say: Callable[[str], None] = lambda line: None) -> None:
        self._registry = registry
        self._say = say
        self._verdicts: dict[str, Verdict] = {}
        self._told: dict[str, str] = {}
        self._trust_at = float("-inf")

    def reconcile(self, now: float) -> int:
        """One round over the open rollouts; how many it moved.

        Raises only what listing them raises.
        """
        moved = 0
        for record in self._registry.rollouts(open_only=True):
            if not record.rollout.open:
                continue  # waits for its turn, which the registry gives it
            try:
                moved += self._advance(record, now)
            except Exception as error:  # noqa: BLE001 the other rollouts are watched all the same
                name = f"{record.rollout.policy} v{record.rollout.candidate}"
                self._tell(record.id, f"{name}: {_line(error)}")
            else:
                self._told.pop(record.id, None)
        self._renew()
        return moved

    def _renew(self) -> None:
        """Signs what robots were told, where there is trust; without its key they are told so."""
        try:
            self._registry.renew_assignments()
        except Exception as error:  # noqa: BLE001 rollouts are watched all the same
            self._tell("assignments", f"assignments wait for a signature: {_line(error)}")
        else:
            self._told.pop("assignments", None)

    def loop(self, stop: Stop, poll_s: float = POLL_S) -> None:
        """Rounds until told to stop. A round that fails is told and tried again."""
        while not stop.requested:
            try:
                self.reconcile(time.time())
            except Exception as error:  # noqa: BLE001 nobody else rolls back while this is down
                self._tell("", f"{_line(error)}; trying again")
            else:
                self._told.pop("", None)
            self.keep_trust(time.time())
            stop.wait(poll_s)

    def keep_trust(self, now: float) -> None:
        """Once a minute what the registry does for trust; what it cannot do is told."""
        if abs(now - self._trust_at) < TRUST_S:
            return
        self._trust_at = now
        try:
            said = "; ".join(self._registry.keep_trust())
        except Exception as error:  # noqa: BLE001 rollouts are watched all the same
            said = _line(error)
        if said:
            self._tell("trust", f"trust: {said}")
        else:
            self._told.pop("trust", None)

    def _tell(self, about: str, line: str) -> None:
        if self._told.get(about) != line:
            self._told[about] = line
            self._say(line)

    def _advance(self, record: RolloutRecord, now: float) -> bool:
        rollout = record.rollout
        evidence = self._registry.canary_evidence(rollout.id)
        event = Observed(evidence, self._judge(rollout, evidence))
        after, commands = step(rollout, event, now)
        if after == rollout and not commands:
            return False
        _, applied = self._registry.advance(rollout.id, record.revision, event, now)
        for command in applied:
            if isinstance(command, Notify):
                self._say(command.text)
        return True

    def _judge(self, rollout: Rollout, evidence: CanaryEvidence) -> Verdict:
        held = self._verdicts.get(rollout.id)
        if held is None or held.evidence != evidence.digest:
            held = self._verdicts[rollout.id] = judge(rollout.gate, evidence)
        return held


def _line(error: Exception) -> str:
    if isinstance(error, PolicyctlError):
        return f"{error.what} ({error.evidence})" if error.evidence else error.what
    return f"{type(error).__name__}: {error}"
