"""Signatures under a bundle (`registry.bundle`): a DSSE envelope around its bundle.json.

bundle.json names the manifest and the provenance by digest, so that a signature under it is one
under every byte. ed25519 signs the same bytes the same way: a signed bundle is as deterministic as
an unsigned one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError

from registry.bundle import Sign, Verify
from registry.errors import Corrupt, NotAllowed, ServiceFailed
from registry.trust.keys import Key, Signer
from registry.versions import canonical

KIND = "application/vnd.policyctl.bundle+json"


def signing(signers: Sequence[Signer]) -> Sign:
    """What writes the signatures of these keys. Raises ServiceFailed where one does not sign."""

    def sign(head: bytes) -> bytes:
        envelope = Envelope(head, KIND, {})
        for signer in signers:
            try:
                envelope.sign(signer)
            except Exception as failed:  # services raise what they like
                raise ServiceFailed("the key did not sign", evidence=str(failed)) from failed
        return canonical(envelope.to_dict())

    return sign


def signed_by(keys: Sequence[Key]) -> Verify:
    """What lets a bundle through that one of these keys signed.

    Raises NotAllowed (no signature, or others') or Corrupt (a signature that does not fit).
    """

    def verify(head: bytes, signatures: bytes | None) -> None:
        if signatures is None:
            raise NotAllowed(
                "the bundle is not signed",
                evidence=f"it needs one of {_names(keys)}",
                hint="have it exported with --key",
            )
        try:
            envelope = Envelope.from_dict(json.loads(signatures))
        except (ValueError, KeyError, TypeError, AttributeError) as wrong:
            raise Corrupt("the bundle's signatures cannot be read", evidence=str(wrong)) from wrong
        if envelope.payload != head or envelope.payload_type != KIND:
            raise Corrupt(
                "the bundle's signatures are of something else", evidence=envelope.payload_type
            )
        known = [key for key in keys if key.keyid in envelope.signatures]
        if not known:
            raise NotAllowed(
                "the bundle is signed by others",
                evidence=f"by {', '.join(envelope.signatures) or 'nobody'}; "
                f"it needs one of {_names(keys)}",
                hint="name their public key with --signed-by, if you trust it",
            )
        try:
            envelope.verify(known, 1)
        except VerificationError as forged:
            raise Corrupt(
                "the bundle was altered after it was signed", evidence=str(forged)
            ) from forged

    return verify


def _names(keys: Sequence[Key]) -> str:
    return ", ".join(key.keyid[:12] + "…" for key in keys)
