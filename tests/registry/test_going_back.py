"""Going back in the record: always possible while a good version is left, never forward."""

from pathlib import Path

import pytest
from record import POLICY, Record

from registry.errors import (
    NotFound,
    Refused,
    UsageError,
)
from registry.rollouts import Phase
from registry.stages import Stage
from registry.versions import VersionRef

pytestmark = pytest.mark.slow


@pytest.fixture
def record(tmp_path: Path, database: str | None) -> Record:
    return Record(tmp_path, robots=6, database=database)


def test_rollback_with_nothing_to_go_back_to_is_refused(record: Record) -> None:
    with pytest.raises(NotFound, match="no policy"):
        record.registry.rollback(POLICY, "why")
    record.ready()
    with pytest.raises(Refused, match="nothing to go back to"):
        record.registry.rollback(POLICY, "why")
    record.to_fleet()
    with pytest.raises(Refused, match="nothing to go back to"):
        record.registry.rollback(POLICY, "why")


def test_rollback_returns_every_robot_to_the_newest_good_version(record: Record) -> None:
    for _ in range(3):
        record.to_fleet()
    before = {robot.assigned_generation for robot in record.registry.robots()}
    target = record.registry.rollback(POLICY, "drops the red ones", now=True)
    assert target.number == 2
    assert record.told() == {(None, 2)}
    assert record.registry.version(VersionRef(POLICY, 3)).stage is Stage.ROLLED_BACK
    after = {robot.assigned_generation for robot in record.registry.robots()}
    assert min(after) > max(before)
    told = record.registry.assignment("robot-01")
    assert told is not None
    assert (told.stop, told.digests) == ("now", {2: target.digest})
    assert record.registry.rollback(POLICY, "that one too").number == 1


def test_rollback_may_name_its_target_but_never_goes_forward(record: Record) -> None:
    for _ in range(3):
        record.to_fleet()
    new = record.ready()
    with pytest.raises(Refused, match="never held the fleet"):
        record.registry.rollback(POLICY, "why", to=new.number)
    with pytest.raises(Refused, match="already told to run"):
        record.registry.rollback(POLICY, "why", to=3)
    assert record.registry.rollback(POLICY, "why", to=1, dry_run=True).number == 1
    assert record.told() == {(None, 3)}
    assert record.registry.rollback(POLICY, "why", to=1).number == 1
    assert record.told() == {(None, 1)}
    with pytest.raises(Refused, match="stage is rolled_back"):
        record.registry.rollback(POLICY, "why", to=3)
    with pytest.raises(UsageError, match="reason"):
        record.registry.rollback(POLICY, " ")


def test_after_going_back_over_a_version_the_next_rollback_does_not_go_up_to_it(
    record: Record,
) -> None:
    for _ in range(3):
        record.to_fleet()
    record.registry.rollback(POLICY, "both are bad", to=1)
    stages = [version.stage for version in record.registry.list_versions(POLICY)]
    assert stages == [Stage.FLEET, Stage.ROLLED_BACK, Stage.ROLLED_BACK]
    audit = record.registry.verify_audit().seq
    with pytest.raises(Refused, match="nothing to go back to"):
        record.registry.rollback(POLICY, "this one too")
    with pytest.raises(Refused, match="not a version to go back to") as caught:
        record.registry.rollback(POLICY, "that was better", to=2)
    assert "promote 'box-grasp v2' --stage canary --override --reason WHY" in caught.value.hint
    record.promote(record.ready())
    with pytest.raises(Refused, match="not a version to go back to"):
        record.registry.rollback(POLICY, "nor out of a rollout", to=2)
    assert record.registry.rollback(POLICY, "the candidate is bad").number == 1
    assert record.told() == {(None, 1)}
    assert record.registry.verify_audit().seq > audit
    again = record.promote(VersionRef(POLICY, 2), override="the gripper was worn")
    assert record.play(again.id, {1: 1.0, 2: 1.0}).rollout.phase is Phase.DONE


def test_a_version_promoted_late_goes_back_to_the_newer_one_it_replaced(record: Record) -> None:
    """Older means: on the fleet before; the number only says who was registered first."""
    record.to_fleet()
    late = record.ready()
    record.to_fleet()
    assert record.play(record.promote(late).id, {2: 1.0, 3: 1.0}).rollout.phase is Phase.DONE
    assert record.registry.rollback(POLICY, "the old one was better").number == 3
    assert record.registry.rollback(POLICY, "that one too").number == 1


def test_rollback_ends_an_open_rollout_and_those_that_wait(record: Record) -> None:
    record.to_fleet()
    opened = record.promote(record.ready())
    waiting = record.promote(record.ready(), queue=True)
    assert record.registry.rollback(POLICY, "why").number == 1
    assert record.registry.rollout(opened.id).rollout.phase is Phase.ROLLED_BACK
    assert record.registry.rollout(waiting.id).rollout.phase is Phase.ABORTED
    assert record.told() == {(None, 1)}
    assert record.registry.serving(POLICY) == 1


def test_rollback_out_of_a_rollout_to_an_older_version(record: Record) -> None:
    record.to_fleet()
    record.to_fleet()
    record.promote(record.ready())
    assert record.registry.rollback(POLICY, "both are bad", to=1).number == 1
    assert record.told() == {(None, 1)}
    stages = [version.stage for version in record.registry.list_versions(POLICY)]
    assert stages == [Stage.FLEET, Stage.ROLLED_BACK, Stage.ROLLED_BACK]
