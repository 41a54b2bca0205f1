"""Orders that the director signs: every one, anew while a candidate runs, and without waiting."""

from __future__ import annotations

from pathlib import Path

import pytest
from record import POLICY, Record, keys_of
from sqlalchemy import delete, update

from registry.errors import Corrupt, PolicyctlError
from registry.ledger.tables import assignments, renewals
from registry.service import Actor, Registry
from registry.trust.documents import check_assignment

pytestmark = pytest.mark.slow


@pytest.fixture
def record(tmp_path: Path, database: str | None) -> Record:
    return Record(tmp_path, robots=6, database=database, trust=True)


def test_every_assignment_is_signed_by_the_director(record: Record) -> None:
    record.promote(record.ready())
    told = [record.registry.assignment(robot.name) for robot in record.registry.robots()]
    assert {check_assignment(one, keys_of(record).keyring) for one in told if one} == {
        keys_of(record).public["director"].keyid
    }


@pytest.mark.parametrize("document", [{"schema": "policyctl.assignment/9"}, [], {"surprise": 1}])
def test_an_assignment_that_was_edited_into_nonsense_is_corrupt(
    record: Record, document: object
) -> None:
    robot = record.promote(record.ready()).rollout.cohort[0]
    with record.registry._ledger.write() as connection:
        for table in (assignments, renewals):
            connection.execute(update(table).values(document=document))
    with pytest.raises(Corrupt, match="is none") as found:
        record.registry.assignment(robot)
    assert robot in found.value.evidence


def test_a_candidates_permission_is_renewed_for_each_challenge_of_its_robot(record: Record) -> None:
    opened = record.promote(record.ready())
    robot, other = opened.rollout.cohort[:2]
    first = record.registry.assignment(robot)
    assert first is not None
    assert record.registry.renew_assignments() == 0
    for challenge in ("now", "andnow"):
        record.ask(robot, challenge)
        assert record.registry.renew_assignments() == 1
        assert record.registry.renew_assignments() == 0
        later = record.registry.assignment(robot)
        assert later is not None
        assert check_assignment(later, keys_of(record).keyring)
        assert (later.answers, later.terms) == (challenge, first.terms)
    record.ask(other, "now")
    record.attempt(robot, "success")
    record.registry.abort(POLICY, "enough")
    record.ask(robot, "more")
    assert record.registry.renew_assignments() == 0  # nobody has a candidate now


def test_a_clock_that_was_wrong_and_is_put_right_renews_and_orders_as_always(
    record: Record,
) -> None:
    ref = record.ready()
    record.clock.time += 86400.0
    robot = record.promote(ref).rollout.cohort[0]
    record.ask(robot, "ahead")
    assert record.registry.renew_assignments() == 1
    record.clock.time -= 86400.0
    record.ask(robot, "right")
    assert record.registry.renew_assignments() == 1
    told = record.registry.assignment(robot)
    assert told is not None
    assert (told.answers, told.issued_at) == ("right", record.clock.time)


@pytest.mark.parametrize("challenge", [None, 7, ["x"], "x" * 65, "\ud800", "a b", "ä"])
def test_what_is_no_challenge_is_not_answered(record: Record, challenge: object) -> None:
    robot = record.promote(record.ready()).rollout.cohort[0]
    record.ask(robot, challenge)
    assert record.registry.renew_assignments() == 0


def test_slow_keys_sign_in_turns_bare_orders_first(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round ends when its time is over, and the next goes on with who has waited longest."""
    monkeypatch.setattr("registry.record.renewals.ROUND_S", 0.0)
    cohort = record.promote(record.ready()).rollout.cohort
    while record.registry.renew_assignments():
        record.clock.time += 1.0
    for challenge in ("a", "b"):
        for robot in cohort:
            record.ask(robot, challenge)
        turns = []
        for _ in cohort:
            before = {one: record.registry.assignment(one) for one in cohort}
            assert record.registry.renew_assignments() == 1
            turns += [one for one in cohort if record.registry.assignment(one) != before[one]]
            record.clock.time += 1.0
        assert sorted(turns) == sorted(cohort)
        assert record.registry.renew_assignments() == 0
    record.ask(cohort[0], "c")
    with record.registry._ledger.write() as connection:
        connection.execute(delete(renewals).where(renewals.c.robot == cohort[1]))
    assert record.registry.renew_assignments() == 1
    bare = record.registry.assignment(cohort[1])
    assert bare is not None
    assert bare.envelope is not None


def test_a_round_with_nothing_to_sign_waits_for_no_writer(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    record.promote(record.ready())

    def taken() -> None:
        raise AssertionError("it wanted to write")

    monkeypatch.setattr(record.registry._ledger, "write", taken)
    assert record.registry.renew_assignments() == 0
    assert record.registry.renew_assignments() == 0


def test_the_first_order_of_a_rollout_answers_what_its_robot_asked_before(record: Record) -> None:
    ref = record.ready()
    for one in record.registry.robots():
        record.ask(one.name, one.name.replace("-", ""))
    robot = record.promote(ref).rollout.cohort[0]
    told = record.registry.assignment(robot)
    assert told is not None
    assert told.answers == robot.replace("-", "")


def test_without_the_directors_key_what_is_told_waits_for_the_server(
    record: Record, tmp_path: Path
) -> None:
    record.to_fleet(), record.to_fleet()
    keys = keys_of(record)
    signers = keys.signers.all()
    keys.signers.write({})
    record.registry.rollback(POLICY, "it drops plates")
    bare = record.registry.assignment("robot-01")
    assert bare is not None
    assert bare.envelope is None
    keys.signers.write(signers)
    server = Registry.open(record.home, Actor("server", "controller"), clock=record.clock)
    assert server.renew_assignments() == 6
    assert server.renew_assignments() == 0
    signed = record.registry.assignment("robot-01")
    assert signed is not None
    assert (signed.generation, signed.baseline) == (bare.generation, 1)
    assert signed.envelope is not None


@pytest.mark.parametrize("how", ["taken out", "file gone", "variable empty"])
def test_a_directors_key_that_cannot_be_used_keeps_nobody_from_going_back(
    record: Record, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    record.to_fleet(), record.to_fleet()
    keys = keys_of(record)
    if how == "taken out":
        keys.folder.write_keyring(keys.keyring.without(keys.public["director"].keyid))
    elif how == "file gone":
        keys.own("director").unlink()
    else:
        monkeypatch.setenv("POLICYCTL_SIGNER_DIRECTOR", "env:NOWHERE")
    server = Registry.open(record.home, Actor("server", "controller"), clock=record.clock)
    assert server.rollback(POLICY, "it drops plates").number == 1
    told = server.assignment("robot-01")
    assert told is not None
    assert (told.baseline, told.envelope) == (1, None)
    with pytest.raises(PolicyctlError):  # the server's round does not hide why it is unsigned
        server.renew_assignments()


def test_after_the_directors_key_was_replaced_everything_is_signed_anew(record: Record) -> None:
    record.to_fleet()
    assert record.registry.renew_assignments() == 0
    record.clock.time += 1.0
    new = keys_of(record).replace("director", "second", stolen=True)
    assert record.registry.renew_assignments() == 6
    told = record.registry.assignment("robot-01")
    assert told is not None
    assert told.envelope is not None
    assert [one["keyid"] for one in told.envelope["signatures"]] == [new.keyid]
