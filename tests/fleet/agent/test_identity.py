"""Whom a robot believes, and by which key it speaks."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripted_policies import POLICY, TASK
from trusted import Keys

from fleet.agent.identity import Identity
from registry.attempts import AttemptReport
from registry.errors import Corrupt, NotFound
from registry.home import Home
from registry.trust.keyring import Keyring

NAME = "robot-01"


def test_an_older_keyring_never_replaces_a_newer_one(tmp_path: Path) -> None:
    keys = Keys(Home(tmp_path / "home"))
    old = keys.keyring
    new = old.with_robot(NAME, keys.of_robot(NAME))
    identity = Identity(tmp_path)
    assert identity.believe(new)
    assert not identity.believe(old)
    (tmp_path / "keyring.json").write_bytes(old.canonical())
    assert identity.keyring() == new
    (tmp_path / "keyring.json").unlink()
    assert identity.keyring() == new


def test_a_damaged_keyring_is_not_no_keyring(tmp_path: Path) -> None:
    identity = Identity(tmp_path)
    assert identity.keyring() is None
    (tmp_path / "keyring.json").write_text("{}")
    with pytest.raises(Corrupt):
        identity.keyring()
    Identity(tmp_path / "other").believe(Keyring())
    held = Identity(tmp_path / "other")
    assert held.keyring() == Keyring()
    (tmp_path / "other" / "keyring.json").write_text("{}")
    assert held.keyring() == Keyring()


def test_a_robot_without_its_key_reports_nothing_once_it_believes_a_keyring(tmp_path: Path) -> None:
    identity = Identity(tmp_path)
    report = AttemptReport(NAME, 1, POLICY, 1, "only", 1, -1, TASK, 0, TASK, "success")
    assert identity.seal(report).envelope is None
    identity.believe(Keyring())
    with pytest.raises(NotFound, match="no key of its own") as caught:
        identity.seal(report)
    assert "robot enrol" in caught.value.hint
    key = identity.make_key()
    assert identity.make_key() == key
    assert identity.seal(report).envelope is not None
    assert (tmp_path / "robot.pem").stat().st_mode & 0o777 == 0o600
