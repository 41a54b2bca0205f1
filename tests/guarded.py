"""The processes of a guarded bus: a servo's loop as far as frames and beats go, and a guardian."""

from __future__ import annotations

import time

import can
import numpy as np

from fleet.can.bus import open_bus
from fleet.can.link import MotorLink
from fleet.can.motors import OPENARM_MOTORS
from fleet.guardian import BEAT, WORD, Guardian, Heartbeat
from fleet.shared_memory import Newest
from registry.errors import ServiceFailed

KP, KD = np.full(8, 30.0), np.full(8, 1.5)
Q = np.linspace(-0.4, 0.4, 8)


def bus(port: int) -> can.BusABC:
    return open_bus(
        {"interface": "udp_multicast", "channel": "239.74.163.92", "port": port, "hop_limit": 0}
    )


def attached(name: str, length: int) -> Newest:
    until = time.monotonic() + 30.0
    while True:
        try:
            return Newest.attach(name, length)
        except ServiceFailed:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)


def servo(port: int, name: str) -> None:
    link = MotorLink(bus(port), OPENARM_MOTORS, fd=False)
    block = Newest.create(f"{name}-beat", BEAT)
    heart = Heartbeat(block, attached(f"{name}-word", WORD), link.ranges)
    while True:
        heart.beat(Q, KP, KD, np.zeros(8))
        link.send_mit(Q, np.zeros(8), KP, KD, np.zeros(8))
        time.sleep(0.005)


def guardian(port: int, name: str) -> None:
    word = Newest.create(f"{name}-word", WORD)
    beat = attached(f"{name}-beat", BEAT)
    Guardian(bus(port), beat, word, hold_s=0.3, lower_s=0.3).run()
