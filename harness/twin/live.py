"""A twin in real time: its world follows the wall clock, programs come in by doors.

Rules
- One thread, one loop: let time pass, serve what has come, wait for the next of both. Physics runs
  in whole steps at `physics_hz` (1 kHz or more); frames are answered as they come, from physics as
  it is then.
- Where the machine is too slow, time slips: the twin falls behind the clock rather than jump, and
  says by how much (`slipped_s`).
- A frame is on the bus once a motor acknowledges it: then the arm's other programs hear it too.
- Troubles are those of harness/twin/faults.py, by the control socket or a script.

Units SI; frames carry epoch time.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import can
import numpy as np

from fleet.can.frames import Array, status_name
from fleet.can.health import BUS_ERRORS
from fleet.can.motors import Mode
from harness.twin.control import ControlServer
from harness.twin.door import Door, Word
from harness.twin.fault_table import FAULTS
from harness.twin.faults import clear
from harness.twin.faulty_bus import FaultyBus
from harness.twin.physics import TwinWorld
from harness.twin.script import Event, Player
from harness.twin.wire import Recorder, WireBus
from registry.errors import PolicyctlError, UsageError

MOST_AT_ONCE_S = 0.005
"""Physics between two looks at the doors."""
MOST_BEHIND_S = 0.05
"""Further behind the clock than this, time slips."""
FLUSH_S = 0.5


@dataclass
class Line:
    """One arm: its bus behind its adapter, its doors, and what passed."""

    arm: str
    bus: FaultyBus
    doors: Sequence[Door]
    wire: WireBus | None = None
    heard: int = 0
    """Frames from programs."""
    said: int = 0
    """Frames to programs."""
    refused: int = 0
    """Frames that did not fit the adapter's queue, or found no adapter."""
    low: Array = field(default_factory=lambda: np.full(8, np.inf))
    high: Array = field(default_factory=lambda: np.full(8, -np.inf))
    """Where each joint has been [rad], as physics has it."""


