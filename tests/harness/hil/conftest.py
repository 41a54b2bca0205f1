"""Makes the bench of `installed/` an installed distribution, entry points and all."""

import sys
from pathlib import Path

import pytest

INSTALLED = str(Path(__file__).parent / "installed")
if INSTALLED not in sys.path:
    sys.path.insert(0, INSTALLED)


@pytest.fixture
def bench(tmp_path):
    from hil_bench import Bench

    return Bench(tmp_path / "bench")
