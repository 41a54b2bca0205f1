"""What a result of a Gymnasium task depends on besides policy, task and gate.

The fingerprint covers Gymnasium, numpy, MuJoCo where it is installed, the distribution that ships
the environment, the machine's architecture, and the source of this package. An environment of no
distribution, the user's own, counts by the source of its module. What an environment itself
imports is not seen beyond that: pin it in the environment that runs the gate.
"""

from __future__ import annotations

import hashlib
import inspect
import platform
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

from harness.gym.tasks import GymTask

_SOURCES = (
    "harness.gym.player",
    "harness.gym.spaces",
    "harness.gym.tasks",
    "harness.gym.worlds",
    "harness.sim.episode",
    "harness.sim.grid",
    "harness.sim.seeds",
    "policies.formats.native",
    "policies.formats.space",
    "policies.space",
)


@cache
def fingerprint(task: GymTask) -> str:
    """`gymnasium 1.4.0, highway-env 1.12.1, numpy …, x86_64, code 1a2b3c4d5e6f`."""
    env = task.make()
    module = type(env.unwrapped).__module__
    env.close()
    code = hashlib.sha256()
    sources = list(_SOURCES)
    shipped = packages_distributions().get(module.partition(".")[0], [])
    if not shipped:
        sources.append(module)
    for name in sources:
        source = inspect.getsourcefile(import_module(name))
        if source is None:
            raise ModuleNotFoundError(f"{name} has no source to fingerprint")
        code.update(name.encode() + b"\0" + Path(source).read_bytes())
    names = sorted({"gymnasium", "mujoco", "numpy", *shipped})
    versions = [f"{name} {found}" for name in names if (found := _version(name))]
    return ", ".join([*versions, platform.machine(), f"code {code.hexdigest()[:12]}"])


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
