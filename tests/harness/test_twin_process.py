"""`policyctl twin run` in a process of its own: our driver and python-can's clients on it."""

from __future__ import annotations

import errno
import json
import re
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import can
import numpy as np
import pytest
from can.io.canutils import CanutilsLogReader
from machine import real_time
from twin_process import (
    COMMAND,
    PATIENT_S,
    ZERO,
    TwinProcess,
    closing_bus,
    column,
    eventually,
    free_port,
    hold,
    joined,
    make,
    refresh,
    running,
)

from fleet.can.arm import Arm
from fleet.can.bus import open_bus
from fleet.can.faults import ArmFault, FaultKind
from fleet.can.frames import PARAMETER_ID
from fleet.can.gains import STIFF
from fleet.can.motors import Register
from harness.twin.control import ask
from registry.errors import ServiceFailed, UsageError

pytestmark = [pytest.mark.slow, real_time]


@pytest.fixture
def twin(tmp_path: Path) -> Iterator[TwinProcess]:
    with TwinProcess(tmp_path) as found:
        yield found


def test_our_driver_connects_moves_and_lets_go(twin: TwinProcess) -> None:
    arm = Arm(joined(twin), fd=True, reply_window_s=PATIENT_S)
    start = arm.connect().q
    assert {info.firmware for info in arm.info} == {"V6417", "V5117", "V5017"}
    arm.enable()
    way = np.zeros(8)
    way[[3, 5]] = 0.3, -0.2
    for k in range(1, 201):
        arm.exchange(start + way * min(k / 100, 1.0), ZERO, STIFF.kp, STIFF.kd, ZERO)
        arm.wait(0.005)
    reached = arm.state.q - start
    arm.disconnect()
    assert reached[3] == pytest.approx(0.3, abs=0.05)
    assert arm.counters.rejected == arm.counters.foreign == arm.counters.send_errors == 0
    assert arm.counters.received == arm.counters.sent, "late on a busy machine, but none is lost"
    seen = twin.end()
    (state,) = seen["arms"]
    assert column(state, "high")[3] - start[3] == pytest.approx(0.3, abs=0.05), "physics moved"
    assert set(column(state, "status")) == {"disabled"}
    assert (state["saves"], state["zeroings"], state["refused"]) == (0, 0, 0)
    assert state["heard"] == arm.counters.sent
    assert seen["status"] == 0


