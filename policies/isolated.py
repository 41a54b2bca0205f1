"""A policy in an interpreter of its own, behind the same port as `InlinePolicy`.

Rules
- Whatever happens over there comes back as one `PolicyFailedError` within the deadline: an
  exception, a killed process, a hang, numbers that are not finite, a late answer.
- A late answer is never used, not even by the next call: calls are numbered, and answers to calls
  that were given up are thrown away.
- An answer is bytes, not a pickle: what the other process writes is data here, never code.
- A process that died or hangs is replaced by `reset`, with the same checkpoint; nothing else
  revives it, so an attempt that failed stays failed.
- The other process ends with this one, also when this one is killed.

Times are wall time [s]. Not for use from two threads.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import numpy as np

from policies import Policy
from policies.contract import Contract, parse_contract
from policies.loading import load_policy
from policies.process import InlinePolicy, PolicyFailedError, Rows
from registry.errors import ConfigError

Loader = Callable[[Path], Policy]

LOAD_S = 120.0
"""A large model from a cold disk, with its libraries."""
HANG_S = 5.0
"""A call without a deadline is given up after this, and the process with it."""
BYE_S = 1.0
"""A process that was told to go takes a moment to close what it opened."""


class SubprocessPolicy:
    """`loader` is run in the other process: it must be importable by name."""

    def __init__(
        self,
        loader: Loader = load_policy,
        *,
        hang_s: float = HANG_S,
        on_time: bool = False,
    ) -> None:
        """`on_time`: a call that names no deadline has the contract's latency, not `hang_s`."""
        self._on_time = on_time
        self._loader, self._hang_s = loader, hang_s
        self._process: SpawnProcess | None = None
        self._line: Connection | None = None
        self._call = 0
        self._answered = 0
        self._folder: Path | None = None
        self._contract: Contract | None = None

    @property
    def contract(self) -> Contract:
        if self._contract is None:
            raise PolicyFailedError("load", "no policy is loaded")
        return self._contract

    @property
    def pid(self) -> int | None:
        """Of the other process, while it runs."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start the other process; returns at once."""
        if self._process is not None and self._process.is_alive():
            return
        self._end()
        context = multiprocessing.get_context("spawn")
        self._line, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, self._loader), name="policy", daemon=True
        )
        self._process.start()
        theirs.close()

    def load(self, folder: Path) -> Contract:
        """Load a checkpoint over there. ConfigError where its files are wrong."""
        self.start()
        self._folder, self._contract = folder, None
        head, _ = self._ask({"do": "load", "folder": str(folder)}, b"", LOAD_S)
        self._contract = parse_contract(head["contract"])
        return self._contract

    def reset(self) -> None:
        """Forget the last attempt; a process that is gone or busy is replaced first."""
        folder = self._folder
        if folder is None or self._contract is None:
            raise PolicyFailedError("load", "no policy is loaded")
        if self._process is None or not self._process.is_alive():
            self.load(folder)
        try:
            self._ask({"do": "reset"}, b"", self._hang_s)
        except PolicyFailedError as failed:
            if failed.mode != "late":
                raise
            self.load(folder)  # it was busy with an old call, and has been ended
            self._ask({"do": "reset"}, b"", self._hang_s)

    def act(self, observation: Rows, deadline_s: float | None = None) -> Rows:
        """(B, N) to (B, outputs) within `deadline_s`; else PolicyFailedError, and never later."""
        contract = self.contract
        rows = np.ascontiguousarray(observation, dtype=np.float32)
        expected = (rows.shape[0], contract.outputs)
        if deadline_s is None and self._on_time:
            deadline_s = contract.latency_s
        head, body = self._ask({"do": "act", "shape": rows.shape}, rows.tobytes(), deadline_s)
        if tuple(head["shape"]) != expected or len(body) != 4 * expected[0] * expected[1]:
            raise PolicyFailedError("shape", f"{tuple(head['shape'])}, expected {expected}")
        answer = np.frombuffer(body, dtype=np.float32).reshape(expected)
        if not np.isfinite(answer).all():
            raise PolicyFailedError("nan", "the output holds numbers that are not finite")
        return answer

    def close(self) -> None:
        """End the other process; safe at any time, any number of times."""
        self._end(BYE_S)
        self._folder = self._contract = None

    # -- the line

    def _ask(
        self, head: dict[str, Any], body: bytes, limit_s: float | None
    ) -> tuple[dict[str, Any], bytes]:
        line, process = self._line, self._process
        if line is None or process is None:
            raise PolicyFailedError("crash", "the policy's process is not running")
        until = time.monotonic() + (self._hang_s if limit_s is None else limit_s)
        patient = head["do"] == "act" and limit_s is not None
        try:
            if self._answered == self._call or self._await(line, process, until) is not None:
                self._call += 1
                _give_up_sending_at(line, until)
                line.send_bytes(_packed({**head, "call": self._call}, body))
                answer = self._await(line, process, until)
                if answer is not None and time.monotonic() <= until:
                    return _checked(answer[0]), answer[1]
        except BlockingIOError:
            patient = False  # half a call is on the line
        except (EOFError, OSError) as error:
            raise PolicyFailedError("crash", f"the process ended: {self._end(0.5)}") from error
        except (ValueError, KeyError, TypeError) as error:
            self._end()
            raise PolicyFailedError("crash", f"the process wrote nonsense: {error!r}") from error
        if not patient:
            self._end()
            raise PolicyFailedError("late", f"{head['do']} hangs; the process was ended")
        raise PolicyFailedError("late", f"no answer in {1e3 * (limit_s or 0.0):.1f} ms")

    def _await(
        self, line: Connection, process: SpawnProcess, until: float
    ) -> tuple[dict[str, Any], bytes] | None:
        """The answer to the last call, None if it does not come; EOFError if it never will."""
        while True:
            wait([line, process.sentinel], max(0.0, until - time.monotonic()))
            if line.poll():
                answer, rest = _unpacked(line.recv_bytes())
                self._answered = answer["call"]
                if self._answered == self._call:
                    return answer, rest
            elif not process.is_alive():
                raise EOFError
            elif time.monotonic() >= until:
                return None

    def _end(self, grace_s: float = 0.0) -> str:
        """End the process; how it ended, in words."""
        process, line = self._process, self._line
        self._process = self._line = None
        self._answered = self._call
        if line is not None:
            line.close()
        if process is None:
            return "it was not running"
        process.join(grace_s)
        code = process.exitcode
        if code is None:
            process.kill()
            process.join()
            return "it was killed"
        return f"by {signal.Signals(-code).name}" if code < 0 else f"with status {code}"


