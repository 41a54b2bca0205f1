"""Fixtures of the fleet: the rig of the runtime; a twin and a servo in front of it as processes."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from servo_rig import locks, setup_of
from twin_attempts import Rig
from twin_process import TwinProcess

from fleet.servo_client import ServoClient
from fleet.shared_memory import memory_folder


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


@pytest.fixture
def twin(tmp_path: Path) -> Iterator[TwinProcess]:
    with TwinProcess(tmp_path) as made:
        yield made


@pytest.fixture
def servo(twin: TwinProcess) -> Iterator[ServoClient]:
    made = ServoClient(setup_of(twin, log=True))
    made.start()
    yield made
    made.close()
    for process in made.guardians:  # those that took the arm over end by a person's hand
        process.kill()
        process.wait()
    for path in (*memory_folder().glob(f"{made.setup.name}-*"), *locks()):
        path.unlink()
