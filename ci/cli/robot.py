"""`policyctl robot`: robots as the registry knows them."""

from __future__ import annotations

from pathlib import Path

import click

from ci.app import open_registry
from ci.cli.output import emit
from registry.errors import Refused


@click.group("robot")
def command() -> None:
    """Enrol a robot."""


@command.command("enrol")
@click.argument(
    "files", metavar="ROBOT.yaml…", nargs=-1, required=True, type=click.Path(path_type=Path)
)
def enrol(files: tuple[Path, ...]) -> None:
    """Make robots known; each is given what its fleet runs. Again is harmless.

    All files are read before the first robot is enrolled.
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
    enrolled = []
    with open_registry() as registry:
        for config, file in zip(configs, files, strict=True):
            info = {"role": config.role, "arms": [arm.name for arm in config.arms]}
            robot = registry.enrol_robot(config.robot, config.robot_class, info)
            enrolled.append(
                {
                    "robot": robot.name,
                    "robot_class": robot.robot_class,
                    "policy": robot.policy,
                    "assigned": robot.assigned_baseline,
                    "next": f"policyctl-agent {file}",
                }
            )
    lines = [
        f"{r['robot']} ({r['robot_class']}) is enrolled; start it: {r['next']}" for r in enrolled
    ]
    emit({"robots": enrolled}, "\n".join(lines))
