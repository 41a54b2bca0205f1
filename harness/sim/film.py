"""One episode as pictures: played again by its specification, with a camera beside it.

- Filming looks at copies of the state, so the episode has the digest it had unfilmed.
- MP4 is H.264 with 4:2:0 colour, index first: what browsers play. An animated WebP for reports is
  made smaller, in quality and then in frames, until it fits its limit.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import mujoco

from harness.sim.env import BatchEnv
from harness.sim.episode import EpisodeRecord, EpisodeSpec
from harness.sim.pictures import Pixels
from harness.sim.render import Renderer
from harness.sim.runner import Guard
from harness.sim.scene import BASE_HEIGHT, SceneConfig, build_scene
from harness.sim.scenery import camera_name, cameras
from harness.tasks import find_task
from policies import Policy
from registry.errors import ServiceFailed, UsageError

WIDTH, HEIGHT, FPS = 320, 240, 25
WEBP_BYTES = 300_000
_QUALITIES = (70, 50, 30)


@dataclass(frozen=True)
class Film:
    """Frames (H, W, 3), one at the start of each 1 / fps of an episode and one at its end."""

    record: EpisodeRecord
    frames: tuple[Pixels, ...]
    fps: float


def film(
    policy: Policy,
    spec: EpisodeSpec,
    *,
    camera: str = "",
    width: int = WIDTH,
    height: int = HEIGHT,
    fps: int = FPS,
    samples: int = 0,
    shadows: bool = False,
    visuals: bool = True,
) -> Film:
    """Play `spec` and take pictures by `camera`, or from a place that shows arm and table.

    A policy with cameras of its own sees `visuals` too: film it as it was tried.
    Raises UsageError where the scene has no such camera and ServiceFailed where nothing renders.
    """
    contract, task = policy.contract, find_task(spec.task)
    scene = build_scene(SceneConfig.of(task, contract.arms, visuals=visuals))
    env = BatchEnv(contract, 1, scene=scene, task=task)
    view = _view(scene.model, contract.arms, camera)
    model = env.world.batch.get_model(0)
    renderer = Renderer(model, width, height, visuals=visuals, samples=samples, shadows=shadows)
    every = max(1, round(contract.rate_hz / fps))
    frames: list[Pixels] = []

    def shoot() -> None:
        renderer.look(env.world.batch, 0)
        frames.append(renderer.shoot(view, width, height).rgb)

    guard, done, step = Guard(policy.act, len(contract.joints)), False, 0
    env.reset([0], [spec])
    try:
        while not done:
            if step % every == 0:
                shoot()
            raw = guard(env.observe([0]))
            for mode, detail in guard.failed.values():
                env.blame(0, mode, detail)
            done, step = bool(env.step([0], raw)[0]), step + 1
        shoot()
    finally:
        renderer.close()
    return Film(env.record(0), tuple(frames), contract.rate_hz / every)


def _view(model: Any, arms: tuple[str, ...], camera: str) -> Any:
    """A camera of the model by its number, or a free one."""
    if camera:
        if camera not in cameras(arms):
            raise UsageError(
                f"the simulation has no camera {camera!r}",
                hint=f"cameras: {', '.join(cameras(arms))}",
            )
        return int(model.camera(camera_name(camera)).id)
    view = mujoco.MjvCamera()
    view.lookat[:] = (0.2, 0.0 if len(arms) > 1 else -0.15, BASE_HEIGHT - 0.3)
    view.distance, view.azimuth, view.elevation = 1.2, 145.0, -20.0
    return view


def mp4(film: Film, path: Path) -> None:
    """Write a film for browsers and players. Raises ServiceFailed without PyAV."""
    try:
        import av
    except ImportError as error:
        raise ServiceFailed(
            "films need PyAV", evidence=str(error), hint="pip install 'policyctl[sim]'"
        ) from error
    height, width = film.frames[0].shape[:2]
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as out:
        stream = out.add_stream("libx264", rate=Fraction(film.fps).limit_denominator(1000))
        stream.width, stream.height = width - width % 2, height - height % 2
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "20", "preset": "veryfast", "threads": "1"}
        for pixels in film.frames:
            frame = av.VideoFrame.from_ndarray(pixels[: stream.height, : stream.width].copy())
            out.mux(stream.encode(frame))
        out.mux(stream.encode())


def webp(film: Film, *, limit: int = WEBP_BYTES) -> bytes:
    """An animation of at most `limit` bytes. Raises ServiceFailed where that cannot be."""
    frames, duration = list(film.frames), 1000.0 / film.fps
    while True:
        for quality in _QUALITIES:
            content = _webp(frames, round(duration), quality)
            if len(content) <= limit:
                return content
        if len(frames) <= 2:
            raise ServiceFailed(f"the clip does not fit {limit} bytes", hint="film it smaller")
        frames, duration = frames[:-1:2] + frames[-1:], 2.0 * duration


def _webp(frames: Sequence[Pixels], duration_ms: int, quality: int) -> bytes:
    from PIL import Image

    pictures = [Image.fromarray(pixels) for pixels in frames]
    out = io.BytesIO()
    pictures[0].save(
        out, format="WEBP", save_all=True, append_images=pictures[1:],
        duration=duration_ms, loop=0, quality=quality, method=2,
    )  # fmt: skip
    return out.getvalue()
