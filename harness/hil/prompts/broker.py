"""A question to a person, asked so that nobody's silence, haste or lateness becomes a result.

- A prompt is a journal record with an id and a revision before any front shows it. The same
  question asked again (the scene was not ready; the program was killed) is the next revision.
- The first valid answer wins. An answer to another id or revision, or with a choice that was not
  offered, is refused and recorded; it changes nothing.
- Nobody answers: T+30 s sound, T+2 min a message, T+10 min the run is paused (`Pending`, exit
  status 8). Silence never means pass or fail, and waiting is not policy time.
- Prompts say "trial 12", never a version: whoever resets and judges is blind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from harness.hil.journal import Journal
from harness.hil.model import Goal
from harness.hil.ports import Clock
from registry.errors import Interrupted, Pending, UsageError

Escalation = Sequence[tuple[float, str]]

ESCALATION: Final = ((30.0, "sound"), (120.0, "message"), (600.0, "pause"))
AUDIT_ESCALATION: Final = ((60.0, "pause"),)
SLICE_S: Final = 0.2


@dataclass(frozen=True)
class Choice:
    """One possible answer: what a program calls it, the key to press, what the button says."""

    name: str
    key: str
    label: str


DONE: Final = Choice("done", "y", "Done")
PROBLEM: Final = Choice("problem", "p", "Problem")
RESUME: Final = Choice("resume", "y", "The area is clear, go on")
SUCCESS: Final = Choice("success", "y", "Success")
FAILURE: Final = Choice("failure", "n", "Failure")


@dataclass(frozen=True)
class Question:
    """`kind` is reset | scene | ack | judge | audit. `goal`: where an object is to be put."""

    kind: str
    attempt: int
    title: str
    detail: str
    choices: tuple[Choice, ...]
    goal: Goal | None = None


@dataclass(frozen=True)
class Prompt:
    id: str
    revision: int
    question: Question
    asked_at: float


@dataclass(frozen=True)
class Reply:
    """What a front heard: an answer to one revision of one prompt."""

    prompt: str
    revision: int
    choice: str
    actor: str
    note: str = ""


@dataclass(frozen=True)
class Answer:
    choice: str
    actor: str
    note: str
    waited_s: float


class Unanswered(Pending):
    """Nobody answered; the run is paused and can go on later."""

    code = "unanswered"


class Front(Protocol):
    """A way to reach a person. A front shows, hears and rings; it decides nothing."""

    name: str

    def usable(self) -> str:
        """Empty when a person can be reached this way, else why not."""
        ...

    def show(self, prompt: Prompt) -> None: ...

    def wait(self, prompt: Prompt, seconds: float) -> Reply | None:
        """Lets at most `seconds` pass, and at least some; returns what was heard meanwhile."""
        ...

    def alert(self, prompt: Prompt, level: str) -> None: ...

    def close(self, prompt: Prompt, why: str) -> None: ...


class Broker:
    """Asks through every front at once and writes down what came back."""

    def __init__(
        self,
        fronts: Sequence[Front],
        clock: Clock,
        escalation: Escalation = ESCALATION,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> None:
        self.fronts = tuple(fronts)
        self.stop_requested = stop_requested
        self.clock = clock
        self.escalation = tuple(escalation)

    def start(self) -> None:
        """Refuses to start a run whose questions nobody could answer."""
        reasons = [f"{front.name}: {why}" for front in self.fronts if (why := front.usable())]
        if len(reasons) == len(self.fronts):
            raise UsageError(
                "nobody can answer this run's questions",
                evidence="; ".join(reasons) or "no front was given",
                hint="run it in a terminal, or rehearse on a twin with `--prompts scripted`",
            )

    def ask(
        self,
        journal: Journal,
        question: Question,
        escalation: Escalation | None = None,
    ) -> Answer:
        """The first valid answer. Raises Unanswered when the last escalation passed in silence."""
        prompt = self._open(journal, question)
        live = [front for front in self.fronts if not front.usable()]
        for front in live:
            front.show(prompt)
        try:
            for after, level in escalation or self.escalation:
                answer = self._listen(journal, prompt, live, prompt.asked_at + after)
                if answer is not None:
                    return answer
                journal.append("escalated", prompt=prompt.id, revision=prompt.revision, level=level)
                for front in live:
                    front.alert(prompt, level)
        finally:
            for front in live:
                front.close(prompt, "closed")
        waited = round(self.clock.now() - prompt.asked_at)
        journal.append("expired", prompt=prompt.id, revision=prompt.revision)
        raise Unanswered(
            f"nobody answered for {waited} s: {question.title}",
            evidence=f"{journal.path}: prompt {prompt.id}, revision {prompt.revision}",
            hint="the arm holds and the run is paused; run the same command again to go on",
        )

    def _open(self, journal: Journal, question: Question) -> Prompt:
        name = f"{question.attempt}-{question.kind}"
        asked = sum(r.kind == "prompt" and r.data["prompt"] == name for r in journal.records)
        prompt = Prompt(name, asked + 1, question, self.clock.now())
        journal.append(
            "prompt",
            prompt=prompt.id,
            revision=prompt.revision,
            question=question.kind,
            title=question.title,
            detail=question.detail,
            choices=[choice.name for choice in question.choices],
        )
        return prompt

    def _listen(
        self, journal: Journal, prompt: Prompt, fronts: Sequence[Front], until: float
    ) -> Answer | None:
        while (left := until - self.clock.now()) > 0:
            if self.stop_requested():
                raise Interrupted(
                    "stopped while a person was asked",
                    evidence=prompt.question.title,
                    hint="run the same command again; the question will be asked anew",
                )
            share = min(left, SLICE_S)
            for front in fronts:
                reply = front.wait(prompt, share)
                answer = reply and self._admit(journal, prompt, reply, front.name)
                if answer:
                    return answer
        return None

    def _admit(self, journal: Journal, prompt: Prompt, reply: Reply, front: str) -> Answer | None:
        known = [choice.name for choice in prompt.question.choices]
        heard: dict[str, Any] = {
            "prompt": reply.prompt,
            "revision": reply.revision,
            "choice": reply.choice,
            "actor": reply.actor,
            "note": reply.note,
            "front": front,
        }
        if (reply.prompt, reply.revision) != (prompt.id, prompt.revision):
            journal.append("refused", why="stale", **heard)
            return None
        if reply.choice not in known:
            journal.append("refused", why="not offered", **heard)
            return None
        waited = self.clock.now() - prompt.asked_at
        journal.append("answer", waited_s=round(waited, 3), **heard)
        return Answer(reply.choice, reply.actor, reply.note, waited)
