"""A recovered keyring never grants what neither root nor a person stands behind."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from registry.trust.keyring import ROLES, Keyring, PublicKey
from registry.trust.vouched import Vouched

NAMES = "abcdef"
SOME = st.frozensets(st.sampled_from(NAMES))


def key(name: str, public: str = "") -> PublicKey:
    return PublicKey(name, "ed25519", "ed25519", public or f"public of {name}")


@st.composite
def keyrings(draw: st.DrawFn) -> Keyring:
    """Any, with an altered key among them now and then, and robots with keys of their own."""
    roles = {role: tuple(draw(SOME)) for role in ROLES}
    retired = {role: tuple(draw(SOME)) for role in ROLES}
    robots = {"robot-01": tuple("r" for _ in range(draw(st.integers(0, 1))))}
    used = {one for named in (roles, retired, robots) for ids in named.values() for one in ids}
    altered = draw(SOME)
    keys = tuple(key(one, f"another {one}" if one in altered else "") for one in used)
    since = draw(st.sampled_from(["1:aa", "2:bb"]))
    return Keyring(draw(st.integers(1, 99)), keys, roles, robots, False, retired, since)


@given(keyrings(), st.none() | keyrings(), keyrings(), SOME)
def test_nothing_is_granted_that_nobody_stands_behind(
    newest: Keyring, named: Keyring | None, own: Keyring, keep: frozenset[str]
) -> None:
    base = Vouched(named, own)
    after = base.confined(newest, keep)
    for one in after.keys:
        for act in after.roles_of(one.keyid):
            assert one.keyid in keep or base.allows(one, act)
    assert [one for one in base.beyond(after) if one[0] not in keep] == []
    assert base.confined(after, keep) == after  # and going on with it changes nothing
    assert after == newest or after.number > newest.number
    assert named is None or after.since == named.since


@given(keyrings(), keyrings())
def test_nothing_that_was_taken_away_comes_back(newest: Keyring, named: Keyring) -> None:
    after = Vouched(named, named).confined(newest, ())
    for keyid, act in after.acts() - newest.acts():
        assert act.startswith("retired ")  # acts no more
        assert (keyid, act.removeprefix("retired ")) in newest.acts()


def test_another_key_under_a_known_name_is_another_key() -> None:
    named = Keyring(keys=(key("a"),), roles={"runner": ("a",)})
    theirs = replace(named, keys=(key("a", "theirs"),), number=2)
    base = Vouched(named, named)
    assert base.beyond(theirs) == [("a", "runner")]
    assert base.confined(theirs, ()).keys == ()


def test_who_was_retired_and_acts_again_is_retired_again() -> None:
    """What it signed while it acted goes on counting."""
    named = Keyring(keys=(key("a"),), retired={"runner": ("a",)})
    theirs = Keyring(2, (key("a"),), {"runner": ("a",)})
    after = Vouched(named, named).confined(theirs, ())
    assert after.roles_of("a") == ("retired runner",)


def test_of_a_key_that_came_after_the_named_keyring_root_itself_says() -> None:
    named = Keyring(keys=(key("a"),), roles={"runner": ("a",)})
    own = Keyring(keys=(key("a"), key("b")), roles={"publisher": ("a", "b")})
    base = Vouched(named, own)
    newest = Keyring(2, (key("a"), key("b")), {"publisher": ("a", "b")})
    assert base.confined(newest, ()).roles["publisher"] == ("b",)
