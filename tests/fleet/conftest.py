"""The rig that tests of the runtime share."""

from collections.abc import Iterator

import pytest
from twin_attempts import Rig


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()
