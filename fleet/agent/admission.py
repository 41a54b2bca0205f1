"""Whether a version may come onto this robot, by what approvers signed.

Rules:
- The first root that the registry shows, at the robot's enrolment where its state folder is there,
  or that a person hands over (`believe`), is the robot's anchor. Until there is one, everything is
  as it was before trust; from then on a registry that shows no trust is refused like one that shows
  a wrong one.
- A version is admitted when it is an approved target with exactly its digest, by metadata that is
  fresh now. So is one that comes again after a rollback: being here is no permission.
- Where nothing fresh is to be had (out of contact, expired, forged), nothing new is installed, and
  the robot does not lose what it has: what lies here may be loaded again if it was a baseline of
  this robot or found approved before.
- What was approved and is not any longer goes on the refusal list, in a file, and so does what lies
  here and is found not to be approved: no staleness and no director's order makes it run again,
  only a new approval. What is loaded is looked up again whenever the metadata was refreshed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fleet.agent.link import Link
from registry.errors import Corrupt, NotFound, PolicyctlError, Refused, ServiceFailed
from registry.ports import Clock, SystemClock
from registry.storage import disk_errors, write_whole

if TYPE_CHECKING:
    from registry.trust.client import TrustClient

NOT_BEFORE = 1_795_000_000.0
"""2026-11-18: no clock of a robot that runs this program is right before that [s, Unix]."""

MAX_ROOT = 512_000  # bytes


class TakenBack(Refused):
    """The version is on this robot's refusal list."""

    code = "taken_back"


