"""A robot whose keyring was damaged: it believes nobody, runs the baseline it has, and recovers."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from control_plane import ControlPlane
from scripted_policies import write_checkpoint
from trusted import Keys
from world import Clock, Robot

from fleet.agent.identity import NOBODY, Identity
from registry.errors import Corrupt
from registry.home import Home
from registry.trust.documents import seal_assignment
from registry.trust.keyring import Keyring

NAME = "robot-01"
HALF = {"ratio": "1/2", "salt": "pepper", "segment": 0}


class Scene:
    """A robot that has run version 1 as a signed order said, and whose agent was then ended."""

    def __init__(self, folder: Path, **work: Any) -> None:
        self.folder = folder / NAME
        self.clock = Clock()
        self.keys = Keys(Home(folder / "home"))
        self.plane = ControlPlane()
        self.digests = {
            number: self.plane.publish(write_checkpoint(folder / f"v{number}", rate))
            for number, rate in {1: 1.0, 2: 0.0}.items()
        }
        self.served: bytes | None = None
        identity = self.identity()
        self.keys.folder.write_keyring(self.keys.keyring.with_robot(NAME, identity.make_key()))
        identity.believe(self.keys.keyring)
        self.robot = Robot(NAME, folder, self.plane, self.clock, identity=identity, **work)

    def identity(self) -> Identity:
        return Identity(self.folder, lambda: self.served)

    def order(self, *, signed: bool = True, **fields: Any) -> None:
        self.plane.assign(NAME, digests=self.digests, **fields)
        if signed:
            self.sign()

    def sign(self) -> None:
        """What the director answers to the robot's challenge."""
        asked = self.robot.supervisor.orders.challenge()
        document = replace(self.plane.documents[NAME], answers=asked)
        self.plane.documents[NAME] = seal_assignment(document, self.keys.signer("director"))

    def damage(self, content: bytes = b"{") -> None:
        """Found by the next agent."""
        (self.folder / "keyring.json").write_bytes(content)
        self.restart()

    def restart(self) -> None:
        self.robot.identity = self.identity()
        self.robot.restart()

    def rounds(self, count: int) -> list[int]:
        before = len(self.robot.ran)
        for _ in range(count):
            self.robot.tick()
        return [ran.version for ran in self.robot.ran[before:]]

    @property
    def status(self) -> Any:
        return self.plane.last_status(NAME)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    made = Scene(tmp_path)
    made.order(baseline=1)
    assert made.rounds(1) == [1]
    return made


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_the_baseline_runs_on_and_the_damage_is_told(scene: Scene, content: bytes) -> None:
    scene.damage(content)
    assert scene.rounds(2) == [1, 1]
    assert "keyring is damaged" in scene.status["problem"]
    assert "no keyring" in scene.status["trust_problem"]
    scene.restart()
    assert scene.rounds(1) == [1], "the damage is not forgotten"
    assert "keyring is damaged" in scene.status["problem"]


def test_a_keyring_that_cannot_be_read_is_a_damaged_one(scene: Scene) -> None:
    path = scene.folder / "keyring.json"
    path.unlink()
    path.mkdir()
    scene.restart()
    assert scene.rounds(1) == [1]
    assert "keyring is damaged" in scene.status["problem"]


@pytest.mark.parametrize("signed", [True, False])
def test_no_order_is_believed_and_nothing_installed_until_a_good_keyring_comes(
    scene: Scene, signed: bool
) -> None:
    scene.damage()
    scene.order(signed=signed, candidate=2, baseline=1, **HALF)
    fetched = len(scene.plane.fetched)
    assert scene.rounds(4) == [1] * 4
    assert len(scene.plane.fetched) == fetched
    assert not scene.robot.supervisor.orders.in_contact
    scene.order(candidate=2, baseline=1, **HALF)
    scene.served = scene.keys.keyring.canonical()
    scene.clock.passes(30.0)
    assert sorted(scene.rounds(4)) == [1, 1, 2, 2]
    assert scene.status["problem"] == scene.status["trust_problem"] == ""
    assert scene.identity().keyring() == scene.keys.keyring


def test_the_candidate_of_the_order_that_was_held_comes_back_with_the_keyring(
    scene: Scene,
) -> None:
    scene.order(candidate=2, baseline=1, **HALF)
    assert sorted(scene.rounds(4)) == [1, 1, 2, 2]
    scene.damage()
    assert scene.rounds(2) == [1, 1]
    scene.identity().believe(scene.keys.keyring)  # by an enrolment
    scene.sign()
    assert sorted(scene.rounds(4)) == [1, 1, 2, 2]


def test_a_baseline_that_is_not_here_is_not_fetched(scene: Scene) -> None:
    shutil.rmtree(scene.robot.updater._path(scene.digests[1]))
    scene.damage()
    fetched = len(scene.plane.fetched)
    assert scene.rounds(2) == []
    assert len(scene.plane.fetched) == fetched
    assert "no whole baseline" in scene.status["problem"]


def test_an_edited_spool_makes_no_candidate_a_baseline(scene: Scene) -> None:
    """On a damaged keyring nobody can say whether the order there is the director's."""
    scene.order(candidate=2, baseline=1, **HALF)
    scene.rounds(2)
    kept = scene.robot.spool.recall("assignment")
    scene.robot.spool.remember("assignment", {**kept, "baseline": 2})
    scene.damage()
    assert scene.rounds(2) == []


def test_a_robot_that_only_works_in_rollouts_begins_nothing(tmp_path: Path) -> None:
    scene = Scene(tmp_path, on_rollout_only=True)
    scene.order(baseline=1)
    scene.rounds(1)
    scene.damage()
    assert scene.rounds(2) == []


def test_a_damaged_keyring_that_is_taken_away_still_is_not_none(scene: Scene) -> None:
    path = scene.folder / "keyring.json"
    path.write_bytes(b"{")
    identity = scene.identity()
    assert identity.believed() is NOBODY
    path.unlink()
    assert identity.believed() is NOBODY
    with pytest.raises(Corrupt):
        identity.keyring()
    identity.refresh()  # nobody has approved one
    assert identity.believed() is NOBODY
    assert identity.believe(Keyring())
    assert (identity.keyring(), identity.damage) == (Keyring(), "")


def test_a_keyring_put_back_by_hand_brings_the_order_back_out_of_contact(scene: Scene) -> None:
    """The baseline could not be prepared while the keyring was damaged."""
    path = scene.folder / "keyring.json"
    good, folder = path.read_bytes(), scene.robot.updater._path(scene.digests[1])
    away = folder.with_name("away")
    folder.rename(away)
    scene.robot.weather.down = True
    scene.damage()
    assert scene.rounds(2) == []
    away.rename(folder)
    path.write_bytes(good)
    assert scene.rounds(2) == [1, 1]
