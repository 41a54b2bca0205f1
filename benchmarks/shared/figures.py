"""What every benchmark prints: one JSON line a figure, beside the limit of the same run."""

from __future__ import annotations

import json


def line(
    figure: str,
    value: float,
    unit: str,
    against: str,
    reference: float,
    floor: float | None = None,
    *,
    less_is_better: bool = False,
) -> bool:
    """Prints one figure, its ratio rising with how good we are; whether its floor is met."""
    ratio = reference / value if less_is_better else value / reference
    met = floor is None or ratio >= floor
    told = {
        "figure": figure,
        "value": round(value, 2),
        "unit": unit,
        "against": against,
        "reference": round(reference, 2),
        "ratio": round(ratio, 3),
        "floor": floor,
        "met": met,
    }
    print(json.dumps(told), flush=True)
    return met
