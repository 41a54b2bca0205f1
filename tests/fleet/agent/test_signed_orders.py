"""Whom a robot obeys: drills with stolen keys and swapped, replayed, held-back, edited orders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from directed import HALF, NAME, Signed
from scripted_policies import POLICY
from world import Fleet

from registry.assignments import Assignment
from registry.errors import Corrupt, NotFound
from registry.trust.documents import check_attempt, seal_assignment, seal_attempt
from registry.versions import VersionRef


@pytest.fixture
def scene(tmp_path: Path) -> Signed:
    return Signed(tmp_path)


# -- who is obeyed ---------------------------------------------------------------------------------


def test_a_signed_order_is_obeyed_and_every_report_is_signed(scene: Signed) -> None:
    told = scene.order(candidate=2, baseline=1, **HALF)
    assert sorted(scene.rounds(4)) == [1, 1, 2, 2]
    for report in scene.plane.attempts[NAME].values():
        assert check_attempt(report, scene.keys.keyring)
        assert report.terms == told.terms
    assert scene.refusals() == ""


def test_an_order_that_nobody_signed_is_refused_and_said(scene: Signed) -> None:
    scene.order(candidate=None, baseline=1)
    scene.rounds(1)
    scene.order(signer=None, candidate=2, baseline=None, ratio="1")
    assert scene.rounds(2) == [1, 1]
    assert "is not signed" in scene.refusals()
    assert "is not signed" in scene.plane.last_status(NAME)["refused"][0]


@pytest.mark.parametrize("thief", ["publisher", "runner", "approver", "stranger"])
def test_a_key_of_another_role_directs_nobody(scene: Signed, thief: str) -> None:
    scene.order(candidate=None, baseline=1)
    scene.rounds(1)
    if thief == "stranger":
        scene.keys.make("stranger")
    scene.order(signer=thief, candidate=2, baseline=None, ratio="1")
    assert scene.rounds(2) == [1, 1]
    assert "is not signed by a director" in scene.refusals()


def test_an_order_edited_on_its_way_is_refused(scene: Signed) -> None:
    scene.order(candidate=None, baseline=1)
    scene.rounds(1)
    signed = scene.order(candidate=None, baseline=1)
    scene.plane.documents[NAME] = replace(signed, baseline=2)
    assert scene.rounds(2) == [1, 1]
    assert "says something else than what was signed" in scene.refusals()


def test_swapped_robots_refuse_each_others_orders(scene: Signed) -> None:
    scene.order(candidate=None, baseline=1)
    scene.rounds(1)
    other = replace(scene.plane.documents[NAME], robot="robot-02", generation=9, baseline=2)
    scene.tell(other)
    assert scene.rounds(2) == [1, 1]
    assert "generation 9 is for robot-02" in scene.refusals()


def test_a_replayed_order_is_refused_also_after_a_restart(scene: Signed) -> None:
    old = scene.order(candidate=2, baseline=None, ratio="1", salt="s", segment=0)
    assert scene.rounds(1) == [2]
    scene.order(candidate=None, baseline=1)
    assert scene.rounds(1) == [1]
    scene.plane.documents[NAME] = old
    assert scene.rounds(2) == [1, 1]
    scene.robot.restart()
    assert scene.rounds(2) == [1, 1]
    assert "generation 1 is older than 2" in scene.refusals()


def test_an_intentional_rollback_is_a_higher_generation_that_names_an_older_digest(
    scene: Signed,
) -> None:
    scene.order(candidate=None, baseline=1)
    scene.order(candidate=None, baseline=2)
    assert scene.rounds(1) == [2]
    back = scene.order(candidate=None, baseline=1)
    assert back.digests[1] == scene.digests[1]
    assert scene.rounds(1) == [1]
    assert scene.refusals() == ""


def test_a_downgrade_needs_the_directors_key(scene: Signed) -> None:
    scene.order(candidate=None, baseline=1)
    scene.order(candidate=None, baseline=2)
    assert scene.rounds(1) == [2]
    scene.tell(replace(scene.plane.documents[NAME], generation=3, baseline=1), "runner")
    assert scene.rounds(1) == [2]
    assert "is not signed by a director" in scene.refusals()


def test_the_order_in_the_spool_is_looked_at_again_when_the_agent_starts(scene: Signed) -> None:
    scene.order(candidate=None, baseline=1)
    scene.rounds(1)
    kept = scene.robot.spool.recall("assignment")
    scene.robot.spool.remember("assignment", {**kept, "baseline": 2})
    scene.robot.weather.down = True
    scene.robot.restart()
    assert scene.rounds(2) == []
    assert "says something else than what was signed" in scene.refusals()
    scene.robot.weather.down = False
    assert scene.rounds(1) == [1]


# -- a stolen director's key -----------------------------------------------------------------------


def test_after_a_stolen_directors_key_was_taken_out_the_fleet_is_directed_again(
    scene: Signed,
) -> None:
    """The thief counts the generations far up; that binds nobody afterwards."""
    scene.order(candidate=None, baseline=1)
    assert scene.rounds(1) == [1]
    thief = replace(scene.plane.documents[NAME], generation=10**9, baseline=2, envelope=None)
    scene.tell(thief)
    assert scene.rounds(1) == [2]
    scene.keys.replace("director", "second", stolen=True)
    scene.believe()
    assert scene.rounds(2) == [2, 2]  # what it runs goes on until it is told
    assert "kept generation 1000000000" in scene.refusals()
    back = replace(thief, generation=2, candidate=2, baseline=1, answers=scene.challenge(), **HALF)
    scene.tell(back, "second")
    assert sorted(scene.rounds(4)) == [1, 1, 2, 2]
    scene.tell(thief, "director")
    assert sorted(scene.rounds(2)) == [1, 2]
    assert "is not signed by a director" in scene.refusals()
    scene.robot.restart()
    scene.tell(replace(back, answers=scene.challenge()), "second")
    assert sorted(scene.rounds(2)) == [1, 2]


def test_a_thief_makes_no_honest_director_older_by_naming_him(scene: Signed) -> None:
    """He signs the highest generation, and adds a signature that only claims to be another's."""
    scene.order(candidate=None, baseline=1)
    scene.rounds(1)
    second = scene.keys.make("second")
    far = replace(scene.plane.documents[NAME], generation=10**9, baseline=2, envelope=None)
    signed = seal_assignment(far, scene.keys.signer("director"))
    assert signed.envelope is not None
    claimed = [*signed.envelope["signatures"], {"keyid": second.keyid, "sig": "00" * 64}]
    scene.tell(replace(signed, envelope={**signed.envelope, "signatures": claimed}), None)
    assert scene.rounds(1) == [2]
    stolen = scene.keys.public["director"].keyid
    scene.keys.folder.write_keyring(scene.keys.keyring.with_key("director", second).without(stolen))
    scene.believe()
    scene.tell(replace(far, generation=2, baseline=1), "second")
    assert scene.rounds(2) == [1, 1]


