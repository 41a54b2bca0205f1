"""What a command says: data on stdout, narration on stderr, errors as three lines.

`--output json` prints one object with `"schema": "policyctl/1"`; the text form is for people and
may change, the JSON form is a promise.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Any

import click
from rich.console import Console, RenderableType

from registry.errors import PolicyctlError

SCHEMA = "policyctl/1"


def settings() -> dict[str, Any]:
    """The options every command shares (`home`, `output`), as given on this command line."""
    context = click.get_current_context(silent=True)
    if context is None:
        return {}
    obj = context.find_root().ensure_object(dict)
    return dict(obj)


def wants_json() -> bool:
    return settings().get("output") == "json"


def console(stream: IO[str] | None = None) -> Console:
    """A console on stdout that neither wraps nor colours when piped."""
    stream = stream or sys.stdout
    piped = not stream.isatty()
    return Console(
        file=stream, highlight=False, emoji=False, soft_wrap=piped, width=160 if piped else None
    )


def emit(
    data: Mapping[str, Any],
    text: RenderableType,
    *,
    error: PolicyctlError | None = None,
    report: str = "",
) -> None:
    """Prints a command's result, in the form the user asked for; `report` is GitHub's summary.

    A result that is also an error (a gate that failed) is told in one piece and then raised.
    """
    if wants_json():
        told = {"schema": SCHEMA, **data, **({"error": error.as_dict()} if error else {})}
        click.echo(json.dumps(told, indent=2, default=str))
    else:
        console().print(text)
    if settings().get("github"):
        from ci.github import publish

        try:
            publish(data, report=report)
        except PolicyctlError as untold:
            if error or wants_json():  # else it is told when it is raised
                print_error(untold, as_json=False)
            error = error or untold
    if error:
        error.told = True
        raise error


def narrate(text: str) -> None:
    """One line on stderr about what is going on."""
    click.echo(text, err=True)


def print_error(error: PolicyctlError, *, as_json: bool) -> None:
    if as_json and error.told:
        return
    if as_json:
        with suppress(OSError):  # nobody reads it, or its disk is full: told on stderr then
            click.echo(json.dumps({"schema": SCHEMA, "error": error.as_dict()}, indent=2))
            return
    click.secho(f"error: {error.what}", fg="red", err=True)
    if error.evidence:
        click.echo(f"  evidence: {error.evidence}", err=True)
    if error.hint:
        click.echo(f"  hint: {error.hint}", err=True)
