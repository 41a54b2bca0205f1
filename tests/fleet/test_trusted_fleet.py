"""The road with trust set up: approved at entry to canary, taken back by a rollback."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from scripted_policies import POLICY
from world import Fleet

from registry.errors import Pending
from registry.rollouts import Phase
from registry.stages import Stage
from registry.trust import ceremony
from registry.trust.approvals import target_file
from registry.trust.documents import seal_assignment
from registry.trust.home_approvals import HomeApprovals
from registry.trust.keys import new_key
from registry.versions import VersionRef

pytestmark = pytest.mark.slow


def trust(fleet: Fleet) -> HomeApprovals:
    return fleet.registry.approvals


def turn_on(fleet: Fleet) -> None:
    running = fleet.registry.approvable()
    infos = [target_file(ref, *signed) for ref, signed in running.items()]
    ceremony.init(trust(fleet).open().repository, None, infos)
    fleet.registry.settle_keyring()


def approved(fleet: Fleet) -> tuple[str, ...]:
    return trust(fleet).open().status().approved


def phase(fleet: Fleet, ref: VersionRef) -> Phase:
    return fleet.registry.rollouts(POLICY, candidate=ref.number)[-1].rollout.phase


def settle(fleet: Fleet, ref: VersionRef, end: Phase) -> None:
    fleet.rounds_until(lambda: phase(fleet, ref) is end)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path, robots=6, on_rollout_only=True, trust=True)
    yield made
    made.close()


def test_the_road_with_trust(fleet: Fleet) -> None:
    turn_on(fleet)
    good = fleet.release(1.0)
    assert approved(fleet) == ("box-grasp/v1.json",)
    settle(fleet, good, Phase.DONE)
    bad = fleet.release(0.3)
    assert approved(fleet) == ("box-grasp/v1.json", "box-grasp/v2.json")
    settle(fleet, bad, Phase.ROLLED_BACK)
    assert approved(fleet) == ("box-grasp/v1.json",)
    fleet.rounds_until(lambda: fleet.running() == {1})


def test_trust_turned_on_in_a_running_fleet_stops_nobody(fleet: Fleet) -> None:
    good = fleet.release(1.0)
    settle(fleet, good, Phase.DONE)
    turn_on(fleet)
    assert approved(fleet) == ("box-grasp/v1.json",)
    for robot in fleet.robots.values():
        robot.restart()
    better = fleet.release(1.0)
    settle(fleet, better, Phase.DONE)
    fleet.rounds_until(lambda: fleet.running() == {2})


def test_where_approvers_must_sign_promotion_waits_and_changes_nothing(
    fleet: Fleet, tmp_path: Path
) -> None:
    turn_on(fleet)
    with_keys = harden(fleet, tmp_path)
    ref = fleet.register(1.0)
    fleet.judge_sim(ref)
    fleet.judge_hil(ref)
    before = fleet.registry.audit_log()
    with pytest.raises(Pending) as dry:
        fleet.registry.promote(ref, Stage.CANARY, fleet.gate, dry_run=True)
    assert dry.value.exit_status == 8
    assert trust(fleet).open().repository.drafts() == {}
    with pytest.raises(Pending, match="2 more signature"):
        fleet.registry.promote(ref, Stage.CANARY, fleet.gate)
    assert fleet.stage(ref) is Stage.HIL
    assert fleet.registry.rollouts() == []
    assert fleet.registry.audit_log() == before
    with_keys.open().sign(ref)
    fleet.registry.promote(ref, Stage.CANARY, fleet.gate)
    settle(fleet, ref, Phase.DONE)
    # Going back does not wait for anybody, though taking the approval back does.
    second = fleet.register(0.2)
    fleet.judge_sim(second)
    fleet.judge_hil(second)
    with pytest.raises(Pending):
        fleet.registry.promote(second, Stage.CANARY, fleet.gate)
    with_keys.open().sign(second)
    fleet.registry.promote(second, Stage.CANARY, fleet.gate)
    settle(fleet, second, Phase.ROLLED_BACK)
    assert "withdrawal_waits" in {event.action for event in fleet.registry.history(POLICY)}
    assert "box-grasp/v2.json" in approved(fleet)
    assert len(fleet.registry.keep_trust()) == 1
    with_keys.open().sign()
    assert approved(fleet) == ("box-grasp/v1.json",)
    assert fleet.registry.keep_trust() == []


def harden(fleet: Fleet, folder: Path) -> HomeApprovals:
    """Two of three for root and approvals; the answer holds all their keys."""
    keys = [new_key(folder / f"key-{n}.pem") for n in range(6)]
    ceremony.harden(trust(fleet).open().repository, keys[:3], 2, keys[3:], 2)
    places = [f"file:{folder / f'key-{n}.pem'}" for n in range(6)]
    with_keys = HomeApprovals(fleet.folder / "home", fleet.clock, places)
    with_keys.open().sign()
    return with_keys


def test_an_aborted_version_is_taken_back_too(fleet: Fleet) -> None:
    turn_on(fleet)
    good = fleet.release(1.0)
    settle(fleet, good, Phase.DONE)
    fleet.release(0.9)
    assert len(approved(fleet)) == 2
    fleet.registry.abort(POLICY, "not today")
    assert approved(fleet) == ("box-grasp/v1.json",)


def test_a_second_try_that_waits_for_approvers_is_left_to_them(
    fleet: Fleet, tmp_path: Path
) -> None:
    """A rolled back version is promoted again by an override; the server lets its draft be."""
    turn_on(fleet)
    good = fleet.release(1.0)
    settle(fleet, good, Phase.DONE)
    bad = fleet.release(0.3)
    settle(fleet, bad, Phase.ROLLED_BACK)
    with_keys = harden(fleet, tmp_path)
    for _ in range(2):
        with pytest.raises(Pending):
            fleet.registry.promote(bad, Stage.CANARY, fleet.gate, override="the camera was dirty")
        assert fleet.registry.keep_trust() == []
    with_keys.open().sign(bad)
    fleet.registry.promote(bad, Stage.CANARY, fleet.gate, override="the camera was dirty")
    assert "box-grasp/v2.json" in approved(fleet)


def test_a_second_try_gives_up_a_withdrawal_that_waits(fleet: Fleet, tmp_path: Path) -> None:
    turn_on(fleet)
    good = fleet.release(1.0)
    settle(fleet, good, Phase.DONE)
    bad = fleet.release(0.3)
    harden(fleet, tmp_path)
    settle(fleet, bad, Phase.ROLLED_BACK)
    assert trust(fleet).open().status().pending
    fleet.registry.promote(bad, Stage.CANARY, fleet.gate, override="the camera was dirty")
    assert trust(fleet).open().repository.drafts() == {}
    assert "box-grasp/v2.json" in approved(fleet)


def test_an_order_alone_installs_nothing(fleet: Fleet) -> None:
    """Whoever signs assignments can neither install what is not approved nor bring back what was
    taken back; robots go on with what they have, and say why."""
    turn_on(fleet)
    good = fleet.release(1.0)
    settle(fleet, good, Phase.DONE)
    fleet.rounds_until(lambda: fleet.running() == {1})
    bad = fleet.release(0.3)
    settle(fleet, bad, Phase.ROLLED_BACK)
    fleet.rounds_until(lambda: fleet.running() == {1})
    never = fleet.register(0.9)
    robots = fleet.robots.values()  # one that was given it: which ones are is drawn by lot
    robot = next(one for one in robots if any(ran.version == bad.number for ran in one.ran))
    wanted = ((never, "not among the approved"), (bad, "taken back"))
    for step, (ref, why) in enumerate(wanted, 1):
        held = fleet.registry.assignment(robot.name)
        assert held is not None
        digest = fleet.registry.version(ref).digest
        assert fleet.keys is not None
        wrong = replace(
            held,
            generation=held.generation + step,
            baseline=ref.number,
            candidate=None,
            digests={ref.number: digest},
        )
        order = seal_assignment(wrong, fleet.keys.signer("director"))
        robot.link.inner = _Ordering(fleet, order)  # type: ignore[assignment]
        robot.tick()
        status = next(r for r in fleet.registry.robots() if r.name == robot.name)
        assert why in status.status["problem"], status.status
        assert status.running == good.number


class _Ordering:
    """A link whose assignments somebody else writes."""

    def __init__(self, fleet: Fleet, order: object) -> None:
        from fleet.agent.link import LocalLink

        self._inner = LocalLink(fleet.registry)
        self._order = order

    def assignment(self, robot: str) -> object:
        return self._order

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


def test_expired_approvals_stop_nothing_that_runs(fleet: Fleet) -> None:
    turn_on(fleet)
    good = fleet.release(1.0)
    settle(fleet, good, Phase.DONE)
    fleet.rounds_until(lambda: fleet.running() == {1})
    fleet.clock.passes(30 * 86400)  # no server ran meanwhile
    for robot in fleet.robots.values():
        robot.restart()
    fleet.rounds_until(lambda: fleet.running() == {1}, limit=3)
    assert fleet.registry.keep_trust() == []  # a server is there again
    better = fleet.release(1.0)
    settle(fleet, better, Phase.DONE)


def test_a_server_keeps_the_signatures_fresh(fleet: Fleet) -> None:
    turn_on(fleet)
    repository = trust(fleet).open().repository
    first = repository.published.timestamp().signed.version
    fleet.controller.keep_trust(fleet.clock.now())
    assert repository.published.timestamp().signed.version == first
    for _ in range(3):
        fleet.clock.passes(0.7 * 86400)
        fleet.controller.keep_trust(fleet.clock.now())
        assert repository.published.timestamp().signed.expires.timestamp() > fleet.clock.now()
    assert repository.published.timestamp().signed.version == first + 3


def test_a_server_without_the_online_key_says_so_once(fleet: Fleet) -> None:
    turn_on(fleet)
    (fleet.folder / "home" / "trust" / "keys" / "home.pem").unlink()
    for _ in range(3):
        fleet.clock.passes(86400)
        fleet.controller.keep_trust(fleet.clock.now())
    assert [line for line in fleet.said if line.startswith("trust: ")] == fleet.said
    assert len(fleet.said) == 1
