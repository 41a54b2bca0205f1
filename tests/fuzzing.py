"""One property on few examples in the unit tier, and on many in the slow one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


def examples(*, few: int, many: int) -> pytest.MarkDecorator:
    """Gives a test its `number` of examples."""
    return pytest.mark.parametrize("number", [few, pytest.param(many, marks=pytest.mark.slow)])


def fuzz(number: int, holds: Callable[..., None], *drawn: st.SearchStrategy[Any]) -> None:
    """Checks a property on so many examples."""
    settings(max_examples=number, deadline=None)(given(*drawn)(holds))()
