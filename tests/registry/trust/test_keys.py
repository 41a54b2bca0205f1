"""Keys: private to their owner, never overwritten, and only the ones that were asked for."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)
from securesystemslib.signer import SIGNER_FOR_URI_SCHEME, Key, Signature, Signer

from registry.errors import NotFound, Refused, ServiceFailed, UsageError
from registry.trust.keys import new_key, public_key, public_pem, signer


def test_a_new_key_is_its_owners_alone_and_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "root.pem"
    made = new_key(path)
    assert made.keytype == "ed25519"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    with pytest.raises(Refused, match="already a file"):
        new_key(path)
    assert path.read_bytes() == before


def test_an_empty_file_that_a_killed_process_left_is_no_key(tmp_path: Path) -> None:
    path = tmp_path / "anna.pem"
    path.touch(0o644)
    key = new_key(path)
    assert public_key(path).keyid == key.keyid
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_public_part_comes_from_either_file(tmp_path: Path) -> None:
    made = new_key(tmp_path / "key.pem")
    (tmp_path / "key.pub").write_bytes(public_pem(made))
    assert public_key(tmp_path / "key.pem") == made
    assert public_key(tmp_path / "key.pub") == made
    assert b"PRIVATE" not in public_pem(made)


@pytest.mark.parametrize("scheme", ["file", "env"])
def test_a_signature_verifies_with_the_public_key_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    path = tmp_path / "key.pem"
    made = new_key(path)
    monkeypatch.setenv("SOME_KEY", path.read_text())
    uri = f"file:{path}" if scheme == "file" else "env:SOME_KEY"
    signature = signer(uri, made).sign(b"approved")
    made.verify_signature(signature, b"approved")
    with pytest.raises(Exception, match="Failed to verify"):
        made.verify_signature(signature, b"approved?")
    assert signer(uri).public_key == made


def test_another_key_than_the_one_asked_for_is_refused(tmp_path: Path) -> None:
    new_key(tmp_path / "mine.pem")
    other = new_key(tmp_path / "other.pem")
    with pytest.raises(Refused, match="another key"):
        signer(f"file:{tmp_path / 'mine.pem'}", other)


def test_what_is_not_there_or_no_key_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_KEY", raising=False)
    (tmp_path / "text").write_text("not a key")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFound) as gone:
        signer("file:none")
    assert gone.value.evidence == str(tmp_path / "none")
    assert "policyctl trust key FILE" in gone.value.hint
    with pytest.raises(ServiceFailed, match="cannot be read") as folder:
        signer(f"file:{tmp_path}")
    assert "may read" in folder.value.hint
    with pytest.raises(NotFound):
        signer("env:NO_KEY")
    for wrong in (f"file:{tmp_path / 'text'}", "nfc:card", "file:", "just-a-path"):
        with pytest.raises(UsageError):
            signer(wrong)
    with pytest.raises(UsageError):
        public_key(tmp_path / "text")


def test_a_locked_key_is_said_to_be_locked(tmp_path: Path) -> None:
    locked = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )
    (tmp_path / "locked.pem").write_bytes(locked)
    with pytest.raises(UsageError, match="passphrase"):
        signer(f"file:{tmp_path / 'locked.pem'}")


def test_a_service_that_is_not_there_is_no_bug(tmp_path: Path) -> None:
    public = new_key(tmp_path / "key.pem")
    with pytest.raises(ServiceFailed, match="where it is kept") as failed:
        signer("awskms:alias/none", public)
    assert "installed" in failed.value.hint


def test_any_scheme_of_the_library_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key service is whoever implements the library's interface; here it answers from memory."""
    public = new_key(tmp_path / "key.pem")
    inner = signer(f"file:{tmp_path / 'key.pem'}")

    class Service(Signer):
        @property
        def public_key(self) -> Key:
            return public

        def sign(self, payload: bytes) -> Signature:
            return inner.sign(payload)

        @classmethod
        def from_priv_key_uri(cls, uri, public_key, secrets_handler=None):  # type: ignore[no-untyped-def]
            assert uri == "vaultkms:team/root"
            return cls()

    monkeypatch.setitem(SIGNER_FOR_URI_SCHEME, "vaultkms", Service)
    public.verify_signature(signer("vaultkms:team/root", public).sign(b"x"), b"x")
    with pytest.raises(UsageError, match="which public key"):
        signer("vaultkms:team/root")
