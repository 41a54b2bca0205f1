"""A report as one HTML page that needs no network: styles, charts and pictures are inside."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

from markupsafe import Markup

from ci.report.model import Report
from ci.report.template import environment

_CHARTS = {"chart", "charts", "gap_chart"}


def render(report: Report) -> str:
    """The page. Everything is escaped but the charts, which we drew ourselves."""
    templates = environment("ci.report")
    return templates.get_template("page.html.j2").render(report=_trusted(report))


def _trusted(value: Any) -> Any:
    """The same values with chart fields marked as markup."""
    if is_dataclass(value) and not isinstance(value, type):
        changes = {}
        for field in fields(value):
            inner = getattr(value, field.name)
            if field.name in _CHARTS:
                drawn = isinstance(inner, str)
                changes[field.name] = Markup(inner) if drawn else tuple(map(Markup, inner))
            else:
                changes[field.name] = _trusted(inner)
        return replace(value, **changes)
    if isinstance(value, tuple):
        return tuple(_trusted(item) for item in value)
    return value