class LiveTwin:
    """A world, its lines, and the loop that joins them. `run` from one thread."""

    def __init__(
        self,
        world: TwinWorld,
        lines: Sequence[Line],
        *,
        recorder: Recorder | None = None,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.world = world
        self.lines = tuple(lines)
        self.slipped_s = 0.0
        self.control: ControlServer | None = None
        self.tell = tell
        """Says a line to whoever runs the twin."""
        self.look: Callable[[], None] = lambda: None
        """Called about every `look_s` from the loop: for a view."""
        self.look_s = 0.1
        self._recorder = recorder
        self._players: list[Player] = []
        self._sight = world.pose_source()
        self._epoch = time.time() - world.now()
        self._began = 0.0

    @property
    def epoch_s(self) -> float:
        """Epoch time of simulated time 0."""
        return self._epoch

    def run(self, going: Callable[[], bool], seconds: float | None = None) -> None:
        """Play until `going` says no, or for `seconds` of the wall clock."""
        began = time.monotonic()
        self._began = began - self.world.now()
        looked = flushed = began
        while going():
            now = time.monotonic()
            if seconds is not None and now - began >= seconds:
                return
            self._pass_time(now)
            self._serve()
            if now - looked >= self.look_s:
                looked = now
                self.look()
            if self._recorder is not None and now - flushed >= FLUSH_S:
                flushed = now
                self._recorder.flush()
            self._wait()

    # -- time

    def _pass_time(self, now: float) -> None:
        behind = now - self._began - self.world.now()
        if behind > MOST_BEHIND_S:
            slip = behind - MOST_BEHIND_S
            self._began += slip
            self.slipped_s += slip
        if behind > 0.0:
            self.world.advance(min(behind, MOST_AT_ONCE_S))
            for line in self.lines:
                joints = self.world.joints(line.arm)
                np.minimum(line.low, joints, out=line.low)
                np.maximum(line.high, joints, out=line.high)
        for player in tuple(self._players):
            try:
                for event in player.play():
                    self.tell(_told(event))
            except PolicyctlError as error:
                self.tell(f"the script's event did not happen: {error.what}")
            if player.done:
                self._players.remove(player)

    def _wait(self) -> None:
        """Until a frame or a request comes, or physics is due."""
        step = 1.0 / self.world.config.physics_hz
        due = self._began + self.world.now() + step
        for line in self.lines:
            if line.wire is not None and (event := line.wire.next_event) is not None:
                due = min(due, self._began + event)
        sources = [s for line in self.lines for door in line.doors for s in door.sources()]
        if self.control is not None:
            sources += self.control.sources()
        ready = select.select(sources, [], [], max(0.0, due - time.monotonic()))[0]
        if not ready:
            return
        self._pass_time(time.monotonic())
        for source in ready:
            self._take(source)

    # -- frames

    def _take(self, source: int) -> None:
        if self.control is not None and source in self.control.sources():
            self.control.take(source)
            return
        for line in self.lines:
            for door in line.doors:
                if source in door.sources():
                    for who, said in door.take(source):
                        self._hear(line, who, said, fitted=door.refuses)
                    return

    def _hear(self, line: Line, who: object, said: can.Message | Word, *, fitted: bool) -> None:
        """One frame of a program: to the motors, and if they acknowledge it to the others.

        `fitted`: it does not count against a full queue.
        """
        adapter = line.bus.adapter
        if said is Word.PURGE:
            adapter.purge()
            return
        if said is Word.REFUSED:
            line.refused += 1
            adapter.refuse()
            return
        line.heard += 1
        heard = adapter.passes and (fitted or not adapter.full)
        try:
            (line.bus.send_fitted if fitted else line.bus.send)(said)
        except BUS_ERRORS:
            line.refused += 1
            return
        if heard:
            self._give(line, said, who)

    def _serve(self) -> None:
        """Deliver what has arrived from the motors, and the adapters' state."""
        for line in self.lines:
            adapter = line.bus.adapter
            if not adapter.gone:
                try:
                    while (msg := line.bus.recv(0.0)) is not None:
                        line.said += 1
                        self._give(line, msg, None)
                except BUS_ERRORS:  # the interface came back: the programs' handles are new ones
                    line.bus = FaultyBus(line.bus.inner, adapter)
            for door in line.doors:
                door.tell(adapter)

    def _give(self, line: Line, msg: can.Message, but: object) -> None:
        at = self._epoch + self.world.now()
        for door in line.doors:
            door.give(msg, at, but)

    # -- requests

    def answer(self, request: Mapping[str, Any]) -> Any:
        """What the control socket is asked. Raises UsageError, Refused."""
        match request["do"]:
            case "fault":
                event = Event(at=0.0, **request["event"])
                event.happen(self.world)
                self.tell(_told(event))
                return self.state()
            case "clear":
                clear(self.world, arm=request.get("arm"))
                self.tell("all is well again")
                return self.state()
            case "script":
                events = [Event.model_validate(event) for event in request["events"]]
                self.play(events)
                return {"events": len(events)}
            case "state":
                return self.state()
            case "pose":
                return self._pose()
            case "scene":
                placement = self.world.new_scene()
                facts = {name: getattr(placement, name) for name in ("x", "y", "yaw")}
                facts |= {"mass": self.world.box_mass, "friction": self.world.box_friction}
                told = {name: round(float(value), 4) for name, value in facts.items()}
                return {"scene": self.world.scene_number, **told}
            case other:
                raise UsageError(f"no request {other!r}")

    def _pose(self) -> dict[str, Any] | None:
        """What the tag detector says of the box now; None before its first frame."""
        pose = self._sight.read()
        if pose is None:
            return None
        return {"position": pose.position.tolist(), "yaw": pose.yaw, "age_s": pose.age_s}

    def play(self, events: Sequence[Event]) -> None:
        """Begin a script now. Raises UsageError if one of its events cannot be on this twin."""
        for event in events:
            event.check(self.world.config.arms)
        self._players.append(Player(events, self.world))

    def state(self) -> dict[str, Any]:
        """What the twin is and has been, for people and tests; angles in rad."""
        return {
            "time_s": round(self.world.now(), 3),
            "slipped_s": round(self.slipped_s, 3),
            "arms": [self._arm_state(line) for line in self.lines],
        }

    def _arm_state(self, line: Line) -> dict[str, Any]:
        bank = self.world.bank(line.arm)
        q, dq, tau = self.world.sensed(line.arm)
        seen = np.isfinite(line.low)
        return {
            "arm": line.arm,
            "heard": line.heard,
            "said": line.said,
            "refused": line.refused,
            "lost": sum(door.lost for door in line.doors) + (line.wire.lost if line.wire else 0),
            "replayed": len(line.bus.adapter.replayed),
            "programs": [door.programs for door in line.doors],
            "saves": bank.saves,
            "zeroings": bank.zeroings,
            "faults": [
                name if joint is None else f"{name} {joint}"
                for name, joint in self.world.injected.get(line.arm, {})
            ],
            "joints": [
                {
                    "joint": address.joint,
                    "status": status_name(bank.status[i]) if bank.powered[i] else "no power",
                    "mode": Mode(bank.mode(i)).name if bank.mode(i) in {*Mode} else bank.mode(i),
                    "q": round(float(q[i]), 5),
                    "dq": round(float(dq[i]), 4),
                    "tau": round(float(tau[i]), 3),
                    "zero": round(float(bank.zero[i]), 5),
                    "mos_c": round(float(bank.mos[i]), 1),
                    "coil_c": round(float(bank.coil[i]), 1),
                    "low": round(float(line.low[i]), 5) if seen[i] else None,
                    "high": round(float(line.high[i]), 5) if seen[i] else None,
                }
                for i, address in enumerate(bank.addresses)
            ],
        }


def _told(event: Event) -> str:
    where = " ".join(part for part in (event.arm, event.joint) if part)
    what = "ended" if event.clear else FAULTS[event.fault].does
    return f"{event.fault}{' ' + where if where else ''}: {what}"
