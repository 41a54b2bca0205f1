"""Signatures under a bundle (`registry.bundle`): a DSSE envelope around its bundle.json.

bundle.json names the manifest and the provenance by digest, so that a signature under it is one
under every byte. ed25519 signs the same bytes the same way: a signed bundle is as deterministic as
an unsigned one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from registry.bundle import Sign, Verify
from registry.errors import Forged, NotAllowed
from registry.trust.keys import Key, Signer
from registry.trust.sealing import payload_of, seal
from registry.versions import canonical

KIND = "application/vnd.policyctl.bundle+json"


def signing(signers: Sequence[Signer]) -> Sign:
    """What writes the signatures of these keys. Raises ServiceFailed where one does not sign."""

    def sign(head: bytes) -> bytes:
        return canonical(seal(head, KIND, *signers))

    return sign


def signed_by(keys: Sequence[Key]) -> Verify:
    """What lets a bundle through that one of these keys signed, whatever else is under it.

    Raises NotAllowed (no signature, or others') or Forged (theirs in name, and none fits).
    """

    def verify(head: bytes, signatures: bytes | None) -> None:
        if signatures is None:
            raise NotAllowed(
                "the bundle is not signed",
                evidence=f"it needs one of {_names(keys)}",
                hint="have it exported with --key",
            )
        try:
            envelope = json.loads(signatures)
        except ValueError as wrong:
            raise Forged("the bundle's signatures cannot be read", evidence=str(wrong)) from None
        payload, _ = payload_of(
            envelope,
            KIND,
            keys,
            what="the bundle",
            needs=f"one of {_names(keys)}",
            whose=lambda keyid: f"key {keyid[:12]}…",
            hint="name their public key with --signed-by, if you trust it",
        )
        if payload != head:
            raise Forged(
                "the bundle's signatures are of something else",
                evidence=f"{len(payload)} bytes were signed that are not its bundle.json",
                hint="have the version exported again",
            )

    return verify


def _names(keys: Sequence[Key]) -> str:
    return ", ".join(key.keyid[:12] + "…" for key in keys)
