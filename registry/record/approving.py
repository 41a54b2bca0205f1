"""Approvals beside the ledger: what may be approved, and what is no longer.

Approvals are published files, not rows, so that no transaction spans both. A version is approved
before its rollout opens, which is harmless where the rollout then fails; versions that ended are
taken back after the fact and again by the server, until it is done. Neither ever keeps a robot from
being stopped or sent back.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from registry.errors import NotFound, PolicyctlError
from registry.record.desk import Desk
from registry.record.model import Search
from registry.record.promotion import Approvable, approvable
from registry.record.rollouts import Rollouts
from registry.record.trust_traces import traces
from registry.record.versions import Versions
from registry.rollouts import TERMINAL, Phase
from registry.stages import ENDS, Stage
from registry.trust.files import TrustFolder
from registry.trust.home_approvals import HomeApprovals
from registry.versions import VersionRef

_FAILED = TERMINAL - {Phase.DONE}
_RUNS = (Stage.CANARY, Stage.FLEET)


class Approving:
    def __init__(
        self, desk: Desk, versions: Versions, rollouts: Rollouts, approvals: HomeApprovals | None
    ) -> None:
        self._desk = desk
        self._versions = versions
        self._rollouts = rollouts
        self._approvals = approvals

    @property
    def home(self) -> HomeApprovals:
        """Raises NotFound for a registry that was not opened from a home."""
        if self._approvals is None:
            raise NotFound("this registry has no home to keep trust in")
        return self._approvals

    @property
    def folder(self) -> TrustFolder:
        """This home's trust folder, also where trust is not set up."""
        return TrustFolder(self.home.folder, partial(traces, self._desk.ledger))

    @property
    def on(self) -> bool:
        return self._approvals is not None and self._approvals.on

    def note(self, action: str, subject: str, detail: Mapping[str, Any] | None = None) -> None:
        """Keeps in the audit what was changed about keys or approvals."""
        self._desk.actor.require("trust")
        with self._desk.ledger.write() as connection:
            self._desk.note(connection, action, subject, detail=detail)

    def approvable(self) -> dict[VersionRef, Approvable]:
        """What is approved by right, going by the ledger: each version at canary or fleet, or
        waiting for its canary, with its manifest and what its gates attested."""
        waiting = {
            VersionRef(one.rollout.policy, one.rollout.candidate)
            for one in self._rollouts.all(open_only=True)
        }
        known = [
            one.ref
            for one in self._versions.find(Search())
            if one.stage in _RUNS or one.ref in waiting
        ]
        with self._desk.ledger.read() as connection:
            return {ref: approvable(connection, ref) for ref in known}

    def keep(self) -> list[str]:
        """What the server does now and then: the online signatures are kept fresh, and versions
        that ended are taken back. Answers what could not be done."""
        if not self.on:
            return []
        self.home.freshen()
        waits = self._withdraw(None)
        return [waits] if waits else []

    def settle_keyring(self) -> bool:
        """See `registry.trust.publishing`."""
        from registry.trust.publishing import Publishing

        return Publishing(self.folder, self.home).settle()

    def withdraw_ended(self, policy: str) -> None:
        """Takes back what was rolled back or aborted; the audit says where that has to wait."""
        if self._approvals is None:
            return
        if waits := self._withdraw(policy):
            with self._desk.ledger.write() as connection:
                self._desk.note(connection, "withdrawal_waits", policy, policy=policy, reason=waits)

    def _withdraw(self, policy: str | None) -> str:
        """Looks again when no promotion is under way: those approve and open their rollout while
        nobody else changes approvals, so that a version that just climbs again is seen before or
        after, never in between."""
        try:
            if not self.on or not self.home.approved(self._ended(policy)):
                return ""
        except PolicyctlError as error:
            return f"{error.what} ({error.evidence})"
        return self.home.withdraw(lambda: self._ended(policy))

    def _ended(self, policy: str | None) -> list[VersionRef]:
        """Versions at an end of the ladder, and those whose last rollout ended without them
        reaching the fleet."""
        last = {
            VersionRef(one.rollout.policy, one.rollout.candidate): one.rollout.phase
            for one in self._rollouts.all(policy)
        }
        return [
            one.ref
            for one in self._versions.find(Search(policy))
            if one.stage in ENDS or (last.get(one.ref) in _FAILED and one.stage not in _RUNS)
        ]