class Admission:
    """One robot's check. `folder` keeps its anchor, metadata and refusal list."""

    def __init__(self, folder: Path, link: Link, clock: Clock | None = None) -> None:
        self._folder = folder
        self._link = link
        self._clock = clock or SystemClock()
        self._client: TrustClient | None = None
        self.refreshes = 0
        """How often the metadata was brought up to date."""

    def believe(self, root: bytes, change: Callable[[], None] = lambda: None) -> None:
        """Makes these bytes the anchor. Another one than before makes all older metadata void;
        `change` is then called before, and again where a kill kept the new one from being written.

        Raises Corrupt where they are no root that signs itself.
        """
        with suppress(ServiceFailed):
            if self._anchor() == root:
                return
        from registry.trust.client import check_root

        check_root(root)
        change()
        with disk_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(self._folder / "anchor.json", root)
        self._open(root).forget()

    def adopt(self, given: bytes | None = None) -> bytes | None:
        """The anchor: where there was none the root `given`, else the first that the registry
        shows, and None where it shows none, either. Raises Corrupt for what is no root.
        """
        root = self._anchor()
        if root is None and given is not None:
            self.believe(given)
            return given
        if root is None:
            try:
                root = b"".join(self._bounded("metadata/1.root.json"))
            except NotFound:
                return None
            self.believe(root)
        return root

    def admit(self, policy: str, version: int, digest: str, *, here: bool, baseline: bool) -> None:
        """Returns when the version may be fetched and loaded, else raises why not.

        `here`: its files are whole on this robot; `baseline`: the robot has run it as one.
        """
        try:
            client = self._fresh()
            if client is None:
                return
            info = client.find(f"{policy}/v{version}.json")
        except PolicyctlError as error:
            known = self._known()
            if digest in known["refused"]:
                raise self._refusal(policy, version, digest) from error
            if here and (baseline or digest in known["admitted"] or self._anchor() is None):
                return
            raise
        if _approves({} if info is None else info.hashes, digest):
            self._remember(digest, admitted=True)
            return
        if here or digest in self._known()["admitted"]:
            self._remember(digest, admitted=False)
        if digest in self._known()["refused"]:
            raise self._refusal(policy, version, digest)
        found = "it is not among them" if info is None else "it is approved with other bytes"
        raise Refused(
            f"{policy} v{version} is not among the approved versions",
            evidence=f"{digest[:19]}…: {found}",
            hint="promote it where the approvers' keys are; an assignment alone installs nothing",
        )

    def recheck(self, policy: str, version: int, digest: str) -> None:
        """Raises TakenBack for a loaded version that the metadata, as last refreshed, does not
        approve. Where that cannot be known now, nothing is taken from the robot.
        """
        if self._client is None:
            return
        try:
            info = self._client.find(f"{policy}/v{version}.json")
        except PolicyctlError:
            return
        if _approves({} if info is None else info.hashes, digest):
            return
        with suppress(PolicyctlError):  # it ends now, also where a full disk forgets it
            self._remember(digest, admitted=False)
        raise self._refusal(policy, version, digest)

    def file(self, name: str) -> bytes | None:
        """A small approved file, such as the keyring; None while trust is off."""
        client = self._fresh()
        return None if client is None else client.file(name).read_bytes()

    # -- inside ----------------------------------------------------------------------------------

    def _fresh(self) -> TrustClient | None:
        """A client that has just refreshed; None where there is no trust, and never was."""
        root = self.adopt()
        if root is None:
            return None
        client = self._client or self._open(root)
        try:
            client.refresh()
        except NotFound as withheld:
            raise Corrupt(
                "the registry shows no approvals, and has a root of them",
                evidence=withheld.evidence,
                hint="restore HOME/trust where `policyctl server` runs",
            ) from withheld
        self.refreshes += 1
        return client

    def _open(self, root: bytes) -> TrustClient:
        from registry.trust.client import TrustClient

        self._client = TrustClient(
            self._folder, self._source, root, clock=self._clock, not_before=NOT_BEFORE
        )
        return self._client

    def _source(self, name: str, start: int) -> Iterator[bytes]:
        passed = 0
        for chunk in self._link.published(name):
            yield chunk[max(0, start - passed) :]
            passed += len(chunk)

    def _bounded(self, name: str) -> Iterator[bytes]:
        size = 0
        for chunk in self._link.published(name):
            size += len(chunk)
            if size > MAX_ROOT:
                raise Corrupt("the registry's root has no end", evidence=f"over {MAX_ROOT} bytes")
            yield chunk

    def _anchor(self) -> bytes | None:
        try:
            return (self._folder / "anchor.json").read_bytes()
        except FileNotFoundError:
            return None
        except OSError as unread:
            raise ServiceFailed(
                "the root of approvals cannot be read",
                evidence=str(unread),
                hint="give the robot its root again: policyctl-agent ROBOT.yaml --trust-root FILE",
            ) from unread

    def _known(self) -> dict[str, list[str]]:
        """Digests that were found approved, and those that are not any longer."""
        try:
            said: dict[str, Any] = json.loads((self._folder / "admitted.json").read_bytes())
            return {side: [str(one) for one in said[side]] for side in ("admitted", "refused")}
        except FileNotFoundError:
            return {"admitted": [], "refused": []}
        except (OSError, ValueError, KeyError, TypeError) as wrong:
            raise Corrupt(
                "the list of admitted versions cannot be read",
                evidence=f"{self._folder / 'admitted.json'}: {type(wrong).__name__}: {wrong}",
                hint="restore it; without it the robot forgets what was taken back",
            ) from wrong

    def _remember(self, digest: str, *, admitted: bool) -> None:
        known = self._known()
        into, out = ("admitted", "refused") if admitted else ("refused", "admitted")
        if digest in known[into] and digest not in known[out]:
            return
        known[out] = [one for one in known[out] if one != digest]
        known[into] = [*(one for one in known[into] if one != digest), digest]
        with disk_errors(self._folder):
            write_whole(self._folder / "admitted.json", json.dumps(known).encode())

    def _refusal(self, policy: str, version: int, digest: str) -> TakenBack:
        return TakenBack(
            f"{policy} v{version} was taken back: this robot runs it no more",
            evidence=f"{digest[:19]}… is on its refusal list",
            hint="a new approval is needed: promote it again with --override --reason WHY",
        )


def _approves(hashes: Mapping[str, str], digest: str) -> bool:
    return hashes.get("sha256") == digest.removeprefix("sha256:")
