"""Progress of a gate: rate and time left, on a terminal and in a log."""

from __future__ import annotations

import io

from ci.cli.progress import EVERY, ProgressLine
from harness.sim.gate import Progress
from registry.verdicts import Outcome, Verdict


class Clock:
    """Time that passes when told to [s]."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def progress(drawn: int, more: int | None = None) -> Progress:
    outcome = Outcome.PASS if more is None else Outcome.INCONCLUSIVE
    return Progress(drawn, drawn - drawn // 10, 5000, Verdict(outcome, "sim", "", more=more))


def test_it_tells_the_rate_and_what_the_verdict_still_needs() -> None:
    clock, out = Clock(), Terminal()
    line = ProgressLine("box-grasp v12", stream=out, clock=clock)
    clock.now += 10
    line(progress(200, more=300))
    assert out.getvalue().endswith(
        "box-grasp v12: 180/200 of 5000, inconclusive, 20.0/s, 15 s left"
    )


def test_a_slow_start_is_forgotten() -> None:
    clock = Clock()
    line = ProgressLine("v", stream=Terminal(), clock=clock)
    clock.now += 60  # loading
    for drawn in range(0, 3000, 50):
        line(progress(drawn, more=1000))
        clock.now += 1
    assert round(line.rate()) == 50


def test_a_full_run_is_not_over_when_it_is_decided() -> None:
    clock, out = Clock(), Terminal()
    line = ProgressLine("v", full=True, stream=out, clock=clock)
    clock.now += 10
    line(progress(1000))
    assert out.getvalue().endswith("pass, 100.0/s, 40 s left")


def test_a_decided_run_has_no_time_left() -> None:
    clock, out = Clock(), Terminal()
    line = ProgressLine("v", stream=out, clock=clock)
    clock.now += 10
    line(progress(1000))
    assert out.getvalue().endswith("pass, 100.0/s")


def test_a_terminal_has_one_line_that_is_ended_once() -> None:
    clock, out = Clock(), Terminal()
    with ProgressLine("v", stream=out, clock=clock) as line:
        for drawn in (10, 20, 30):
            clock.now += 1
            line(progress(drawn, more=100))
    assert out.getvalue().count("\r") == 3
    assert out.getvalue().count("\n") == 1
    assert out.getvalue().endswith("\n")


def test_nothing_is_written_where_nothing_was_told() -> None:
    out = Terminal()
    with ProgressLine("v", stream=out, clock=Clock()):
        pass
    assert out.getvalue() == ""


def test_a_log_has_a_line_every_500_episodes() -> None:
    clock, out = Clock(), io.StringIO()
    line = ProgressLine("v", stream=out, clock=clock)
    for drawn in range(50, 2001, 50):
        clock.now += 1
        line(progress(drawn, more=100))
    lines = out.getvalue().splitlines()
    assert [int(text.split("/")[1].split()[0]) for text in lines] == [
        EVERY, 2 * EVERY, 3 * EVERY, 4 * EVERY,
    ]  # fmt: skip
    assert "\r" not in out.getvalue()
    assert lines[0] == "v: 450/500 of 5000 episodes, inconclusive, 50.0/s, about 2 s left"


def test_a_slow_policy_shows_life_in_a_log() -> None:
    clock, out = Clock(), io.StringIO()
    line = ProgressLine("v", stream=out, clock=clock)
    for drawn in range(1, 181):
        clock.now += 1
        line(progress(drawn, more=100))
    assert len(out.getvalue().splitlines()) == 3
