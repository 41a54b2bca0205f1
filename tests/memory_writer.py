"""Another process that writes shared memory as fast as it can."""

from __future__ import annotations

import numpy as np

from fleet.shared_memory import Newest


def write_forever(name: str, length: int) -> None:
    block = Newest.create(name, length)
    sequence = 0
    while True:
        sequence = block.write(np.full(length, float(sequence + 1)))
