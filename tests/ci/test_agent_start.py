"""How the agent's program fails before its robot moves: three lines, the right exit status."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ci.agent import main
from ci.cli.main import main as policyctl
from ci.rig import Rig
from fleet.agent.spool import Spool
from fleet.agent.supervisor import Supervisor
from fleet.servo import Servo
from registry.errors import Refused

ROBOT = {
    "robot": "robot-01",
    "class": "openarm-v2-right",
    "arms": [{"name": "right", "bus": {"interface": "twin"}}],
    "twin": {"seed": 7},
}
Start = Callable[..., tuple[int, str]]


@pytest.fixture
def start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Start:
    """Starts the agent in a home of its own, to end before its first attempt; what it says."""
    monkeypatch.delenv("POLICYCTL_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    Path("robot.yaml").write_text(yaml.safe_dump(ROBOT))
    for words in (["init"], ["trust", "init", "--yes"], ["robot", "enrol", "robot.yaml"]):
        with pytest.raises(SystemExit) as ended:
            policyctl(words)
        assert ended.value.code == 0
    capfd.readouterr()

    def typed(*words: str) -> tuple[int, str]:
        status = 0
        try:
            main(["robot.yaml", "--max-attempts", "0", *words])
        except SystemExit as ended:
            status = int(ended.code or 0)
        return status, capfd.readouterr().err

    return typed


def _not_a_database(state: Path) -> None:
    (state / "spool.db").write_bytes(b"no database" * 1000)


def _a_folder(state: Path) -> None:
    (state / "spool.db").mkdir()


def _lock_is_a_folder(state: Path) -> None:
    (state / "spool.db.lock").mkdir()


@pytest.mark.parametrize("spoil", [_not_a_database, _a_folder, _lock_is_a_folder])
def test_a_spool_that_does_not_open(
    start: Start, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    spoil(state)
    status, said = start("--state", str(state))
    assert status == 9
    assert "Traceback" not in said
    assert str(state / "spool.db") in said
    assert "hint:" in said


def test_a_state_folder_that_cannot_be_made(start: Start, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    status, said = start("--state", str(tmp_path / "file" / "state"))
    assert status == 9
    assert "Traceback" not in said


def test_an_error_of_the_system_while_starting_is_no_traceback(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "calibration.json")

    monkeypatch.setattr("ci.rig.build_rig", unreadable)
    status, said = start("--state", str(tmp_path / "state"))
    assert status == 9
    assert "Traceback" not in said
    assert "calibration.json: Permission denied" in said
    Spool(tmp_path / "state" / "spool.db", "robot-01").close_file()  # it was let go


def full(path: Path, content: bytes) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_monitor_file_that_cannot_be_written_keeps_no_spool(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ci.agent.write_whole", full)
    state = tmp_path / "state"
    status, said = start("--state", str(state))
    assert status == 9
    assert "Traceback" not in said
    Spool(state / "spool.db", "robot-01").close_file()


def test_a_monitor_file_that_cannot_be_written_hides_no_error_before_it(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise Refused("the robot may not go on")

    monkeypatch.setattr(Supervisor, "loop", fails)
    monkeypatch.setattr("ci.agent.write_whole", full)
    state = tmp_path / "state"
    status, said = start("--state", str(state))
    assert status == 5
    assert "error: the robot may not go on" in said
    assert str(state) in said  # and what kept the file from being written
    Spool(state / "spool.db", "robot-01").close_file()


@pytest.mark.parametrize("when", ["starting", "working"])
def test_whatever_fails_the_arm_is_stopped_before_its_bus_is_let_go(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    ends: list[str] = []
    stop, close = Servo.protective_stop, Rig.close

    def stops(servo: Servo, reason: str) -> None:
        stop(servo, reason)
        ends.append(reason)

    def closes(rig: Rig) -> None:
        close(rig)
        ends.append("closed")

    def fails(*_: object, **__: object) -> None:
        raise Refused("no")

    monkeypatch.setattr(Servo, "protective_stop", stops)
    monkeypatch.setattr(Rig, "close", closes)
    monkeypatch.setattr(Supervisor, "__init__" if when == "starting" else "loop", fails)
    status, _ = start("--state", str(tmp_path / "state"))
    assert status == 5
    assert ends == ["agent_stopped", "closed"]


def test_a_key_that_cannot_sign_is_said_before_anything_moves(start: Start, tmp_path: Path) -> None:
    key = tmp_path / ".policyctl" / "agents" / "robot-01" / "robot.pem"
    key.write_text("no key")
    status, said = start()
    assert status == 2
    assert str(key) in said
    assert "ready" not in said


def test_a_root_that_is_none_is_named(start: Start, tmp_path: Path) -> None:
    (tmp_path / "root.json").write_text("{}")
    status, said = start("--trust-root", str(tmp_path / "root.json"))
    assert status == 2
    assert str(tmp_path / "root.json") in said
    assert "trust status" in said
