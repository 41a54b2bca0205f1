"""A process that claims the machine and reports what the kernel says of it."""

from __future__ import annotations

import gc
import os
from multiprocessing.connection import Connection
from pathlib import Path

from fleet.realtime import claim


def report(line: Connection, core: int) -> None:
    said = {wish.name: (wish.granted, wish.hint) for wish in claim(core)}
    status = Path("/proc/self/status").read_text()
    locked = next(row.split()[1] for row in status.splitlines() if row.startswith("VmLck"))
    cores = sorted(os.sched_getaffinity(0))
    policy = os.sched_getscheduler(0)
    line.send((said, gc.isenabled(), gc.get_freeze_count(), policy, cores, int(locked)))
