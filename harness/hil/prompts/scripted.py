"""A technician who follows a script: prompt, late, wrong or silent. For rehearsals and CI.

`hands` does what a person's hands would do (put the box where it belongs); `eyes` says what a
person would see. A wrong technician answers without having done it. An answer that comes after its
prompt was closed is still sent, and must be refused. Waiting passes on the given clock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from harness.hil.ports import Clock
from harness.hil.prompts.broker import Prompt, Reply

DEFAULT_DELAY_S = 6.0


@dataclass(frozen=True)
class Act:
    """What the technician does about one prompt.

    `kind`: answer | wrong | silence | problem. `after_s` seconds pass before the answer; past the
    last escalation it arrives too late.
    """

    kind: str = "answer"
    after_s: float = DEFAULT_DELAY_S
    note: str = ""


Script = Callable[[Prompt], Act]


def in_turn(acts: Iterable[Act]) -> Script:
    """The acts one after the other, then plain prompt answers."""
    rest = iter(tuple(acts))
    return lambda _: next(rest, Act())


def moody(seed: int, *, late: float = 0.2, wrong: float = 0.1, silent: float = 0.0) -> Script:
    """A technician whose mood depends on seed and prompt alone: the same in every replay."""

    def act(prompt: Prompt) -> Act:
        name = f"{seed}|{prompt.id}|{prompt.revision}".encode()
        draw = int.from_bytes(hashlib.sha256(name).digest()[:8]) / 2**64
        if draw < silent:
            return Act("silence")
        if draw < silent + wrong:
            return Act("wrong")
        if draw < silent + wrong + late:
            return Act("answer", after_s=45.0)
        return Act()

    return act


def _nothing(prompt: Prompt) -> None: ...


def _success(prompt: Prompt) -> str:
    return "success"


@dataclass
class ScriptedTechnician:
    clock: Clock
    script: Script = field(default_factory=lambda: in_turn(()))
    hands: Callable[[Prompt], None] = _nothing
    eyes: Callable[[Prompt], str] = _success
    name: str = "scripted"
    _due: list[tuple[float, Prompt, Act]] = field(default_factory=list)

    def usable(self) -> str:
        return ""

    def show(self, prompt: Prompt) -> None:
        act = self.script(prompt)
        if act.kind != "silence":
            self._due.append((self.clock.now() + act.after_s, prompt, act))

    def wait(self, prompt: Prompt, seconds: float) -> Reply | None:
        end = self.clock.now() + seconds
        self._due.sort(key=lambda entry: entry[0])
        if not self._due or self._due[0][0] > end:
            self.clock.sleep(seconds)
            return None
        when, about, act = self._due.pop(0)
        self.clock.sleep(when - self.clock.now())
        return self._reply(about, act)

    def alert(self, prompt: Prompt, level: str) -> None: ...

    def close(self, prompt: Prompt, why: str) -> None: ...

    def _reply(self, prompt: Prompt, act: Act) -> Reply:
        kind = prompt.question.kind
        if act.kind == "problem":
            choice = "problem"
        elif kind == "reset":
            if act.kind == "answer":
                self.hands(prompt)
            choice = "done"
        elif kind == "ack":
            choice = "resume"
        else:
            seen = self.eyes(prompt)
            other = "failure" if seen == "success" else "success"
            choice = seen if act.kind == "answer" else other
        return Reply(prompt.id, prompt.revision, choice, self.name, act.note)
