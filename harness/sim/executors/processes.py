"""Fresh processes: for policies that are slow in Python, and for environments that are.

- A worker is a new interpreter with one BLAS thread, one environment and one policy; it shares
  nothing with its parent but a socket. It looks for modules where its parent does, and never in
  the current folder, whose `policies/` are the user's.
- It is in a process group of its own, so a terminal's ctrl-C reaches the parent alone, which ends
  its workers. A parent that is killed closes the socket, and its workers end by themselves.
- A worker that dies (out of memory, kill -9) is noticed at once: its chunk is played again by a
  fresh one.
"""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Collection, Generator, Iterable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue

from harness.sim.episode import EpisodeRecord, EpisodeSpec
from harness.sim.executors import Job
from harness.sim.executors.chunks import Answer, Chunk, Chunks, Lost, drive
from harness.sim.executors.worker import Raised, one_thread, worker

_ENTRY = "from harness.sim.executors.processes import main; main({descriptor})"


class Processes:
    """A job on `workers` processes, started for each map and ended with it."""

    def __init__(self, job: Job, *, workers: int) -> None:
        self._job, self._workers = job, workers

    def map(self, specs: Iterable[EpisodeSpec]) -> Generator[EpisodeRecord]:
        chunks = Chunks(self._job.digest, specs, self._workers)
        yield from drive(_Crew(self._job), chunks, self._workers)


class _Process:
    """One worker, as its parent has it."""

    def __init__(self, job: Job) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.popen = subprocess.Popen(
                [sys.executable, "-P", "-c", _ENTRY.format(descriptor=theirs.fileno())],
                env=os.environ | one_thread() | {"PYTHONPATH": os.pathsep.join(sys.path)},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                process_group=0,
            )
        self.connection = Connection(ours.detach())
        self.send(job)

    def send(self, value: object) -> None:
        # a worker that is gone is found by `receive`, once for all ways of going
        with suppress(OSError):
            self.connection.send(value)

    def receive(self) -> Answer:
        try:
            answer = self.connection.recv()
        except (EOFError, OSError):
            self.popen.kill()
            status = self.popen.wait()
            how = f"signal {-status}" if status < 0 else f"status {status}"
            return Lost(f"process {self.popen.pid} ended with {how}")
        return answer.error() if isinstance(answer, Raised) else answer

    def end(self) -> None:
        self.popen.kill()
        self.popen.wait()
        self.connection.close()


class _Crew:
    def __init__(self, job: Job) -> None:
        self._job = job

    def hire(self) -> _Process:
        return _Process(self._job)

    def send(self, worker: _Process, chunk: Chunk) -> None:
        worker.send(chunk.specs)

    def wait(self, busy: Collection[_Process]) -> Sequence[tuple[_Process, Answer]]:
        ready = set(wait([worker.connection for worker in busy]))
        return [(worker, worker.receive()) for worker in busy if worker.connection in ready]

    def dismiss(self, worker: _Process) -> None:
        worker.end()


def main(descriptor: int) -> None:
    """A worker's life: a job, then chunks, until the parent closes the socket."""
    connection = Connection(descriptor)
    inbox: SimpleQueue[bytes] = SimpleQueue()

    def read() -> None:
        with suppress(EOFError, OSError):
            while True:
                inbox.put(connection.recv_bytes())
        os._exit(0)  # nobody is left to answer, whatever is being played

    threading.Thread(target=read, daemon=True).start()
    player = worker(inbox.get())
    with suppress(OSError):  # the parent is gone, and `read` ends us
        while True:
            specs = pickle.loads(inbox.get())  # noqa: S301
            connection.send(player.play(specs))
