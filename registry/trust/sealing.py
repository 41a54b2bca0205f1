"""Bytes sealed with a signature, and the seal looked at (DSSE by securesystemslib).

- An envelope is DSSE's JSON: what was signed travels with its signature, byte for byte, so that a
  newer program never breaks an older one's seal.
- The payload's type is signed with it: a seal under one kind of document is none under another.
- `payload_of` is the one reader. It believes the payload, and nothing that came beside it.
- One signature that fits is enough; those that do not fit count for nothing, wherever they stand
  and whomever they name, as in DSSE and TUF. Anybody can write a name beside bytes: had that a
  document refused, whoever passes it on could take it from all who trust its other signers.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from securesystemslib.dsse import Envelope as Dsse
from securesystemslib.exceptions import Error as SecureError

from registry.errors import Forged, NotSigned, PolicyctlError, ServiceFailed, WrongSigner
from registry.trust.keyring import Keyring, PublicKey
from registry.trust.keys import Key, Signer

Envelope = Mapping[str, Any]

IN_TOTO = "application/vnd.in-toto+json"
ASSIGNMENT = "application/vnd.policyctl.assignment+json"
ATTEMPT = "application/vnd.policyctl.attempt+json"


def seal(payload: bytes, kind: str, *signers: Signer) -> dict[str, Any]:
    """The payload in an envelope. Raises ServiceFailed where a key does not sign."""
    envelope = Dsse(payload, kind, {})
    for signer in signers:
        try:
            envelope.sign(signer)
        except PolicyctlError:
            raise
        except Exception as failed:  # services raise what they like
            raise ServiceFailed("the key did not sign", evidence=str(failed)) from failed
    found: dict[str, Any] = envelope.to_dict()
    return found


def open_sealed(
    envelope: Envelope | None,
    kind: str,
    keys: Sequence[PublicKey],
    *,
    what: str,
    needs: str,
    keyring: Keyring,
    hint: str = "",
) -> tuple[dict[str, Any], str]:
    """The JSON object in an envelope that one of `keys` signed, and that key's id.

    `what` names the document to people and `needs` the role that `keys` are of. Raises NotSigned,
    WrongSigner (signed, by somebody who may not) or Forged (no signature of who it names).
    """
    if envelope is None:
        raise NotSigned(
            f"{what} is not signed", evidence=f"it needs the key of a {needs}", hint=hint
        )
    payload, keyid = payload_of(
        envelope,
        kind,
        [as_key(key) for key in keys],
        what=what,
        needs=f"a {needs}",
        whose=lambda keyid: _whose(keyid, keyring),
        hint=hint or f"sign it with a {needs}'s key, or have the key listed as one",
    )
    try:
        said = json.loads(payload)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise Forged(f"{what} is not a JSON object", evidence=f"{len(payload)} bytes")
    return said, keyid


def payload_of(
    envelope: Any,
    kind: str,
    keys: Sequence[Key],
    *,
    what: str,
    needs: str,
    whose: Callable[[str], str],
    hint: str,
) -> tuple[bytes, str]:
    """The bytes in an envelope that one of `keys` signed, and that key's id.

    `what` and `needs` name the document and who should have signed it, `whose` says for people
    whose a key is. Raises WrongSigner, with `hint`, or Forged where none of theirs fits.
    """
    found = _read(envelope, what)
    if found.payload_type != kind:
        raise Forged(f"{what} is not that kind of document", evidence=found.payload_type)
    allowed = {key.keyid: key for key in keys}
    named = [keyid for keyid in found.signatures if keyid in allowed]
    if not named:
        raise WrongSigner(
            f"{what} is not signed by {needs}",
            evidence="; ".join(map(whose, found.signatures)) or "it has no signature",
            hint=hint,
        )
    for keyid in named:
        try:
            found.verify([allowed[keyid]], 1)
        except (SecureError, ValueError):
            continue
        return found.payload, keyid
    raise Forged(
        f"{what} was not signed by whom it names",
        evidence="; ".join(f"{whose(keyid)}: the signature does not fit" for keyid in named),
        hint="somebody has altered it; compare with a backup",
    )


@lru_cache(maxsize=1024)
def as_key(key: PublicKey) -> Key:
    return Key.from_dict(key.keyid, key.to_json())


def public_of(key: Key) -> PublicKey:
    """The key as a keyring lists it."""
    return PublicKey.from_json(key.keyid, key.to_dict())


def _read(envelope: Any, what: str) -> Dsse:
    try:
        return Dsse.from_dict(copy.deepcopy(dict(envelope)))  # it changes what it is given
    except (SecureError, ValueError, KeyError, TypeError, AttributeError) as wrong:
        raise Forged(
            f"{what} has no readable seal", evidence=f"{type(wrong).__name__}: {wrong}"
        ) from None


def _whose(keyid: str, keyring: Keyring) -> str:
    roles = keyring.roles_of(keyid)
    return f"key {keyid[:12]}… is {'of ' + ', '.join(roles) if roles else 'not in the keyring'}"
