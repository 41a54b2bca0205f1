"""The `policyctl` command. A table of strings names the verbs; a verb's module is imported on use.

`policyctl --help` therefore imports neither numpy nor the libraries of simulation, training or
robots. Every command takes `--home` and `--output`, whether written before or after the verb.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import itertools
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn

import click

from ci.cli.output import print_error, with_home
from ci.threads import one_per_call
from registry.errors import Interrupted, PolicyctlError, ServiceFailed, UsageError

ROOT: dict[str, tuple[str, str]] = {
    "init": ("ci.cli.init", "Make a registry home here."),
    "register": ("ci.cli.register", "Give a checkpoint a version."),
    "list": ("ci.cli.list", "Versions and how far each has climbed."),
    "show": ("ci.cli.show", "One version: files, contract, provenance, verdicts."),
    "diff": ("ci.cli.diff", "What changed from one version to another."),
    "tag": ("ci.cli.tag", "Give a version a name of your own."),
    "verify": ("ci.cli.verify", "Re-hash files, heal them, recompute verdicts."),
    "export": ("ci.cli.export", "One version in one file, for a site without network."),
    "import": ("ci.cli.import_", "Register the version in such a file."),
    "gc": ("ci.cli.gc", "Remove stored files that nothing needs."),
    "gate": ("ci.cli.gate", "Try a version: in simulation, then on the lab's robot."),
    "promote": ("ci.cli.promote", "Take a version one rung up."),
    "approve": ("ci.cli.approve", "Sign that robots may run a version."),
    "status": ("ci.cli.status", "What runs where and what is under way."),
    "pause": ("ci.cli.pause", "Expose no further robots to the candidate."),
    "resume": ("ci.cli.resume", "Go on with a paused rollout."),
    "abort": ("ci.cli.abort", "End a rollout; every robot returns to the baseline."),
    "rollback": ("ci.cli.rollback", "Return every robot to the previous version."),
    "history": ("ci.cli.history", "Who changed what, when and why."),
    "trust": ("ci.cli.trust", "Whose signatures robots believe: set up, harden, rotate, recover."),
    "audit": ("ci.cli.audit", "Whether the record of who changed what is whole."),
    "report": ("ci.cli.report", "A self-contained HTML report of a policy's versions."),
    "compare": ("ci.cli.compare", "Compare versions in simulation on the same scenes."),
    "replay": ("ci.cli.replay", "Play a simulated episode again, bit for bit."),
    "train": ("ci.cli.train", "Train a checkpoint from a recipe."),
    "sysid": ("ci.cli.sysid", "Fit the scene to a logged motion of a real arm."),
    "arm": ("ci.cli.arm", "Commission an arm, or try a version on it once."),
    "twin": ("ci.cli.twin", "Run an emulated arm as a process, and break it on purpose."),
    "fleet": ("ci.cli.fleet", "The robots and what each runs."),
    "robot": ("ci.cli.robot", "Enrol a robot."),
    "station": ("ci.cli.station", "Check a lab station, or lease it."),
    "server": ("ci.cli.server", "Run the controller of this home's rollouts."),
    "doctor": ("ci.cli.doctor", "What this machine can and cannot do, and why."),
    "demo": ("ci.cli.demo", "Watch four policies travel the whole road on this machine."),
    "completion": ("ci.cli.completion", "Print the shell completion script."),
}

EXTRAS = {
    "mujoco": "sim",
    "openarm_mujoco": "sim",
    "matplotlib": "sim",
    "PIL": "sim",
    "can": "robot",
    "torch": "train",
    "mcap": "sim",
    "av": "sim",
    "gymnasium": "sim",
    "ray": "ray",
    "boto3": "s3",
    "botocore": "s3",
    "huggingface_hub": "hf",
}
"""Which extra brings a module that a command may miss."""


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


def _missing_extra(error: Exception) -> UsageError | None:
    """What a module that was not installed means to the user; None where no extra brings it."""
    name = (getattr(error, "name", None) or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or name not in EXTRAS:
        return None
    return UsageError(
        f"this needs the extra '{EXTRAS[name]}'",
        evidence=f"{name} is not installed",
        hint=f"pip install 'policyctl[{EXTRAS[name]}]'",
    )


_REFUSALS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def _refused_by_system(error: Exception) -> ServiceFailed | None:
    """A file that may not be read, a disk that is full: no bug, whoever came upon it."""
    if not isinstance(error, OSError) or error.errno not in _REFUSALS | _FULL:
        return None
    said = os.strerror(error.errno)
    return ServiceFailed(
        "the system refuses a file" if error.filename else "the output cannot be written",
        evidence=f"{error.filename}: {said}" if error.filename else said,
        hint="free space, then run the same command again" if error.errno in _FULL
        else "check whose it is and its permissions, then run the same command again",
    )  # fmt: skip


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

    interrupts: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        interrupts.append(number)
        signal.default_int_handler(number, frame)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)

    def fail(error: PolicyctlError) -> NoReturn:
        error.hint = with_home(error.hint, home)
        print_error(error, as_json=as_json)
        if "--github" in arguments and not error.told:
            from ci.github import publish_error

            publish_error(error)
        sys.exit(error.exit_status)

    try:
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
        if interrupts:  # a library that was being loaded turned ctrl-C into an error of its own
            fail(INTERRUPTED)
        if known := _missing_extra(error) or _refused_by_system(error):
            fail(known)
        traceback.print_exc()
        fail(
            PolicyctlError(
                f"this is a bug in policyctl: {type(error).__name__}: {error}",
                hint="please report it with the lines above",
            )
        )
