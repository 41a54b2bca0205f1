"""A key service of a test: keys in files behind a scheme of its own, asked with a wait before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from securesystemslib.signer import SIGNER_FOR_URI_SCHEME, Key, Signature, Signer

from registry.trust.keys import signer


def stand_at(monkeypatch: pytest.MonkeyPatch, scheme: str, wait: Callable[[], object]) -> None:
    """`scheme:PATH` signs by the key in PATH after `wait`; with `opens-late` in PATH it is also
    waited for when it opens."""

    class Waiting(Signer):
        def __init__(self, within: Signer) -> None:
            self._within = within

        @property
        def public_key(self) -> Key:
            return self._within.public_key

        @classmethod
        def from_priv_key_uri(
            cls, priv_key_uri: str, public_key: Key, secrets_handler: Any = None
        ) -> Waiting:
            if "opens-late" in priv_key_uri:
                wait()
            return cls(signer(f"file:{priv_key_uri.removeprefix(f'{scheme}:')}", public_key))

        def sign(self, payload: bytes) -> Signature:
            wait()
            return self._within.sign(payload)

    monkeypatch.setitem(SIGNER_FOR_URI_SCHEME, scheme, Waiting)
