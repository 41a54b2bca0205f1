"""The robot's own check of what was approved: TUF's client over any source, time with a floor.

- The root that a robot was given first is its anchor: every later root must follow from it.
- Each `refresh` is a new ngclient Updater over the metadata of the last; nothing older than what
  was once seen is accepted, and nothing that mixes states of the repository.
- Time is the robot's clock, but never before the time at which the newest timestamp seen was made,
  while root stands behind its key, nor before `not_before`: a clock that runs behind does not make
  expired metadata fresh.
- A target is looked up from the top each time, and every role on the way is verified against the
  role that names it in this lookup.

Errors say which attack it was: `Stale` (expired), Corrupt (replayed, mixed, forged, too long),
ServiceFailed (not reached, too slow).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib import parse

from securesystemslib.exceptions import StorageError
from tuf.api import exceptions
from tuf.api.metadata import Metadata, Root, TargetFile, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.ngclient import Updater, UpdaterConfig

from registry.errors import Corrupt, NotFound, PolicyctlError, Refused, ServiceFailed
from registry.ports import Clock, SystemClock
from registry.trust.fetcher import MetadataFetcher, Source, download
from registry.trust.online import issued

METADATA, TARGETS = "metadata/", "targets/"


class Stale(Refused):
    """What is approved is not known for now: the newest metadata to be had has expired."""

    code = "stale"


def check_root(root: bytes) -> None:
    """Raises Corrupt where the bytes are no root metadata that its own keys signed."""
    with _understood(0.0):
        found = Metadata[Root].from_bytes(root)
        if not isinstance(found.signed, Root):
            raise exceptions.RepositoryError("this is no root")
        found.signed.verify_delegate(Root.type, found.signed_bytes, found.signatures)


class TrustClient:
    """Metadata in `folder/metadata`, small targets in `folder/targets`.

    `root` are the bytes of the anchor; None takes the root.json that lies in the folder already.
    """

    def __init__(
        self,
        folder: Path,
        source: Source,
        root: bytes | None,
        *,
        clock: Clock | None = None,
        not_before: float = 0.0,
        metadata_url: str = METADATA,
        targets_url: str = TARGETS,
        metadata_folder: Path | None = None,
        targets_folder: Path | None = None,
    ) -> None:
        self.metadata = metadata_folder or folder / "metadata"
        self.targets = targets_folder or folder / "targets"
        self._source = source
        self._root = root
        self._clock = clock or SystemClock()
        self._not_before = not_before
        self._metadata_url = metadata_url
        self._targets_url = targets_url if targets_url.endswith("/") else targets_url + "/"
        self._updater: Updater | None = None

    def refresh(self) -> None:
        """Brings root, timestamp, snapshot and targets up to date, or raises why not."""
        floor = self.issued
        try:
            self._refresh(floor)
        except Stale:
            lower = self.issued
            if lower >= floor:
                raise
            self._refresh(lower)  # a root has come that does not stand behind the time seen before

    def find(self, name: str) -> TargetFile | None:
        """The approved target of that name, by what was last refreshed; None where there is none.

        Raises what `refresh` does: bins are read when they are needed.
        """
        if self._updater is None:
            self.refresh()
        assert self._updater is not None
        with _understood(self._clock.now()):
            return self._updater.get_targetinfo(name)

    def file(self, name: str) -> Path:
        """A small approved file (`keyring.json`), fetched unless it is here. Raises NotFound where
        none of that name is approved, Corrupt where one is and the source has it not."""
        info = self.find(name)
        if info is None:
            raise NotFound("there is no such approved file", evidence=name)
        path = self.targets / parse.quote(name, "")
        with _understood(self._clock.now()):
            if not _fits(info, path):
                try:
                    download(self._source, self._url(info), info, path)
                except NotFound as withheld:
                    raise Corrupt(
                        f"{name} is approved and was not served", evidence=withheld.evidence
                    ) from withheld
        return path

    @property
    def issued(self) -> float:
        """When the newest timestamp seen was made, as it says itself; 0 where none says it, or one
        that the newest root seen does not stand behind: a stolen key's word ends with the key."""
        try:
            root = Metadata[Root].from_file(str(self.metadata / "root.json")).signed
            found = Metadata[Timestamp].from_file(str(self.metadata / "timestamp.json"))
            root.verify_delegate(Timestamp.type, found.signed_bytes, found.signatures)
            return issued(found.signed)
        except (StorageError, exceptions.RepositoryError, DeserializationError, ValueError):
            return 0.0

    # -- inside ----------------------------------------------------------------------------------

    def _refresh(self, floor: float) -> None:
        self._updater = None
        with _understood(self._clock.now()):
            self.metadata.mkdir(parents=True, exist_ok=True)
            self._heal()
            now = max(self._clock.now(), self._not_before, floor)
            updater = Updater(
                str(self.metadata),
                self._metadata_url,
                fetcher=MetadataFetcher(self._source),
                config=UpdaterConfig(prefix_targets_with_hash=True),
                bootstrap=self._root,
            )
            # ngclient takes the machine's clock and offers no other way to give it one.
            updater._trusted_set.reference_time = datetime.fromtimestamp(now, UTC)
            updater.refresh()
        self._updater = updater

    def _time(self) -> datetime:
        now = max(self._clock.now(), self._not_before, self.issued)
        return datetime.fromtimestamp(now, UTC)

    def _url(self, info: TargetFile) -> str:
        path = info.path
        if self._consistent():
            folder, slash, base = path.rpartition("/")
            path = f"{folder}{slash}{next(iter(info.hashes.values()))}.{base}"
        return self._targets_url + path

    def _consistent(self) -> bool:
        root = Metadata[Root].from_file(str(self.metadata / "root.json")).signed
        return bool(root.consistent_snapshot)

    def _heal(self) -> None:
        """A killed writer may leave an empty file under a role's name; it is asked for again."""
        for path in self.metadata.glob("*.json"):
            if not path.is_symlink() and path.name != "root.json" and path.stat().st_size == 0:
                path.unlink()

    def forget(self) -> None:
        """Everything but the anchor: for a robot that is given a new one."""
        self._updater = None
        shutil.rmtree(self.metadata, ignore_errors=True)


