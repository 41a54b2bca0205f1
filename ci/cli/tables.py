"""Rows of measured values as a table in which decimal points stand under each other."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

WORDS = ("joint", "status", "fault", "seen_as", "does", "details", "of")
DECIMALS: Mapping[str, int] = {
    **dict.fromkeys(("deg", "nm", "low", "high", "model_low", "model_high"), 2),
    **dict.fromkeys(("deg_s", "age_ms", "vmax", "tmax", "at"), 1),
    **dict.fromkeys(("mos_c", "coil_c"), 0),
    **dict.fromkeys(("q", "before", "after"), 4),
}
"""By column, how many are shown."""


def table(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], words: Collection[str] = WORDS
) -> Table:
    """`words` are the columns set from the left; a cell that is not there is a dash."""
    from rich.table import Table

    found = Table(box=None, pad_edge=False)
    for name in columns:
        found.add_column(name.replace("_", " "), justify="left" if name in words else "right")
    for row in rows:
        found.add_row(*(_cell(name, row.get(name)) for name in columns))
    return found


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float) and name in DECIMALS:
        places = DECIMALS[name]
        return f"{round(value, places) + 0.0:.{places}f}"  # never -0.0
    return str(value)
