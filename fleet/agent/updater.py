"""How a version gets onto a robot, and stays there.

Rules:
- Nothing unverified is ever loaded: the manifest's bytes must hash to the version's digest, each
  file's bytes to the manifest's entry, and files already here are hashed again before each load.
- A version's folder `<hex of the digest>/` (manifest.json and files/) appears whole, by one rename,
  or not at all. What a killed agent left half-fetched is gone on with (`fleet.agent.assembly`) as
  long as an assignment names it, and then deleted.
- Of a version that shares tensors with one that is here only the others are fetched.
- Where the registry has trust set up, nothing is fetched or loaded that it has not approved
  (`fleet.agent.admission`).
- Load before switch: contract against robot class and task, then a dry probe (right shape, finite,
  in time). A version that fails is refused; the running one is not touched.
- Going back needs no download: the newest two baselines are kept, besides whatever the assignment
  names. The rest is pruned.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from fleet.agent.admission import Admission, TakenBack
from fleet.agent.assembly import FILES, MANIFEST, Assembly, LocalPieces
from fleet.agent.link import Link
from policies import Policy
from policies.contract import RobotClass
from policies.probe import probe
from policies.process import host
from registry.blobs.hashing import named
from registry.blobs.transfer import Span
from registry.errors import Corrupt, NotFound, PolicyctlError, Refused, ServiceFailed
from registry.storage import sync_folder, write_whole
from registry.versions import FileEntry, Manifest, digest_bytes, is_digest

INCOMING = ".incoming-"
DAMAGED = ".damaged-"
BASELINES_KEPT = 2
MAX_MANIFEST = 16 << 20
_LOST = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO}
"""What a disk says of a file that it has lost."""


@dataclass(frozen=True)
class Ready:
    """A version that was verified, loaded and probed: it can run at the next attempt."""

    policy_name: str
    version: int
    digest: str
    policy: Policy


class Updater:
    """Fetches, verifies, loads and keeps versions in one folder of the robot."""

    def __init__(
        self,
        folder: Path,
        link: Link,
        robot_class: RobotClass,
        *,
        load: Callable[[Path], Policy] = host,
        sandboxed: bool = False,
        admission: Admission | None = None,
    ) -> None:
        self._folder = folder
        self._link = link
        self._class = robot_class
        self._load = load
        self._sandboxed = sandboxed  # `load` runs what it loads in a sandbox
        self._admission = admission
        self._ready: dict[tuple[str, int], Ready] = {}
        self._rechecked = 0
        self.fetches = 0
        """Blobs asked of the link since this updater was made."""
        self.bytes_fetched = 0
        folder.mkdir(parents=True, exist_ok=True)

    def prepare(
        self, policy: str, version: int, digest: str, task: str, *, held_only: bool = False
    ) -> Ready:
        """A version ready to run, fetched only if it is not here.

        `held_only` fetches nothing and takes only a baseline to go back to: else NotFound.
        Raises Corrupt (bytes do not fit the digest), ConfigError (contract), Refused (it breaks) or
        what the link raises (OutOfContact, NotFound). A failure changes nothing that runs.
        """
        here, baseline = self.holds(digest), digest in (self._baselines() or ())
        if held_only and not (here and baseline):
            raise _not_held(policy, version, digest)
        if self._admission is not None:
            self._admission.admit(policy, version, digest, here=here, baseline=baseline)
        held = self._ready.get((policy, version))
        if held is not None and held.digest == digest:
            return held
        folder = self._path(digest)
        manifest = self._verified(folder, digest) if folder.exists() else None
        if manifest is None:
            if held_only:
                raise _not_held(policy, version, digest)
            manifest = self._fetch(folder, digest)
        if manifest.policy != policy:
            raise Corrupt(
                f"{policy} v{version} names files of another policy",
                evidence=f"{digest} is a version of {manifest.policy}",
            )
        if manifest.sandbox_only and not self._sandboxed:
            raise Refused(
                f"{policy} v{version} holds a program that only a sandbox may run",
                evidence="its manifest says sandbox_only, and this robot loads without one",
                hint="register the weights as safetensors",
            )
        try:
            loaded = self._load(folder / FILES)
            loaded.contract.check(self._class, task)
            probe(loaded)
        except PolicyctlError:
            raise
        except Exception as error:
            raise Refused(
                f"{policy} v{version} breaks when it is loaded and probed",
                evidence=f"{type(error).__name__}: {error}",
                hint="what runs on this robot stays; roll the version back",
            ) from error
        ready = self._ready[policy, version] = Ready(policy, version, digest, loaded)
        return ready

    def taken_back(self, *loaded: Ready | None) -> dict[str, str]:
        """Why loaded versions may run no more, by digest. Asked again only where the metadata was
        refreshed since.
        """
        admission, found = self._admission, dict[str, str]()
        if admission is None or admission.refreshes == self._rechecked:
            return found
        self._rechecked = admission.refreshes
        for ready in loaded:
            if ready is None:
                continue
            try:
                admission.recheck(ready.policy_name, ready.version, ready.digest)
            except TakenBack as error:
                found[ready.digest] = f"{error.what} ({error.evidence})"
        return found

    def settle(self, baseline: str | None, needed: Collection[str]) -> None:
        """Prunes what nothing needs, then remembers `baseline` as one to go back to: a full disk
        has room for that afterwards. Raises ServiceFailed where the disk says no all the same; what
        is left is done when it is asked again.
        """
        held = self._baselines()
        if held is None:  # those to go back to stay, whichever they are
            raise ServiceFailed(
                "the list of baselines cannot be read: nothing was removed",
                evidence=str(self._folder / "baselines.json"),
                hint="it is tried again; check that file's permissions and its disk",
            )
        kept = held
        if baseline is not None:
            kept = [baseline, *(digest for digest in held if digest != baseline)][:BASELINES_KEPT]
        stay = {*kept, *needed}
        for key in [key for key, ready in self._ready.items() if ready.digest not in stay]:
            close = getattr(self._ready.pop(key).policy, "close", None)
            if close is not None:
                close()  # a policy in a process of its own takes that with it
        try:
            try:
                self._prune({self._path(digest).name for digest in stay})
            finally:
                if kept != held:
                    write_whole(self._folder / "baselines.json", json.dumps(kept).encode())
        except OSError as failed:
            raise ServiceFailed(
                "the robot cannot tidy up its versions",
                evidence=str(failed),
                hint="it is tried again; free space in the agent's state directory",
            ) from failed

    def holds(self, digest: str) -> bool:
        """The version's files are on this robot."""
        return self._path(digest).is_dir()

    # -- inside ----------------------------------------------------------------------------------

    def _path(self, digest: str) -> Path:
        if not is_digest(digest):
            raise Corrupt("an assignment names something that is no digest", evidence=digest[:80])
        return self._folder / digest.removeprefix("sha256:")

    def _prune(self, names: Collection[str]) -> None:
        for folder in self._folder.iterdir():
            if folder.is_dir() and folder.name.removeprefix(INCOMING) not in names:
                shutil.rmtree(folder)

    def _baselines(self) -> list[str] | None:
        """Those to go back to; a file that is damaged names none. None: it cannot be read now."""
        try:
            found = json.loads((self._folder / "baselines.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return []
        except OSError:
            return None
        named = found if isinstance(found, list) else []
        return [one for one in named if isinstance(one, str) and is_digest(one)]

    def _verified(self, folder: Path, digest: str) -> Manifest | None:
        """The manifest of a folder whose every byte fits; None, and set aside, when one does not or
        its disk has lost it. Raises ServiceFailed where it may be whole, and cannot be read now.

        Its good tensors are still a source for the version's next fetch.
        """
        try:
            manifest = _manifest((folder / MANIFEST).read_bytes(), digest)
            for entry in manifest.files:
                _check(entry, folder / FILES / entry.path)
        except (Corrupt, OSError) as wrong:
            if isinstance(wrong, OSError) and wrong.errno not in _LOST:
                raise ServiceFailed(
                    "the robot cannot read a version",
                    evidence=str(wrong),
                    hint="it is tried again; see to the agent's state directory",
                ) from wrong
            aside = folder.with_name(DAMAGED + folder.name)
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
            return None
        return manifest

    def _fetch(self, folder: Path, digest: str) -> Manifest:
        incoming = folder.with_name(INCOMING + folder.name)
        try:
            (incoming / FILES).mkdir(parents=True, exist_ok=True)
            manifest = self._fetch_manifest(incoming / MANIFEST, digest)
            held = (path for path in self._folder.iterdir() if not path.name.startswith(INCOMING))
            local = LocalPieces(held)
            for entry in manifest.files:
                target = incoming / FILES / entry.path
                Assembly(entry, target, local, self._link.fetch, self._count).run()
            for inner in [incoming, *(path for path in incoming.rglob("*") if path.is_dir())]:
                sync_folder(inner)
            incoming.rename(folder)
            sync_folder(self._folder)
            shutil.rmtree(folder.with_name(DAMAGED + folder.name), ignore_errors=True)
        except OSError as failed:
            shutil.rmtree(incoming, ignore_errors=True)
            raise ServiceFailed(
                "the robot cannot store a version",
                evidence=str(failed),
                hint="free space in the agent's state directory",
            ) from failed
        except (Corrupt, NotFound):
            shutil.rmtree(incoming, ignore_errors=True)
            raise
        return manifest

    def _fetch_manifest(self, path: Path, digest: str) -> Manifest:
        try:
            return _manifest(path.read_bytes(), digest)
        except (FileNotFoundError, Corrupt):
            raw = self._receive(digest, MAX_MANIFEST)
        manifest = _manifest(raw, digest)
        write_whole(path, raw)
        return manifest

    def _count(self, span: Span) -> None:
        self.fetches += 1
        self.bytes_fetched += span.length

    def _receive(self, digest: str, size: int) -> bytes:
        """The blob's bytes; gives up as soon as there are more of them than `size`."""
        data = bytearray()
        for piece in self._link.fetch(digest):
            data += piece
            if len(data) > size:
                raise Corrupt("more bytes than announced", evidence=f"{digest}: over {size} bytes")
        self._count(Span(digest, 0, len(data)))
        return bytes(data)


def _not_held(policy: str, version: int, digest: str) -> NotFound:
    return NotFound(f"no whole baseline {policy} v{version} is on this robot", evidence=digest)


def _manifest(raw: bytes, digest: str) -> Manifest:
    if digest_bytes(raw) != digest:
        raise Corrupt(
            "a manifest's bytes are not what its digest says",
            evidence=f"{digest} has bytes of {digest_bytes(raw)}",
        )
    try:
        return Manifest.from_json(json.loads(raw))
    except (ValueError, KeyError, TypeError) as wrong:
        raise Corrupt(f"{digest} is no manifest", evidence=str(wrong)) from wrong


def _check(entry: FileEntry, path: Path) -> None:
    with path.open("rb") as stream:
        found = named(hashlib.file_digest(stream, "sha256"))
    size = path.stat().st_size
    if size != entry.size or found != entry.sha256:
        raise Corrupt(
            f"{entry.path}: bytes are not what the manifest says",
            evidence=f"{found}, {size} bytes; expected {entry.sha256}, {entry.size}",
        )
