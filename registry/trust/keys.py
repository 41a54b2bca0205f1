"""Keys: made here, read from files, and used where they are kept.

    file:PATH      a PEM file (PKCS 8), mode 0600, as `new_key` makes it
    env:NAME       the same PEM in an environment variable, as CI systems keep secrets
    awskms:… gcpkms:… azurekms:… hv:… hsm:… gnupg:… file2:…
                   whatever scheme securesystemslib registers; its library may need installing

`Key` and `Signer` are securesystemslib's: whoever implements these can sign here. The key's name
(`keyid`) is the digest of its public part. A private key is never overwritten, copied or printed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.exceptions import KeyMismatchError
from securesystemslib.signer import (
    SIGNER_FOR_URI_SCHEME,
    CryptoSigner,
    Key,
    Signer,
    SSlibKey,
)

from registry.errors import NotFound, Refused, ServiceFailed, UsageError
from registry.storage import disk_errors, sync_folder
from registry.trust.services import PatientSigner

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

__all__ = ["Key", "Signer", "is_key", "new_key", "public_key", "public_pem", "signer"]

_PRIVATE = b"PRIVATE KEY-----"


def new_key(path: Path) -> SSlibKey:
    """Makes an ed25519 key in a new file that only its owner can read; its public part.

    Raises Refused where the file exists already, ServiceFailed where it cannot be written.
    """
    signer = CryptoSigner(Ed25519PrivateKey.generate())
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() and not is_key(path):
            path.unlink()
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise Refused(
                "there is already a file where the key would go",
                evidence=str(path),
                hint="name another file; a key is never overwritten",
            ) from None
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(signer.private_bytes)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError:
            path.unlink(missing_ok=True)  # half a key is none
            raise
        sync_folder(path.parent)
    return signer.public_key


def is_key(path: Path) -> bool:
    """Whether somebody's key may be in this file; an empty one is what a killed process left."""
    return path.is_file() and path.stat().st_size > 0


def public_key(path: Path) -> SSlibKey:
    """The public part of a PEM file of either kind. Raises NotFound or UsageError."""
    pem = _read(path)
    if _PRIVATE in pem:
        return _from_pem(pem, str(path)).public_key
    try:
        return SSlibKey.from_crypto(load_pem_public_key(pem))
    except (ValueError, UnsupportedAlgorithm) as wrong:
        raise _no_key(str(path), wrong) from wrong


def public_pem(key: Key) -> bytes:
    """The public key as a PEM file that `public_key` reads. Raises UsageError for a key without."""
    if not isinstance(key, SSlibKey):
        raise UsageError("this kind of key has no PEM form", evidence=f"{key.keytype} {key.keyid}")
    raw = key._crypto_key()
    return raw.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def signer(uri: str, public: Key | None = None, role: str = "") -> Signer:
    """Whoever holds the private key at `uri`, ready to sign.

    `public` is the key that it must be; only `file:` and `env:` can do without. `role` is for
    people, where a service does not answer. Raises UsageError (not a key, no such scheme), NotFound
    (no such file or variable), Refused (another key), or ServiceFailed (the service behind the
    scheme, or its library, is not there, or it hangs).
    """
    scheme, colon, rest = uri.partition(":")
    if scheme == "file" and rest:
        return _checked(_from_pem(_read(Path(rest).expanduser()), uri), uri, public)
    if scheme == "env" and rest:
        if not (pem := os.environ.get(rest)):
            raise NotFound(
                f"the variable {rest} holds no key",
                evidence=uri,
                hint="set it to the PEM text of the private key",
            )
        return _checked(_from_pem(pem.encode(), uri), uri, public)
    if not colon or not rest or scheme not in SIGNER_FOR_URI_SCHEME:
        known = ", ".join(["file", "env", *sorted(SIGNER_FOR_URI_SCHEME)])
        raise UsageError(
            f"not the place of a key: {uri!r}", evidence=f"schemes: {known}", hint="file:PATH"
        )
    if public is None:
        raise UsageError(
            f"{scheme} needs to be told which public key it is",
            evidence=uri,
            hint="file:PATH and env:NAME tell it themselves; `policyctl trust init` takes --public",
        )
    try:
        return PatientSigner.of_role(role, uri, public)
    except ServiceFailed:
        raise
    except KeyMismatchError as other:
        raise _mismatch(uri, public.keyid, str(other)) from other
    except Exception as bad:  # services raise what they like, each its own
        raise ServiceFailed(
            "the key cannot be used where it is kept",
            evidence=f"{uri}: {bad}",
            hint="check that the service answers, and that its library is installed here",
        ) from bad


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise NotFound(
            "there is no key file there",
            evidence=str(path.absolute()),
            hint="name the file where it lies; `policyctl trust key FILE` makes a new key",
        ) from None
    except OSError as error:
        raise ServiceFailed(
            "the key file cannot be read",
            evidence=f"{path.absolute()}: {error.strerror}",
            hint="name a PEM file that this user may read",
        ) from error


def _from_pem(pem: bytes, where: str) -> CryptoSigner:
    try:
        key: PrivateKeyTypes = load_pem_private_key(pem, None)
        return CryptoSigner(key)
    except TypeError as locked:
        raise UsageError(
            "the key is locked with a passphrase",
            evidence=where,
            hint='unlock it for one command: KEY="$(openssl pkey -in FILE)" … env:KEY',
        ) from locked
    except (ValueError, UnsupportedAlgorithm) as wrong:
        raise _no_key(where, wrong) from wrong


def _checked(found: CryptoSigner, uri: str, public: Key | None) -> CryptoSigner:
    """The signer under the name that the metadata knows its key by."""
    if public is None:
        return found
    same = found.public_key
    if (same.keytype, same.keyval) != (public.keytype, public.keyval):
        raise _mismatch(uri, public.keyid, same.keyid)
    if isinstance(public, SSlibKey):
        return CryptoSigner(found._private_key, public)
    return found


def _mismatch(uri: str, wanted: str, found: str) -> Refused:
    return Refused(
        "that is another key",
        evidence=f"{uri} is {found[:12]}…, wanted {wanted[:12]}…",
        hint="`policyctl trust status` lists the keys by name",
    )


def _no_key(where: str, wrong: Exception) -> UsageError:
    return UsageError(
        "that is no key this program can use",
        evidence=f"{where}: {wrong}",
        hint="`policyctl trust key FILE` makes one",
    )
