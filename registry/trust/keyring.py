"""Which public key may act in which role. Pure: a value, its JSON, and its rules.

| role      | what its keys sign                                            |
|-----------|---------------------------------------------------------------|
| publisher | registrations: these bytes are a version of this policy       |
| runner    | verdicts of gates: this evidence was gathered, that is judged |
| approver  | approved artifacts, and this keyring itself                   |
| director  | assignments, and the verdicts of canaries                     |
| robot     | the attempts of one robot, each robot by keys of its own      |

Rules:
1. A key of a robot is of that robot alone and has no other role.
2. In a hardened keyring an approver's key has no other role: who publishes does not approve. Before
   that one key may do everything, and `warnings` says so.
3. A key acts while it has the role. A *retired* one acts no more, but what the record holds of it
   stands; that is how a key is rotated. One that was stolen is taken out: what it signed no longer
   counts, and is made again under another key.
4. `number` rises with every change; a keyring of a lower number never replaces one of a higher.
5. `since` is the audit's head (`42:9f86…`) at the moment when trust began. What the audit holds up
   to there may be unsigned, and nobody can slip anything in before it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from registry.errors import Corrupt, NotFound, Refused
from registry.versions import canonical, digest_bytes

SCHEMA = "policyctl.keyring/1"
ROLES: tuple[str, ...] = ("publisher", "runner", "approver", "director")
ROBOT = "robot"


@dataclass(frozen=True)
class PublicKey:
    """A public key as TUF spells it: `public` is PEM or hexadecimal, as the key's type wants."""

    keyid: str
    keytype: str
    scheme: str
    public: str

    def to_json(self) -> dict[str, Any]:
        keyval = {"public": self.public}
        return {"keytype": self.keytype, "scheme": self.scheme, "keyval": keyval}

    @staticmethod
    def from_json(keyid: str, data: Mapping[str, Any]) -> PublicKey:
        return PublicKey(keyid, data["keytype"], data["scheme"], data["keyval"]["public"])


