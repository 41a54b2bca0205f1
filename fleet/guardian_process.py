"""The guardian as a process: one bus, opened by itself. Started by `fleet/servo_client.py`.

argv[1] is JSON: `name` (what shared memory begins with), `arm`, `bus` (as `open_bus` takes it),
`fd`. It says `ready` on stdout when its word is there. SIGTERM ends it, ctrl-C does not; a robot's
guardian holds the lock on its arm until then, so that nobody starts a servo against it.
"""

from __future__ import annotations

import json
import signal
import sys

from fleet.can.bus import open_bus
from fleet.guardian import BEAT, WORD, Guardian
from fleet.realtime import claim
from fleet.shared_memory import Newest, attached, take_lock
from registry.errors import PolicyctlError

SERVO_WITHIN_S = 60.0


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    told = json.loads(sys.argv[1])
    name, arm = told["name"], told["arm"]
    try:
        lock = take_lock(f"{told['robot']}-{arm}-guardian")
        word = Newest.create(f"{name}-{arm}-word", WORD)
        bus = open_bus(told["bus"])
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        beat = attached(f"{name}-{arm}-beat", BEAT, SERVO_WITHIN_S)
    except PolicyctlError as error:
        sys.stdout.write(json.dumps([error.what, error.evidence, error.hint]) + "\n")
        sys.exit(error.exit_status)
    claim()
    with lock:
        Guardian(bus, beat, word, fd=bool(told["fd"])).run()
