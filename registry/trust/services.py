"""Key services, waited for only so long: one that hangs stops nobody who asks it.

A call that is not answered within `LIMIT_S` is given up: ServiceFailed. Nothing can end it, so it
goes on in a daemon thread; while it does, the same place is asked again only once in `AGAIN_S` and
every other call fails at once. So a service that never answers costs a round of the controller one
limit, and one thread in `AGAIN_S`. What a service answers too late is thrown away.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from securesystemslib.signer import Key, Signature, Signer

from registry.errors import ServiceFailed

LIMIT_S = 30.0
AGAIN_S = 300.0

T = TypeVar("T")


class PatientSigner(Signer):
    """A key in a service. `asked` names it and its role, for people."""

    def __init__(self, within: Signer, place: str, asked: str) -> None:
        self._within = within
        self._place = place
        self._asked = asked

    @property
    def public_key(self) -> Key:
        return self._within.public_key

    @classmethod
    def from_priv_key_uri(
        cls, priv_key_uri: str, public_key: Key, secrets_handler: Any = None
    ) -> PatientSigner:
        """Raises ServiceFailed where the service does not answer, or what opening the key does."""
        return cls.of_role("", priv_key_uri, public_key, secrets_handler)

    @classmethod
    def of_role(
        cls, role: str, place: str, public: Key, secrets_handler: Any = None
    ) -> PatientSigner:
        """The same, of a key that is used as `role`."""

        def opened() -> Signer:
            return Signer.from_priv_key_uri(place, public, secrets_handler)

        asked = f"{role or 'key'} {public.keyid[:12]}…"
        return cls(answer(opened, place, asked), place, asked)

    def sign(self, payload: bytes) -> Signature:
        """Raises ServiceFailed where the service does not answer, or what the service does."""
        return answer(lambda: self._within.sign(payload), self._place, self._asked)


def answer(ask: Callable[[], T], place: str, asked: str) -> T:
    """What `ask` returns or raises; ServiceFailed where it does neither in time."""
    calls = [one for one in threading.enumerate() if isinstance(one, _Call)]
    if any(one.hangs(place) and one.age < AGAIN_S for one in calls):
        raise _silent(place, asked, "none to an earlier question, either")
    call = _Call(ask, place)
    call.start()
    call.join(LIMIT_S)
    if call.is_alive():
        call.given_up = True
        raise _silent(place, asked, f"no answer in {LIMIT_S:g} s")
    if call.failed is not None:
        raise call.failed
    (found,) = call.found
    return found


class _Call(threading.Thread, Generic[T]):
    """One question to the service at `place`."""

    def __init__(self, ask: Callable[[], T], place: str) -> None:
        super().__init__(name="key service", daemon=True)
        self._ask = ask
        self._place = place
        self._begun = time.monotonic()
        self.given_up = False
        self.found: list[T] = []
        self.failed: BaseException | None = None

    def run(self) -> None:
        try:
            self.found.append(self._ask())
        except BaseException as failed:  # noqa: BLE001 raised where it was asked for
            self.failed = failed

    @property
    def age(self) -> float:
        return time.monotonic() - self._begun

    def hangs(self, place: str) -> bool:
        return self.given_up and self._place == place


def _silent(place: str, asked: str, how: str) -> ServiceFailed:
    return ServiceFailed(
        "the key service does not answer",
        evidence=f"{asked} at {place}: {how}",
        hint="see whether the service runs and can be reached; `policyctl trust roles` and "
        "`policyctl trust status` say what the key does, docs/trust.md how another takes its place",
    )