@dataclass(frozen=True)
class Keyring:
    number: int = 1
    keys: tuple[PublicKey, ...] = ()
    roles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # role -> key ids
    robots: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # robot -> key ids
    hardened: bool = False
    retired: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # role -> key ids
    since: str = ""

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.keys, key=lambda key: key.keyid))
        roles = {role: tuple(sorted(self.roles.get(role, ()))) for role in ROLES}
        robots = {name: tuple(sorted(self.robots[name])) for name in sorted(self.robots)}
        retired = {role: tuple(sorted(self.retired.get(role, ()))) for role in ROLES}
        unknown = (set(self.roles) | set(self.retired)) - set(ROLES)
        if unknown:
            raise ValueError(f"no such role: {', '.join(sorted(unknown))}")
        object.__setattr__(self, "keys", ordered)
        object.__setattr__(self, "roles", roles)
        object.__setattr__(self, "retired", {r: ids for r, ids in retired.items() if ids})
        object.__setattr__(self, "robots", {n: ids for n, ids in robots.items() if ids})
        self._check()

    def _check(self) -> None:
        if self.number < 1:
            raise ValueError(f"keyring number {self.number}: from 1")
        if len({key.keyid for key in self.keys}) != len(self.keys):
            raise ValueError("a key is listed twice")
        if len({key.public.strip() for key in self.keys}) != len(self.keys):
            raise ValueError("one key is listed under two ids")
        of_roles = [
            keyid for named in (self.roles, self.retired) for ids in named.values() for keyid in ids
        ]
        of_robots = [keyid for ids in self.robots.values() for keyid in ids]
        listed = {key.keyid for key in self.keys}
        if strange := (set(of_roles) | set(of_robots)) - listed:
            raise ValueError(f"keys without their bytes: {', '.join(sorted(strange))}")
        if idle := listed - set(of_roles) - set(of_robots):
            raise ValueError(f"keys without a role: {', '.join(sorted(idle))}")
        if len(set(of_robots)) != len(of_robots):
            raise ValueError("two robots have one key")
        if shared := set(of_robots) & set(of_roles):
            raise ValueError(f"a robot's key has another role: {', '.join(sorted(shared))}")
        if self.hardened and (both := self._approvers_elsewhere()):
            raise ValueError(f"an approver's key has another role: {', '.join(sorted(both))}")

    def _approvers_elsewhere(self) -> set[str]:
        others = {keyid for role in ROLES if role != "approver" for keyid in self.roles[role]}
        return set(self.roles["approver"]) & others

    # Asking

    def of_role(self, role: str, *, past: bool = False) -> tuple[PublicKey, ...]:
        """The keys that act in a role; with `past` also those that once did."""
        return self._listed(self.roles[role] + (self.retired.get(role, ()) if past else ()))

    def of_robot(self, name: str) -> tuple[PublicKey, ...]:
        """None listed: whatever this robot signs is refused."""
        return self._listed(self.robots.get(name, ()))

    def roles_of(self, keyid: str) -> tuple[str, ...]:
        """What a key may act as, for people: `publisher`, `robot robot-01`; empty: nothing."""
        roles = [role for role in ROLES if keyid in self.roles[role]]
        past = [f"retired {role}" for role, ids in self.retired.items() if keyid in ids]
        robots = [f"{ROBOT} {name}" for name, ids in self.robots.items() if keyid in ids]
        return (*roles, *past, *robots)

    def acts(self) -> set[tuple[str, str]]:
        """Each key's id with each thing it may act as, as `roles_of` words it."""
        return {(key.keyid, act) for key in self.keys for act in self.roles_of(key.keyid)}

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is allowed until the keyring is hardened, and should not stay."""
        if not self._approvers_elsewhere():
            return ()
        return ("one key both approves and acts in another role: run `policyctl trust harden`",)

    def _listed(self, ids: tuple[str, ...]) -> tuple[PublicKey, ...]:
        return tuple(key for key in self.keys if key.keyid in ids)

    # Changing: each answers a keyring of the next number, or this one where nothing changes

    def with_key(self, role: str, key: PublicKey) -> Keyring:
        """Lets a key act in a role. Raises Refused where the rules say no."""
        if role not in ROLES:
            raise NotFound(f"there is no role {role!r}", hint=f"roles: {', '.join(ROLES)}")
        roles = {**self.roles, role: (*self.roles[role], key.keyid)}
        known = key.keyid in self.roles[role]
        return self if known else self._changed(keys=self._and(key), roles=roles)

    def with_robot(self, name: str, key: PublicKey) -> Keyring:
        """Lets a key sign the attempts of one robot."""
        known = self.robots.get(name, ())
        robots = {**self.robots, name: (*known, key.keyid)}
        same = key.keyid in known
        return self if same else self._changed(keys=self._and(key), robots=robots)

    def retire(self, role: str, keyid: str) -> Keyring:
        """Ends a key's time in a role; what it signed stands. Raises NotFound."""
        if keyid not in self.roles.get(role, ()):
            raise NotFound(f"no {role} has that key", evidence=keyid)
        roles = {**self.roles, role: tuple(one for one in self.roles[role] if one != keyid)}
        ended = (*self.retired.get(role, ()), keyid)
        return self._changed(roles=roles, retired={**self.retired, role: ended})

    def without(self, keyid: str) -> Keyring:
        """Takes a key out, as one that was stolen; what it signed counts no more. NotFound."""
        if not any(key.keyid == keyid for key in self.keys):
            raise NotFound("the keyring has no such key", evidence=keyid)
        return self._changed(
            keys=tuple(key for key in self.keys if key.keyid != keyid),
            roles=_less(self.roles, keyid),
            robots=_less(self.robots, keyid),
            retired=_less(self.retired, keyid),
        )

    def only(self, may: Callable[[PublicKey, str], bool], *, hardened: bool, since: str) -> Keyring:
        """Keeps of what each key acts as (as `roles_of` words it) what it `may`."""
        keys = {key.keyid: key for key in self.keys}

        def those(named: Mapping[str, tuple[str, ...]], word: str) -> dict[str, tuple[str, ...]]:
            return {
                name: tuple(one for one in ids if may(keys[one], f"{word}{name}"))
                for name, ids in named.items()
            }

        roles, retired = those(self.roles, ""), those(self.retired, "retired ")
        robots = those(self.robots, f"{ROBOT} ")
        left = (*roles.values(), *retired.values(), *robots.values())
        ids = {keyid for some in left for keyid in some}
        after = self._changed(
            keys=tuple(key for key in self.keys if key.keyid in ids),
            roles=roles,
            retired=retired,
            robots=robots,
            hardened=hardened,
            since=since,
        )
        return self if after == replace(self, number=after.number) else after

    def harden(self) -> Keyring:
        """From now on approvers do nothing else. Raises Refused while one of them does."""
        if both := self._approvers_elsewhere():
            what = ", ".join(f"{keyid[:12]}… ({', '.join(self.roles_of(keyid))})" for keyid in both)
            raise Refused(
                "an approver's key has another role",
                evidence=what,
                hint="give publishers, runners and the director keys of their own first",
            )
        return replace(self, hardened=True, number=self.number + 1)

    def _and(self, key: PublicKey) -> tuple[PublicKey, ...]:
        held = next((one for one in self.keys if one.keyid == key.keyid), None)
        if held is not None and held != key:
            raise Refused("another key has this id", evidence=key.keyid)
        return self.keys if held else (*self.keys, key)

    def _changed(self, **changes: Any) -> Keyring:
        try:
            return replace(self, number=self.number + 1, **changes)
        except ValueError as wrong:
            raise Refused(
                "the keyring does not allow it",
                evidence=str(wrong),
                hint="take another key: policyctl trust key FILE makes one",
            ) from None

    # JSON

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "number": self.number,
            "keys": {key.keyid: key.to_json() for key in self.keys},
            "roles": {role: list(ids) for role, ids in self.roles.items()},
            "robots": {name: list(ids) for name, ids in self.robots.items()},
            "retired": {role: list(ids) for role, ids in self.retired.items()},
            "hardened": self.hardened,
            "since": self.since,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Keyring:
        """Raises ValueError, KeyError or TypeError for what is no keyring."""
        if data.get("schema") != SCHEMA:
            raise ValueError(f"not a keyring: schema {data.get('schema')!r}")
        if not isinstance(data["hardened"], bool) or not isinstance(data["number"], int):
            raise TypeError("not a keyring: number or hardened")
        return Keyring(
            number=data["number"],
            keys=tuple(PublicKey.from_json(keyid, key) for keyid, key in data["keys"].items()),
            roles={role: tuple(ids) for role, ids in data["roles"].items()},
            robots={name: tuple(ids) for name, ids in data["robots"].items()},
            hardened=data["hardened"],
            retired={role: tuple(ids) for role, ids in data["retired"].items()},
            since=data["since"],
        )

    def canonical(self) -> bytes:
        return canonical(self.to_json())

    @property
    def digest(self) -> str:
        return digest_bytes(self.canonical())


