"""policy.yaml and gates.yaml: what a policy is called and what its versions must show.

Both are read strictly (`registry.yaml_file`): a wrong key, type or number is a ConfigError with
file, line and field, before anything else happens. Paths in a file are relative to its folder.
A gate that does not apply to a policy says so, with the reason, where the gate would stand:

    hil: {not_applicable: "the robot class has no lab station yet"}

Every default is that of `registry.gates`; rates are fractions, ratios may be written 1/4, and
durations as 90s, 30m, 12h or 7d.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from registry.errors import ConfigError, NotFound
from registry.gates import Gates, Term
from registry.gates_file import GatesFile, OverlayFile
from registry.versions import digest_bytes, is_policy_name
from registry.yaml_file import Strict, load_yaml, read_yaml

__all__ = [
    "PolicyConfig", "Strict", "find_policy", "load_gates_yaml", "load_policy_yaml", "load_yaml",
    "read_yaml",
]  # fmt: skip

POLICY_FILE = "policy.yaml"
GATES_FILE = "gates.yaml"


def _name(value: Any) -> Any:
    if not isinstance(value, str) or not is_policy_name(value):
        raise ValueError(f"name: {value!r} is not lower-case words joined by hyphens")
    return value


class PolicyConfig(Strict):
    """`policy.yaml`: the policy this folder releases."""

    name: Annotated[str, BeforeValidator(_name)]
    task: str
    robot_class: str
    checkpoint: str | None = None
    gates: str = GATES_FILE
    environment: str | None = None
    recipe: str | None = None
    description: str = ""
    folder: Path = Field(default=Path(), exclude=True)

    @property
    def gates_path(self) -> Path:
        return self.folder / self.gates

    @property
    def checkpoint_path(self) -> Path | None:
        return self.folder / self.checkpoint if self.checkpoint else None

    @model_validator(mode="before")
    @classmethod
    def _folder_is_ours(cls, data: Any) -> Any:
        if isinstance(data, dict) and "folder" in data:
            raise ValueError("folder: is where the file lies, not a key of it")
        return data


def load_policy_yaml(path: Path) -> PolicyConfig:
    """Reads a policy.yaml, given the file or its folder. Raises ConfigError."""
    if path.is_dir():
        path = path / POLICY_FILE
    return load_yaml(path, PolicyConfig).model_copy(update={"folder": path.parent})


def load_gates_yaml(path: Path) -> Gates:
    """Reads a gates.yaml as the frozen gates of `registry.gates`, with the suite file it names.

    Raises ConfigError.
    """
    file = load_yaml(path, GatesFile)
    hil = file.hil.gate()
    if hil is not None:
        hil = replace(hil, suite_digest=_suite_digest(path, hil.suite))
    excused = {
        name: section.not_applicable.strip()
        for name, section in (("sim", file.sim), ("hil", file.hil))
        if section.not_applicable is not None
    }
    sim, suites = file.sim.gate(), file.sim.robustness()
    if sim is not None:
        sim = replace(sim, overlay=_overlay(path, file.sim.overlay, ("sim", "overlay")))
    for name, suite in suites.items():
        own = file.sim.suites[name].overlay
        found = (
            sim.overlay
            if own is None and sim
            else _overlay(path, own, ("sim", "suites", name, "overlay"))
        )
        suites[name] = replace(suite, overlay=found)
    return Gates(sim, hil, file.canary.gate(), excused, suites)


def _overlay(gates: Path, name: str | None, key: tuple[str, ...]) -> dict[str, Term]:
    """The terms of the overlay file beside a gates.yaml; none where it names none."""
    if name is None:
        return {}
    path = gates.parent / name
    if not path.is_file():
        _, lines = read_yaml(gates)
        raise ConfigError(
            f"cannot read the overlay {path}",
            where=f"{gates}:{lines[key]}",
            field=".".join(key),
            hint="name a file beside gates.yaml; `policyctl sysid` writes one",
        )
    return {name: term.term() for name, term in load_yaml(path, OverlayFile).terms.items()}


def _suite_digest(gates: Path, suite: str) -> str:
    """The digest of the suite file beside a gates.yaml."""
    path = gates.parent / suite
    try:
        return digest_bytes(path.read_bytes())
    except OSError as error:
        _, lines = read_yaml(gates)
        raise ConfigError(
            f"cannot read the suite {path}: {error.strerror}",
            where=f"{gates}:{lines['hil', 'suite']}",
            field="hil.suite",
            hint="name a file beside gates.yaml",
        ) from None


def find_policy(start: Path, name: str | None = None) -> PolicyConfig:
    """The policy of the folder that `start` lies in, or the one called `name` in the repository.

    Looks at `start` and the folders above for a policy.yaml, and in `policies/*` beside them.
    Raises NotFound.
    """
    start = start.absolute()
    for folder in (start, *start.parents):
        if (folder / POLICY_FILE).is_file():
            found = load_policy_yaml(folder)
            if name is None or found.name == name:
                return found
        if name is not None:
            for path in sorted(folder.glob(f"policies/*/{POLICY_FILE}")):
                if (found := load_policy_yaml(path)).name == name:
                    return found
    wanted = "policy" if name is None else f"policy {name}"
    raise NotFound(
        f"no {wanted} here",
        evidence=f"no {POLICY_FILE} of it at or above {start}, or in policies/*",
        hint="go to the policy's folder, or name its gates with --gates",
    )
