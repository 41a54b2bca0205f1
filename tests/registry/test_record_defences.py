"""What nobody talks the record into: forged or stale evidence, ways forward that look like ways
back, and events that would keep a robot from being called back."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from record import HIL, POLICY, SIM, Record

from registry.errors import Refused
from registry.rollouts import Phase
from registry.stages import Stage
from registry.statistics.grid import order_digest
from registry.verdicts import judge
from registry.versions import VersionRef

BIMANUAL = "openarm-v2-bimanual"


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(tmp_path, robots=6)


def test_an_order_that_the_registry_did_not_draw_is_refused(record: Record) -> None:
    ref = record.register()
    found = record.evidence(ref, SIM, successes=100)
    chosen = replace(found, nonce="lucky", order_digest=order_digest("lucky", SIM.population))
    with pytest.raises(Refused, match="order that the registry chose"):
        record.registry.record_verdict(ref, SIM, chosen, judge(SIM, chosen))
    assert record.registry.version(ref).stage is Stage.REGISTERED
    assert record.registry.verdicts(ref) == []


def test_evidence_of_another_robot_class_is_refused(record: Record) -> None:
    ref = record.register()
    found = replace(record.evidence(ref, HIL, success=20, failure=0), robot_class=BIMANUAL)
    with pytest.raises(Refused, match="robot class"):
        record.registry.record_verdict(ref, HIL, found, judge(HIL, found))


def test_going_back_to_the_version_under_trial_would_be_going_forward(record: Record) -> None:
    record.to_fleet()
    record.to_fleet()
    record.registry.rollback(POLICY, "v2 drops boxes")
    again = record.promote(VersionRef(POLICY, 2), override="try again", reason="try again")
    with pytest.raises(Refused, match="not a version to go back to"):
        record.registry.rollback(POLICY, "the wrong number", to=2)
    assert record.registry.serving(POLICY) == 1
    assert record.registry.rollout(again.id).rollout.phase is Phase.CANARY
