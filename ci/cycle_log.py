"""The writer of a cycle log: a process of its own beside a servo's ring, until its stdin ends."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from fleet.cycle_log import Ring
from registry.errors import PolicyctlError, Refused, ServiceFailed

EVERY_S = 0.1
END_S = 60.0


class CycleLog:
    """A writer process. `close` ends it when the ring is empty and tells what it wrote."""

    def __init__(self, path: Path, ring: str, joints: Sequence[str]) -> None:
        """`ring` exists. Raises Refused where the file does, ServiceFailed."""
        if path.exists():
            raise Refused("the log exists already", evidence=str(path), hint="name another file")
        self.path = path
        self.written = self.dropped = 0
        told = json.dumps({"path": str(path), "ring": ring, "joints": list(joints)})
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from ci.cycle_log import main; main()", told],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        self._said()

    def check(self) -> None:
        """Raises ServiceFailed where the writer has ended by itself; `close` then tells no more."""
        if self._process.poll() is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._said()

    def close(self) -> None:
        """Raises ServiceFailed where the log is not whole."""
        if self._process.stdin is None or self._process.stdin.closed:
            return
        self._process.stdin.close()
        told = json.loads(self._said())
        self._process.wait(END_S)
        self.written, self.dropped = told["written"], told["dropped"]

    def __enter__(self) -> CycleLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _said(self) -> str:
        assert self._process.stdout is not None
        said = self._process.stdout.readline().decode().strip()
        if not said or said.startswith("["):
            status = self._process.wait(END_S)
            told = json.loads(said) if said else ("its writer died", f"exit status {status}", "")
            what, evidence, hint = told
            raise ServiceFailed(f"the cycle log ended: {what}", evidence=evidence, hint=hint)
        return said


def main() -> None:
    from harness.episodes.stream import CycleWriter

    for number in (signal.SIGINT, signal.SIGTERM):  # only its stdin's end tells it to end
        signal.signal(number, signal.SIG_IGN)
    told = json.loads(sys.argv[1])
    try:
        ring = Ring.attach(told["ring"])
        with CycleWriter(Path(told["path"]), told["joints"]) as writer:
            _say("ready")
            while not select.select([sys.stdin], [], [], EVERY_S)[0]:
                writer.append(ring.drain())
            writer.append(ring.drain())
        _say(json.dumps({"written": writer.written, "dropped": writer.dropped}))
    except PolicyctlError as error:
        _say(json.dumps([error.what, error.evidence, error.hint]))
        sys.exit(error.exit_status)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
