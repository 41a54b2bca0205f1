"""Scene overlays: what a simulation changes in the model so that it moves like one real arm.

    schema: policyctl.overlay/1
    terms:
      joint3.damping: {target: joint3, field: damping, operation: scale, value: 1.23}

A term is one change at the reset, in the words and ranges of a gate's axes (harness/sim/fields.py);
no two may change one field. A gate names the file (registry/gates_file.py reads it), and its grid
checks the terms (harness/sim/grid.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import yaml

from harness.sim.episode import Change

SCHEMA = "policyctl.overlay/1"


def dump_overlay(changes: Iterable[Change], notes: Mapping[Change, str], head: str) -> str:
    """The text of an overlay file: `head` as its comment, a note behind each change."""
    lines = [f"# {line}" for line in head.splitlines()]
    lines += [f"schema: {SCHEMA}", "terms:"]
    for change in changes:
        term = {"target": change.target, "field": change.field,
                "operation": change.operation, "value": change.value}  # fmt: skip
        flow = yaml.safe_dump(term, default_flow_style=True, sort_keys=False, width=200).strip()
        note = f"  # {notes[change]}" if change in notes else ""
        lines.append(f"  {change.target}.{change.field}: {flow}{note}")
    return "\n".join(lines) + "\n"
