"""What a simulated result depends on besides policy, task and gate.

The fingerprint covers the physics engine, numpy and the official model by version, the machine's
architecture with its instruction sets, and the source of every module between an observation and
an outcome. MuJoCo promises equal bits for equal versions on equal architectures, no more; a stored
result is therefore looked up only under its own fingerprint. What policies see in images depends
on the OpenGL driver too.
"""

from __future__ import annotations

import functools
import hashlib
import platform
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from harness.sim import gl

JUDGE = "simulator-truth/1"
"""An outcome is the task's own condition (harness/tasks), on the simulator's true state at every
policy step through its hold, and none of what ends an episode before (harness/sim/course.py)."""

_DISTRIBUTIONS = ("mujoco", "numpy", "openarm-mujoco")
SOURCES = (
    "harness.sim.chunks",
    "harness.sim.course",
    "harness.sim.env",
    "harness.sim.episode",
    "harness.sim.field",
    "harness.sim.fields",
    "harness.sim.grid",
    "harness.sim.mirror",
    "harness.sim.peaks",
    "harness.sim.pictures",
    "harness.sim.randomization",
    "harness.sim.render",
    "harness.sim.runner",
    "harness.sim.scene",
    "harness.sim.scenery",
    "harness.sim.seeds",
    "harness.sim.signals",
    "harness.sim.vision",
    "harness.sim.world",
    "harness.tasks",
    "harness.tasks.box_grasp",
    "harness.tasks.detector",
    "harness.tasks.pick_place",
    "harness.tasks.task",
    "fleet.can.frames",
    "fleet.can.motors",
    "fleet.heat",
    "fleet.kinematics",
    "fleet.limits",
    "fleet.safety",
    "fleet.safety_ahead",
    "fleet.servo",
    "policies",
    "policies.actions",
    "policies.chunks",
    "policies.contract",
    "policies.formats.native",
    "policies.observation",
    "policies.space",
)
"""Every module of ours that those which play an episode import, but for a few that tests name."""


@functools.cache
def fingerprint(*, images: bool = False) -> str:
    """`mujoco 4.0.0, numpy …, x86_64, code 1a2b3c4d5e6f`; with `images` also the driver."""
    code = hashlib.sha256()
    for name in SOURCES:
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"{name} has no source to fingerprint")
        code.update(name.encode() + b"\0" + Path(spec.origin).read_bytes())
    versions = [f"{name} {version(name)}" for name in _DISTRIBUTIONS]
    driver = [gl.driver()] if images else []
    machine = f"{platform.machine()} {instructions()}".rstrip()
    return ", ".join([*versions, *driver, machine, f"code {code.hexdigest()[:12]}"])


def instructions() -> str:
    """The widest instruction set that numpy computes with here: its sums round by it."""
    config = np.show_config(mode="dicts") or {}
    found = config.get("SIMD Extensions", {}).get("found", [])
    return str(found[-1]) if found else ""
