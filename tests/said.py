"""What a command said, for tests that type one in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Said:
    status: int
    out: str
    err: str

    @property
    def data(self) -> dict[str, Any]:
        """Its JSON."""
        found: dict[str, Any] = json.loads(self.out)
        assert found["schema"] == "policyctl/1"
        return found


Run = Callable[..., Said]
"""Types a command: its words to what it said."""
