"""The private keys at hand: those kept with the home, those whose place it knows, those just named.

A key that is nowhere at hand is no error here: its owner signs elsewhere (`policyctl trust sign`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata

from registry.errors import NotFound, PolicyctlError, ServiceFailed
from registry.trust.keys import Key, Signer, is_key, new_key, signer
from registry.trust.places import HOME, KEYS, Kept, read_places, resolved, write_places

LOCAL_SCHEMES = ("file", "env")
FIRST = "home.pem"


class Signers:
    """Who can sign metadata on this machine. `named` are places given for this one command."""

    def __init__(self, folder: Path, named: Sequence[str] = ()) -> None:
        self._folder = folder
        self._named = list(named)
        self._made: dict[str, Signer] = {}

    @property
    def keys_folder(self) -> Path:
        return self._folder / KEYS

    def places(self) -> dict[str, str]:
        """Where the home knows keys to be, by key name."""
        return dict(read_places(self._folder).places)

    def make(self, name: str) -> Key:
        """A new key in `keys/NAME`, remembered."""
        key = new_key(self.keys_folder / name)
        self.remember(key, HOME + name)
        return key

    def make_first(self) -> Key:
        """The home's first key; the one that is there where a set-up was cut off after it."""
        path = self.keys_folder / FIRST
        if not is_key(path):
            return self.make(FIRST)
        key = signer(f"file:{path}").public_key
        self.remember(key, HOME + FIRST)
        return key

    def make_next(self) -> Key:
        """A new key in the home under the next free name."""
        number = 2
        while (self.keys_folder / f"home-{number}.pem").exists():
            number += 1
        return self.make(f"home-{number}.pem")

    def remember(self, key: Key, place: str) -> None:
        kept = read_places(self._folder)
        write_places(self._folder, Kept({**kept.places, key.keyid: place}, kept.roles))

    @contextmanager
    def tentative(self, used: Callable[[str], bool]) -> Iterator[None]:
        """What is refused in here leaves no key and no place behind: those that came meanwhile go
        again, unless the key is `used` (by its name) already.
        """
        before = read_places(self._folder)
        try:
            yield
        except BaseException:
            self._take_back(before, used)
            raise

    def _take_back(self, before: Kept, used: Callable[[str], bool]) -> None:
        now = read_places(self._folder)
        gone = {one for one in now.places if one not in before.places and not used(one)}
        if not gone:
            return
        places = {one: place for one, place in now.places.items() if one not in gone}
        roles = {
            role: before.roles.get(role, "") if keyid in gone else keyid
            for role, keyid in now.roles.items()
        }
        write_places(self._folder, Kept(places, {role: one for role, one in roles.items() if one}))
        for one in gone:
            if now.places[one].startswith(HOME):  # made here: others' files are theirs
                (self.keys_folder / now.places[one].removeprefix(HOME)).unlink(missing_ok=True)

    def of(self, key: Key) -> Signer | None:
        """The signer of a key that is at hand, else None: also where the home knows a place and
        the key is not there any longer. Raises what `keys.signer` does.
        """
        if key.keyid in self._made:
            return self._made[key.keyid]
        found = self._among_named(key)
        if found is None and (place := self.places().get(key.keyid)):
            with contextlib.suppress(NotFound):
                found = signer(resolved(self._folder, place), key)
        if found is not None:
            self._made[key.keyid] = found
        return found

    def sign(self, draft: Metadata[Any], key: Key) -> bool:
        """Adds a key's signature if the key is at hand. Raises ServiceFailed."""
        held = self.of(key)
        if held is None:
            return False
        add_signature(draft, held)
        return True

    def has(self, key: Key) -> bool:
        """Whether a key is at hand; a place that does not answer is none."""
        try:
            return self.of(key) is not None
        except PolicyctlError:
            return False

    def _among_named(self, key: Key) -> Signer | None:
        for place in self._named:
            if place.partition(":")[0] in LOCAL_SCHEMES:
                one = signer(place)
                same = one.public_key
                if (same.keytype, same.keyval) == (key.keytype, key.keyval):
                    return signer(place, key)
                continue
            try:  # a service does not tell whose key it holds: a signature must fit the key
                one = signer(place, key)
                key.verify_signature(one.sign(b"policyctl"), b"policyctl")
            except ServiceFailed:
                raise
            except Exception:  # noqa: BLE001 - another role's key: not this one
                continue
            return one
        return None


def add_signature(draft: Metadata[Any], signer: Signer) -> None:
    """Raises ServiceFailed where the key does not sign."""
    try:
        draft.sign(signer, append=True)
    except RepositoryError as failed:
        known = failed.__cause__ if isinstance(failed.__cause__, PolicyctlError) else None
        raise ServiceFailed(
            known.what if known else "the key did not sign",
            evidence=f"{draft.signed.type}: {known.evidence}"
            if known
            else f"{signer.public_key.keyid[:12]}…: {failed}",
            hint=known.hint if known else "",
        ) from failed
