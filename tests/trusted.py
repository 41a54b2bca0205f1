"""A home with trust for tests: real keys in real files, one for each role, and robots' own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from registry.home import Home
from registry.trust.files import TrustFolder
from registry.trust.home_approvals import FOLDER
from registry.trust.keyring import ROLES, Keyring, PublicKey
from registry.trust.keys import Signer, new_key, signer
from registry.trust.places import KEYS, SignerEntry
from registry.trust.role_signers import RoleSigners
from registry.trust.sealing import public_of


class Keys:
    """The private keys of a home, and whoever stole some of them."""

    def __init__(self, home: Home, roles: Iterable[str] = ROLES, since: str = "") -> None:
        self.folder = TrustFolder(home.root / FOLDER)
        self.signers = RoleSigners(self.folder)
        self.public: dict[str, PublicKey] = {}
        keyring = Keyring(since=since)
        entries = {}
        for role in roles:
            key = self.public[role] = public_of(new_key(self.own(role)))
            keyring = keyring.with_key(role, key)
            entries[role] = SignerEntry(f"file:{self.own(role)}", key.keyid)
        self.folder.write_keyring(keyring)
        self.signers.write(entries)
        self._robots = home.root / "robots"

    def own(self, name: str) -> Path:
        """Where a private key of this home is kept."""
        return self.folder.root / KEYS / f"{name}.pem"

    @property
    def keyring(self) -> Keyring:
        return self.folder.keyring()

    def signer(self, name: str) -> Signer:
        """The key of a role, also after it was taken out of the keyring."""
        return signer(f"file:{self.own(name)}")

    def make(self, name: str) -> PublicKey:
        """A further key, of no role yet."""
        return public_of(new_key(self.own(name)))

    def replace(self, role: str, name: str, *, stolen: bool) -> PublicKey:
        """Another key for a role; the one before is retired, or taken out as stolen."""
        old = self.public[role].keyid
        key = self.public[role] = self.make(name)
        keyring = self.keyring.with_key(role, key)
        self.folder.write_keyring(keyring.without(old) if stolen else keyring.retire(role, old))
        entry = SignerEntry(f"file:{self.own(name)}", key.keyid)
        self.signers.write({**self.signers.all(), role: entry})
        return key

    def of_robot(self, name: str) -> PublicKey:
        path = self._path(name)
        if not path.is_file():
            new_key(path)
        return public_of(signer(f"file:{path}").public_key)

    def robot(self, name: str) -> Signer:
        return signer(f"file:{self._path(name)}")

    def _path(self, name: str) -> Path:
        return self._robots / f"{name}.pem"
