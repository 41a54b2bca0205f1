"""What a result of a Gymnasium task depends on besides policy, task and gate.

The fingerprint covers Gymnasium, numpy, MuJoCo where it is installed, the distribution that ships
the environment, the environment's registration (arguments, wrappers, step limit), the machine's
architecture with its instruction sets, and the source of this package. An environment of no
distribution, the user's own, counts by the source of its module and of the module that registers
it. What an environment itself imports is not seen beyond that, nor an installed distribution that
was edited in place: pin what runs the gate.
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
from harness.sim.engine import fingerprint as simulator
from harness.sim.engine import instructions

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
    spec = env.spec
    env.close()
    registered = (spec.kwargs, spec.max_episode_steps, spec.additional_wrappers) if spec else ()
    code = hashlib.sha256(repr(registered).encode())
    shipped = packages_distributions().get(module.partition(".")[0], [])
    named = task.name.partition(":")[0] if ":" in task.name else module
    own = () if shipped else (module, named)
    for name in sorted({*_SOURCES, *own}):
        source = inspect.getsourcefile(import_module(name))
        if source is None:
            raise ModuleNotFoundError(f"{name} has no source to fingerprint")
        code.update(name.encode() + b"\0" + Path(source).read_bytes())
    names = sorted({"gymnasium", "mujoco", "numpy", *shipped})
    versions = [f"{name} {found}" for name in names if (found := _version(name))]
    if "policyctl" in shipped:  # our own tasks: what they follow from is our simulator's affair
        versions.append(simulator())
    machine = f"{platform.machine()} {instructions()}".rstrip()
    return ", ".join([*versions, machine, f"code {code.hexdigest()[:12]}"])


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
