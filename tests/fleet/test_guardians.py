"""Ending the guardians of a robot: all of them, also beside one that does not end."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import cast

import pytest

from fleet import guardians
from fleet.guardians import Guardians
from fleet.servo_setup import ServoSetup

DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); "


def sleeper(words: str) -> subprocess.Popen[bytes]:
    program = f"{words}import time; time.sleep(60)"
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)


def test_one_that_is_deaf_keeps_none_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guardians, "END_S", 0.2)
    ended = Guardians(cast("ServoSetup", None))
    deaf, other = sleeper(DEAF), sleeper("")
    assert deaf.stdout is not None
    assert deaf.stdout.readline() == b"on\n"
    ended.processes += [deaf, other]
    ended.end()
    assert (deaf.returncode, other.returncode) == (-signal.SIGKILL, -signal.SIGTERM)
    assert ended.processes == []
