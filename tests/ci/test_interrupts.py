"""Ctrl-C and SIGTERM while a module is loaded that loses exceptions, as C extensions do."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import time
from ci.cli.interrupts import Interrupts
Interrupts().install()
try:
    import loses
    time.sleep({then})
    print("went on")
except KeyboardInterrupt:
    print("interrupted", "loses" in globals())
"""
LOSES = """
import os, time
try:
    for number in {numbers}:
        os.kill(os.getpid(), number)
    time.sleep({loads})
except BaseException:
    print("lost")
"""


def ran(folder: Path, *numbers: int, loads: float = 0.1, then: float = 20.0) -> str:
    (folder / "loses.py").write_text(
        LOSES.format(numbers=[int(one) for one in numbers], loads=loads)
    )
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(then=then)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": f"{folder}:{Path(__file__).parents[2]}", "PATH": ""},
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_the_command_when_the_module_is_loaded(tmp_path: Path, number: int) -> None:
    assert ran(tmp_path, number) == "interrupted True\n"


def test_a_second_one_waits_for_nothing(tmp_path: Path) -> None:
    """And is raised once, however the first one waits."""
    assert ran(tmp_path, signal.SIGINT, signal.SIGINT, loads=20.0, then=0.2) == "lost\nwent on\n"


def test_a_sigterm_right_after_is_the_same_wish(tmp_path: Path) -> None:
    assert ran(tmp_path, signal.SIGINT, signal.SIGTERM) == "interrupted True\n"


def test_a_module_that_takes_too_long_is_not_waited_for(tmp_path: Path) -> None:
    assert ran(tmp_path, signal.SIGINT, loads=50.0, then=0.0) == "lost\nwent on\n"
