"""A cycle log as it grows: what the servo's ring gives, appended to an MCAP file until it ends.

The channels are those of `log.py` (joint states, joint commands, events), so the same tools read
both. Events tell each stop, each resume and each intervention the first time it occurs in a row of
cycles, and how many cycles were lost where the reader was overtaken. A file whose writer was killed
lacks its index; MCAP's own `recover` makes it whole up to its last chunk.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from mcap.writer import CompressionType, Writer

from fleet.cycle_log import Cycles
from fleet.safety import INTERVENTIONS
from harness.episodes.log import METADATA, joint_rows, pair, stamp
from harness.episodes.schemas import CHANNELS, COMMAND, EVENTS, SCHEMAS, STATE
from registry.storage import disk_errors

_INFO, _WARNING = 2, 3


class CycleWriter:
    """Use it as a context; `dropped` and `written` count cycles."""

    def __init__(self, path: Path, joints: Sequence[str]) -> None:
        """Raises ServiceFailed where the file cannot be made."""
        self.path = path
        self.written = self.dropped = 0
        self._names = [json.dumps(name) for name in joints]
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = path.open("wb")
        self._writer: Any = Writer(self._stream, compression=CompressionType.ZSTD)
        self._writer.start(profile="", library="policyctl")
        schemas = {
            name: self._writer.register_schema(name, "jsonschema", json.dumps(schema).encode())
            for name, schema in SCHEMAS.items()
        }
        self._channels = {
            topic: self._writer.register_channel(topic, "json", schemas[CHANNELS[topic]])
            for topic in (STATE, COMMAND, EVENTS)
        }
        self._stopped = False
        self._counts = np.zeros(len(INTERVENTIONS))
        self._hit = np.zeros(len(INTERVENTIONS), dtype=bool)

    def append(self, cycles: Cycles) -> None:
        """Rows as the ring gave them. Raises ServiceFailed where the disk says no."""
        with disk_errors(self.path):
            if cycles.dropped:
                self.dropped += cycles.dropped
                at = float(cycles.time[0]) if len(cycles.rows) else 0.0
                self._event(at, f"{cycles.dropped} cycles were not logged", _WARNING)
            names = self._names
            measured = {
                n: cycles.field(m)
                for n, m in (("position", "q"), ("velocity", "dq"), ("effort", "tau"))
            }
            states = joint_rows(names, measured) if len(cycles.rows) else []
            sent = joint_rows(names, {"position": cycles.field("command")}) if states else []
            for i, (state, command) in enumerate(zip(states, sent, strict=True)):
                at = float(cycles.time[i])
                self._message(STATE, at, state)
                self._message(COMMAND, at, command)
                self._tell(at, bool(cycles.stopped[i]), cycles.counts[i])
            self.written += len(states)

    def _tell(self, at: float, stopped: bool, counts: Any) -> None:
        if stopped != self._stopped:
            self._stopped = stopped
            self._event(at, "stopped" if stopped else "resumed", _WARNING)
        hit = counts > self._counts
        for i in np.flatnonzero(hit & ~self._hit):
            self._event(at, f"protection: {INTERVENTIONS[i]}", _INFO)
        self._counts, self._hit = counts, hit

    def _event(self, at: float, text: str, level: int) -> None:
        body = (
            f'{{"level":{level},"message":{json.dumps(text)},"name":"policyctl","file":"","line":0'
        )
        self._message(EVENTS, at, body)

    def _message(self, topic: str, at: float, body: str) -> None:
        ns = round(at * 1e9)
        data = f"{body},{stamp(ns)},{pair('time', at)}}}".encode()
        self._writer.add_message(self._channels[topic], log_time=ns, data=data, publish_time=ns)

    def __enter__(self) -> CycleWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with disk_errors(self.path):
            counts = {"cycles": str(self.written), "dropped": str(self.dropped)}
            self._writer.add_metadata(METADATA, counts)
            self._writer.finish()
            self._stream.close()
