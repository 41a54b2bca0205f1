"""Whom a robot obeys: drills with stolen keys and swapped, replayed, held-back, edited orders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from control_plane import ControlPlane
from scripted_policies import POLICY, TASK, write_checkpoint
from trusted import Keys
from world import Clock, Fleet, Robot

from fleet.agent.identity import Identity
from fleet.agent.orders import ANSWER_S, MOST_OFFLINE_S
from fleet.agent.spool import Result
from registry.assignments import Assignment
from registry.attempts import AttemptReport
from registry.errors import Corrupt, NotFound
from registry.home import Home
from registry.trust.documents import check_attempt, seal_assignment, seal_attempt
from registry.trust.keyring import Keyring
from registry.versions import VersionRef

NAME = "robot-01"
HALF = {"ratio": "1/2", "salt": "pepper", "segment": 0}


class Signed:
    """One robot that believes a keyring, and whoever holds the director's key."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.keys = Keys(Home(folder / "home"))
        self.plane = ControlPlane()
        self.digests = {
            number: self.plane.publish(write_checkpoint(folder / f"v{number}", rate))
            for number, rate in {1: 1.0, 2: 0.0}.items()
        }
        identity = Identity(folder / NAME)
        self.keys.folder.write_keyring(self.keys.keyring.with_robot(NAME, identity.make_key()))
        self.believe()
        self.robot = Robot(NAME, folder, self.plane, self.clock, identity=identity)

    def believe(self) -> None:
        """The newest keyring reaches the robot."""
        where = Identity(self.keys.folder.root.parents[1] / NAME)
        assert where.believe(self.keys.keyring)

    def order(self, *, signer: str | None = "director", **fields: Any) -> Assignment:
        """The next document, signed by whoever says so."""
        fields.setdefault("answers", self.challenge())
        bare = self.plane.assign(NAME, digests=self.digests, **fields)
        return self.tell(bare, signer)

    def tell(self, document: Assignment, signer: str | None = "director") -> Assignment:
        if signer is not None:
            document = seal_assignment(document, self.keys.signer(signer))
        self.plane.documents[NAME] = document
        return document

    def challenge(self) -> str:
        """What the robot's next heartbeat says."""
        return self.robot.supervisor.orders.challenge()

    def renew(self, document: Assignment) -> Assignment:
        return self.tell(replace(document, answers=self.challenge()))

    def rounds(self, count: int) -> list[int]:
        """What the robot ran in so many rounds."""
        before = len(self.robot.ran)
        for _ in range(count):
            self.robot.tick()
        return [ran.version for ran in self.robot.ran[before:]]

    def waits_in_vain(self) -> None:
        """For an answer, until it goes on without the candidate."""
        assert self.rounds(2) == []
        self.clock.passes(ANSWER_S)

    def refusals(self) -> str:
        return "\n".join(self.robot.supervisor.orders.refused)


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


# -- how long a candidate may run ------------------------------------------------------------------


def test_a_permission_that_nobody_renews_ends_though_the_order_is_heard(scene: Signed) -> None:
    """The link, or a stolen server without the key, repeats the last order for ever."""
    scene.order(candidate=2, baseline=1, **HALF)
    assert set(scene.rounds(4)) == {1, 2}
    scene.clock.passes(601.0)
    scene.waits_in_vain()
    assert scene.rounds(4) == [1] * 4
    assert scene.robot.supervisor.orders.in_contact is False


def test_no_document_permits_a_candidate_for_ever(scene: Signed) -> None:
    """Not even one that a stolen director's key has signed."""
    scene.order(candidate=2, baseline=1, **HALF, max_offline_s=1e12)
    assert set(scene.rounds(4)) == {1, 2}
    scene.clock.passes(MOST_OFFLINE_S - 100.0)
    assert set(scene.rounds(4)) == {1, 2}
    scene.clock.passes(101.0)
    assert scene.rounds(4) == [1] * 4


@pytest.mark.parametrize("field", ["issued_at", "max_offline_s"])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_no_document_has_a_time_that_is_no_number(field: str, value: float) -> None:
    document = Assignment("r1", POLICY, 1, None, 1, "0", "pepper", 0).to_json()
    assert Assignment.from_json(document).generation == 1
    with pytest.raises(ValueError, match="times are numbers"):
        Assignment.from_json({**document, field: value})
    with pytest.raises(ValueError, match="an answer is text"):
        Assignment.from_json({**document, "answers": value})


def test_a_renewed_permission_goes_on_with_the_same_draw(scene: Signed) -> None:
    told = scene.order(candidate=2, baseline=1, **HALF)
    for _ in range(5):
        assert sorted(scene.rounds(2)) == [1, 2]
        scene.clock.passes(400.0)
        told = scene.renew(told)
    assert scene.refusals() == ""
    reports = scene.plane.attempts[NAME].values()
    assert [one.index for one in reports] == list(range(10))
    assert {one.terms for one in reports} == {told.terms}


