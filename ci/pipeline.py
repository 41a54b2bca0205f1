"""Running a gate on a version: fetch what was registered, try it, record what was seen.

A gate is run on the registered bytes, materialised and verified, never on the folder they came
from. Its gates file is the one named, else the policy's in this repository, else that of the
policies shipped with policyctl. The verdict is recorded together with the evidence it was computed
from; a run that was interrupted records nothing.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from registry.config import GATES_FILE, POLICY_FILE, find_policy, load_gates_yaml, load_policy_yaml
from registry.errors import NotFound, PolicyctlError, Refused, UsageError
from registry.evidence import Evidence
from registry.gates import Gate, Gates, suite_of
from registry.service import Registry, VersionRecord
from registry.stages import command_of
from registry.verdicts import Outcome, Verdict


@dataclass(frozen=True)
class PolicyGates:
    """The gates of a policy, and the file they were read from; suites lie beside it."""

    gates: Gates
    path: Path
    option: str = ""
    """What names them on the next command line too; "" where they are the policy's own."""


def find_gates(policy: str, given: Path | None = None) -> PolicyGates:
    """The gates of `policy`: the file or folder `given`, else where the module docstring says."""
    if given is not None:
        path = given / GATES_FILE if given.is_dir() else given
        return PolicyGates(load_gates_yaml(path), path, f" --gates {shlex.quote(str(given))}")
    try:
        config = find_policy(Path.cwd(), policy)
    except NotFound:
        shipped = _shipped(policy)
        if shipped is None:
            raise
        config = load_policy_yaml(shipped)
    return PolicyGates(load_gates_yaml(config.gates_path), config.gates_path)


def gates_option(registry: Registry, record: VersionRecord) -> str:
    """What names the gates that a version was judged by, where `find_gates` finds none or others:
    whoever goes on knows their file, the record does not."""
    judged = {one.verdict.gate: one.gate.digest for one in registry.verdicts(record.ref)}
    try:
        gates = find_gates(record.policy).gates
    except PolicyctlError:
        return " --gates FILE"
    contract = registry.manifest(record.ref).contract
    return " --gates FILE" if any(gates.not_judged_by(contract, judged)) else ""


def _shipped(policy: str) -> Path | None:
    root = Path(str(resources.files("policies")))
    for path in sorted(root.glob(f"*/{POLICY_FILE}")):
        if load_policy_yaml(path).name == policy:
            return path
    return None


@dataclass(frozen=True)
class GateRun:
    """What a run of a gate found, as its command tells it."""

    version: VersionRecord
    gate: Gate
    evidence: Evidence
    verdict: Verdict
    seconds: float
    failure_modes: dict[str, int]
    artifacts: dict[str, str]
    cached: bool = False
    report: str = ""
    """What was seen, as markdown; "" where there is no more to say than the numbers."""
    played: int = 0
    """Episodes played in this run; the others were known."""
    nominal: float | None = None
    """Of a suite: the success rate of the gate itself, which the drop is measured from."""

    recorded: bool = True
    hil: bool = True
    """Whether these gates ask for hardware in the loop."""
    option: str = ""
    """That of its `PolicyGates`."""

    @property
    def drop(self) -> float | None:
        """Points of success that a suite lost against the gate."""
        rate = self.verdict.numbers.get("rate")
        return None if self.nominal is None or rate is None else 100 * (self.nominal - rate)

    def to_json(self) -> dict[str, Any]:
        return {
            "policy": self.version.policy,
            "version": str(self.version.ref),
            "ref": str(self.version.ref),
            "number": self.version.number,
            "digest": self.version.digest,
            "stage": str(self.version.stage),
            "gate": self.verdict.gate,
            "outcome": str(self.verdict.outcome),
            "reason": self.verdict.reason,
            "numbers": dict(self.verdict.numbers),
            "more": self.verdict.more,
            "seconds": round(self.seconds, 2),
            "cached": self.cached,
            "played": self.played,
            "drop_points": self.drop,
            "recorded": self.recorded,
            "failure_modes": self.failure_modes,
            "artifacts": self.artifacts,
            "evidence": self.evidence.digest,
            "robot_class": self.evidence.robot_class,
            "next": self.next_command(),
        }

    def next_command(self) -> str:
        """What somebody who got this verdict would do next."""
        ref = f"v{self.version.number} --policy {self.version.policy}"
        if suite_of(self.verdict.gate) is not None:
            return command_of("sim", f"{ref}{self.option}")
        if self.verdict.outcome is Outcome.FAIL:
            return f"policyctl report --policy {self.version.policy}"
        above = {"sim": "hil" if self.hil else "canary", "hil": "canary"}
        passed = self.verdict.outcome is Outcome.PASS
        gate = above[self.verdict.gate] if passed else self.verdict.gate
        return command_of(gate, f"{ref}{self.option}")


def applicable(gates: PolicyGates, name: str, version: VersionRecord) -> Gate:
    """The gate of that name; Refused where the policy declares it not applicable."""
    gate = {"sim": gates.gates.sim, "hil": gates.gates.hil}[name]
    if gate is None:
        raise Refused(
            f"{name} is not applicable to {version}",
            evidence=f"{gates.path}: {gates.gates.not_applicable[name]}",
            hint=command_of("canary", f"'{version}'{gates.option}"),
        )
    return gate


def suite_path(gates: PolicyGates) -> Path:
    """The suite file that the hil gate names, beside the gates file."""
    if gates.gates.hil is None:
        raise UsageError("this policy has no hil gate", evidence=str(gates.path))
    return gates.path.parent / gates.gates.hil.suite
