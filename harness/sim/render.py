"""Images of simulated scenes, offscreen.

- A renderer draws models of one size (a batch's slots are: `Batch.get_model` shares meshes and
  textures) with one OpenGL context, which is current only while it draws: any thread may draw, one
  at a time. Nothing is opened before the first image, so that a process may fork until then.
- No antialiasing and no shadows unless asked: 8.7 times faster, and a policy needs neither.
- Where a scene has visual meshes they are drawn, else the hulls of its collision shapes: the arm is
  always in the picture, and without visuals it costs an eighth.
- Drawing reads copies of a slot's state: physics cannot tell whether they were looked at.
- Row 0 is the top of the picture. Depth is along the line of sight [m].
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import mujoco
import numpy as np
import numpy.typing as npt

from harness.sim import gl, seeds
from harness.sim.pictures import Depth, Pixels, develop, lose
from harness.sim.scenery import BACKGROUND_GROUP, camera_name, cameras
from policies.contract import DEPTH, Contract
from registry.errors import ConfigError

if TYPE_CHECKING:
    from harness.sim.world import World

Ints = npt.NDArray[np.intp]

_MAX_GEOMS = 500
_FONT = 100
_COLLISION_GROUP = 3


class Shot(NamedTuple):
    """One image: (H, W, 3) uint8, and (H, W) float32 [m] where depth was asked for."""

    rgb: Pixels
    depth: Depth | None


class Renderer:
    """Draws images up to `width` x `height` of models like `model`, which it keeps for its own."""

    def __init__(
        self,
        model: Any,
        width: int,
        height: int,
        *,
        visuals: bool,
        samples: int = 0,
        shadows: bool = False,
    ) -> None:
        self.model, self._data = model, mujoco.MjData(model)
        model.vis.quality.offsamples = samples
        model.vis.global_.offwidth, model.vis.global_.offheight = width, height
        self._scene = mujoco.MjvScene(model, maxgeom=_MAX_GEOMS)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = shadows
        self._option = mujoco.MjvOption()
        self._option.sitegroup[:] = 0
        self._option.geomgroup[BACKGROUND_GROUP] = 1
        self._option.geomgroup[_COLLISION_GROUP] = not visuals
        self._option.flags[mujoco.mjtVisFlag.mjVIS_CONVEXHULL] = not visuals
        self._gl = gl.context(width, height)
        with self._gl.as_current():
            self._context = mujoco.MjrContext(model, _FONT)
            mujoco.mjr_setBuffer(int(mujoco.mjtFramebuffer.mjFB_OFFSCREEN), self._context)
            self._context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
        self._free = weakref.finalize(self, _free, self._gl, self._context)
        self._free.atexit = False

    def close(self) -> None:
        """Give the context back; also done when the renderer is forgotten."""
        self._free()

    def look(self, batch: Any, slot: int) -> None:
        """What the next shots show: a slot of a batch, as it is now."""
        batch.get_model(slot, self.model)
        batch.get_data(slot, self._data)
        mujoco.mj_kinematics(self.model, self._data)
        mujoco.mj_camlight(self.model, self._data)
        # The context remembers the textures of the model that it was made with.
        textures = self.model.mat_texid.ravel()
        self._context.mat_texid[: len(textures)] = textures

    def shoot(self, camera: Any, width: int, height: int, *, depth: bool = False) -> Shot:
        """An image by a camera of the model (its number) or a free one (MjvCamera)."""
        if isinstance(camera, int):
            number, camera = camera, mujoco.MjvCamera()
            camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, number
        mujoco.mjv_updateScene(
            self.model, self._data, self._option, None, camera,
            int(mujoco.mjtCatBit.mjCAT_ALL), self._scene,
        )  # fmt: skip
        pixels = np.empty((height, width, 3), dtype=np.uint8)
        far = np.empty((height, width), dtype=np.float32) if depth else None
        area = mujoco.MjrRect(0, 0, width, height)
        with self._gl.as_current():
            mujoco.mjr_render(area, self._scene, self._context)
            mujoco.mjr_readPixels(pixels, far, area, self._context)
        return Shot(pixels[::-1], None if far is None else self._metres(far[::-1]))

    def _metres(self, reversed_z: Depth) -> Depth:
        """Depth of a buffer that is 1 at the near plane and 0 at the far one."""
        near = self.model.vis.map.znear * self.model.stat.extent
        far = self.model.vis.map.zfar * self.model.stat.extent
        metres = far * near / (reversed_z.astype(np.float64) * (far - near) + near)
        return np.asarray(metres, dtype=np.float32)


def _free(context: Any, render: Any) -> None:
    with context.as_current():
        render.free()
    context.free()


class Cameras:
    """What the cameras of a contract see in each scene of a world.

    Raises ConfigError for a camera that the scene does not have.
    """

    def __init__(self, world: World, contract: Contract) -> None:
        self._world, self._specs = world, contract.cameras
        self._depths = {
            term.name.removeprefix(DEPTH)
            for term in contract.observation
            if term.name.startswith(DEPTH)
        }
        here = cameras(world.scene.config.arms)
        for spec in self._specs:
            if spec.name not in here:
                raise ConfigError(
                    "the policy's contract does not fit: cameras",
                    where="contract.json",
                    field=f"cameras: the simulation has no camera '{spec.name}'",
                    hint=f"cameras: {', '.join(here)}",
                )
        self._ids = [int(world.scene.model.camera(camera_name(s.name)).id) for s in self._specs]
        self._streams: list[seeds.Streams | None] = [None] * world.size
        self._renderer: Renderer | None = None

    def begin(self, rows: Ints, streams: Sequence[seeds.Streams]) -> None:
        """Episodes start, with generators for what their cameras add."""
        for row, own in zip(rows, streams, strict=True):
            self._streams[row] = own

    def images(self, rows: Ints) -> tuple[Mapping[str, Pixels], Mapping[str, Depth]]:
        """Images (n, H, W, 3) and depths (n, H, W) by camera, as the cameras give them now."""
        if not self._specs:
            return {}, {}
        renderer, world = self._open(), self._world
        images = {
            s.name: np.empty((len(rows), s.height, s.width, 3), dtype=np.uint8) for s in self._specs
        }
        depths = {
            s.name: np.empty((len(rows), s.height, s.width), dtype=np.float32)
            for s in self._specs
            if s.name in self._depths
        }
        for i, slot in enumerate(rows):
            own = self._streams[slot]
            if own is None:
                raise ValueError(f"slot {slot} has no episode")
            rng = own[seeds.IMAGES]
            look = {name: float(values[slot]) for name, values in world.image.items()}
            renderer.look(world.batch, int(slot))
            for spec, camera in zip(self._specs, self._ids, strict=True):
                wanted = spec.name in depths
                shot = renderer.shoot(camera, spec.width, spec.height, depth=wanted)
                images[spec.name][i] = develop(shot.rgb, look, rng)
                if shot.depth is not None:
                    depths[spec.name][i] = lose(shot.depth, look["depth_dropout"], rng)
        return images, depths

    def _open(self) -> Renderer:
        if self._renderer is None:
            self._renderer = Renderer(
                self._world.batch.get_model(0),
                max(spec.width for spec in self._specs),
                max(spec.height for spec in self._specs),
                visuals=self._world.scene.config.visuals,
            )
        return self._renderer
