"""A slow key service keeps nobody else from writing, and what it signed late decides nothing."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from key_service import stand_at
from record import CANARY, GATES, HIL, POLICY, Record, keys_of

from registry.assignments import Assignment
from registry.errors import Conflict, ServiceFailed
from registry.rollouts import Observed, step
from registry.service import Actor, Registry, RolloutRecord
from registry.stages import Stage
from registry.trust import ceremony
from registry.trust.documents import check_assignment
from registry.trust.home_approvals import HomeApprovals
from registry.verdicts import judge

pytestmark = pytest.mark.slow

SLOW_S = 2.0


class Service:
    """What stands at `slow:PATH`: once `armed`, it answers its next request after `SLOW_S`, or as
    soon as the test lets it go."""

    def __init__(self) -> None:
        self.armed = threading.Event()
        self.asked = threading.Event()
        self.go = threading.Event()
        self.late = False  # it was not let go in time: somebody waited for it

    def wait(self) -> None:
        if self.armed.is_set():
            self.armed.clear()
            self.asked.set()
            self.late = not self.go.wait(SLOW_S)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    made = Service()
    stand_at(monkeypatch, "slow", made.wait)
    return made


@pytest.fixture
def record(tmp_path: Path, service: Service) -> Record:
    """Six robots; the director's key is in the service."""
    made = Record(tmp_path, robots=6, trust=True)
    trust = made.registry.trust
    assert trust is not None
    director = keys_of(made).public["director"]
    trust.use("director", f"slow:{keys_of(made).own('director')}", director.keyid)
    return made


@pytest.fixture
def beside() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


class Meanwhile:
    """Runs `act` until it waits for the service; then `other` by another process's registry."""

    def __init__(self, record: Record, service: Service, pool: ThreadPoolExecutor) -> None:
        self.registry = Registry.open(record.home, Actor("another"), clock=record.clock)
        self._service = service
        self._pool = pool

    def __call__(self, act: Callable[[], Any], other: Callable[[Registry], Any]) -> Future[Any]:
        service = self._service
        service.armed.set()
        running = self._pool.submit(act)
        assert service.asked.wait(20)
        began = time.monotonic()
        try:
            other(self.registry)
        finally:
            service.go.set()
        assert time.monotonic() - began < SLOW_S / 2
        assert not running.done()
        return running


@pytest.fixture
def meanwhile(record: Record, service: Service, beside: ThreadPoolExecutor) -> Iterator[Meanwhile]:
    made = Meanwhile(record, service, beside)
    yield made
    made.registry.close()
    assert not service.late


def signed_orders(record: Record) -> None:
    """Every robot's newest order has its director's signature."""
    told = [record.registry.assignment(robot.name) for robot in record.registry.robots()]
    orders = [one for one in told if one is not None]
    assert orders
    for one in orders:
        check_assignment(one, keys_of(record).keyring)


# -- orders


def test_nobody_waits_while_orders_are_signed(record: Record, meanwhile: Meanwhile) -> None:
    ref = record.ready()
    running = meanwhile(lambda: record.promote(ref), lambda other: other.tag(ref, "meanwhile"))
    running.result()
    assert record.registry.tags(ref) == ["meanwhile"]
    signed_orders(record)


def test_a_stop_overtakes_orders_that_are_being_signed(
    record: Record, meanwhile: Meanwhile
) -> None:
    ref = record.ready()
    running = meanwhile(lambda: record.promote(ref), lambda other: other.abort(POLICY, "enough"))
    running.result()
    assert record.told() == {(None, None)}
    signed_orders(record)
    assert record.registry.renew_assignments() == 0


def test_a_director_that_was_replaced_meanwhile_signs_nothing_more(
    record: Record, meanwhile: Meanwhile
) -> None:
    ref = record.ready()

    def replaced(other: Registry) -> None:
        keys_of(record).replace("director", "second", stolen=False)
        assert other.renew_assignments() > 0

    running = meanwhile(lambda: record.promote(ref), replaced)
    running.result()
    assert record.told() != {(None, None)}
    signed_orders(record)


