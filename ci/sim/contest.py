"""What every verb of simulation needs: versions as folders, and who plays them.

A version is tried from its registered bytes, materialised and verified, in a folder that is gone
when the command ends.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from ci.fetching import checkpoint_of
from ci.pipeline import PolicyGates, applicable
from harness.sim.executors import Executor, Job, executor
from harness.sim.simulation import Contestant
from registry.errors import ConfigError, UsageError
from registry.gates import GridGate
from registry.service import Registry, VersionRecord
from registry.versions import VersionRef
from registry.yaml_file import read_yaml


@dataclass(frozen=True)
class Hands:
    """Who plays: an executor by name, with so many workers, at an address where it has one."""

    executor: str = "threads"
    workers: int = 2
    address: str | None = None

    def of(self, job: Job) -> Executor:
        return executor(self.executor, job, workers=self.workers, address=self.address)


class Bench:
    """Versions of one registry, each in a folder as soon as somebody wants to play it."""

    def __init__(self, registry: Registry, folder: Path) -> None:
        self._registry, self._folder = registry, folder

    def contestant(self, version: VersionRecord) -> Contestant:
        place = self._folder / f"{version.policy}-v{version.number}"
        return Contestant(checkpoint_of(self._registry, version.ref, place), version.subject)


@contextlib.contextmanager
def located(gates: PolicyGates, suite: str | None = None) -> Generator[None]:
    """Gives an error that names a field of the gates file that field's line."""
    try:
        yield
    except ConfigError as error:
        if error.where != str(gates.path) or not error.field.startswith("sim."):
            raise
        _, lines = read_yaml(gates.path)
        section, _, name = error.field.partition(",")[0].removeprefix("sim.").partition(".")
        ways = [("sim", section, name), ("sim", "task", section, name)]
        if suite is not None:
            ways.insert(0, ("sim", "suites", suite, section, name))
        line = next((lines[way] for way in ways if way in lines), None)
        if line is None:
            raise
        where = f"{gates.path}:{line}"
        raise ConfigError(error.what, where=where, field=error.field, hint=error.hint) from error


@contextlib.contextmanager
def bench(registry: Registry) -> Generator[Bench]:
    quiet = contextlib.redirect_stdout(sys.stderr)  # what foreign code prints is no data of ours
    with quiet, tempfile.TemporaryDirectory(prefix="policyctl-") as folder:
        yield Bench(registry, Path(folder))


def sim_gate(
    registry: Registry, gates: PolicyGates, version: VersionRecord, suite: str | None = None
) -> GridGate:
    """The sim gate of a version, or one of its suites. UsageError names those there are."""
    gate = applicable(gates, "sim", version)
    if not isinstance(gate, GridGate):
        raise UsageError("the sim gate is not a grid", evidence=str(gates.path))
    if suite is None:
        return gate.for_contract(registry.manifest(version.ref).contract)
    suites = gates.gates.suites
    if suite not in suites:
        raise UsageError(
            f"the gates name no suite '{suite}'",
            evidence=str(gates.path),
            hint=f"suites: {', '.join(suites)}" if suites else "add it under sim.suites",
        )
    return suites[suite].for_contract(registry.manifest(version.ref).contract)


def baseline_of(registry: Registry, version: VersionRecord, gate: GridGate) -> VersionRecord | None:
    """The fleet's version that a version is compared with; None where there is none."""
    serving = registry.serving(version.policy)
    if gate.regression is None or serving is None or serving == version.number:
        return None
    found = registry.version(VersionRef(version.policy, serving))
    same = (found.task, found.robot_class) == (version.task, version.robot_class)
    return found if same else None
