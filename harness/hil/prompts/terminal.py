"""The technician at a terminal: one question, one key.

What was typed before a question appeared is thrown away, so that an impatient Enter cannot answer
the next question. There is no `input()`: the run stays in charge of time and of ctrl-C. Keys that
mean nothing are ignored. The bell rings at each escalation.
"""

from __future__ import annotations

import getpass
import os
import select
import sys
import termios
import time
import tty
from dataclasses import dataclass, field
from typing import IO, Any

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from harness.hil.prompts.broker import Prompt, Reply


@dataclass
class Terminal:
    """Reads keys from `stdin` (a file descriptor) and draws on `stream`."""

    stdin: int = field(default_factory=lambda: sys.stdin.fileno())
    stream: IO[str] = field(default_factory=lambda: sys.stderr)
    actor: str = field(default_factory=getpass.getuser)
    name: str = "terminal"
    _before: list[Any] | None = None

    def usable(self) -> str:
        return "" if os.isatty(self.stdin) else "standard input is not a terminal"

    @property
    def _console(self) -> Console:
        return Console(file=self.stream, highlight=False)

    def show(self, prompt: Prompt) -> None:
        question = prompt.question
        keys = "   ".join(f"[{choice.key}] {choice.label}" for choice in question.choices)
        keys += "   [ctrl-C] pause the run"
        body = Text(f"{question.detail}\n\n{keys}" if question.detail else keys)
        title = question.title + (f"  (asked again, {prompt.revision})" * (prompt.revision > 1))
        self._console.print(Panel(body, title=Text(title), title_align="left", expand=False))
        self._before = termios.tcgetattr(self.stdin)
        tty.setcbreak(self.stdin, termios.TCSANOW)
        termios.tcflush(self.stdin, termios.TCIFLUSH)

    def wait(self, prompt: Prompt, seconds: float) -> Reply | None:
        ready, _, _ = select.select([self.stdin], [], [], max(seconds, 0.0))
        if not ready:
            return None
        key = os.read(self.stdin, 1).decode(errors="replace").lower()
        if not key:  # the terminal was hung up: let time pass, so that the escalation goes on
            time.sleep(min(seconds, 0.2))
            return None
        for choice in prompt.question.choices:
            if choice.key == key:
                self._console.print(Text(f"→ {choice.label}"))
                return Reply(prompt.id, prompt.revision, choice.name, self.actor)
        return None

    def alert(self, prompt: Prompt, level: str) -> None:
        if level == "pause":
            return
        self.stream.write("\a")
        waits = {"sound": "still waiting for your answer", "message": "please answer, or it pauses"}
        self._console.print(Text(f"{prompt.question.title}: {waits.get(level, level)}"))

    def close(self, prompt: Prompt, why: str) -> None:
        if self._before is not None:
            termios.tcsetattr(self.stdin, termios.TCSANOW, self._before)
            self._before = None