@pytest.mark.parametrize("contact", [True, False])
def test_no_candidate_begins_that_was_called_back_while_its_scene_was_made_ready(
    scene: Signed, contact: bool
) -> None:
    scene.order(candidate=None, baseline=1)
    scene.rounds(1)
    scene.order(candidate=2, baseline=1, **{**HALF, "ratio": "1"})
    assert scene.rounds(1) == [2]

    def called_back() -> None:
        scene.robot.before = None
        if contact:
            scene.order(candidate=None, baseline=1)
            scene.clock.passes(2)
        else:
            scene.robot.weather.down = True
            scene.clock.passes(3 * 3600)

    scene.robot.before = called_back
    assert scene.rounds(1) == []
    assert scene.rounds(1) == [1]


def test_an_order_that_is_none_is_refused_and_said(scene: Signed, monkeypatch: Any) -> None:
    """It was edited where it lies, or is a newer program's: what runs, runs on."""
    scene.order(candidate=None, baseline=1)
    scene.rounds(1)

    def unread(robot: str) -> Assignment:
        raise Corrupt("an assignment in the record is none", evidence="generation 2")

    monkeypatch.setattr(scene.plane, "assignment", unread)
    assert scene.rounds(2) == [1, 1]
    assert "is none (generation 2)" in scene.plane.last_status(NAME)["refused"][0]
    scene.robot.restart()
    assert scene.rounds(1) == [1]


def test_a_robot_that_is_no_longer_enrolled_ends_and_says_so(
    scene: Signed, monkeypatch: Any
) -> None:
    scene.order(candidate=None, baseline=1)
    scene.rounds(1)

    def unknown(robot: str) -> Assignment:
        raise NotFound("no such robot", evidence=robot)

    monkeypatch.setattr(scene.plane, "assignment", unknown)
    with pytest.raises(NotFound):
        scene.rounds(1)


def test_a_stolen_directors_key_reports_for_no_robot(scene: Signed) -> None:
    """It directs robots to what is approved; it cannot say how that went."""
    scene.order(candidate=2, baseline=1, **HALF)
    scene.rounds(2)
    report = scene.plane.attempts[NAME][1]
    lie = seal_attempt(replace(report, outcome="success"), scene.keys.signer("director"))
    from registry.errors import WrongSigner

    with pytest.raises(WrongSigner, match="not signed by a robot"):
        check_attempt(lie, scene.keys.keyring)


def test_a_director_retired_in_order_still_counts(scene: Signed) -> None:
    scene.order(candidate=None, baseline=1)
    scene.order(candidate=None, baseline=1)
    scene.rounds(1)
    scene.keys.replace("director", "second", stolen=False)
    scene.believe()
    old = scene.plane.documents[NAME]
    scene.rounds(1)
    scene.tell(replace(old, generation=1), "second")
    scene.rounds(1)
    assert "generation 1 is older than 2" in scene.refusals()
    scene.tell(old, "second")
    assert scene.rounds(1) == [1]


# -- the whole fleet -------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_fleet_with_trust_travels_the_whole_road(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, robots=6, trust=True)
    try:
        first = fleet.release(1.0)
        fleet.rounds_until(lambda: str(fleet.stage(first)) == "fleet")
        weak = fleet.release(0.3)
        for robot in list(fleet.robots.values())[:2]:
            robot.weather.double_reports = True
        fleet.rounds_until(lambda: str(fleet.stage(weak)) == "rolled_back")
        assert fleet.registry.doubts(VersionRef(POLICY, 1)) == []
        assert fleet.registry.doubts(VersionRef(POLICY, 2)) == []
        assert all(not robot.supervisor.orders.refused for robot in fleet.robots.values())
    finally:
        fleet.close()
