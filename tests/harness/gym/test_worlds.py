"""A foreign environment at arm's length."""

import contextlib
import sys

import pytest

from harness.gym.worlds import aside


def test_stdout_is_what_it_was_after_episodes_that_overlap(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = sys.stdout
    one, other = contextlib.ExitStack(), contextlib.ExitStack()
    one.enter_context(aside())
    other.enter_context(aside())
    one.close()
    print("chatter")  # noqa: T201
    other.close()
    assert sys.stdout is before
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "chatter\n")
