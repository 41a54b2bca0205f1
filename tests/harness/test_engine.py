"""An engine's fingerprint covers the source of whatever plays an episode."""

from __future__ import annotations

import subprocess
import sys

import pytest

from harness.sim.engine import SOURCES, fingerprint

pytestmark = pytest.mark.slow

ROOMS = ("registry", "policies", "fleet", "harness")
ELSEWHERE = {
    "fleet.can.faults": "words for a motor's faults",
    "harness.sim.gl": "the fingerprint names the driver",
    "registry.errors": "words",
    "registry.gates": "a gate's digest covers what was read",
    "registry.grid_gate": "a gate's digest covers what was read",
    "registry.versions": "names of versions and digests",
}
"""Modules that are imported but are no source of an episode, and why."""
SAY = f"""
import sys
import {{}}
ours = (m for n, m in sys.modules.items() if n.partition(".")[0] in {ROOMS!r})
for module in ours:
    path = getattr(module, "__file__", None)
    if path and open(path).read().strip():
        print(module.__name__)
"""


def imported(module: str) -> set[str]:
    """Our modules, empty ones left out, that a fresh interpreter has after importing one."""
    run = [sys.executable, "-c", SAY.format(module)]
    return set(subprocess.run(run, capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize(
    "module",
    ["harness.sim.env", "harness.sim.runner", "harness.sim.grid", "policies.formats.native"],
)
def test_what_plays_an_episode_is_fingerprinted(module: str) -> None:
    assert imported(module) - set(SOURCES) - set(ELSEWHERE) == set()


def test_nothing_is_excused_that_is_not_imported() -> None:
    players = ("harness.sim.env", "harness.sim.grid")
    assert set(ELSEWHERE) <= set().union(*map(imported, players))
    assert not set(ELSEWHERE) & set(SOURCES)


def test_the_fingerprint_is_of_readable_sources() -> None:
    assert len(set(SOURCES)) == len(SOURCES)
    assert "code " in fingerprint()
