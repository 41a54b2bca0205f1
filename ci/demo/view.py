"""What the demo shows while it runs: a live table on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text


@dataclass
class Row:
    """One step as shown: its title, how it stands, what it found, how long it took."""

    name: str
    title: str
    state: str = "waiting"
    found: str = ""
    seconds: float = 0.0


class View(Protocol):
    """Where the demo tells what it does."""

    def __enter__(self) -> View: ...
    def __exit__(self, *_: object) -> None: ...
    def begin(self, name: str) -> None: ...
    def end(self, name: str, state: str, found: str) -> None: ...
    def say(self, line: str) -> None: ...
    def progress(self, line: str) -> None: ...


@dataclass
class Board:
    """The rows of the table, shared by both views."""

    rows: list[Row]
    started: dict[str, float] = field(default_factory=dict)

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    def begin(self, name: str) -> Row:
        self.started[name] = time.monotonic()
        row = self.row(name)
        row.state = "running"
        return row

    def end(self, name: str, state: str, found: str) -> Row:
        row = self.row(name)
        row.state, row.found = state, found
        row.seconds = time.monotonic() - self.started[name]
        return row

    def table(self) -> Table:
        marks = {
            "waiting": Text("·", "dim"),
            "done": Text("✓", "green"),
            "failed": Text("✗", "red"),
        }
        table = Table(box=None, pad_edge=False, expand=True)
        table.add_column("", width=2)
        table.add_column("step", no_wrap=True)
        table.add_column("what happened", ratio=1)
        table.add_column("time", justify="right", no_wrap=True)
        for row in self.rows:
            mark: RenderableType = Spinner("dots") if row.state == "running" else marks[row.state]
            style = "dim" if row.state == "waiting" else ""
            spent = f"{row.seconds:.1f} s" if row.seconds else ""
            table.add_row(mark, Text(row.name, style), Text(row.found or row.title, style), spent)
        return table


class PlainView:
    """One line per event, for logs and pipes. Progress lines are spaced out in time."""

    def __init__(self, rows: list[Row], console: Console) -> None:
        self.board = Board(rows)
        self.console = console
        self.last_progress = 0.0

    def __enter__(self) -> PlainView:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to take off the screen."""

    def begin(self, name: str) -> None:
        row = self.board.begin(name)
        self._print(f"== {row.name}: {row.title}")

    def end(self, name: str, state: str, found: str) -> None:
        row = self.board.end(name, state, found)
        self._print(f"   {state} in {row.seconds:.1f} s: {found}")

    def say(self, line: str) -> None:
        self._print(f"   {line}")

    def progress(self, line: str) -> None:
        now = time.monotonic()
        if now - self.last_progress >= 5.0:
            self.last_progress = now
            self._print(f"   … {line}")

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


class LiveView:
    """The whole road as one table that fills, with the commands typed underneath."""

    LINES = 6

    def __init__(self, rows: list[Row], console: Console) -> None:
        self.board = Board(rows)
        self.lines: list[str] = []
        self.now = ""
        self.live = Live(self._render(), console=console, refresh_per_second=8)

    def __enter__(self) -> LiveView:
        self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.now = ""
        self.live.update(self.board.table())
        self.live.stop()

    def begin(self, name: str) -> None:
        self.board.begin(name)
        self.now = ""
        self._update()

    def end(self, name: str, state: str, found: str) -> None:
        self.board.end(name, state, found)
        self.now = ""
        self._update()

    def say(self, line: str) -> None:
        self.lines = [*self.lines, line][-self.LINES :]
        self._update()

    def progress(self, line: str) -> None:
        self.now = line
        self._update()

    def _update(self) -> None:
        self.live.update(self._render())

    def _render(self) -> RenderableType:
        typed = Text("\n".join(self.lines), "cyan", no_wrap=True, overflow="ellipsis")
        return Group(
            Panel(self.board.table(), title="policyctl demo", border_style="blue"),
            typed,
            Text(self.now, "bold"),
        )