def test_policyctl_arm_scan_finds_the_twin(twin: TwinProcess) -> None:
    words = ["arm", "scan", "--interface", "policyctl", "--channel", str(twin.channel), "--fd"]
    done = subprocess.run(
        [*COMMAND, *words, "--output", "json"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    motors = json.loads(done.stdout)["motors"]
    assert [(m["esc_id"], m["answers_on"]) for m in motors] == [(i, 0x10 + i) for i in range(1, 9)]
    assert {m["bit_rate"] for m in motors} == {5_000_000}
    assert f"policyctl {' '.join(words)}" in twin.told, "it says how to connect"


def test_it_follows_the_wall_clock(twin: TwinProcess) -> None:
    def look() -> tuple[float, float]:
        state = ask(twin.control, {"do": "state"})
        return time.monotonic(), state["time_s"] + state["slipped_s"]

    wall, passed = look()
    time.sleep(1.0)
    later, went_by = look()
    assert went_by - passed == pytest.approx(later - wall, abs=0.05)


def test_only_its_owner_may_open_the_sockets_and_they_go_with_it(twin: TwinProcess) -> None:
    for path in (twin.channel, twin.control):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert twin.end()["status"] == 0
    assert not twin.channel.exists()
    assert not twin.control.exists()


def test_ctrl_c_ends_it_with_130_and_says_what_was_seen(twin: TwinProcess) -> None:
    with closing_bus(joined(twin)) as bus:
        bus.send(refresh())
        assert bus.recv(5.0) is not None
        seen = twin.end(signal.SIGINT)
        assert seen["status"] == 130
        assert seen["arms"][0]["heard"] == 1
        with pytest.raises(can.CanOperationError) as caught:
            bus.recv(1.0)
        assert caught.value.error_code == errno.ENODEV
    with pytest.raises(ServiceFailed, match="does not open"):
        joined(twin)


def test_a_second_twin_on_the_same_socket_is_refused_and_a_killed_ones_is_replaced(
    tmp_path: Path,
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    shared = ("--interface", "policyctl", "--channel", str(tmp_path / "shared.sock"))
    with TwinProcess(first, interface=shared) as twin:
        with pytest.raises(AssertionError, match="is in use"):
            TwinProcess(second, interface=shared)
        twin.process.kill()
        twin.process.wait()
        with TwinProcess(second, interface=shared):
            bus = open_bus({"interface": "policyctl", "channel": str(tmp_path / "shared.sock")})
            bus.shutdown()


def test_a_second_twin_on_a_multicast_bus_is_refused(tmp_path: Path) -> None:
    """The kernel lets both in: each would answer every frame."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    udp = ("--interface", "udp_multicast", "--port", str(free_port()))
    with TwinProcess(first, interface=udp) as twin:
        with pytest.raises(AssertionError, match="answers on this bus"):
            TwinProcess(second, interface=udp)
        make(twin, "e_stop")
        with TwinProcess(second, interface=udp):
            pass  # who has no power does not answer


def test_who_breaks_it_is_told_what_stands_and_what_is_left_behind(tmp_path: Path) -> None:
    with TwinProcess(tmp_path, "--arm", "right", "--arm", "left") as twin:

        def say(*words: str) -> str:
            done = subprocess.run(
                [*COMMAND, "twin", "fault", *words, "--control", str(twin.control)],
                capture_output=True,
                text=True,
                timeout=60,
            )
            return done.stdout + done.stderr

        stands = say("overload", "--arm", "right", "--joint", "joint2")
        assert stands == "right: overload joint2; joint2: overload\nleft: no trouble\n"
        assert say("--clear").startswith("right: no trouble; joint2: overload\n")
        stands = say("e_stop", "--arm", "right")
        assert stands == (
            "right: e_stop; all motors: no power\nleft: no trouble; all motors: no power\n"
        )
        assert "which arm" in say("silent", "--joint", "joint2")
        assert "status cannot be that" in say(
            "motor", "--arm", "left", "--joint", "joint2", "--detail", "status=99"
        )


def test_programs_on_one_bus_hear_each_other_but_not_themselves(twin: TwinProcess) -> None:
    one, other = joined(twin), joined(twin)
    with closing_bus(one), closing_bus(other):
        one.send(refresh(2))
        ours = one.recv(5.0)
        assert ours is not None
        assert (ours.arbitration_id, ours.is_fd, ours.bitrate_switch) == (0x13, True, True)
        assert one.recv(0.1) is None
        heard = [other.recv(5.0), other.recv(5.0)]
        assert [msg.arbitration_id for msg in heard if msg] == [PARAMETER_ID, 0x13]
        assert abs(ours.timestamp - time.time()) < 5.0


def test_another_program_is_a_fault_of_a_running_arm(twin: TwinProcess) -> None:
    arm = running(twin)
    with closing_bus(joined(twin)) as stranger:
        stranger.send(refresh())
        with pytest.raises(ArmFault) as caught:
            hold(arm, 1.0)
    assert caught.value.kind is FaultKind.FOREIGN
    arm.close()


@pytest.mark.parametrize(
    ("fault", "joint", "kind"),
    [
        ("overload", "joint4", FaultKind.MOTOR),
        ("under_voltage", None, FaultKind.UNDER_VOLTAGE),
        ("disabled", "joint2", FaultKind.DISABLED),
        ("silent", "joint6", FaultKind.SILENT),
        ("power_off", None, FaultKind.DEAD_BUS),
        ("bus_off", None, FaultKind.BUS_OFF),
        ("adapter_lost", None, FaultKind.ADAPTER_LOST),
        ("foreign", None, FaultKind.FOREIGN),
    ],
)
def test_a_trouble_of_the_twin_is_the_drivers_fault_and_ends(
    twin: TwinProcess, fault: str, joint: str | None, kind: FaultKind
) -> None:
    arm = running(twin)
    make(twin, fault, joint=joint)
    with pytest.raises(ArmFault) as caught:
        hold(arm, 3.0)
    assert caught.value.kind is kind, caught.value.evidence
    make(twin, fault, joint=joint, clear=True)
    state = ask(twin.control, {"do": "state"})["arms"][0]
    assert state["faults"] == []
    if kind is FaultKind.DEAD_BUS:
        assert set(column(state, "status")) == {"disabled"}
        assert "purged" in caught.value.evidence
    arm.rebind(joined(twin))
    arm.find()
    arm.close()


def test_a_full_queue_refuses_as_many_frames_as_it_says(twin: TwinProcess) -> None:
    with closing_bus(joined(twin)) as bus:
        make(twin, "queue_full", details={"count": 3})
        refused = []

        def full() -> bool:
            try:
                bus.send(refresh())
            except can.CanOperationError as error:
                refused.append(error.error_code)
            bus.recv(0.01)
            return len(refused) == 3

        assert eventually(full)
        assert refused == [errno.ENOBUFS] * 3
        for _ in range(5):
            bus.send(refresh())


def test_frames_queued_on_a_dead_bus_outlive_their_program(twin: TwinProcess) -> None:
    with closing_bus(joined(twin)) as bus:
        make(twin, "dead_bus")
        for _ in range(8):
            bus.send(refresh())
        told = bus.recv(5.0)
        assert told is not None
        assert told.is_error_frame
    with closing_bus(joined(twin)) as heir:
        make(twin, "dead_bus", clear=True)
        replies = [heir.recv(5.0) for _ in range(8)]
        assert all(msg is not None and msg.arbitration_id == 0x11 for msg in replies)


def test_a_dead_bus_that_is_purged_replays_nothing_and_fills_up_if_it_is_not(
    twin: TwinProcess,
) -> None:
    with closing_bus(joined(twin)) as bus:
        make(twin, "dead_bus")
        for _ in range(512):
            bus.send(refresh())

        def blocked() -> bool:
            bus.recv(0.01)
            try:
                bus.send(refresh())
            except can.CanOperationError as error:
                return error.error_code == errno.ENOBUFS
            return False

        assert eventually(blocked)
        bus.flush_tx_buffer()
        assert eventually(lambda: not blocked()), "there is room again"
        bus.flush_tx_buffer()
        make(twin, "dead_bus", clear=True)
        while (msg := bus.recv(0.2)) is not None:
            assert msg.is_error_frame


def test_two_arms_each_behind_its_socket(tmp_path: Path) -> None:
    with TwinProcess(tmp_path, "--arm", "right", "--arm", "left") as twin:
        right, left = running(twin, "right"), running(twin, "left")
        make(twin, "other_arm", arm="right")
        hold(right, 0.3)
        with pytest.raises(ArmFault) as caught:
            hold(left, 2.0)
        assert (caught.value.kind, caught.value.arm) == (FaultKind.DEAD_BUS, "left")
        with pytest.raises(UsageError, match="which arm"):
            make(twin, "dead_bus")
        right.close()
        left.close()


def test_a_script_of_troubles_happens_in_time(twin: TwinProcess) -> None:
    script = twin.folder / "script.yaml"
    script.write_text(
        "- {at: 4.0, fault: silent, joint: joint4, clear: true}\n"
        "- {at: 0.2, fault: silent, joint: joint4}\n"
    )
    done = subprocess.run(
        [*COMMAND, "twin", "fault", "--script", str(script), "--control", str(twin.control)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr

    def standing() -> list[str]:
        return list(ask(twin.control, {"do": "state"})["arms"][0]["faults"])

    assert eventually(lambda: standing() == ["silent joint4"])
    assert eventually(lambda: standing() == [])
    assert "silent joint4: ended" in twin.told


def test_strangers_reach_it_over_multicast_and_socketcand(tmp_path: Path) -> None:
    """python-can's own clients; where a door is classic the motors answer in classic frames."""
    port = free_port()
    doors = ("--door", "socketcand,port=0")
    udp = ("--interface", "udp_multicast", "--channel", "239.74.163.91", "--port", str(port))
    with TwinProcess(tmp_path, *doors, interface=udp) as twin:
        tcp = int(re.findall(r"--option port=(\d+)", twin.told)[1])
        socketcand = {"channel": "can0", "host": "127.0.0.1", "port": tcp}
        with (
            closing_bus(can.Bus(interface="socketcand", ignore_config=True, **socketcand)) as near,
            closing_bus(
                open_bus({"interface": "udp_multicast", "channel": "239.74.163.91", "port": port})
            ) as far,
        ):
            ask_classic = refresh(3)
            ask_classic.is_fd = False
            near.send(ask_classic)
            reply = near.recv(5.0)
            assert reply is not None
            assert (reply.arbitration_id, reply.is_fd, len(reply.data)) == (0x14, False, 8)
            assert abs(reply.timestamp - time.time()) < 5.0
            heard = [far.recv(5.0), far.recv(5.0)]
            assert [msg.arbitration_id for msg in heard if msg] == [PARAMETER_ID, 0x14]
        bus = open_bus({"interface": "socketcand", **socketcand})
        arm = Arm(bus, reply_window_s=PATIENT_S, silent_after_s=0.5)
        arm.connect()
        arm.enable()
        hold(arm, 0.3)
        arm.disable(drop=True)
        assert arm.fault is None
        assert arm.info[0].bit_rate == 1_000_000
        arm.close()


def test_socketcand_answers_nonsense_and_goes_on(tmp_path: Path) -> None:
    door = ("--interface", "socketcand", "--port", "0")
    with TwinProcess(tmp_path, interface=door) as twin:
        port = int(re.findall(r"--option port=(\d+)", twin.told)[0])
        with socket.create_connection(("127.0.0.1", port), 5.0) as link:

            def said() -> str:
                text = ""
                while not text.endswith(">"):
                    text += link.recv(1).decode()
                return text

            assert said() == "< hi >"
            for sentence, answer in (
                ("< send 001 1 ff >", "< error could not open bus >"),
                ("< open can7 >", "< error could not open bus >"),
                ("< open can0 >", "< ok >"),
                ("< send 001 9 ff >", "< error unknown command >"),
                ("< send 001 2 ff >", "< error unknown command >"),
                ("< isotpmode >", "< error unknown command >"),
                ("< echo >", "< echo >"),
                ("< rawmode >", "< ok >"),
            ):
                link.sendall(sentence.encode())
                assert said() == answer, sentence
            link.sendall(b"< send 7FF 8 1 0 cc 0 0")
            link.sendall(b" 0 0 0 >")
            assert re.fullmatch(r"< frame 011 \d+\.\d{6} 01[0-9A-F]{14} >", said())


def test_what_passes_is_recorded_as_candump_writes_it(tmp_path: Path) -> None:
    log = tmp_path / "frames.log"
    with TwinProcess(tmp_path, "--record", str(log)) as twin:
        arm = running(twin)
        sent, received = arm.counters.sent, arm.counters.received
        arm.close()
        twin.end()
    read = list(CanutilsLogReader(log))
    assert len([m for m in read if not m.is_rx]) == sent
    assert len([m for m in read if m.is_rx]) == received
    assert {m.channel for m in read} == {"can0"}
    assert all(m.is_fd for m in read)
    times = [m.timestamp for m in read]
    assert times == sorted(times)
    assert abs(times[-1] - time.time()) < 60.0
    first = re.match(r"\(\d+\.\d{6}\) can0 7FF##10100CC", log.read_text())
    assert first, log.read_text()[:80]


def test_a_bus_with_the_time_that_frames_take(tmp_path: Path) -> None:
    log = tmp_path / "frames.log"
    with TwinProcess(tmp_path, "--wire", "--record", str(log)) as twin:
        arm = running(twin)
        assert arm.counters.missed == 0
        arm.disable(drop=True)
        arm.close()
        twin.end()
    times = np.array([m.timestamp for m in CanutilsLogReader(log)])
    assert np.diff(times).min() > 48e-6, "no two frames at once"


def test_registers_saved_survive_the_twins_hardware_e_stop(twin: TwinProcess) -> None:
    arm = Arm(joined(twin), fd=True, reply_window_s=PATIENT_S)
    arm.connect()
    arm.write_register(arm.motors[7], Register.OT_VALUE, 90.0)
    arm.write_register(arm.motors[6], Register.OT_VALUE, 90.0)
    arm.save_registers(arm.motors[7])
    make(twin, "e_stop")
    make(twin, "e_stop", clear=True)
    arm.find()
    assert arm.read_register(arm.motors[7], Register.OT_VALUE) == 90.0
    assert arm.read_register(arm.motors[6], Register.OT_VALUE) == 100.0
    arm.close()
    assert twin.end()["arms"][0]["saves"] == 1
