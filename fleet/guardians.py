"""The guardians of one robot's servo, as whoever starts the servo has them: one for each bus.

- All are ready before the servo is started: an arm is never switched on unguarded.
- One that has ended, or has not said for `ANSWERS_WITHIN_S` that it watches (it is stopped, stuck,
  or its bus fails), is an ArmFault at `check`, which is asked before every motion and before every
  step of one. A hold and a stop need no guardian.
- Each process is a session of its own, so that ctrl-C in the terminal does not reach it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

from fleet.can.faults import ArmFault, FaultKind
from fleet.guardian import HOLD_S, LOWER_S, WORD
from fleet.servo_setup import ServoSetup
from fleet.shared_memory import Newest, Reading
from registry.errors import Refused

END_S = HOLD_S + LOWER_S + 5.0
"""Time to hold and to lower an arm, and margin."""
ANSWERS_WITHIN_S = 1.0
"""It says so every 5 ms; a busy machine may take its time from it."""


class Guardians:
    """`processes` is in the order of the arms, empty before `start` and after `end`."""

    def __init__(self, setup: ServoSetup) -> None:
        self._setup = setup
        self.processes: list[subprocess.Popen[bytes]] = []
        self._words: list[Newest] = []

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
        for one, process in zip(self._setup.buses, self.processes, strict=True):
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
            self._words.append(Newest.attach(self._setup.word(one.arm), WORD))

    def check(self) -> None:
        """Raises ArmFault where one has ended or does not answer."""
        arms = zip(self._setup.buses, self.processes, self._words, strict=False)
        for one, process, word in arms:
            if process.poll() is not None:
                found = f"its guardian has ended, status {process.returncode}"
            elif not isinstance(word.read(ANSWERS_WITHIN_S), Reading):
                found = f"its guardian does not answer: it said nothing for {ANSWERS_WITHIN_S:g} s"
            else:
                continue
            raise ArmFault(
                FaultKind.ADAPTER_LOST,
                one.arm,
                (),
                found,
                "nothing would hold the arm if the servo died: end the program, start it again",
            )

    def end(self) -> None:
        """They end at once after a farewell and where no servo has begun; one whose servo died as
        it began lowers the arm first. One that does not end in time is killed, so that it keeps no
        arm's lock."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()
        for word in self._words:
            word.close()
        self._words.clear()


def spawn(module: str, argument: str, keep: int | None = None) -> subprocess.Popen[bytes]:
    """`main` of one of our modules in a process and session of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", f"from {module} import main; main()", argument],
        stdout=subprocess.PIPE if keep is None else None,
        pass_fds=() if keep is None else (keep,),
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
