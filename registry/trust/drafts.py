"""New metadata of roles that still lacks signatures: HOME/trust/drafts, one file a role.

What a ceremony changes belongs together: half of it, signed, would leave a home whose root names
keys that never signed the rest. Such drafts appear by the rename of a folder, and go by one.
Whoever changes anything here holds the repository's lock; a draft that goes while another process
reads is none.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from registry.errors import Corrupt, NotFound
from registry.storage import disk_errors, sync_folder, write_whole
from registry.trust.published import Meta, read_metadata

DRAFTS = "drafts"


class Drafts:
    def __init__(self, folder: Path) -> None:
        self._folder = folder / DRAFTS
        self._beside = folder / f"{DRAFTS}.part"

    def all(self) -> dict[str, Meta]:
        """By role. Raises Corrupt."""
        return {role: draft for role in self.roles() if (draft := self.get(role)) is not None}

    def roles(self) -> list[str]:
        """What waits, also where it cannot be read."""
        return sorted(path.stem for path in self._folder.glob("*.json"))

    def get(self, role: str) -> Meta | None:
        """Raises Corrupt."""
        try:
            return read_metadata(self._path(role))
        except NotFound:
            return None
        except Corrupt as wrong:
            raise Corrupt(
                "a draft cannot be read",
                evidence=wrong.evidence,
                hint="`policyctl trust drop`: nothing published changes by that",
            ) from wrong

    def put(self, role: str, metadata: Meta) -> None:
        with disk_errors(self._folder):
            write_whole(self._path(role), metadata.to_bytes())

    def put_together(self, drafts: Mapping[str, Meta]) -> None:
        """These, or none. Nothing else waits."""
        with disk_errors(self._folder):
            self._clear()
            self._beside.mkdir()
            for role, metadata in drafts.items():
                write_whole(self._beside / f"{role}.json", metadata.to_bytes())
            for left in self._folder.iterdir():  # of a write that was killed: a name's beginning
                left.unlink()
            self._beside.rename(self._folder)  # takes an empty folder's place
            sync_folder(self._folder.parent)

    def drop(self, role: str) -> None:
        self._path(role).unlink(missing_ok=True)

    def drop_together(self) -> None:
        with disk_errors(self._folder):
            self._clear()
            self._folder.rename(self._beside)
            self._folder.mkdir()
            sync_folder(self._folder.parent)
            self._clear()

    def _clear(self) -> None:
        """What is half made or half gone, also by a process that was killed, is nothing."""
        if self._beside.exists():
            shutil.rmtree(self._beside)

    def _path(self, role: str) -> Path:
        return self._folder / f"{role}.json"
