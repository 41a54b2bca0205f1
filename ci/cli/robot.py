"""`policyctl robot`: robots as the registry knows them."""

from __future__ import annotations

from pathlib import Path

import click

from ci.app import open_registry
from ci.cli.output import emit


@click.group("robot")
def command() -> None:
    """Enrol a robot."""


@command.command("enrol")
@click.argument("file", metavar="ROBOT.yaml", type=click.Path(path_type=Path))
def enrol(file: Path) -> None:
    """Make the robot of a robot file known. It is given what its fleet runs; again is harmless."""
    from fleet.robot import load_robot

    config = load_robot(file)
    info = {"role": config.role, "arms": [arm.name for arm in config.arms]}
    with open_registry() as registry:
        robot = registry.enrol_robot(config.robot, config.robot_class, info)
    emit(
        {
            "robot": robot.name,
            "robot_class": robot.robot_class,
            "policy": robot.policy,
            "assigned": robot.assigned_baseline,
            "next": f"policyctl-agent {file}",
        },
        f"{robot.name} ({robot.robot_class}) is enrolled; start it with `policyctl-agent {file}`",
    )
