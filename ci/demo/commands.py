"""The demo's hands: it acts only through the `policyctl` and `policyctl-agent` commands.

What a user would type is what runs: each command is a process of its own on the demo's `--home`.
What a command printed is kept in `<home>/logs/demo.log`. Long-running processes (robot agents, the
controller) are stopped by SIGTERM and waited for; nothing outlives the demo.
"""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from registry.errors import ServiceFailed

STOP_SECONDS = 20.0


def console_script(name: str) -> str:
    """The installed command beside this interpreter, else on the PATH."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        raise ServiceFailed(f"the command {name} is not installed", hint="pip install policyctl")
    return found


@dataclass(frozen=True)
class Done:
    """A finished command: what was typed, how it ended, what it said."""

    line: str
    status: int
    data: dict[str, Any]
    seconds: float


@dataclass
class Commands:
    """Runs commands on one registry home and keeps the processes it started."""

    home: Path
    say: Callable[[str], None]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.logs = self.home / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)

    def policyctl(self, *words: str, expect: Sequence[int] = (0,)) -> Done:
        """Runs one `policyctl` command to its end; an exit status not expected is an error."""
        line = "policyctl " + shlex.join(words)
        self.say(f"$ {line}")
        start = time.monotonic()
        typed = [console_script("policyctl"), *words, "--home", str(self.home)]
        process: subprocess.Popen[str] | None = None
        try:
            with _signals_wait():
                process = subprocess.Popen(
                    [*typed, "--output", "json"],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    start_new_session=True,  # told by us, once, not by a terminal's ctrl-C as well
                )
            out, err = process.communicate()
        except KeyboardInterrupt:
            if process is not None:
                _end([process])
            raise
        seconds = time.monotonic() - start
        with (self.logs / "demo.log").open("a") as log:
            log.write(f"$ {line}\n{err}{out}[exit {process.returncode}, {seconds:.1f} s]\n")
        if process.returncode not in expect:
            raise ServiceFailed(
                f"`{line}` ended with exit status {process.returncode}",
                evidence=(err or out).strip()[-800:],
                hint=f"all output is in {self.logs / 'demo.log'}",
            )
        return Done(line, process.returncode, json.loads(out) if out.strip() else {}, seconds)

    def start(self, name: str, program: str, *words: str) -> None:
        """Starts a long-running process, its output in `<home>/logs/<name>.log`."""
        if name in self.running:
            return
        with (self.logs / f"{name}.log").open("ab") as log, _signals_wait():
            self.running[name] = subprocess.Popen(
                [console_script(program), *words, "--home", str(self.home)],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def check(self) -> None:
        """A process that should run and does not is an error, with the end of what it said."""
        for name, process in self.running.items():
            if process.poll() is not None:
                log = self.logs / f"{name}.log"
                tail = log.read_text(errors="replace").strip()[-800:]
                raise ServiceFailed(
                    f"{name} ended with exit status {process.returncode}",
                    evidence=tail,
                    hint=str(log),
                )

    def stop(self) -> None:
        """Stops every process: SIGTERM, then SIGKILL for one that does not end in time."""
        _end(list(self.running.values()))
        self.running.clear()


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Ctrl-C and SIGTERM count at its end: a process that begins is known by then, and ended."""
    came: list[int] = []
    old = {
        number: signal.signal(number, lambda number, _: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
    for told in came:
        signal.raise_signal(told)


def _end(processes: Sequence[subprocess.Popen[Any]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    for process in processes:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
