"""Keys of robots as a person sets them: made with the enrolment or on the robot, and revoked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from control_plane import ControlPlane
from typed_trust import (
    GATES,
    Run,
    done,
    hardened,
    opened,
    promote,
    registered,
    signing,
    tried,
)

from fleet.agent.admission import Admission
from fleet.agent.identity import Identity
from registry.errors import PolicyctlError
from registry.trust.documents import check_assignment
from registry.versions import digest_bytes

ROBOT = """
robot: robot-01
class: openarm-v2-right
on_host_loss: hold
arms:
  - name: right
    bus: {interface: twin}
twin: {seed: 7, task: box-grasp, box: {mass: [0.8, 1.0], friction: [0.5, 0.5]}}
"""


def test_an_enrolled_robot_has_a_key_and_believes_the_keyring(run: Run, tmp_path: Path) -> None:
    done(run("trust", "init"))
    (tmp_path / "robot.yaml").write_text(ROBOT)
    enrolled = done(run("robot", "enrol", "robot.yaml"))["robots"][0]
    identity = Identity(tmp_path / ".policyctl" / "agents" / "robot-01")
    assert identity.make_key().keyid == enrolled["key"]
    assert enrolled["key_waits"] is False
    keyring = identity.keyring()
    assert keyring is not None
    assert [one.keyid for one in keyring.of_robot("robot-01")] == [enrolled["key"]]
    again = done(run("robot", "enrol", "robot.yaml"))["robots"][0]
    assert again["key"] == enrolled["key"]
    (tmp_path / "gates.yaml").write_text(GATES)
    with opened(tmp_path) as registry:
        ref = registered(tmp_path, registry)
    done(run("promote", str(ref), "--stage", "canary", "--gates", "gates.yaml", "--yes"))
    with opened(tmp_path) as registry:
        told = registry.assignment("robot-01")
        assert told is not None
        check_assignment(told, keyring)


def test_an_enrolled_robot_has_the_root_that_no_server_can_hide(run: Run, tmp_path: Path) -> None:
    (tmp_path / "robot.yaml").write_text(ROBOT)
    folder = tmp_path / ".policyctl" / "agents" / "robot-01" / "trust"
    done(run("robot", "enrol", "robot.yaml"))
    assert not folder.exists(), "no trust, no root"
    first = Path(done(run("trust", "init"))["anchor"]).read_bytes()
    done(run("robot", "enrol", "robot.yaml"))
    assert (folder / "anchor.json").read_bytes() == first
    admission = Admission(folder, ControlPlane())  # shows no metadata at all
    with pytest.raises(PolicyctlError):
        admission.admit("box-grasp", 1, digest_bytes(b""), here=False, baseline=False)


def test_an_enrolled_robot_has_the_newest_root(run: Run, tmp_path: Path) -> None:
    """Keys that were replaced before, one of them stolen, give it no other."""
    done(run("trust", "init"))
    key = done(run("trust", "status"))["roles"][0]["keys"][0]["key"]
    done(run("trust", "recover", key, "--yes"))
    (tmp_path / "robot.yaml").write_text(ROBOT)
    done(run("robot", "enrol", "robot.yaml"))
    anchor = tmp_path / ".policyctl" / "agents" / "robot-01" / "trust" / "anchor.json"
    root = json.loads(anchor.read_bytes())["signed"]
    assert root["version"] > 1
    assert key not in root["keys"]


def test_an_enrolment_replaces_no_root_that_the_robot_has(run: Run, tmp_path: Path) -> None:
    (tmp_path / "robot.yaml").write_text(ROBOT)
    done(run("trust", "init"))
    anchor = tmp_path / ".policyctl" / "agents" / "robot-01" / "trust" / "anchor.json"
    anchor.parent.mkdir(parents=True)
    anchor.write_bytes(b"given by hand")
    done(run("robot", "enrol", "robot.yaml"))
    assert anchor.read_bytes() == b"given by hand"


@pytest.mark.slow
def test_a_key_that_waited_beside_a_version_is_the_homes_when_both_are_approved(
    run: Run, tmp_path: Path
) -> None:
    hardened(run)
    (tmp_path / "robot.yaml").write_text(ROBOT)
    assert done(run("robot", "enrol", "robot.yaml"))["robots"][0]["key_waits"] is True
    assert promote(run, tried(tmp_path)).status == 8
    assert run("approve", "box-grasp v1", *signing("dora")).status == 8
    assert done(run("trust", "roles"))["keyring"]["robots"] == {}
    done(run("approve", "box-grasp v1", *signing("emil")))
    assert list(done(run("trust", "roles"))["keyring"]["robots"]) == ["robot-01"]
    assert done(run("robot", "enrol", "robot.yaml"))["robots"][0]["key_waits"] is False


def test_a_robots_key_may_be_made_on_the_robot(run: Run, tmp_path: Path) -> None:
    (tmp_path / "robot.yaml").write_text(ROBOT)
    done(run("trust", "key", "on-the-robot"))
    assert run("robot", "enrol", "robot.yaml", "--key", "on-the-robot.pub").status == 2
    done(run("trust", "init"))
    done(run("robot", "enrol", "robot.yaml", "--key", "on-the-robot.pub"))
    assert list(done(run("trust", "roles"))["keyring"]["robots"]) == ["robot-01"]
    assert not (tmp_path / ".policyctl" / "agents" / "robot-01").exists()


def test_trust_that_begins_late_gives_robots_keys_and_asks_nothing_of_the_past(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "robot.yaml").write_text(ROBOT)
    done(run("robot", "enrol", "robot.yaml"))
    (tmp_path / ".policyctl" / "agents" / "robot-01").mkdir(parents=True)
    with opened(tmp_path) as registry:
        registered(tmp_path, registry)
        registry.enrol_robot("elsewhere", "openarm-v2-right")
    begun = done(run("trust", "init"))
    assert begun["robots_without_key"] == ["elsewhere"]
    keyring = done(run("trust", "roles"))["keyring"]
    assert list(keyring["robots"]) == ["robot-01"]
    assert keyring["since"]
    assert done(run("verify"))["statements"] == 0
    with opened(tmp_path) as registry:
        registered(tmp_path, registry)
    assert done(run("verify"))["statements"] == 1


def test_revoking_is_for_keys_that_publish_judge_or_direct(run: Run, tmp_path: Path) -> None:
    done(run("trust", "init"))
    (tmp_path / "robot.yaml").write_text(ROBOT)
    key = done(run("robot", "enrol", "robot.yaml"))["robots"][0]["key"]
    refused = run("trust", "revoke", key, "--yes")
    assert refused.status == 5
    assert "--stolen" in refused.out
    done(run("trust", "revoke", key, "--stolen", "--yes"))
    assert done(run("trust", "roles"))["keyring"]["robots"] == {}
