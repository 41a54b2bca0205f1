"""What a gate keeps of its episodes: one row each, in the order in which they were drawn.

    key            task:coordinates:episode, enough to play the episode again
    cell, values   the cell; what its axes and the drawn terms are, one column each
    outcome        success | failure
    failure_mode   what went wrong, a name of harness/failures.py; "" for a success
    steps          policy steps until the end
    metrics        what the task measures, by name and unit: lift_m, the box's highest rise
    interventions  how often shaping and protection changed a command, by name
    digest         sha256 of the final state; equal for equal episodes on equal engines

`digest_rows` covers all of it: two runs of a gate with equal digests were the same run.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from harness.sim.episode import EpisodeRecord
from harness.sim.grid import Grid
from registry.evidence import Tally
from registry.versions import digest_of


@dataclass(frozen=True)
class Row:
    key: str
    cell: str
    values: Mapping[str, float]
    episode: int
    outcome: str
    failure_mode: str
    steps: int
    metrics: Mapping[str, float]
    interventions: Mapping[str, int]
    digest: str
    detail: str = ""
    actions: str = ""
    """The policy's outputs, packed (`pack`), where they are kept: of failures, and of flips against
    a baseline. They follow from the rest, so no digest covers them."""

    @property
    def success(self) -> bool:
        return self.outcome == "success"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def row(grid: Grid, number: int, record: EpisodeRecord) -> Row:
    """The row of the population's `number`."""
    cell, episode = grid.place(number)
    return Row(
        key=grid.key(number),
        cell=cell.name,
        values=grid.values(number),
        episode=episode,
        outcome="success" if record.success else "failure",
        failure_mode=record.failure_mode,
        steps=record.steps,
        metrics=rounded(record.metrics),
        interventions={name: count for name, count in record.interventions.items() if count},
        digest=record.digest,
        detail=record.detail,
        actions=pack(record.actions),
    )


def rounded(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics as rows have them."""
    return {name: round(value, 4) for name, value in metrics.items()}


def pack(actions: bytes) -> str:
    """Bytes as text: zlib, then base64."""
    return base64.b64encode(zlib.compress(actions)).decode() if actions else ""


def unpack(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text)) if text else b""


def digest_rows(rows: Sequence[Row]) -> str:
    """One digest over the ordered rows."""
    whole = hashlib.sha256()
    for each in rows:
        whole.update(digest_of(replace(each, actions="").to_json()).encode())
    return f"sha256:{whole.hexdigest()}"


def tally_cells(grid: Grid, rows: Sequence[Row]) -> tuple[tuple[str, Tally], ...]:
    """Successes and failures of every cell that was drawn from, in the grid's order."""
    successes = Counter(each.cell for each in rows if each.success)
    drawn = Counter(each.cell for each in rows)
    return tuple(
        (cell.name, Tally(successes[cell.name], drawn[cell.name] - successes[cell.name]))
        for cell in grid.cells
        if drawn[cell.name]
    )


def failure_modes(rows: Sequence[Row]) -> dict[str, int]:
    """How many episodes failed in which way, most frequent first."""
    modes = Counter(each.failure_mode for each in rows if not each.success)
    return dict(sorted(modes.items(), key=lambda pair: (-pair[1], pair[0])))


def to_csv(rows: Sequence[Row]) -> str:
    """All rows as CSV, one column an axis."""
    axes = sorted({name for each in rows for name in each.values})
    metrics = sorted({name for each in rows for name in each.metrics})
    end = ("interventions", "detail", "digest")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["key", "cell", *axes, "episode", "outcome", "failure_mode", "steps", *metrics, *end]
    )
    for each in rows:
        counts = " ".join(f"{name}:{count}" for name, count in sorted(each.interventions.items()))
        values = [f"{each.values[axis]:g}" for axis in axes]
        how = (each.episode, each.outcome, each.failure_mode, each.steps)
        measured = [each.metrics.get(name, "") for name in metrics]
        ended = (counts, each.detail, each.digest)
        writer.writerow([each.key, each.cell, *values, *how, *measured, *ended])
    return text.getvalue()
