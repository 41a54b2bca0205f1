"""The record of a home on this machine: its ledger, stores and trust, opened together."""

from __future__ import annotations

from functools import partial

from registry.backends import open_blobs, open_ledger, open_mirror, settings_of
from registry.blobs.folder import FolderBlobs
from registry.home import Home, no_registry
from registry.ports import Clock, SystemClock
from registry.record.actors import Actor
from registry.record.desk import Desk
from registry.record.parts import Parts
from registry.record.trust_traces import traces
from registry.trust.authority import open_trust
from registry.trust.home_approvals import FOLDER, HomeApprovals


def open_parts(home: Home, actor: Actor, clock: Clock | None, *, create: bool) -> Parts:
    """See `Registry.open`."""
    if not home.exists and not create:
        raise no_registry(home.root)
    home.make()
    blobs = open_blobs(home)
    mirror = open_mirror(home)
    clock = clock or SystemClock()
    approvals = HomeApprovals(home.root, clock)
    ledger = open_ledger(home)
    desk = Desk(
        ledger,
        blobs,
        clock,
        actor,
        None if isinstance(blobs, FolderBlobs) else FolderBlobs(home.cache / "blobs"),
        open_trust(home.root / FOLDER, approvals, partial(traces, ledger)),
    )
    archives = settings_of(home).archives != "forbid"
    return Parts(desk, mirror, approvals, archives=archives, scratch=home.cache)
