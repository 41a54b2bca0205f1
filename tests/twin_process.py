"""`policyctl twin run` as a process of its own, and programs on it, for tests."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import can
import numpy as np

from fleet.can import frames
from fleet.can.arm import Arm
from fleet.can.bus import open_bus
from fleet.can.frames import PARAMETER_ID
from fleet.can.gains import STIFF
from fleet.can.host_loss import HostLoss
from fleet.shared_memory import memory_folder
from harness.twin.control import ask
from harness.twin.monitor import FrameMonitor, FrameReport

STARTED_WITHIN_S = 60.0
PATIENT_S = 0.1
"""Reply window on a busy machine."""
ZERO = np.zeros(8)
COMMAND = (sys.executable, "-c", "from ci.cli.main import main; main()")


class TwinProcess:
    """A twin that runs until `end`; used as a context it ends by SIGTERM."""

    def __init__(self, folder: Path, *options: str, interface: Sequence[str] | None = None) -> None:
        """`interface` is by default a socket in `folder`."""
        self.folder = folder
        self.control = folder / "control.sock"
        self.channel = folder / "right.sock"
        if interface is None:
            interface = ("--interface", "policyctl", "--channel", str(folder / "{arm}.sock"))
        words = ("twin", "run", *interface, "--control", str(self.control), *options)
        with open(folder / "twin.out", "w") as out, open(folder / "twin.err", "w") as err:
            self.process = subprocess.Popen(
                [*COMMAND, *words, "--output", "json"],
                stdout=out,
                stderr=err,
                env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
            )
        deadline = time.monotonic() + STARTED_WITHIN_S
        while not self.control.exists() or "ctrl-C ends it" not in self.told:
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                said = (folder / "twin.out").read_text()
                raise AssertionError(f"the twin did not start: {self.told}{said}")
            time.sleep(0.02)
        with suppress(OSError):  # hardware does not wait for a busy computer; where we may say so
            os.sched_setscheduler(self.process.pid, os.SCHED_FIFO, os.sched_param(90))

    @property
    def told(self) -> str:
        """What it wrote on stderr."""
        return (self.folder / "twin.err").read_text()

    @property
    def data(self) -> dict[str, Any]:
        """What it wrote on stdout at its end."""
        found: dict[str, Any] = json.loads((self.folder / "twin.out").read_text())
        return found

    def end(self, by: int = signal.SIGTERM) -> dict[str, Any]:
        """Ask it to end; what it had seen, with its exit `status`."""
        self.process.send_signal(by)
        status = self.process.wait(20)
        return self.data | {"status": status}

    def __enter__(self) -> TwinProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)


class Witness:
    """The independent monitor on a twin's bus, as a passive program of its own; a context."""

    def __init__(self, twin: TwinProcess, name: str = "right") -> None:
        self.monitor = FrameMonitor(name)
        self.frames: list[can.Message] = []
        self._bus = joined(twin, name)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._done.is_set():
            frame = self._bus.recv(0.02)
            if frame is not None:
                frame.is_rx = 0x11 <= frame.arbitration_id <= 0x18  # all others are sent to motors
                self.frames.append(frame)

    def report(self) -> FrameReport:
        """Of all replies until now, and of commands from when each motor had said where it is."""
        self._done.set()
        self._thread.join()
        unheard = set(range(0x11, 0x19))
        for frame in self.frames:
            unheard.discard(frame.arbitration_id)
            if frame.is_rx or not unheard:
                self.monitor(frame.timestamp, frame)
        return self.monitor.report()

    def __enter__(self) -> Witness:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._bus.shutdown()


def column(arm: dict[str, Any], name: str) -> np.ndarray:
    """One value of each joint of an arm's state, (8,)."""
    return np.array([joint[name] for joint in arm["joints"]])


def joined(twin: TwinProcess, name: str = "right") -> can.BusABC:
    return open_bus({"interface": "policyctl", "channel": str(twin.folder / f"{name}.sock")})


def closing_bus(bus: can.BusABC) -> closing[can.BusABC]:
    bus.close = bus.shutdown  # type: ignore[attr-defined]
    return closing(bus)  # type: ignore[type-var]


def refresh(slot: int = 0) -> can.Message:
    return can.Message(
        arbitration_id=PARAMETER_ID, data=frames.refresh(slot + 1), is_extended_id=False, is_fd=True
    )


def hold(arm: Arm, seconds: float) -> None:
    """Command the pose that the arm has now, at 200 Hz. Raises ArmFault."""
    move(arm, arm.state.q, seconds)


def move(arm: Arm, goal: np.ndarray, seconds: float, *, rest_s: float = 0.0) -> None:
    """A straight way from here to there, at 200 Hz. Raises ArmFault."""
    start, began = arm.state.q, arm.now()
    while (passed := arm.now() - began) < seconds + rest_s:
        way = min(passed / seconds, 1.0)
        arm.exchange(start + way * (goal - start), ZERO, STIFF.kp, STIFF.kd, ZERO)
        arm.wait(0.005)


def running(twin: TwinProcess, name: str = "right") -> Arm:
    """Our driver, connected, enabled and holding."""
    arm = Arm(joined(twin, name), name=name, fd=True, reply_window_s=PATIENT_S, silent_after_s=0.5)
    arm.connect()
    arm.enable()
    hold(arm, 0.1)
    return arm


def drive_until_killed(channel: str, on_host_loss: HostLoss, holds: Event) -> None:
    """A program of its own that holds an arm; `holds` once it does."""
    bus = open_bus({"interface": "policyctl", "channel": channel})
    arm = Arm(bus, fd=True, on_host_loss=on_host_loss, reply_window_s=PATIENT_S)
    arm.connect()
    arm.enable()
    hold(arm, 0.2)
    holds.set()
    hold(arm, 1e6)


def make(twin: TwinProcess, fault: str, **event: object) -> None:
    ask(twin.control, {"do": "fault", "event": {"fault": fault, **event}})


def state_of(twin: TwinProcess, name: str = "right") -> dict[str, Any]:
    arms = ask(twin.control, {"do": "state"})["arms"]
    found: dict[str, Any] = next(arm for arm in arms if arm["arm"] == name)
    return found


def eventually(what: Callable[[], bool], within_s: float = 5.0) -> bool:
    end = time.monotonic() + within_s
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def end_guardians(robot: str) -> None:
    """Ends the guardians that hold a robot's arms; nothing of it stays in memory."""
    for lock in memory_folder().glob(f"policyctl-{robot}-*.lock"):
        if "guardian" in lock.name:
            with suppress(ProcessLookupError, ValueError):
                os.kill(int(lock.read_text()), signal.SIGTERM)
        lock.unlink()