def test_what_was_signed_before_a_key_fails_is_kept(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = record.ready()
    trust = record.registry.trust
    assert trust is not None
    sealing, left = trust.seal_assignment, iter(range(2))

    def failing(order: Assignment) -> Assignment:
        if next(left, None) is None:
            raise ServiceFailed("the key service is gone")
        return sealing(order)

    record.promote(ref)
    record.registry.abort(POLICY, "again")
    before = {one.name: record.registry.assignment(one.name) for one in record.registry.robots()}
    assert all(one is not None and one.envelope for one in before.values())
    monkeypatch.setattr(trust, "seal_assignment", failing)
    record.promote(record.ready())
    told = [record.registry.assignment(name) for name in before]
    new = [one for one in told if one is not None and one.candidate is not None]
    assert len(new) > 2
    assert sum(one.envelope is not None for one in new) == 2


def test_nobody_waits_while_the_server_renews(record: Record, meanwhile: Meanwhile) -> None:
    ref = record.ready()
    for robot in record.promote(ref).rollout.cohort:
        record.ask(robot, "due")
    running = meanwhile(
        record.registry.renew_assignments, lambda other: other.pause(POLICY, "a look")
    )
    running.result()
    assert record.told() == {(None, None)}
    signed_orders(record)


# -- verdicts of canaries


def due(record: Record, identity: str) -> Observed | None:
    """What the controller is about to decide."""
    held = record.registry.rollout(identity).rollout
    evidence = record.registry.canary_evidence(identity)
    event = Observed(evidence, judge(held.gate, evidence))
    after, _ = step(held, event, record.clock.now())
    return event if after.phase != held.phase else None


def until_due(record: Record, rate: float) -> str:
    """A canary of v2 beside v1 whose next observation decides."""
    record.to_fleet()
    opened = record.promote(record.ready())
    for _ in range(200):
        if due(record, opened.id):
            return opened.id
        record.round({1: 1.0, 2: rate})
    raise AssertionError("no decision")


@pytest.mark.parametrize(("rate", "phase"), [(0.0, "rolled_back"), (1.0, "wave")])
def test_nobody_waits_while_a_canarys_verdict_is_signed(
    record: Record, meanwhile: Meanwhile, rate: float, phase: str
) -> None:
    identity = until_due(record, rate)
    ref = record.registry.list_versions()[1].ref
    phases = []

    def beside(other: Registry) -> None:
        other.tag(ref, "meanwhile")
        phases.append(str(other.rollout(identity).rollout.phase))

    running = meanwhile(lambda: record.observe(identity), beside)
    assert phases == ["canary" if rate else phase], "going back waits for no key"
    decided: RolloutRecord = running.result()
    assert str(decided.rollout.phase) == phase
    assert record.registry.tags(ref) == ["meanwhile"]
    assert record.registry.doubts(ref) == []
    assert canary_statements(record) == 1
    signed_orders(record)


def canary_statements(record: Record) -> int:
    """Statements about verdicts that the record holds of v2's canary."""
    ref = record.registry.list_versions()[1].ref
    canary = {one.id for one in record.registry.verdicts(ref) if one.verdict.gate == "canary"}
    assert canary
    return sum(one.verdict in canary for one in record.registry.statements(ref))


def test_a_report_that_arrives_meanwhile_is_in_the_verdict_that_is_signed(
    record: Record, meanwhile: Meanwhile
) -> None:
    identity = until_due(record, 1.0)
    before = record.registry.canary_evidence(identity).candidate_total.total
    cohort = record.registry.rollout(identity).rollout.cohort

    def report(other: Registry) -> None:
        while other.canary_evidence(identity).candidate_total.total == before:
            for robot in cohort:
                said = record.next_report(robot, "success")
                assert said is not None
                other.ingest(robot, [said])

    meanwhile(lambda: record.observe(identity), report).result()
    ref = record.registry.list_versions()[1].ref
    assert record.registry.doubts(ref) == []
    assert canary_statements(record) == 1
    (canary,) = (one for one in record.registry.verdicts(ref) if one.verdict.gate == "canary")
    assert canary.evidence == record.registry.canary_evidence(identity)
    assert record.registry.canary_evidence(identity).candidate_total.total > before


def test_a_verdict_on_a_rollout_that_was_stopped_meanwhile_is_a_conflict(
    record: Record, meanwhile: Meanwhile
) -> None:
    identity = until_due(record, 1.0)
    running = meanwhile(
        lambda: record.observe(identity), lambda other: other.abort(POLICY, "enough")
    )
    with pytest.raises(Conflict, match="moved on"):
        running.result()
    assert str(record.registry.rollout(identity).rollout.phase) == "aborted"


def test_where_reports_never_stand_still_nothing_goes_forward(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = until_due(record, 1.0)
    robot = record.registry.rollout(identity).rollout.cohort[0]
    trust = record.registry.trust
    assert trust is not None
    sealing = trust.seal_statement

    def reported_beside(*words: Any) -> Any:
        told, said = record.registry.assignment(robot), record.next_report(robot, "success")
        assert said is not None
        assert told is not None
        record._report(told, said)
        return sealing(*words)

    monkeypatch.setattr(trust, "seal_statement", reported_beside)
    held = record.registry.rollout(identity)
    event = due(record, identity)
    assert event is not None
    with pytest.raises(Conflict, match="faster than its verdict is signed") as caught:
        record.registry.advance(identity, held.revision, event)
    assert "again" in caught.value.hint
    assert str(record.registry.rollout(identity).rollout.phase) == "canary"


@pytest.mark.parametrize(("rate", "phase"), [(0.0, "rolled_back"), (1.0, "canary")])
def test_without_the_directors_key_a_rollout_goes_back_and_not_forward(
    record: Record, monkeypatch: pytest.MonkeyPatch, rate: float, phase: str
) -> None:
    identity = until_due(record, rate)
    trust = record.registry.trust
    assert trust is not None

    def gone(*words: Any) -> Any:
        raise ServiceFailed("the key service is gone")

    with monkeypatch.context() as patch:
        patch.setattr(trust, "seal_statement", gone)
        with contextlib.ExitStack() as stack:  # going back raises nothing
            if rate:
                stack.enter_context(pytest.raises(ServiceFailed, match="key service is gone"))
            record.observe(identity)
    assert str(record.registry.rollout(identity).rollout.phase) == phase
    if rate:
        assert str(record.observe(identity).rollout.phase) == "wave"
        assert canary_statements(record) == 1


def undecided(record: Record) -> str:
    """A canary that has used its episodes up: its next observation asks a person."""
    record.to_fleet()
    few = replace(CANARY, max_candidate_episodes=4)
    opened = record.registry.promote(record.ready(), Stage.CANARY, replace(GATES, canary=few))
    assert opened is not None
    for _ in range(200):
        if due(record, opened.id):
            return opened.id
        record.round({1: 0.5, 2: 0.5})
    raise AssertionError("it goes on")


def test_nobody_is_exposed_while_the_verdict_of_an_undecided_canary_is_signed(
    record: Record, meanwhile: Meanwhile
) -> None:
    identity, phases = undecided(record), []

    def beside(other: Registry) -> None:
        phases.append(str(other.rollout(identity).rollout.phase))

    meanwhile(lambda: record.observe(identity), beside).result()
    assert phases == ["holding"]
    assert canary_statements(record) == 1
    signed_orders(record)


# -- approvals


@pytest.fixture
def approving(record: Record) -> Record:
    """Approvals by one key in the service."""
    ceremony.init(HomeApprovals(record.home.root, record.clock).open().repository)
    repository = HomeApprovals(record.home.root, record.clock).open().repository
    (key,) = repository.published.root().signed.keys.values()
    repository.signers.remember(key, f"slow:{repository.signers.keys_folder / 'home.pem'}")
    record.registry.close()
    record.registry = Registry.open(record.home, Actor("tester"), clock=record.clock)
    return record


def test_nobody_waits_while_a_version_is_approved(approving: Record, meanwhile: Meanwhile) -> None:
    ref = approving.ready()
    running = meanwhile(lambda: approving.promote(ref), lambda other: other.tag(ref, "meanwhile"))
    running.result()
    assert approving.registry.tags(ref) == ["meanwhile"]
    assert approving.registry.approvals.approved([ref]) == [ref]
    assert approving.registry.version(ref).stage is Stage.CANARY


def test_nobody_waits_while_a_version_is_taken_back(
    approving: Record, meanwhile: Meanwhile, service: Service
) -> None:
    ref = approving.ready()
    approving.promote(ref)
    trust = approving.registry.trust
    assert trust is not None
    keys = keys_of(approving)
    trust.use("director", f"file:{keys.own('director')}", keys.public["director"].keyid)
    running = meanwhile(
        lambda: approving.registry.abort(POLICY, "enough"),
        lambda other: other.tag(ref, "meanwhile"),
    )
    running.result()
    assert approving.registry.tags(ref) == ["meanwhile"]
    assert approving.registry.approvals.approved([ref]) == []


def test_what_was_judged_anew_while_it_was_approved_is_a_conflict(
    approving: Record, meanwhile: Meanwhile
) -> None:
    ref = approving.ready()
    found = approving.evidence(ref, HIL, success=21, failure=0)
    running = meanwhile(
        lambda: approving.promote(ref),
        lambda other: other.record_verdict(ref, HIL, found, judge(HIL, found)),
    )
    with pytest.raises(Conflict, match="judged anew"):
        running.result()
    assert approving.registry.rollouts() == []
    approving.promote(ref)
    assert approving.registry.version(ref).stage is Stage.CANARY


def test_a_version_that_was_rejected_while_it_was_approved_opens_nothing(
    approving: Record, meanwhile: Meanwhile
) -> None:
    ref = approving.ready()
    found = approving.evidence(ref, HIL, success=0, failure=20)
    running = meanwhile(
        lambda: approving.promote(ref),
        lambda other: other.record_verdict(ref, HIL, found, judge(HIL, found)),
    )
    assert running.exception() is not None
    assert approving.registry.rollouts() == []
    assert approving.registry.keep_trust() == []
    assert approving.registry.approvals.approved([ref]) == []  # taken back again


def test_a_version_that_climbs_again_before_it_is_taken_back_stays_approved(
    approving: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has ended is asked when nobody can promote any more, not before."""
    ref = approving.ready()
    approving.promote(ref)
    taking_back = HomeApprovals.withdraw

    def promoted_first(home: HomeApprovals, *words: Any) -> str:
        with monkeypatch.context() as once:
            once.setattr(HomeApprovals, "withdraw", taking_back)
            approving.promote(ref)
        return taking_back(home, *words)

    monkeypatch.setattr(HomeApprovals, "withdraw", promoted_first)
    approving.registry.abort(POLICY, "a mistake")
    assert approving.registry.version(ref).stage is Stage.CANARY
    assert approving.registry.approvals.approved([ref]) == [ref]
