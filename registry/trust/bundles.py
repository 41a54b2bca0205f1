"""Bundles between sites: a publisher's key signs the head of one, and the site that takes it over
believes the publishers of its own keyring. The head names everything else by digest.
"""

from __future__ import annotations

import json

from registry.errors import Forged
from registry.trust.authority import Trust
from registry.trust.sealing import open_sealed, seal
from registry.versions import canonical

BUNDLE = "application/vnd.policyctl.bundle+json"


def sign_bundle(trust: Trust, head: bytes) -> bytes:
    """The bytes of signatures.json. Raises NotAllowed without a publisher's key."""
    return canonical(seal(head, BUNDLE, trust.signer("publisher")))


def verify_bundle(trust: Trust, head: bytes, signatures: bytes | None) -> None:
    """Returns where a publisher signed this very head. Raises NotSigned, WrongSigner or Forged."""
    try:
        envelope = None if signatures is None else json.loads(signatures)
    except ValueError as wrong:
        raise Forged("the bundle's signature cannot be read", evidence=str(wrong)) from None
    keyring = trust.keyring
    said, _ = open_sealed(
        envelope,
        BUNDLE,
        keyring.of_role("publisher"),
        what="the bundle",
        needs="publisher",
        keyring=keyring,
        hint="export it where a publisher's key is that this site lists: policyctl trust grant",
    )
    if canonical(said) != head:
        raise Forged("the bundle is not the one that was signed", evidence="bundle.json differs")