def _fits(info: TargetFile, path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            info.verify_length_and_hashes(stream)
    except (OSError, exceptions.LengthOrHashMismatchError):
        return False
    return True


@contextmanager
def _understood(now: float) -> Iterator[None]:
    """tuf's errors as ours, each with the attack that it is the sign of."""
    try:
        yield
    except PolicyctlError:
        raise
    except exceptions.ExpiredMetadataError as old:
        told = datetime.fromtimestamp(now, UTC).isoformat(timespec="minutes")
        raise Stale(
            "what is approved has expired: nothing new is installed",
            evidence=f"{old}; this clock says {told}",
            hint="run `policyctl trust freshen` or `policyctl server`, and look at the clock",
        ) from old
    except exceptions.BadVersionNumberError as older:
        raise Corrupt(
            "an older or mixed state of what is approved was served", evidence=str(older)
        ) from older
    except exceptions.UnsignedMetadataError as forged:
        raise Corrupt(
            "what is approved is not signed as it should be", evidence=str(forged)
        ) from forged
    except (exceptions.LengthOrHashMismatchError, exceptions.DownloadLengthMismatchError) as wrong:
        raise Corrupt(
            "what is approved came with other bytes than announced", evidence=str(wrong)
        ) from wrong
    except exceptions.SlowRetrievalError as slow:
        raise ServiceFailed(
            "what is approved comes too slowly", evidence=str(slow) or type(slow).__name__
        ) from slow
    except exceptions.DownloadError as failed:
        cause = failed.__cause__
        if isinstance(cause, PolicyctlError):
            raise cause from failed
        raise ServiceFailed(
            "what is approved was not reached", evidence=f"{failed} ({cause or 'no answer'})"
        ) from failed
    except (exceptions.RepositoryError, DeserializationError, ValueError) as wrong:
        raise Corrupt("what is approved makes no sense", evidence=str(wrong)) from wrong
    except OSError as failed:
        raise ServiceFailed("trust metadata cannot be kept", evidence=str(failed)) from failed
