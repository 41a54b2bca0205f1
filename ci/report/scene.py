"""A picture of the scene for the report: the arm above the box, as MuJoCo renders it.

Rendering happens in a process of its own, because MuJoCo picks its GL backend when it is first
imported, and because a broken driver may end the process that touches it.
"""

from __future__ import annotations

import base64
import io
import subprocess
import sys

from harness.sim import gl

WIDTH, HEIGHT = 800, 450


def picture() -> str:
    """The scene as base64 PNG, or "" where this machine cannot render."""
    found = gl.working()
    if found is None:
        return ""
    done = subprocess.run(
        [sys.executable, "-c", "from ci.report.scene import draw; draw()"],
        env=gl.environment(found.backend), capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    return base64.b64encode(done.stdout).decode() if done.returncode == 0 else ""


def draw() -> None:
    """Renders the box-grasp scene at its start pose and writes a PNG to stdout."""
    import mujoco
    from PIL import Image

    from harness.sim.scene import BASE_HEIGHT, SceneConfig, build_scene
    from harness.tasks.box_grasp import BOX_GRASP

    scene = build_scene(SceneConfig(visuals=True))
    model = scene.model
    model.vis.headlight.ambient[:] = 0.45
    model.vis.global_.offwidth, model.vis.global_.offheight = WIDTH, HEIGHT
    data = mujoco.MjData(model)
    for arm in scene.arms:
        data.qpos[arm.qpos] = BOX_GRASP.start_q
        data.qpos[arm.mirror_qpos] = BOX_GRASP.start_q[-1]
    mujoco.mj_forward(model, data)
    camera = mujoco.MjvCamera()
    camera.lookat[:] = (0.2, -0.15, BASE_HEIGHT - 0.32)
    camera.distance, camera.azimuth, camera.elevation = 1.25, 145.0, -18.0
    with mujoco.Renderer(model, HEIGHT, WIDTH) as renderer:
        renderer.update_scene(data, camera)
        pixels = renderer.render()
        renderer.enable_segmentation_rendering()
        pixels[renderer.render()[..., 0] < 0] = 255  # nothing there: the page's own white
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG", optimize=True)
    sys.stdout.buffer.write(out.getvalue())
