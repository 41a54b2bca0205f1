"""A key service that never answers holds nobody up for ever: canaries are watched all the same."""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from key_service import stand_at
from record import POLICY, Record, keys_of
from securesystemslib.signer import Signature, Signer

from fleet.controller import Controller
from registry.errors import ServiceFailed
from registry.rollouts import Observed, step
from registry.service import Actor, Registry
from registry.stages import Stage
from registry.trust import ceremony, repository, services
from registry.trust.home_approvals import HomeApprovals
from registry.trust.keys import new_key, signer
from registry.verdicts import judge

pytestmark = pytest.mark.slow

LIMIT_S = 0.2
BOUND_S = 30.0  # what hangs for ever takes longer


class Service:
    """What stands at `hung:PATH`: while it `hangs` no question comes back."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self.asked = 0

    def hang(self) -> None:
        self.answers.clear()

    def wait(self) -> None:
        self.asked += 1
        self.answers.wait()


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    made = Service()
    stand_at(monkeypatch, "hung", made.wait)
    monkeypatch.setattr(services, "LIMIT_S", LIMIT_S)
    monkeypatch.setattr(repository, "LOCK_S", LIMIT_S)
    yield made
    made.answers.set()


@pytest.fixture
def record(tmp_path: Path, service: Service) -> Record:
    """Six robots; the director's key and the one key of approvals are in the service."""
    made = Record(tmp_path, robots=6, trust=True)
    assert made.registry.trust is not None
    director = keys_of(made).public["director"]
    made.registry.trust.use("director", f"hung:{keys_of(made).own('director')}", director.keyid)
    opened = HomeApprovals(made.home.root, made.clock).open().repository
    key = ceremony.init(opened)
    opened.signers.remember(key, f"hung:{opened.signers.keys_folder / 'home.pem'}")
    made.registry.close()
    made.registry = Registry.open(made.home, Actor("tester"), clock=made.clock)
    return made


def in_time(act: Callable[[], Any]) -> Any:
    """What `act` answers or raises; it may take long, not for ever."""
    said: list[Any] = []

    def run() -> None:
        try:
            said.append(act())
        except BaseException as failed:  # noqa: BLE001 raised below
            said.append(failed)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(BOUND_S)
    assert said, "it waits for the key service"
    if isinstance(said[0], BaseException):
        raise said[0]
    return said[0]


def until_due(record: Record, rate: float) -> str:
    """A canary of v2 beside v1 whose next observation decides."""
    record.to_fleet()
    opened = record.promote(record.ready())
    for _ in range(200):
        held = record.registry.rollout(opened.id).rollout
        evidence = record.registry.canary_evidence(opened.id)
        event = Observed(evidence, judge(held.gate, evidence))
        if step(held, event, record.clock.now())[0].phase != held.phase:
            return opened.id
        record.round({1: 1.0, 2: rate})
    raise AssertionError("no decision")


def test_a_failing_canary_is_rolled_back_while_no_key_answers(
    record: Record, service: Service
) -> None:
    """Its orders are due, its verdict and orders are to be signed, and its approval is taken back:
    each of that asks a service that hangs."""
    identity = until_due(record, 0.0)
    for robot in record.registry.robots():
        record.ask(robot.name, "due")
    service.hang()
    lines: list[str] = []
    asked = service.asked
    controller = Controller(record.registry, lines.append)
    assert in_time(lambda: controller.reconcile(record.clock.now())) == 1
    assert str(record.registry.rollout(identity).rollout.phase) == "rolled_back"
    assert record.told() == {(None, 1)}
    assert any("key service does not answer" in line and "director" in line for line in lines)
    in_time(lambda: controller.keep_trust(record.clock.now()))
    assert service.asked - asked == 2, "each of two keys is asked once, and not again so soon"
    waits = [one for one in record.registry.audit_log() if one.action == "withdrawal_waits"]
    assert "does not answer" in waits[0].reason
    service.answers.set()
    hung = [one for one in threading.enumerate() if isinstance(one, services._Call)]
    for one in hung:
        one.join(BOUND_S)
    assert record.registry.renew_assignments() > 0
    assert record.registry.keep_trust() == []
    assert record.registry.approvals.approved([record.registry.list_versions()[1].ref]) == []


def test_a_passing_canary_waits_no_longer_than_that(record: Record, service: Service) -> None:
    until_due(record, 1.0)
    service.hang()
    controller = Controller(record.registry)
    in_time(lambda: controller.reconcile(record.clock.now()))


def test_a_promotion_that_no_approver_signs_opens_nothing_and_lets_go(
    record: Record, service: Service
) -> None:
    ref = record.ready()
    service.hang()
    with pytest.raises(ServiceFailed, match="does not answer") as caught:
        in_time(lambda: record.promote(ref))
    assert "targets: key" in caught.value.evidence
    assert "hung:" in caught.value.evidence
    assert caught.value.hint
    assert record.registry.version(ref).stage is not Stage.CANARY
    with record.registry.approvals.changing():
        pass


def test_a_rollback_waits_not_for_ever_for_who_changes_approvals(record: Record) -> None:
    ref = record.ready()
    record.promote(ref)
    with (record.registry.approvals.folder / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # a promotion that was stopped in the middle
        in_time(lambda: record.registry.abort(POLICY, "enough"))
        assert record.told() == {(None, None)}
        waits = [one for one in record.registry.audit_log() if one.action == "withdrawal_waits"]
        assert "for too long" in waits[0].reason
    assert record.registry.keep_trust() == []
    assert record.registry.approvals.approved([ref]) == []


# A key in a service, by itself.


def hanging(folder: Path, name: str = "key.pem") -> Signer:
    public = new_key(folder / name)
    return signer(f"hung:{folder / name}", public, "runner")


def test_a_question_that_hangs_is_given_up_and_not_asked_again_at_once(
    tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, other = hanging(tmp_path), hanging(tmp_path, "other.pem")
    service.hang()
    for _ in range(3):
        with pytest.raises(ServiceFailed, match="does not answer") as caught:
            key.sign(b"x")
    assert service.asked == 1
    assert f"runner {key.public_key.keyid[:12]}" in caught.value.evidence
    with pytest.raises(ServiceFailed):
        other.sign(b"x")
    assert service.asked == 2, "another key is another question"
    monkeypatch.setattr(services, "AGAIN_S", 0.0)
    with pytest.raises(ServiceFailed):
        key.sign(b"x")
    assert service.asked == 3


def test_a_service_that_answers_again_is_used_again(tmp_path: Path, service: Service) -> None:
    key = hanging(tmp_path)
    service.hang()
    with pytest.raises(ServiceFailed):
        key.sign(b"x")
    service.answers.set()
    for one in [one for one in threading.enumerate() if isinstance(one, services._Call)]:
        one.join(BOUND_S)
    key.public_key.verify_signature(key.sign(b"x"), b"x")


def test_a_service_that_hangs_when_it_is_opened_is_given_up(
    tmp_path: Path, service: Service
) -> None:
    service.hang()
    with pytest.raises(ServiceFailed, match="does not answer"):
        in_time(lambda: hanging(tmp_path, "opens-late.pem"))


def test_what_a_service_raises_is_raised(tmp_path: Path, service: Service) -> None:
    key = hanging(tmp_path)

    def refuse(payload: bytes) -> Signature:
        raise LookupError(payload)

    key._within.sign = refuse  # type: ignore[attr-defined]
    with pytest.raises(LookupError):
        key.sign(b"x")
