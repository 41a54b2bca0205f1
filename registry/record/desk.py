"""What every part of the record works with: the ledger, the blobs, the clock and who asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from registry.blobs.folder import FolderBlobs
from registry.ports import BlobStore, Clock, Ledger
from registry.record import audit
from registry.record.actors import Actor
from registry.trust.authority import Trust


@dataclass(frozen=True)
class Desk:
    ledger: Ledger
    blobs: BlobStore
    clock: Clock
    actor: Actor
    cache: FolderBlobs | None = None  # pieces of a store that is not on this machine
    trust: Trust | None = None  # None: nothing is signed here, and nothing asked for

    def require_keyring(self) -> None:
        """Raises Corrupt where this home has trust and has lost its keyring. What is signed and
        what goes forward asks for it; stopping and going back never do.
        """
        if self.trust is not None:
            self.trust.require()

    def note(
        self,
        connection: Connection,
        action: str,
        subject: object,
        *,
        policy: str | None = None,
        reason: str = "",
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Writes to the audit, inside the transaction of the change itself."""
        audit.append(
            connection,
            at=self.clock.now(),
            actor=self.actor,
            action=action,
            subject=str(subject),
            policy=policy,
            reason=reason,
            detail=detail,
        )
