"""Which OpenGL this machine renders with: EGL, else OSMesa; CGL on macOS.

- MUJOCO_GL decides where it names one of these. Else the first that renders in a process of its own
  is taken, because a broken driver may end the process that touches it; the choice is left in the
  environment, so that child processes need not look again.
- A context is imported by its backend's name: it does not matter when mujoco was imported.
- A context belongs to the thread in which it is current; whoever draws makes it current for that
  long and no longer.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from registry.errors import ServiceFailed

BACKENDS = ("cgl",) if sys.platform == "darwin" else ("egl", "osmesa")
HINT = "Debian: apt install libegl1 libegl-mesa0 libgl1-mesa-dri"
TRIAL_S = 60.0

_TRIAL = """
import importlib, sys
context = importlib.import_module("mujoco." + sys.argv[1]).GLContext(32, 32)
import mujoco
model = mujoco.MjModel.from_xml_string(
    "<mujoco><worldbody><light pos='0 0 2'/><geom type='sphere' size='.1'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 32, 32) as renderer:
    renderer.update_scene(data)
    assert renderer.render().any()
context.make_current()
from OpenGL import GL
print(GL.glGetString(GL.GL_RENDERER).decode(), "/", GL.glGetString(GL.GL_VERSION).decode())
"""


@dataclass(frozen=True)
class Graphics:
    """A backend that renders here, and the driver behind it in its own words."""

    backend: str
    driver: str


@functools.cache
def working() -> Graphics | None:
    """The first backend that renders here, tried in a process apart; about 2 s, once."""
    named = os.environ.get("MUJOCO_GL", "").lower()
    for backend in (named,) if named in BACKENDS else BACKENDS:
        done = subprocess.run(
            [sys.executable, "-c", _TRIAL, backend],
            env=environment(backend),
            capture_output=True,
            text=True,
            timeout=TRIAL_S,
            check=False,
        )
        if done.returncode == 0:
            return Graphics(backend, done.stdout.strip())
    return None


def environment(backend: str) -> dict[str, str]:
    """This process's environment, for a child that renders with `backend`."""
    return {**os.environ, "MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend}


def choose() -> str:
    """The backend of this process and its children. Raises ServiceFailed where none renders."""
    named = os.environ.get("MUJOCO_GL", "").lower()
    if named not in BACKENDS:
        found = working()
        if found is None:
            raise ServiceFailed(
                "this machine cannot render images",
                evidence=f"none of {', '.join(BACKENDS)} renders",
                hint=HINT,
            )
        named = found.backend
    os.environ["MUJOCO_GL"] = os.environ["PYOPENGL_PLATFORM"] = named
    return named


def driver() -> str:
    """`egl, llvmpipe …`. Raises ServiceFailed where none renders."""
    backend, found = choose(), working()
    if found is None:
        raise ServiceFailed(f"{backend} does not render here", hint=HINT)
    return f"{found.backend}, {found.driver}"


def context(width: int, height: int) -> Any:
    """An offscreen context of the chosen backend, not yet current. Raises ServiceFailed."""
    backend = choose()
    try:
        return import_module(f"mujoco.{backend}").GLContext(width, height)
    except (ImportError, AttributeError, RuntimeError) as error:
        raise ServiceFailed(
            f"{backend} does not render here", evidence=str(error), hint=HINT
        ) from error
