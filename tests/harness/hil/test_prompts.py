"""Questions at a real terminal (a pty) and through several fronts at once."""

import os
import pty
import threading
import time

import pytest

from harness.hil.clocks import JumpClock, WallClock
from harness.hil.journal import Journal
from harness.hil.prompts.broker import DONE, PROBLEM, Broker, Question, Reply, Unanswered
from harness.hil.prompts.scripted import Act, ScriptedTechnician, in_turn, moody
from harness.hil.prompts.terminal import Terminal
from registry.errors import Interrupted, UsageError

QUESTION = Question("reset", 1, "Trial 1: put the box on the mark", "x 20 cm", (DONE, PROBLEM))


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path / "run.jsonl", WallClock())
    yield journal
    journal.close()


class Screen:
    """A pty with somebody at the other end, who types once a prompt was shown."""

    def __init__(self):
        self.person, self.program = pty.openpty()
        self.text = ""

    def write(self, text):
        self.text += text
        return len(text)

    def flush(self): ...

    def isatty(self):
        return False


@pytest.fixture
def screen():
    screen = Screen()
    yield screen
    os.close(screen.person)
    os.close(screen.program)


class Typist(Terminal):
    """A terminal whose person types `keys` as soon as the question is on the screen."""

    keys = b""

    def show(self, prompt):
        super().show(prompt)
        os.write(self.person, self.keys)


def typist(screen, keys):
    front = Typist(screen.program, screen, "ada")
    front.person, front.keys = screen.person, keys
    return front


def test_one_key_answers(screen, journal):
    broker = Broker([typist(screen, b"y")], WallClock())
    answer = broker.ask(journal, QUESTION)
    assert (answer.choice, answer.actor) == ("done", "ada")
    assert "Trial 1: put the box on the mark" in screen.text
    assert "[y] Done" in screen.text
    assert [r.kind for r in journal.records] == ["prompt", "answer"]


def test_keys_that_mean_nothing_are_ignored(screen, journal):
    answer = Broker([typist(screen, b"xq\np")], WallClock()).ask(journal, QUESTION)
    assert answer.choice == "problem"


def test_what_was_typed_before_the_question_answers_nothing(screen, journal):
    os.write(screen.person, b"yyyyyy")
    answer = Broker([typist(screen, b"p")], WallClock()).ask(journal, QUESTION)
    assert answer.choice == "problem"


def test_the_terminal_is_given_back_as_it_was(screen, journal):
    import termios

    before = termios.tcgetattr(screen.program)
    Broker([typist(screen, b"y")], WallClock()).ask(journal, QUESTION)
    assert termios.tcgetattr(screen.program) == before


def test_the_bell_rings_when_nobody_answers(screen, journal):
    quick = ((0.05, "sound"), (0.1, "message"), (0.15, "pause"))
    with pytest.raises(Unanswered):
        Broker([typist(screen, b"")], WallClock(), quick).ask(journal, QUESTION)
    assert screen.text.count("\a") == 2


def test_no_terminal_and_no_other_front_refuses_to_start():
    reading, writing = os.pipe()
    try:
        with pytest.raises(UsageError, match="nobody can answer") as error:
            Broker([Terminal(reading, Screen(), "ada")], WallClock()).start()
        assert "not a terminal" in error.value.evidence
        Broker([Terminal(reading), ScriptedTechnician(JumpClock())], JumpClock()).start()
    finally:
        os.close(reading)
        os.close(writing)


def test_the_first_valid_answer_of_several_fronts_wins(screen, journal):
    clock = WallClock()
    silent = typist(screen, b"")
    other = ScriptedTechnician(clock, in_turn([Act(after_s=0.0)]), name="tablet")
    answer = Broker([silent, other], clock).ask(journal, QUESTION)
    assert answer.actor == "tablet"
    assert journal.records[-1].data["front"] == "tablet"


class Liar:
    """A front that answers what was never asked."""

    name = "liar"

    def __init__(self, replies):
        self.replies = list(replies)

    def usable(self):
        return ""

    def show(self, prompt): ...

    def wait(self, prompt, seconds):
        return self.replies.pop(0) if self.replies else None

    def alert(self, prompt, level): ...

    def close(self, prompt, why): ...


def test_stale_and_invented_answers_are_refused_and_recorded(journal):
    front = Liar(
        [
            Reply("0-reset", 1, "done", "eve"),
            Reply("1-reset", 7, "done", "eve"),
            Reply("1-reset", 1, "success", "eve"),
            Reply("1-reset", 1, "done", "ada"),
        ]
    )
    answer = Broker([front], WallClock()).ask(journal, QUESTION)
    assert answer.actor == "ada"
    assert [r.data.get("why") for r in journal.records if r.kind == "refused"] == [
        "stale",
        "stale",
        "not offered",
    ]


def test_the_same_question_asked_again_is_the_next_revision_even_after_a_restart(tmp_path):
    clock = JumpClock()
    for revision in (1, 2, 3):
        journal = Journal(tmp_path / "run.jsonl", clock)
        Broker([ScriptedTechnician(clock)], clock).ask(journal, QUESTION)
        asked = [r for r in journal.records if r.kind == "prompt"]
        assert asked[-1].data["revision"] == revision
        journal.close()


def test_a_stop_ends_the_waiting(journal):
    stop = threading.Event()
    timer = threading.Timer(0.05, stop.set)
    clock = WallClock()
    broker = Broker([ScriptedTechnician(clock, in_turn([Act("silence")]))], clock)
    broker.stop_requested = stop.is_set
    began = time.monotonic()
    timer.start()
    with pytest.raises(Interrupted):
        broker.ask(journal, QUESTION)
    assert time.monotonic() - began < 10
    timer.join()


def test_a_moody_technician_is_the_same_in_every_replay_and_shows_every_mood(journal):
    clock = JumpClock()
    acts = {}
    for attempt in range(200):
        question = Question("reset", attempt, "t", "", (DONE, PROBLEM))
        prompt = Broker([], clock)._open(journal, question)
        one, two = (moody(3, late=0.3, wrong=0.2, silent=0.1)(prompt) for _ in range(2))
        assert one == two
        acts[(one.kind, one.after_s)] = acts.get((one.kind, one.after_s), 0) + 1
    assert len(acts) == 4
