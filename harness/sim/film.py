"""One episode as pictures: a camera beside it that watches it being played.

- Filming looks at copies of the state, so the episode has the digest it had unfilmed.
- MP4 is H.264 with 4:2:0 colour, index first: what browsers play. An animated WebP for reports is
  made smaller, in quality and then in frames, until it fits its limit.
"""

from __future__ import annotations

import contextlib
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
from harness.sim.runner import inference, play_one
from harness.sim.scene import BASE_HEIGHT, SceneConfig, build_scene
from harness.sim.scenery import camera_name, cameras
from harness.tasks import find_task
from policies import Policy
from policies.contract import Contract
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


@dataclass(frozen=True)
class View:
    """How to film: by `camera`, or from a place that shows arm and table."""

    camera: str = ""
    width: int = WIDTH
    height: int = HEIGHT
    fps: int = FPS
    samples: int = 0
    """Antialiasing: samples a pixel, 0 for none."""
    shadows: bool = False
    visuals: bool = True
    """A policy with cameras of its own sees these too: film it as it was tried."""


class Filming:
    """Watches one episode, played in `scene`, and takes pictures of it.

    Raises UsageError where the scene has no such camera, and ServiceFailed when the episode begins
    where nothing renders.
    """

    def __init__(self, contract: Contract, view: View | None = None) -> None:
        self._how = view or View()
        config = SceneConfig.of(find_task(contract.task), contract.arms, visuals=self._how.visuals)
        self.scene = build_scene(config)
        self._view = _view(self.scene.model, contract.arms, self._how.camera)
        self._every = max(1, round(contract.rate_hz / self._how.fps))
        self._fps = contract.rate_hz / self._every
        self._env: BatchEnv | None = None
        self._renderer: Renderer | None = None
        self._frames: list[Pixels] = []
        self._steps = 0

    def __call__(self, env: BatchEnv) -> None:
        """The episode begins, or went on by one policy step."""
        if self._steps % self._every == 0:
            self._shoot(env)
        self._env, self._steps = env, self._steps + 1

    def film(self, record: EpisodeRecord) -> Film:
        """The film of the episode, which has ended with this record."""
        if self._env is not None and record.steps % self._every:
            self._shoot(self._env)
        return Film(record, tuple(self._frames), self._fps)

    def close(self) -> None:
        """Give the renderer back."""
        if self._renderer is not None:
            self._renderer.close()

    def _shoot(self, env: BatchEnv) -> None:
        how = self._how
        if self._renderer is None:
            self._renderer = Renderer(
                env.world.batch.get_model(0),
                how.width,
                how.height,
                visuals=how.visuals,
                samples=how.samples,
                shadows=how.shadows,
            )
        self._renderer.look(env.world.batch, 0)
        self._frames.append(self._renderer.shoot(self._view, how.width, how.height).rgb)


def film(policy: Policy, spec: EpisodeSpec, view: View | None = None) -> Film:
    """Play `spec` by its policy and film it. Raises as Filming does."""
    with contextlib.closing(Filming(policy.contract, view)) as filming:
        env = BatchEnv(policy.contract, 1, scene=filming.scene)
        record = play_one(env, spec, inference(env, policy.act), filming)
        return filming.film(record)


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
