"""The `policyctl` command. A verb's module is imported on use.

`policyctl --help` therefore imports neither numpy nor the libraries of simulation, training or
robots. Every command takes `--home` and `--output`, whether written before or after the verb.
"""

from __future__ import annotations

import difflib
import importlib
import itertools
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from ci.cli.interrupts import Interrupts
from ci.cli.verbs import ROOT, with_home
from ci.known_errors import bug, known_error
from ci.output import print_error
from ci.threads import one_per_call
from registry.errors import Interrupted, PolicyctlError, UsageError


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value is not None and parameter.name:
        context.find_root().ensure_object(dict)[parameter.name] = value


def _shared_options() -> list[click.Parameter]:
    return [
        click.Option(
            ["--home"],
            type=click.Path(file_okay=False),
            expose_value=False,
            callback=_remember,
            help="Registry home; else the nearest .policyctl, else $POLICYCTL_HOME.",
        ),
        click.Option(
            ["--output"],
            type=click.Choice(["text", "json"]),
            expose_value=False,
            callback=_remember,
            help="text for people, json for programs.",
        ),
        click.Option(
            ["--github"],
            is_flag=True,
            default=None,
            expose_value=False,
            callback=_remember,
            help="Also write GitHub's outputs, summary, annotations and comment.",
        ),
    ]


def _share(command: click.Command) -> click.Command:
    """Gives a command, and all below it, the options that every command has."""
    taken = {name for parameter in command.params for name in parameter.opts}
    command.params += [option for option in _shared_options() if option.opts[0] not in taken]
    if isinstance(command, click.Group):
        for child in command.commands.values():
            _share(child)
    return command


class LazyGroup(click.Group):
    """A group whose members are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(ROOT)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in ROOT:
            return None
        if cmd_name not in self.commands:
            module = importlib.import_module(ROOT[cmd_name][0])
            self.commands[cmd_name] = _share(module.command)
        return self.commands[cmd_name]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        near = difflib.get_close_matches(args[0], ROOT, n=1)
        if args[0] not in ROOT and near and not args[0].startswith("-"):
            raise UsageError(
                f"there is no command '{args[0]}'", hint=f"did you mean `policyctl {near[0]}`?"
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in ROOT.items()])


@click.group(cls=LazyGroup, invoke_without_command=True, params=_shared_options())
@click.version_option(package_name="policyctl")
@click.pass_context
def cli(context: click.Context) -> None:
    """The release system for robot policies: version, try, canary, fleet, roll back."""
    if context.invoked_subcommand is None:
        home_page = cli.get_command(context, "status")
        assert home_page is not None
        context.invoke(home_page)


INTERRUPTED = Interrupted("interrupted", hint="what was recorded stays; run it again to go on")


def _refuse_other_bytes(arguments: Sequence[str]) -> None:
    """What is no UTF-8 can neither be recorded nor said: Python keeps such bytes as surrogates."""
    for word in arguments:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise UsageError(
                "an argument is not UTF-8", evidence=repr(word), hint="type it in UTF-8"
            ) from None


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: turns every error into its three lines and its exit status."""
    one_per_call()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--output=json" in arguments or "json" in (
        after for word, after in itertools.pairwise(arguments) if word == "--output"
    )

    home = next(
        (after for word, after in itertools.pairwise(arguments) if word == "--home"),
        next((word[7:] for word in arguments if word.startswith("--home=")), ""),
    )

    interrupts = Interrupts()
    interrupts.install()

    def fail(error: PolicyctlError) -> NoReturn:
        error.hint = with_home(error.hint, home)
        print_error(error, as_json=as_json)
        if "--github" in arguments and not error.told:
            from ci.github import publish_error

            try:
                publish_error(error)
            except PolicyctlError as untold:  # the first error is what counts
                print_error(untold, as_json=False)
        sys.exit(error.exit_status)

    try:
        _refuse_other_bytes(arguments)
        sys.exit(cli.main(arguments, prog_name="policyctl", standalone_mode=False) or 0)
    except PolicyctlError as error:
        fail(error)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f"{context.command_path} --help" if context else ""
        fail(UsageError(" ".join(error.format_message().split()), hint=hint and f"see `{hint}`"))
    except (KeyboardInterrupt, click.Abort):
        fail(INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:  # noqa: BLE001 - the one place that turns a bug into exit status 1
        if (
            interrupts.came
        ):  # a library that was being loaded turned ctrl-C into an error of its own
            fail(INTERRUPTED)
        fail(known_error(error) or bug(error))
