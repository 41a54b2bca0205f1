"""What the motors do when this computer dies: the station file says `hold` or `fall`.

`hold`: TIMEOUT (register 9) 0, a motor obeys its last command for ever. `fall`: a motor that hears
no command for 200 ms switches itself off, reports communication lost (D), and a raised arm falls.
Whether a register or refresh frame counts as a command is not documented; commands do.
"""

from __future__ import annotations

from typing import Final, Literal

from fleet.can.motors import TIMEOUT_UNIT_S

HostLoss = Literal["hold", "fall"]

FALL_AFTER_S: Final = 0.2
"""Far above two command periods (10 ms), and what others run on the same motors."""


def timeout_of(on_host_loss: HostLoss | None) -> int | None:
    """Register 9's value, or None to leave it as it is."""
    if on_host_loss is None:
        return None
    return round(FALL_AFTER_S / TIMEOUT_UNIT_S) if on_host_loss == "fall" else 0
