"""Where this machine's private keys are: `places.json`, the one file that says so.

    {"places": {KEYID: PLACE}, "roles": {ROLE: KEYID}}

`home:NAME` is the file `keys/NAME` of the same folder, so that a home can be moved; every other
place is a URI of `registry.trust.keys`. `roles` says which of the keys signs here in which role.

Older homes have two files: a `places.json` that is the inner map alone, and a `signers.json`. Both
are read as they are, and become the one file with the next change. What is left of the second
then, by a kill, says nothing any more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from registry.errors import Corrupt
from registry.storage import disk_errors, write_whole

PLACES, KEYS = "places.json", "keys"
HOME = "home:"
_OLD = "signers.json"


@dataclass(frozen=True)
class SignerEntry:
    """Where the private key of a role is; `keyid` says which of the role's keys it is."""

    place: str
    keyid: str


@dataclass(frozen=True)
class Kept:
    places: Mapping[str, str] = field(default_factory=dict)  # key id -> place
    roles: Mapping[str, str] = field(default_factory=dict)  # role -> key id

    @property
    def signers(self) -> dict[str, SignerEntry]:
        """Who signs here, by role: the keys that are named for one and whose place is known."""
        return {
            role: SignerEntry(self.places[keyid], keyid)
            for role, keyid in self.roles.items()
            if keyid in self.places
        }


def read_places(folder: Path) -> Kept:
    """What a trust folder says; nothing where it says nothing. Raises Corrupt."""
    said = _object(folder / PLACES)
    old = {} if said.keys() == {"places", "roles"} else _object(folder / _OLD)
    try:
        if not said.keys() <= {"places", "roles"}:
            said = {"places": said}
        places, roles = dict(said.get("places", {})), dict(said.get("roles", {}))
        for role, entry in old.items():
            places[entry["keyid"]], roles[role] = entry["uri"], entry["keyid"]
        if not all(isinstance(word, str) for word in (*places.values(), *roles.values())):
            raise TypeError("a place or a key's name is no text")
    except (ValueError, TypeError, KeyError) as wrong:
        raise _corrupt(folder / (_OLD if old else PLACES), wrong) from None
    return Kept(places, roles)


def write_places(folder: Path, kept: Kept) -> None:
    said = {"places": dict(kept.places), "roles": dict(kept.roles)}
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / PLACES, json.dumps(said, indent=2, sort_keys=True).encode())
        (folder / _OLD).unlink(missing_ok=True)


def resolved(folder: Path, place: str) -> str:
    """A place as a URI, wherever the home was moved to."""
    if place.startswith(HOME):
        return f"file:{folder / KEYS / place.removeprefix(HOME)}"
    return place


def _object(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as wrong:
        raise _corrupt(path, wrong) from None
    if not isinstance(said, dict):
        raise _corrupt(path, TypeError("not a JSON object"))
    return said


def _corrupt(path: Path, wrong: Exception) -> Corrupt:
    return Corrupt(
        "this does not say where keys are",
        evidence=f"{path}: {wrong}",
        hint="restore it from a backup",
    )
