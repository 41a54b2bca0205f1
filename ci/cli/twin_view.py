"""The motors of a running twin on the terminal."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ci.cli.tables import table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from harness.twin.live import LiveTwin

EVERY_S = 0.2


@contextmanager
def view(twin: LiveTwin) -> Iterator[None]:
    """Drawn by a thread of its own so that frames do not wait; what the twin tells stands above."""
    from rich.console import Console, Group
    from rich.live import Live

    done = threading.Event()
    newest: list[dict[str, Any]] = [twin.state()]

    def look() -> None:
        newest[0] = twin.state()

    def draw() -> None:
        while not done.wait(EVERY_S):
            live.update(Group(*(_arm(one) for one in newest[0]["arms"])), refresh=True)

    told = twin.tell
    with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:
        twin.look, twin.look_s = look, EVERY_S
        twin.tell = lambda text: live.console.print(text, highlight=False, markup=False)
        thread = threading.Thread(target=draw, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            twin.tell = told


def _arm(state: dict[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    rows = [
        {
            "joint": one["joint"],
            "status": one["status"],
            "mode": one["mode"],
            "deg": math.degrees(one["q"]),
            "deg_s": math.degrees(one["dq"]),
            "nm": one["tau"],
            "mos_c": one["mos_c"],
            "coil_c": one["coil_c"],
        }
        for one in state["joints"]
    ]
    troubles = ", ".join(state["faults"]) or "no trouble"
    head = f"{state['arm']}: {state['heard']} frames in, {state['said']} out; {troubles}"
    return Group(Text(head), table(rows, tuple(rows[0]), ("joint", "status", "mode")))
