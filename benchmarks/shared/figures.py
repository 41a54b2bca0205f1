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


def check(figure: str, value: float, unit: str, limit: float) -> bool:
    """Prints a figure that must not be above `limit`; whether it is not."""
    met = value <= limit
    told = {
        "figure": figure,
        "value": round(value, 3),
        "unit": unit,
        "against": "at most",
        "reference": limit,
        "ratio": round(limit / value, 3) if value else None,
        "floor": 1.0,
        "met": met,
    }
    print(json.dumps(told), flush=True)
    return met
