"""`policyctl robot`: robots as the registry knows them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ci.app import home_option, open_registry
from ci.output import emit, narrate
from registry.errors import NotFound, Refused, UsageError

if TYPE_CHECKING:
    from fleet.agent.identity import Identity
    from registry.service import Registry
    from registry.trust.keyring import PublicKey


@click.group("robot")
def command() -> None:
    """Enrol a robot."""


@command.command("enrol")
@click.argument(
    "files", metavar="ROBOT.yaml…", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Public key that was made on the robot; else one is made in its state folder here.",
)
def enrol(files: tuple[Path, ...], key: Path | None) -> None:
    """Make robots known; each is given what its fleet runs. Again is harmless.

    All files are read before the first robot is enrolled. Where trust is set up each robot gets a
    key of its own, the keyring that it believes from then on, and the root of approvals.
    """
    from fleet.robot import load_robot

    configs = [load_robot(file) for file in files]
    for config, file in zip(configs, files, strict=True):
        if config.role == "lab":
            raise Refused(
                f"{config.robot} is a lab's station, not a robot of the fleet",
                evidence=f"{file}: role: lab",
                hint=f"try a version on it: policyctl gate run hil VERSION --station {file}",
            )
    if key is not None and len(configs) != 1:
        raise UsageError("a key is of one robot", hint="enrol it alone")
    enrolled = []
    with open_registry() as registry:
        for config, file in zip(configs, files, strict=True):
            info = {"role": config.role, "arms": [arm.name for arm in config.arms]}
            public = _key_of(registry, config.robot, key)
            robot = registry.enrol_robot(config.robot, config.robot_class, info, public)
            if registry.trust is not None and key is None:
                _identity(config.robot).believe(registry.trust.keyring)
                _lay_anchor(registry, config.robot)
            enrolled.append(
                {
                    "robot": robot.name,
                    "robot_class": robot.robot_class,
                    "policy": robot.policy,
                    "assigned": robot.assigned_baseline,
                    "key": public.keyid if public else None,
                    "key_waits": public is not None and not _is_listed(registry, public),
                    "next": f"policyctl-agent {file}",
                }
            )
    for one in enrolled:
        if one["key_waits"]:
            narrate(
                f"{one['robot']}: its key waits for the approvers; it reports nothing until then"
            )
    lines = [
        f"{r['robot']} ({r['robot_class']}) is enrolled; start it: {r['next']}" for r in enrolled
    ]
    emit({"robots": enrolled}, "\n".join(lines))


def _key_of(registry: Registry, robot: str, given: Path | None) -> PublicKey | None:
    """The robot's public key, where there is trust; made here unless it was made on the robot."""
    if registry.trust is None:
        if given is not None:
            raise UsageError("this home has no trust set up", hint="leave --key out")
        return None
    from registry.trust.keys import public_key
    from registry.trust.sealing import public_of

    registry.trust.require()  # before a key is made
    if given is not None:
        return public_of(public_key(given))
    return _identity(robot).make_key()


def _lay_anchor(registry: Registry, robot: str) -> None:
    """The newest root, which keys that were replaced since the first say nothing about. A root that
    the robot has already stays: another one is given by hand, `policyctl-agent --trust-root`."""
    from fleet.agent.admission import Admission
    from fleet.agent.link import LocalLink

    with suppress(NotFound):  # where the home has a keyring and no approvals yet
        newest = registry.approvals.open().repository.published.data("root")
        Admission(_state(robot) / "trust", LocalLink(registry)).adopt(newest)


def _identity(robot: str) -> Identity:
    from fleet.agent.identity import Identity

    return Identity(_state(robot))


def _state(robot: str) -> Path:
    """Where the robot's agent keeps what it must not lose, when it runs on this machine."""
    from registry.home import find_home

    return find_home(home_option()).root / "agents" / robot


def _is_listed(registry: Registry, key: PublicKey) -> bool:
    return registry.trust is not None and bool(registry.trust.keyring.roles_of(key.keyid))
