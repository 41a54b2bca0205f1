"""Publishing and fetching killed at random moments: nothing is damaged, nothing is lost."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "store.py"


@pytest.mark.slow
def test_a_few_of_the_benchmarks_kills() -> None:
    """The same that `benchmarks/store.py --only kills --kills 1000` does at length."""
    command = [sys.executable, str(BENCHMARK), "--only", "kills", "--kills", "10"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(figures) == 3
    assert all(figure["met"] for figure in figures)
