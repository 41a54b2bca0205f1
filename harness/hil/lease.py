"""The right to move a station's arm: held by one, for a while, under a token that only rises.

- The registry grants a lease to one holder per station; each new grant has a higher fencing token.
- The holder renews it every `heartbeat_s`. Its own clock ends it `ttl_s` after the last *request*
  that was granted, so it stops believing in its right before the registry gives it to another.
- Where motion happens, `ArmGate` admits a command only under the highest token it has seen: a
  holder that slept through its lease finds the gate closed, however late it wakes.
- Once lost, a lease stays lost: the trial is void (E_LEASE_LOST), the arm holds, the run ends and
  can be taken up under a new lease.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Protocol

from harness.hil.model import InfraCode, InfraError
from registry.errors import PolicyctlError, Refused
from registry.record.model import Lease

TTL_S: Final = 15.0
HEARTBEAT_S: Final = 5.0


class Leases(Protocol):
    """The registry's side. Acquire and renew raise Refused when somebody else holds the station."""

    def acquire_lease(self, station: str, holder: str, ttl_s: float) -> Lease: ...
    def renew_lease(self, lease: Lease, ttl_s: float) -> Lease: ...
    def release_lease(self, lease: Lease) -> None: ...


@dataclass
class ArmGate:
    """At the arm: the highest token seen. Commands under an older one are refused for ever."""

    token: int = 0
    refused: int = 0

    def admit(self, token: int) -> None:
        if token < self.token:
            self.refused += 1
            raise InfraError(
                InfraCode.LEASE_LOST, f"token {token} is stale, the arm obeys {self.token}"
            )
        self.token = token


@dataclass
class StationLease:
    """A lease from entering to leaving the block, kept alive by a thread unless `beat` is called
    by hand (`background=False`)."""

    leases: Leases
    station: str
    holder: str
    gate: ArmGate = field(default_factory=ArmGate)
    ttl_s: float = TTL_S
    heartbeat_s: float = HEARTBEAT_S
    background: bool = True
    now: Callable[[], float] = time.monotonic
    _lease: Lease | None = None
    _until: float = 0.0
    _lost: str = ""
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    @property
    def token(self) -> int:
        return self._held().token

    def _held(self) -> Lease:
        if self._lease is None:
            raise RuntimeError("the lease was never acquired")
        return self._lease

    def __enter__(self) -> StationLease:
        asked = self.now()
        self._lease = self.leases.acquire_lease(self.station, self.holder, self.ttl_s)
        self._until, self._lost = asked + self.ttl_s, ""
        self.gate.admit(self._lease.token)
        if self.background:
            self._stop.clear()
            self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        held, self._lost = not self._lost, self._lost or "it was released"
        if held:
            with suppress(Refused):  # it ran out meanwhile: there is nothing left to give back
                self.leases.release_lease(self._held())

    def beat(self) -> None:
        """Renews. A registry out of reach is forgiven until the lease runs out by itself."""
        if self._lost:
            return
        asked = self.now()
        try:
            self._lease = self.leases.renew_lease(self._held(), self.ttl_s)
        except Refused as error:
            self._lost = error.what
        except PolicyctlError:
            return
        else:
            self._until = asked + self.ttl_s

    def check(self) -> None:
        """Raises InfraError E_LEASE_LOST unless this holder may move now."""
        if not self._lost and self.now() >= self._until:
            self._lost = f"not renewed for {self.ttl_s:g} s"
        if self._lost:
            raise InfraError(InfraCode.LEASE_LOST, f"the lease of {self.station}: {self._lost}")
        self.gate.admit(self.token)

    def _keep(self) -> None:
        while not self._stop.wait(self.heartbeat_s):
            self.beat()


class OpenBench:
    """No lease: a bench that one process owns by construction (a twin inside it)."""

    token = 0

    def __enter__(self) -> OpenBench:
        return self

    def __exit__(self, *_: object) -> None: ...

    def check(self) -> None: ...
