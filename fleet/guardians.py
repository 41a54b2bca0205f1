"""The guardians of one robot's servo, as whoever starts the servo has them: one for each bus.

- All are ready before the servo is started: an arm is never switched on unguarded.
- One that has ended is an ArmFault at `check`, which is asked before every motion and before every
  step of one. A hold and a stop need no guardian.
- Each process is a session of its own, so that ctrl-C in the terminal does not reach it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

from fleet.can.faults import ArmFault, FaultKind
from fleet.servo_setup import ServoSetup
from registry.errors import Refused

END_S = 5.0


class Guardians:
    """`processes` is in the order of the arms, empty before `start` and after `end`."""

    def __init__(self, setup: ServoSetup) -> None:
        self._setup = setup
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Returns when all watch. Raises Refused: one runs already, a bus does not open."""
        for one in self._setup.buses:
            told = {
                "robot": self._setup.robot,
                "name": self._setup.name,
                "arm": one.arm,
                "bus": dict(one.bus),
                "fd": one.fd,
            }
            self.processes.append(spawn("fleet.guardian_process", json.dumps(told)))
        for process in self.processes:
            assert process.stdout is not None
            with process.stdout as stream:
                said = stream.readline().decode().strip()
            if said != "ready":
                what, evidence, hint = (
                    json.loads(said)
                    if said
                    else (
                        "the guardian ended at once",
                        f"status {process.wait()}",
                        "what it wrote before it ended says why; see to that, then start again",
                    )
                )
                raise Refused(what, evidence=evidence, hint=hint)

    def check(self) -> None:
        """Raises ArmFault where one has ended."""
        for one, process in zip(self._setup.buses, self.processes, strict=False):
            if process.poll() is not None:
                raise ArmFault(
                    FaultKind.ADAPTER_LOST,
                    one.arm,
                    (),
                    f"its guardian has ended, status {process.returncode}",
                    "nothing would hold the arm if the servo died: end the program, start it again",
                )

    def end(self) -> None:
        """Only where none has taken over: the arm is let go of what holds it. One that does not end
        in time is killed, so that it keeps no arm's lock."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()


def spawn(module: str, argument: str, keep: int | None = None) -> subprocess.Popen[bytes]:
    """`main` of one of our modules in a process and session of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", f"from {module} import main; main()", argument],
        stdout=subprocess.PIPE if keep is None else None,
        pass_fds=() if keep is None else (keep,),
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
