"""A home's approvals as the record asks for them. Light: TUF's libraries are imported when needed.

Without `policyctl trust init` there are none: `on` is False, and nothing is signed or asked for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from registry.errors import Corrupt, NotFound, PolicyctlError
from registry.ports import Clock
from registry.trust.remains import Remains, is_published, timestamp_of, was_published
from registry.versions import VersionRef

if TYPE_CHECKING:
    from registry.trust.approvals import Approvals

FOLDER = "trust"
KEYS_VARIABLE = "POLICYCTL_TRUST_KEYS"
_SERVED = re.compile(r"(?:metadata|targets)/[A-Za-z0-9][A-Za-z0-9._-]*")


class HomeApprovals:
    """`places` are keys named for this command, besides those of `$POLICYCTL_TRUST_KEYS` (places
    of keys, separated by spaces) and of the home itself.
    """

    def __init__(self, home: Path, clock: Clock, places: Sequence[str] = ()) -> None:
        self.folder = home / FOLDER
        self.clock = clock
        self._places = [*places, *os.environ.get(KEYS_VARIABLE, "").split()]

    @property
    def on(self) -> bool:
        """Raises Corrupt where trust was set up and robots can read no metadata any more."""
        if is_published(self.folder):
            return True
        if self.begun:
            raise Corrupt(
                "this home has approvals, and what begins their metadata is gone",
                evidence=f"{timestamp_of(self.folder)} is gone; roots lie beside it",
                hint="restore it from a backup, or have the online key make another: "
                "policyctl trust freshen",
            )
        return False

    @property
    def begun(self) -> bool:
        """Whether trust was set up, also where robots can read no metadata any more."""
        if is_published(self.folder):
            return True
        return was_published(self.folder) and not Remains(self.folder).unfinished

    def require(self) -> None:
        """Raises NotFound where trust is not set up."""
        if not self.on:
            raise NotFound(
                "this home has no trust set up",
                evidence=f"no metadata in {self.folder}",
                hint="run `policyctl trust init`",
            )

    def open(self) -> Approvals:
        from registry.trust.approvals import Approvals
        from registry.trust.repository import Repository
        from registry.trust.signers import Signers

        repository = Repository(self.folder, Signers(self.folder, self._places), self.clock)
        repository.finish()
        return Approvals(repository)

    @contextmanager
    def changing(self) -> Iterator[Approvals]:
        """The approvals, which nobody else changes meanwhile. Where a write of the ledger goes with
        a change of them it is made inside this, never the other way round: keys may be slow.
        """
        approvals = self.open()
        with approvals.repository.changing():
            yield approvals

    def approved(self, refs: Iterable[VersionRef]) -> list[VersionRef]:
        """Which of these robots may install now."""
        return self.open().approved(refs) if self.on else []

    def withdraw(self, ended: Callable[[], Iterable[VersionRef]]) -> str:
        """Takes versions back; what keeps that from being done now, in words, or "".

        `ended` says which, asked when nobody else changes approvals any more. Nothing that stops a
        robot waits for this: a failure here is told, not raised.
        """
        try:
            if not self.on:
                return ""
            with self.changing() as approvals:
                waiting = approvals.withdraw_now(ended())
        except PolicyctlError as error:
            return f"{error.what} ({error.evidence})"
        return f"signatures of approvers are missing for {', '.join(waiting)}" if waiting else ""

    def freshen(self) -> bool:
        return self.on and self.open().repository.freshen()

    def published(self, path: str) -> bytes:
        """A file that robots may read: `metadata/NAME` or `targets/NAME`. Raises NotFound."""
        file = self.folder / path
        if not _SERVED.fullmatch(path) or not file.is_file():
            raise NotFound("no such trust file is published", evidence=path[:200])
        return file.read_bytes()
