"""A hardened home, a robot of it, and the line between them."""

from __future__ import annotations

from pathlib import Path

import pytest
from trust import Line, Vault, robot, sees

from registry.trust.client import TrustClient


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    """A hardened home with version 1 approved."""
    made = Vault(tmp_path).init().harden()
    made.approve(1, "dora", "emil")
    return made


@pytest.fixture
def line(vault: Vault) -> Line:
    return Line(vault.folder)


@pytest.fixture
def client(vault: Vault, tmp_path: Path, line: Line) -> TrustClient:
    made = robot(vault, tmp_path / "robot", line)
    assert sees(made, 1)
    return made
