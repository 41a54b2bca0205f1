"""The guardian as a process: one bus, opened by itself. Started by `fleet/servo_client.py`.

argv[1] is JSON: `name` (what shared memory begins with), `arm`, `bus` (as `open_bus` takes it),
`fd`. It says `ready` on stdout when its word is there, and by that word, from then on, that it
watches. SIGTERM asks it to end, which it does when there is nothing to guard (`fleet/guardian.py`);
ctrl-C does not. It holds the lock on its arm until then, so that nobody starts a servo against it.
"""

from __future__ import annotations

import json
import signal
import sys

import numpy as np

from fleet.can.bus import open_bus
from fleet.guardian import BEAT, SERVO_WITHIN_S, WORD, Guardian
from fleet.realtime import claim
from fleet.shared_memory import Newest, attached, take_lock
from registry.errors import PolicyctlError


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    told = json.loads(sys.argv[1])
    name, arm = told["name"], told["arm"]
    try:
        lock = take_lock(f"{told['robot']}-{arm}-guardian")
        word = Newest.create(f"{name}-{arm}-word", WORD)
        bus = open_bus(told["bus"])
        claim()
        asked: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))

        def watching() -> None:
            word.write(np.zeros(WORD))
            if asked:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as below
                word.close()
                sys.exit(0)

        watching()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        beat = attached(f"{name}-{arm}-beat", BEAT, SERVO_WITHIN_S, watching)
    except PolicyctlError as error:
        sys.stdout.write(json.dumps([error.what, error.evidence, error.hint]) + "\n")
        sys.exit(error.exit_status)
    guardian = Guardian(bus, beat, word, fd=bool(told["fd"]), reopen=lambda: open_bus(told["bus"]))
    with lock:
        guardian.run(lambda: bool(asked))
        # an interpreter that ends gives its handlers back: the next SIGTERM would be its status
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        guardian.close()