def _give_up_sending_at(line: Connection, until: float) -> None:
    """A stopped process does not empty its end: without a limit, a large call would wait for it."""
    left = max(1e-3, until - time.monotonic())
    with socket.socket(fileno=os.dup(line.fileno())) as end:
        seconds = int(left)
        limit = struct.pack("ll", seconds, int(1e6 * (left - seconds)))
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)


def _checked(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer, or the error it stands for."""
    if (wrong := answer.get("config")) is not None:
        raise ConfigError(
            wrong["what"], where=wrong["where"], field=wrong["field"], hint=wrong["hint"]
        )
    if (mode := answer.get("failed")) is not None:
        raise PolicyFailedError(str(mode), str(answer["detail"]))
    return answer


def _packed(head: dict[str, Any], body: bytes) -> bytes:
    return json.dumps(head).encode() + b"\n" + body


def _unpacked(message: bytes) -> tuple[dict[str, Any], bytes]:
    head, _, body = message.partition(b"\n")
    values = json.loads(head)
    if not isinstance(values, dict):
        raise ValueError(f"{head[:80]!r} is no answer")
    return values, body


# -- the other process


def _serve(line: Connection, loader: Loader) -> None:
    """Answer calls until the line closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started us decides when we end
    threading.Thread(target=_follow_parent, daemon=True).start()
    policy = InlinePolicy(loader)
    while True:
        try:
            head, body = _unpacked(line.recv_bytes())
        except (EOFError, OSError):
            return
        answer, rest = _answer(policy, head, body)
        try:
            line.send_bytes(_packed({**answer, "call": head["call"]}, rest))
        except OSError:
            return


def _answer(
    policy: InlinePolicy, head: dict[str, Any], body: bytes
) -> tuple[dict[str, Any], bytes]:
    try:
        if head["do"] == "load":
            return {"contract": policy.load(Path(head["folder"])).to_json()}, b""
        if head["do"] == "reset":
            policy.reset()
            return {}, b""
        seen = np.frombuffer(body, dtype=np.float32).reshape(head["shape"])
        out = np.ascontiguousarray(policy.act(seen), dtype=np.float32)
        return {"shape": out.shape}, out.tobytes()
    except ConfigError as wrong:
        told = {"what": wrong.what, "where": wrong.where, "field": wrong.field, "hint": wrong.hint}
        return {"config": told}, b""
    except PolicyFailedError as failed:
        return {"failed": failed.mode, "detail": failed.detail}, b""
    except Exception as error:  # noqa: BLE001 foreign code: whatever it raises is its failure
        return {"failed": "load" if head["do"] == "load" else "crash", "detail": repr(error)}, b""


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
    os._exit(1)
