"""What a scene shows besides its physics: lights, cameras, walls and surfaces that change.

- Nothing here touches anything: geoms collide with nothing and weigh nothing, so physics have the
  same bits with and without it (tests compare digests).
- Lights: one shines, three weaker ones are there and dark (`light.count`). Ambient light is low, so
  that what lights do is what images show.
- Cameras, by the names that contracts use: `front` looks at the workspace from beside the table;
  `scene` stands .20 m before and .45 m above the point it looks at, as the reference set-up's
  camera at (.5, 0, 1.2) that looks at (.3, 0, .75), moved down so that this point lies on our table
  (the base frame's z -.445); 69 degrees upright. `right_wrist` and `left_wrist` are the official
  model's own, on the hands.
- Surfaces: table, object and background each have a material whose texture is chosen by number
  (`TEXTURES`); a geom's own colour tints it. The background (floor and walls) is in geom group 5,
  which only this package's renderer shows.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt

SURFACES = ("table", "box", "background")
TEXTURES = ("flat", "checker", "noise", "wood")
LIGHTS = 4
DETECTOR_CAMERA = "front"
"""The camera whose pictures the object's detector reads."""
BACKGROUND_GROUP = 5
BACKGROUND = ("floor", "wall_front", "wall_back", "wall_left", "wall_right")
COLOURS = {
    "table": (0.72, 0.66, 0.58, 1.0),
    "box": (0.85, 0.33, 0.13, 1.0),
    "background": (0.55, 0.62, 0.70, 1.0),
}
"""Red, green, blue and opacity of the surfaces."""
_ROOM = 2.5
"""Half the room's width and its height [m]."""
_TEXELS = 64
_LIGHT_POSES = (
    ((0.5, 0.2, 2.2), (-0.1, -0.1, -1.0)),
    ((0.9, -0.9, 1.8), (-0.5, 0.5, -1.0)),
    ((0.9, 0.9, 1.8), (-0.5, -0.6, -1.0)),
    ((-0.6, -0.8, 2.0), (0.5, 0.4, -1.0)),
)
_SCENE_CAMERA = (0.5, 0.0, 0.45)
"""World x, y [m] and height above the table [m] of the camera `scene`."""
_SCENE_TARGET = (0.3, 0.0)


def furnish(parent: Any, table_z: float) -> None:
    """Add lights, cameras, textures and walls to a scene whose table top is at world `table_z`."""
    world = parent.worldbody
    visual = parent.visual
    visual.headlight.ambient = [0.35, 0.35, 0.35]
    visual.headlight.diffuse = [0.15, 0.15, 0.15]
    visual.headlight.specular = [0.0, 0.0, 0.0]
    parent.stat.extent = 2.0
    for index, (position, direction) in enumerate(_LIGHT_POSES):
        grey = 0.7 if index == 0 else 0.25
        world.add_light(
            name=f"light{index}", pos=position, dir=direction, diffuse=[grey] * 3, active=index == 0
        )
    for name in TEXTURES[1:]:
        texture = parent.add_texture(
            name=name,
            type=mujoco.mjtTexture.mjTEXTURE_CUBE,
            width=_TEXELS,
            height=6 * _TEXELS,
            nchannel=3,
        )
        texture.data = texels(name).tobytes()
    for name in SURFACES:
        parent.add_material(name=name)
    _add_walls(world)
    world.add_camera(
        name="front", pos=[1.05, -0.75, 0.85], xyaxes=[0.5, 0.87, 0, -0.42, 0.24, 0.87]
    )
    x, y, above = _SCENE_CAMERA
    stands = np.array([x, y, table_z + above])
    ahead = np.array([_SCENE_TARGET[0], _SCENE_TARGET[1], table_z]) - stands
    world.add_camera(name="scene", pos=stands, xyaxes=looking(ahead), fovy=69.0)


def camera_name(name: str) -> str:
    """The model's name of a camera: those on the hands are the official model's."""
    arm = name.removesuffix("_wrist")
    return name if arm == name else f"robot/camera_wrist_{arm}"


def cameras(arms: tuple[str, ...]) -> tuple[str, ...]:
    """The cameras of a scene with these arms, as contracts name them."""
    return ("front", "scene", *(f"{arm}_wrist" for arm in arms))


def looking(direction: Any) -> npt.NDArray[np.float64]:
    """A camera's right and up axes (6,) that look along `direction` with world z upwards."""
    ahead = np.asarray(direction, dtype=np.float64)
    ahead = ahead / np.linalg.norm(ahead)
    upright = np.array([0.0, 0.0, 1.0]) if abs(ahead[2]) < 0.99 else np.array([-1.0, 0.0, 0.0])
    right = np.cross(ahead, upright)
    right /= np.linalg.norm(right)
    return np.concatenate([right, np.cross(right, ahead)])


def texels(name: str) -> npt.NDArray[np.uint8]:
    """A cube's six faces (6 n, n, 3): light greys that tint a colour, not hide it."""
    row, column = np.mgrid[0:_TEXELS, 0:_TEXELS]
    if name == "checker":
        grey = np.where((row // 8 + column // 8) % 2 == 0, 1.0, 0.45)
    elif name == "noise":
        coarse = np.random.Generator(np.random.PCG64(7)).random((16, 16))
        grey = 0.5 + 0.5 * np.kron(coarse, np.ones((4, 4)))
    else:
        bent = column + 3.0 * np.sin(2.0 * np.pi * row / _TEXELS)
        grey = 0.75 + 0.25 * np.sin(2.0 * np.pi * bent / 9.0)
    face = np.round(255.0 * grey).astype(np.uint8)
    return np.ascontiguousarray(np.tile(np.repeat(face[:, :, None], 3, axis=2), (6, 1, 1)))


def _add_walls(world: Any) -> None:
    half, height = _ROOM, _ROOM - 0.1
    turn = np.sqrt(0.5)
    places = (
        ((0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0)),
        ((half, 0.0, height), (turn, 0.0, -turn, 0.0)),
        ((-half, 0.0, height), (turn, 0.0, turn, 0.0)),
        ((0.0, half, height), (turn, turn, 0.0, 0.0)),
        ((0.0, -half, height), (turn, -turn, 0.0, 0.0)),
    )
    for name, (position, quat) in zip(BACKGROUND, places, strict=True):
        world.add_geom(
            name=name,
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=[half, half, 0.01],
            pos=position,
            quat=quat,
            contype=0,
            conaffinity=0,
            group=BACKGROUND_GROUP,
            material="background",
            rgba=COLOURS["background"],
        )
