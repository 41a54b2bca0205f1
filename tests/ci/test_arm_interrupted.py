"""ctrl-C while `policyctl arm` waits for its first answer: nothing was seen, nothing is told."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from twin_process import COMMAND

from harness.twin.adapter import Adapter
from harness.twin.socket_door import SocketDoor

pytestmark = pytest.mark.slow

ASKED_WITHIN_S = 60.0


@pytest.mark.parametrize("verb", ["limits", "limits --save", "monitor"])
def test_who_stops_it_before_the_first_look_is_told_130_and_saves_nothing(
    tmp_path: Path, verb: str
) -> None:
    file = tmp_path / "right.json"
    words = [*verb.split(), *([str(file)] if "--save" in verb else [])]
    with closing(SocketDoor(tmp_path / "right.sock")) as door:
        bus = ["--interface", "policyctl", "--channel", str(door.where["channel"]), "--fd"]
        with subprocess.Popen(
            [*COMMAND, "arm", *words, *bus, "--output", "json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        ) as command:
            while ready := select.select(list(door.sources()), [], [], ASKED_WITHIN_S)[0]:
                if [frame for source in ready for frame in door.take(source)]:
                    break  # it asks motors of which none will answer
                door.tell(Adapter())
            command.send_signal(signal.SIGINT)
            said, told = command.communicate(timeout=60)
    assert command.returncode == 130, told
    error = json.loads(said or told)["error"]
    assert error["code"] == "interrupted"
    assert "nothing" in error["evidence"]
    assert not file.exists()
