"""`policyctl-agent ROBOT.yaml`: the program of one robot, and where its parts are put together.

It keeps all it must not lose in one folder (`--state`, by default `<home>/agents/<robot>`): the
attempts (spool.db), the versions it holds, its key and the keyring that it believes
(`fleet.agent.identity`), and on twins what the frame monitor saw (monitor.json).
One SIGTERM or ctrl-C: the running attempt is finished, then it ends; where none is opened yet, the
arm stops where it is. A second one: protective stop, whatever the arm does.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from ci.cli.finite import FiniteRange
from ci.known_errors import bug, known_error
from ci.output import narrate, print_error
from ci.threads import one_per_call
from registry.errors import Corrupt, Interrupted, PolicyctlError, UsageError
from registry.storage import disk_errors, write_whole

if TYPE_CHECKING:
    from ci.rig import Rig
    from fleet.agent.admission import Admission
    from fleet.agent.identity import Identity
    from fleet.agent.spool import Result
    from fleet.agent.updater import Ready
    from fleet.robot import RobotConfig

TASK = "box-grasp"
"""What a robot does whose file does not say it."""


@click.command("policyctl-agent")
@click.argument("file", metavar="ROBOT.yaml", type=click.Path(path_type=Path))
@click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    help="Registry home; else the nearest .policyctl, else $POLICYCTL_HOME.",
)
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where attempts and versions are kept; by default agents/ROBOT in the home.",
)
@click.option(
    "--poll",
    default=0.5,
    show_default=True,
    type=FiniteRange(min=0.02),
    help="Seconds between two looks at the assignment.",
)
@click.option(
    "--trust-root",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The root.json this robot shall believe; else the first that the registry shows it.",
)
@click.option("--max-attempts", type=click.IntRange(min=0), help="End after so many attempts.")
def command(
    file: Path,
    home: Path | None,
    state: Path | None,
    poll: float,
    trust_root: Path | None,
    max_attempts: int | None,
) -> None:
    """Run the agent of one robot until it is told to stop."""
    from ci.hosting import host_for
    from ci.rig import build_rig
    from fleet.agent.admission import Admission
    from fleet.agent.choice import Work
    from fleet.agent.identity import Identity
    from fleet.agent.link import LocalLink
    from fleet.agent.spool import Spool
    from fleet.agent.supervisor import Supervisor
    from fleet.agent.updater import Updater
    from fleet.robot import load_robot
    from fleet.stopping import stop_on_signals
    from registry.home import find_home
    from registry.service import Actor, Registry

    config = load_robot(file)
    place = find_home(home)
    folder = state or place.root / "agents" / config.robot
    task = task_of(config)
    with (
        stop_on_signals() as stop,
        Spool(folder / "spool.db", config.robot) as spool,
        Registry.open(place, Actor(config.robot, "robot")) as registry,
        build_rig(config) as rig,
        _let_down(rig, folder),
    ):
        link = LocalLink(registry)
        attempts = Attempts(rig, task)
        work = Work(
            robot=config.robot,
            task=task,
            judge=attempts.judge.version,
            stratum=task,
            on_rollout_only=config.work == "on_rollout",
            max_attempts=max_attempts,
            poll_s=poll,
        )
        admission = Admission(folder / "trust", link)
        identity = Identity(folder, lambda: admission.file("keyring.json"))
        identity.require_usable()
        if trust_root is not None:
            _believe(trust_root, admission, identity)
        updater = Updater(
            folder / "versions", link, config.class_, load=host_for(config), admission=admission
        )
        supervisor = Supervisor(
            work, link, spool, updater, attempts.run, extra=attempts.status, identity=identity
        )
        gc.collect()
        gc.freeze()  # what lives now lives as long as the agent
        narrate(f"{config.robot}: ready, {len(spool.recovered)} attempt(s) recovered")
        supervisor.loop(stop)
    narrate(f"{config.robot}: stopped after {supervisor.attempts} attempt(s)")


@contextmanager
def _let_down(rig: Rig, folder: Path) -> Iterator[None]:
    """Whatever ends the block, the arm rests and what the monitors saw is kept. Where that fails,
    too, the block's own error is the one that is raised.
    """
    try:
        yield
    except BaseException:
        try:
            _rest(rig, folder)
        except (PolicyctlError, OSError) as second:
            narrate(f"and then: {second}")
        raise
    _rest(rig, folder)


def _rest(rig: Rig, folder: Path) -> None:
    try:
        rig.servo.protective_stop("agent_stopped")
    finally:
        seen = json.dumps(rig.frames(), indent=2)
        with disk_errors(folder):
            write_whole(folder / "monitor.json", seen.encode())


def _believe(root: Path, admission: Admission, identity: Identity) -> None:
    try:
        admission.believe(root.read_bytes(), identity.forget)
    except Corrupt as wrong:
        raise UsageError(
            "that is no root of approvals",
            evidence=f"{root}: {wrong.evidence}",
            hint="take the file that `policyctl trust status` names at the home",
        ) from wrong


def task_of(config: RobotConfig) -> str:
    """The task a robot works at; on a twin its world is built for it."""
    return config.twin.task if config.twin else TASK


class Attempts:
    """The runtime as the supervisor uses it: one attempt of a ready version on this rig."""

    def __init__(self, rig: Rig, task: str) -> None:
        from harness.tasks import find_task

        self._rig = rig
        self._task = find_task(task)
        self._scene = rig.conveyor()
        self.judge = rig.judge(task)
        self._waiting = ""

    def run(
        self,
        ready: Ready,
        open_attempt: Callable[[Mapping[str, Any]], None],
        should_stop: Callable[[], str | None],
    ) -> Result | None:
        """None where no attempt was opened; the reason is in `status`."""
        from fleet.agent.spool import Result

        if self._rig.world is not None and self._rig.servo.stopped:
            self._rig.runtime.resume()  # nobody stands at a twin's arm; a real one waits for them
        gc.disable()  # what an attempt leaves is collected between attempts
        try:
            episode = self._rig.runtime.run_attempt(
                ready.policy,
                self._task,
                self.judge,
                open_attempt,
                self._scene,
                should_stop=should_stop,
            )
        finally:
            gc.enable()
        if not episode.opened:
            self._waiting = f"{episode.failure_mode}: {episode.detail}"
            return None
        self._waiting = ""
        return Result(
            outcome=episode.outcome,
            failure_mode=episode.failure_mode,
            duration_s=round(episode.duration_s, 4),
            steps=episode.steps,
            interventions=dict(episode.interventions),
            safety_events=episode.safety_events,
        )

    def status(self) -> dict[str, Any]:
        """What every heartbeat says of the rig."""
        return {"waiting": self._waiting, "frames": self._rig.frames()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: turns every error into its three lines and its exit status."""
    one_per_call()
    try:
        command.main(arguments, prog_name="policyctl-agent", standalone_mode=False)
    except PolicyctlError as error:
        _fail(error)
    except click.ClickException as error:
        _fail(UsageError(error.format_message(), hint="see `policyctl-agent --help`"))
    except (KeyboardInterrupt, click.Abort):
        _fail(Interrupted("interrupted before the robot was ready", hint="start it again"))
    except Exception as error:  # noqa: BLE001 - as in `policyctl`
        _fail(known_error(error) or bug(error))


def _fail(error: PolicyctlError) -> NoReturn:
    print_error(error, as_json=False)
    sys.exit(error.exit_status)