def test_renewals_that_were_held_back_give_no_more_time(scene: Signed) -> None:
    """Somebody between robot and server collects renewals and hands each over as late as it can."""
    told = scene.order(candidate=2, baseline=1, **HALF)
    assert set(scene.rounds(2)) == {1, 2}
    start, late = scene.clock.now(), []
    for _ in range(3):
        scene.clock.passes(200.0)
        scene.rounds(1)
        late.append(scene.renew(told))
        scene.plane.documents[NAME] = told
    for renewal in late:
        scene.plane.documents[NAME] = renewal
        scene.rounds(2)
        scene.clock.passes(250.0)
    # The last answers what was asked 600 s after the start: it permits until 1200 s after it.
    assert start + 1200.0 < scene.clock.now() < start + 1500.0
    scene.waits_in_vain()
    assert scene.rounds(4) == [1] * 4


def test_an_answer_that_is_asked_for_again_and_again_is_signed_again_only_now_and_then(
    scene: Signed,
) -> None:
    asked = set()
    for _ in range(100):
        asked.add(scene.challenge())
        scene.clock.passes(10.0)
    assert len(asked) == 5, "one in 200 s"


@pytest.mark.parametrize("answers", ["", "guessed", "another"])
def test_only_what_this_agent_asked_is_an_answer(scene: Signed, answers: str) -> None:
    told = scene.order(candidate=2, baseline=1, **HALF)
    scene.robot.restart()
    scene.waits_in_vain()
    assert scene.rounds(2) == [1, 1], "an answer to the agent before"
    scene.tell(replace(told, answers=answers))
    assert scene.rounds(2) == [1, 1]
    scene.renew(told)
    assert sorted(scene.rounds(2)) == [1, 2]
    assert scene.refusals() == ""


def test_attempts_longer_than_a_permission_go_on_in_turns(
    scene: Signed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was answered before one began has ended when it ends: the robot waits for the next."""
    told = scene.order(candidate=2, baseline=1, **HALF)
    ran: list[int] = []

    def at_length(ready: Any, open_attempt: Any, should_stop: Any) -> Result:
        open_attempt({})
        ran.append(ready.version)
        for _ in range(20):
            scene.clock.passes(50.0)
            assert should_stop() is None
        return Result("success")

    monkeypatch.setattr(scene.robot.supervisor, "_run", at_length)
    for _ in range(12):  # the server's round, then the robot's
        scene.tell(replace(told, answers=scene.challenge()))
        scene.rounds(1)
    assert sorted(ran) == [1] * 6 + [2] * 6
    sides = {report.side for report in scene.plane.attempts[NAME].values()}
    assert sides == {"candidate", "baseline"}


def test_restarting_the_agent_gives_a_stale_permission_no_new_time(scene: Signed) -> None:
    scene.order(candidate=2, baseline=1, **HALF)
    assert set(scene.rounds(2)) == {1, 2}
    for _ in range(2):
        scene.robot.restart()
        scene.waits_in_vain()
        assert scene.rounds(2) == [1, 1]


@pytest.mark.parametrize("whose", ["robot", "registry"])
@pytest.mark.parametrize("years", [-10, 10])
def test_no_clock_is_believed(scene: Signed, whose: str, years: int) -> None:
    """Neither while it is wrong, nor when it has been put right: monotonic time alone counts."""
    wrong = scene.clock.now() + years * 31_557_600.0
    if whose == "robot":
        scene.robot.supervisor._now = lambda: wrong
    scene.order(candidate=2, baseline=1, **HALF, issued_at=wrong)
    assert sorted(scene.rounds(2)) == [1, 2]
    scene.order(candidate=2, baseline=1, **HALF, issued_at=scene.clock.now())
    assert sorted(scene.rounds(2)) == [1, 2]
    scene.clock.passes(601.0)
    scene.waits_in_vain()
    assert scene.rounds(2) == [1, 1]


def test_an_older_renewal_does_not_take_back_time(scene: Signed) -> None:
    told = scene.order(candidate=2, baseline=1, **HALF)
    scene.rounds(1)
    scene.clock.passes(300.0)
    scene.renew(told)
    scene.rounds(1)
    scene.plane.documents[NAME] = told
    scene.rounds(1)
    assert "was signed before the one that holds" in scene.refusals()
    scene.clock.passes(400.0)
    assert set(scene.rounds(4)) == {1, 2}


def test_an_order_in_the_spool_that_is_none_is_told_and_asked_for_again(scene: Signed) -> None:
    scene.order(candidate=None, baseline=1)
    scene.rounds(1)
    scene.robot.spool.remember("assignment", {"schema": "policyctl.assignment/1"})
    scene.robot.restart()
    assert "the order in the spool is none" in scene.refusals()
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


# -- whom it believes ------------------------------------------------------------------------------


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