def first_keyring(key: PublicKey, since: str = "") -> Keyring:
    """One key in every role: how a home begins. See `Keyring.since` for that."""
    return Keyring(keys=(key,), roles=dict.fromkeys(ROLES, (key.keyid,)), since=since)


def the_key(beginning: str, names: Iterable[str], hint: str) -> str:
    """The one of these names of keys that begins so. Raises NotFound."""
    known = sorted(set(names))
    found = [keyid for keyid in known if beginning and keyid.startswith(beginning)]
    if len(found) != 1:
        raise NotFound(
            f"{'more than one' if found else 'no'} key is called {beginning!r}",
            evidence=", ".join(keyid[:12] + "…" for keyid in found or known) or "there is none",
            hint=hint,
        )
    return found[0]


def _less(named: Mapping[str, tuple[str, ...]], keyid: str) -> dict[str, tuple[str, ...]]:
    return {name: tuple(one for one in ids if one != keyid) for name, ids in named.items()}


def parse_keyring(content: bytes, where: str) -> Keyring:
    """A keyring from its bytes. Raises Corrupt, naming `where` they came from."""
    try:
        return Keyring.from_json(json.loads(content))
    except (ValueError, KeyError, TypeError, AttributeError) as wrong:
        raise Corrupt(
            "this is no keyring",
            evidence=f"{where}: {type(wrong).__name__}: {wrong}",
            hint="take it from the trusted repository again, or from a backup",
        ) from None
