"""What approvers take back while it runs: it ends with its attempt, also under the same order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from control_plane import ControlPlane
from scripted_policies import write_checkpoint
from trust import GATES, Line, Vault, ref
from world import Robot

from fleet.agent.identity import Identity

NAME = "robot-01"
HALF = {"ratio": "1/2", "salt": "pepper", "segment": 0}

pytestmark = pytest.mark.slow


class Approved(ControlPlane):
    """A control plane in memory that shows a vault's trust files, or hides them."""

    def __init__(self, vault: Vault) -> None:
        super().__init__()
        self.line = Line(vault.folder)

    def published(self, path: str) -> Iterator[bytes]:
        yield from self.line(path, 0)


class Scene:
    """One robot, and a hardened home whose approvers stand behind versions 1 and 2."""

    def __init__(self, folder: Path) -> None:
        self.vault = Vault(folder).init().harden()
        self.clock = self.vault.clock
        self.plane = Approved(self.vault)
        self.digests = {
            number: self.plane.publish(write_checkpoint(folder / f"v{number}", rate))
            for number, rate in {1: 1.0, 2: 0.0}.items()
        }
        for number in self.digests:
            self.approve(number)
        identity = Identity(folder / NAME, self.keyring)
        identity.make_key()
        self.robot = Robot(NAME, folder, self.plane, self.clock, identity=identity)

    def keyring(self) -> bytes | None:
        admission = self.robot.updater._admission
        assert admission is not None
        return admission.file("keyring.json")

    def approve(self, number: int) -> None:
        content = self.plane.blobs[self.digests[number]]
        self.vault.with_keys("dora", "emil").approve(ref(number), content, GATES)

    def withdraw(self, number: int) -> None:
        self.vault.with_keys("dora", "emil").withdraw([ref(number)])

    def order(self, **fields: Any) -> None:
        self.plane.assign(NAME, digests=self.digests, **fields)

    def rounds(self, count: int) -> list[int]:
        before = len(self.robot.ran)
        for _ in range(count):
            self.robot.tick()
        return [ran.version for ran in self.robot.ran[before:]]

    @property
    def status(self) -> Any:
        return self.plane.last_status(NAME)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_a_baseline_that_was_taken_back_ends_though_its_order_repeats(scene: Scene) -> None:
    scene.order(baseline=1)
    assert scene.rounds(2) == [1, 1]
    scene.withdraw(1)
    scene.clock.passes(30.0)
    assert scene.rounds(3) == []
    assert "taken back" in scene.status["problem"]
    scene.robot.weather.down = True
    scene.clock.passes(120.0)
    assert scene.rounds(3) == [], "silence does not bring it back"
    scene.robot.restart()
    assert scene.rounds(3) == []


def test_an_order_that_names_another_and_a_new_approval_go_on(scene: Scene) -> None:
    scene.order(baseline=1)
    scene.rounds(1)
    scene.withdraw(1)
    scene.clock.passes(30.0)
    assert scene.rounds(1) == []
    scene.order(baseline=2)
    assert scene.rounds(1) == [2]
    scene.approve(1)
    scene.order(baseline=1)
    assert scene.rounds(1) == [1]
    assert scene.status["problem"] == ""


def test_a_candidate_that_was_taken_back_leaves_the_baseline_alone(scene: Scene) -> None:
    scene.order(candidate=2, baseline=1, **HALF)
    assert sorted(scene.rounds(4)) == [1, 1, 2, 2]
    scene.withdraw(2)
    scene.clock.passes(30.0)
    assert scene.rounds(4) == [1] * 4
    assert "v2 was taken back" in scene.status["problem"]


def test_out_of_contact_and_under_nonsense_the_baseline_goes_on(scene: Scene) -> None:
    scene.order(baseline=1)
    scene.rounds(1)
    scene.withdraw(1)
    scene.robot.weather.down = True
    scene.clock.passes(30.0)
    assert scene.rounds(2) == [1, 1]
    scene.robot.weather.down = False
    scene.plane.line.instead = {"metadata/timestamp.json": b"{}"}
    scene.clock.passes(30.0)
    assert scene.rounds(2) == [1, 1]
    scene.plane.line.instead = {}
    scene.clock.passes(10 * 86400)  # expired
    assert scene.rounds(2) == [1, 1]


def test_a_last_good_baseline_ends_also_where_the_newest_cannot_be_had(scene: Scene) -> None:
    scene.order(baseline=1)
    scene.rounds(1)
    scene.robot.weather.corrupt = {scene.digests[2]}
    scene.order(baseline=2)
    assert scene.rounds(2) == [1, 1]
    scene.withdraw(1)
    scene.clock.passes(30.0)
    assert scene.rounds(2) == []


def test_the_metadata_is_asked_for_no_more_often_than_before(scene: Scene) -> None:
    scene.order(baseline=1)
    scene.rounds(2)
    asked = len(scene.plane.line.asked)
    scene.rounds(10)
    assert len(scene.plane.line.asked) == asked
    scene.clock.passes(30.0)
    scene.rounds(10)
    timestamps = [one for one in scene.plane.line.asked[asked:] if "timestamp" in one]
    assert len(timestamps) == 1


def test_a_list_that_cannot_be_kept_is_no_reason_to_run(scene: Scene) -> None:
    scene.order(baseline=1)
    scene.rounds(1)
    (scene.robot._folder / "trust" / "admitted.json").write_bytes(b"{")
    assert scene.rounds(1) == [1]
    scene.withdraw(1)
    scene.clock.passes(30.0)
    assert scene.rounds(3) == []
