"""`policyctl arm` against the twin in this process and over a bus another thread answers on."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import can
import numpy as np
import pytest
from click.testing import CliRunner
from said import Said

from ci.cli.main import cli
from fleet.can import frames
from fleet.can.motors import Register
from harness.twin.bus import TwinBridge
from harness.twin.physics import TwinConfig, TwinWorld
from registry.errors import PolicyctlError, UsageError


def typed(*words: str, stdin: str | None = None) -> Said:
    result = CliRunner().invoke(cli, [*words, "--output", "json"], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Said(result.exit_code, result.stdout, result.stderr)


HANDS: list[np.ndarray] = []
"""Poses that a person moves the arm through, in turn."""


@pytest.fixture
def served() -> Iterator[TwinWorld]:
    """A twin whose motors answer on a virtual bus."""
    world, done = TwinWorld(TwinConfig(seed=1)), threading.Event()
    with can.Bus("arm-command", "virtual", ignore_config=True) as bus:
        bridge = TwinBridge(world, bus)

        def serve() -> None:
            turn = 0
            while not done.is_set():
                if HANDS:
                    turn += 1
                    world.park("right", HANDS[turn // 4 % len(HANDS)])
                    world.bank().moved()
                bridge.serve(0.02)

        thread = threading.Thread(target=serve)
        thread.start()
        yield world
        done.set()
        thread.join()


VIRTUAL = ("--interface", "virtual", "--channel", "arm-command")
TWIN = ("--interface", "twin")


def test_scan_finds_eight_motors_over_a_real_bus(served: TwinWorld) -> None:
    before = served.joints()
    motors = typed("arm", "scan", *VIRTUAL).data["motors"]
    assert [(m["esc_id"], m["answers_on"]) for m in motors] == [(i, 0x10 + i) for i in range(1, 9)]
    assert [m["vmax"] for m in motors] == [45, 45, 10, 10, 30, 30, 30, 30]
    assert {m["status"] for m in motors} == {"disabled"}
    assert (served.joints() == before).all()


def test_scan_names_what_does_not_answer_and_what_answers_wrongly(served: TwinWorld) -> None:
    bank = served.bank()
    bank.mute(3)
    bank.receive(frames.PARAMETER_ID, frames.write_register(6, Register.MST_ID, 0), 0.0)
    with pytest.raises(Exception, match="2 of 8 motors") as caught:
        typed("arm", "scan", *VIRTUAL)
    assert "joint4 (silent), joint6 (on 0x000)" in caught.value.evidence  # type: ignore[attr-defined]
    assert caught.value.exit_status == 9  # type: ignore[attr-defined]


def test_monitor_tells_every_motor(served: TwinWorld) -> None:
    said = typed("arm", "monitor", *VIRTUAL, "--seconds", "0.2")
    motors = said.data["motors"]
    assert [m["joint"] for m in motors] == [*(f"joint{i}" for i in range(1, 8)), "gripper"]
    assert all(m["age_ms"] < 200 for m in motors)
    assert motors[1]["deg"] == pytest.approx(44.1, abs=1.0)
    assert served.bank().saves == 0


def test_zero_is_asked_for_and_confirmed() -> None:
    with pytest.raises(Exception, match="nothing was changed"):
        typed("arm", "zero", *TWIN, stdin="n\n")
    zeroed = typed("arm", "zero", *TWIN, "--joint", "joint2", "--yes").data["zeroed"]
    assert [row["joint"] for row in zeroed] == ["joint2"]
    assert abs(zeroed[0]["before"]) > 0.5
    assert abs(zeroed[0]["after"]) < 1e-3


@pytest.mark.slow
def test_limits_are_what_the_joints_were_moved_through(served: TwinWorld, tmp_path: Path) -> None:
    file = tmp_path / "arm.json"
    with pytest.raises(Exception, match="were not moved"):
        typed("arm", "limits", *VIRTUAL, "--seconds", "0.1", "--save", str(file))
    assert not file.exists()
    HANDS.extend((served.joints() + 0.12, served.joints() - 0.12))
    try:
        typed("arm", "limits", *VIRTUAL, "--seconds", "1", "--save", str(file))
    finally:
        HANDS.clear()
    joints = json.loads(file.read_text())["joints"]
    assert joints["joint2"]["high"] - joints["joint2"]["low"] == pytest.approx(0.24, abs=0.02)
    with pytest.raises(Exception, match="exists already"):
        typed("arm", "limits", *VIRTUAL, "--save", str(file))


@pytest.mark.parametrize("words", [(), ("--interface", "twin", "--robot", "x.yaml")])
def test_one_bus_has_to_be_named(words: tuple[str, ...]) -> None:
    with pytest.raises(Exception, match="name one bus"):
        typed("arm", "scan", *words)


def test_limits_look_for_the_folder_before_anybody_moves_the_arm(tmp_path: Path) -> None:
    path = tmp_path / "none" / "right.json"
    with pytest.raises(UsageError, match="no such folder"):
        typed("arm", "limits", "--interface", "twin", "--save", str(path), "--seconds", "0.1")


@pytest.mark.parametrize("port", ["--5", "\u00b2"])
def test_an_option_that_is_no_number_is_told(port: str) -> None:
    with pytest.raises(PolicyctlError):
        typed("arm", "scan", "--interface", "udp_multicast", "--option", f"port={port}")


@pytest.mark.parametrize("words", [("arm", "scan", "--interface", "twin"), ("twin", "run")])
def test_a_seed_below_0_is_a_usage_error(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli, [*words, "--seed", "-1"])
    assert result.exit_code == UsageError.exit_status
    assert "--seed" in result.output
