"""`policyctl completion`: the script that makes a shell complete policyctl's words."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from registry.errors import UsageError


@click.command(name="completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the completion script; `eval "$(policyctl completion bash)"` turns it on."""
    completion = get_completion_class(shell)
    if completion is None:
        raise UsageError(f"no completion for {shell}")
    root = context.find_root()
    click.echo(completion(root.command, {}, "policyctl", "_POLICYCTL_COMPLETE").source())
