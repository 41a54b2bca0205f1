"""How long a robot may run a candidate by a signed order: challenges, answers and no clock."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from directed import HALF, NAME, Signed
from scripted_policies import POLICY

from fleet.agent.orders import MOST_OFFLINE_S
from fleet.agent.spool import Result
from registry.assignments import Assignment


@pytest.fixture
def scene(tmp_path: Path) -> Signed:
    return Signed(tmp_path)


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
