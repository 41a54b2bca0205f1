"""`policyctl twin run` as a process of its own, for tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

STARTED_WITHIN_S = 60.0
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


def column(arm: dict[str, Any], name: str) -> np.ndarray:
    """One value of each joint of an arm's state, (8,)."""
    return np.array([joint[name] for joint in arm["joints"]])
