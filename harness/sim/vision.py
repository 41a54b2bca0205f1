"""What may be changed of what is seen, and what a camera out of place does to the detector.

    target                  fields (operations; SI units but for the field of view)
    light                   count (1..4 shine), intensity, temperature (K, of a black body),
                            x, y, z (m), yaw, pitch (rad; they turn the direction of the light)
    camera                  x, y, z (m), roll, pitch, yaw (rad), fov (deg, upright), focal
    NAME_camera             the same of one camera: front_camera, scene_camera, right_wrist_camera
    calibration             x, y, z (m), yaw (rad): error of the detector's camera pose
    table, box, background  hue (turns), saturation, value, texture (number in `TEXTURES`)
    image                   brightness, contrast, saturation, noise (standard deviation),
                            depth_dropout (share of pixels without depth)

- x, y, z of a camera are the world's (of a hand's camera, the hand's); roll turns about the line of
  sight, pitch about the picture's horizontal, yaw about its vertical.
- Moving a camera is moving it without telling anybody: the detector reads `DETECTOR_CAMERA` and
  goes on computing poses from where that camera was, so the object appears displaced by the rigid
  motion that would bring the camera back. A camera that moves by d shows it displaced by -d.
  `calibration` is such an error alone: pictures stay, poses are off by it, turned about the camera.
  The detector is taken to know its lens: `fov` and `focal` change pictures only.
- `image` acts after rendering, on shares 0..1 of the full range; see harness/sim/pictures.py.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import mujoco
import numpy as np
import numpy.typing as npt

from harness.sim.episode import Change
from harness.sim.field import Field, Write, result
from harness.sim.scene import BASE_HEIGHT
from harness.sim.scenery import (
    BACKGROUND,
    COLOURS,
    DETECTOR_CAMERA,
    LIGHTS,
    SURFACES,
    TEXTURES,
    camera_name,
    cameras,
)

if TYPE_CHECKING:
    from harness.sim.world import World

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]

_WHITE = 6500.0
"""[K] nearest to the lights as they are, which are white: within 3 % in each colour."""
_RGB = int(mujoco.mjtTextureRole.mjTEXROLE_RGB)
_AXES = {"roll": (0.0, 0.0, -1.0), "pitch": (1.0, 0.0, 0.0), "yaw": (0.0, 1.0, 0.0)}
"""In a camera's own frame: x right, y up, it looks along -z."""
_LIGHT_AXES = {"yaw": (0.0, 0.0, 1.0), "pitch": (0.0, 1.0, 0.0)}


def black_body(kelvin: float) -> Floats:
    """Colour of a black body as sRGB (3,), its largest share 1; 1,667..25,000 K.

    Kim et al.'s cubic fit of the Planckian locus, through CIE xyY to sRGB's primaries, and sRGB's
    curve, because MuJoCo's light multiplies colours as they are shown.
    """
    t = 1e3 / kelvin
    low = kelvin < 4000.0
    warm, cool = (
        (-0.2661239, -0.2343589, 0.8776956, 0.179910),
        (-3.0258469, 2.1070379, 0.2226347, 0.240390),
    )
    x = float(np.polyval(warm if low else cool, t))
    if kelvin < 2222.0:
        y = float(np.polyval((-1.1063814, -1.34811020, 2.18555832, -0.20219683), x))
    elif low:
        y = float(np.polyval((-0.9549476, -1.37418593, 2.09137015, -0.16748867), x))
    else:
        y = float(np.polyval((3.0817580, -5.87338670, 3.75112997, -0.37001483), x))
    xyz = np.array([x / y, 1.0, (1.0 - x - y) / y])
    to_rgb = np.array(
        [
            [3.2404542, -1.5371385, -0.4985314],
            [-0.9692660, 1.8760108, 0.0415560],
            [0.0556434, -0.2040259, 1.0572252],
        ]
    )
    rgb = np.clip(to_rgb @ xyz, 0.0, None)
    rgb /= rgb.max()
    shown = np.where(rgb > 0.0031308, 1.055 * rgb ** (1.0 / 2.4) - 0.055, 12.92 * rgb)
    return np.asarray(shown)


def detected(world: World, rows: Ints, position: Floats, yaw: Floats) -> tuple[Floats, Floats]:
    """Where a detector places objects at `position` (n, 3), `yaw` (n,), frame "base"."""
    wrong = world.camera_moved[rows] | world.calibration[rows].any(axis=1)
    if not wrong.any():
        return position, yaw
    position, yaw = position.copy(), yaw.copy()
    model = world.scene.model
    camera = _detector_camera(world)
    base = np.array([0.0, 0.0, BASE_HEIGHT])
    stood = model.cam_pos[camera] - base
    for i in np.flatnonzero(wrong):
        slot = rows[i]
        if world.camera_moved[slot]:
            stands = world.expand("cam_pos")[slot, camera] - base
            turned = _matrix(world.expand("cam_quat")[slot, camera])
            back = _matrix(model.cam_quat[camera]) @ turned.T
            position[i] = back @ (position[i] - stands) + stood
            yaw[i] += math.atan2(back[1, 0], back[0, 0])
        x, y, z, turn = world.calibration[slot]
        about = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        position[i, :2] = about @ (position[i, :2] - stood[:2]) + stood[:2]
        position[i] += (x, y, z)
        yaw[i] += turn
    return position, yaw


def _matrix(quat: Floats) -> Floats:
    out = np.empty(9)
    mujoco.mju_quat2Mat(out, np.asarray(quat, dtype=np.float64))
    return out.reshape(3, 3)


def _turned(axis: tuple[float, float, float], angle: float) -> Floats:
    out = np.empty(4)
    mujoco.mju_axisAngle2Quat(out, np.array(axis), angle)
    return out


def _light_count(world: World, slot: int, change: Change) -> None:
    world.expand("light_active")[slot] = np.arange(LIGHTS) < round(change.value)


def _light_intensity(world: World, slot: int, change: Change) -> None:
    world.expand("light_diffuse")[slot] *= change.value


def _light_temperature(world: World, slot: int, change: Change) -> None:
    diffuse = world.expand("light_diffuse")[slot]
    diffuse[:] = diffuse.max(axis=1, keepdims=True) * black_body(change.value)


def _light_place(index: int) -> Write:
    def write(world: World, slot: int, change: Change) -> None:
        world.expand("light_pos")[slot, :, index] += change.value

    return write


def _light_turn(name: str) -> Write:
    def write(world: World, slot: int, change: Change) -> None:
        turn = _matrix(_turned(_LIGHT_AXES[name], change.value))
        directions = world.expand("light_dir")[slot]
        directions[:] = directions @ turn.T

    return write


def _camera_ids(world: World, target: str) -> list[int]:
    """The cameras that a target means: all, or one where the scene has it."""
    model, here = world.scene.model, cameras(world.scene.config.arms)
    name = target.removesuffix("camera").removesuffix("_")
    wanted = [each for each in here if name in ("", each)]
    return [int(model.camera(camera_name(each)).id) for each in wanted]


def _detector_camera(world: World) -> int:
    return int(world.scene.model.camera(camera_name(DETECTOR_CAMERA)).id)


def _camera_place(index: int) -> Write:
    def write(world: World, slot: int, change: Change) -> None:
        moved = _camera_ids(world, change.target)
        for camera in moved:
            world.expand("cam_pos")[slot, camera, index] += change.value
        world.camera_moved[slot] |= _detector_camera(world) in moved

    return write


def _camera_turn(name: str) -> Write:
    def write(world: World, slot: int, change: Change) -> None:
        turn, after = _turned(_AXES[name], change.value), np.empty(4)
        moved = _camera_ids(world, change.target)
        for camera in moved:
            quat = world.expand("cam_quat")[slot, camera]
            mujoco.mju_mulQuat(after, np.array(quat), turn)
            quat[:] = after
        world.camera_moved[slot] |= _detector_camera(world) in moved

    return write


def _camera_fov(world: World, slot: int, change: Change) -> None:
    for camera in _camera_ids(world, change.target):
        fov = world.expand("cam_fovy")[slot]
        fov[camera] = result(change, fov[camera])


def _camera_focal(world: World, slot: int, change: Change) -> None:
    for camera in _camera_ids(world, change.target):
        fov = world.expand("cam_fovy")[slot]
        half = math.tan(math.radians(fov[camera]) / 2.0) / change.value
        fov[camera] = math.degrees(2.0 * math.atan(half))


def _calibration(index: int) -> Write:
    def write(world: World, slot: int, change: Change) -> None:
        world.calibration[slot, index] += change.value

    return write


def _geoms(world: World, target: str) -> list[int]:
    names = BACKGROUND if target == "background" else (target,)
    return [int(world.scene.model.geom(name).id) for name in names]


def _colour(index: int) -> Write:
    def write(world: World, slot: int, change: Change) -> None:
        colours = world.expand("geom_rgba")[slot]
        for geom in _geoms(world, change.target):
            hsv = list(colorsys.rgb_to_hsv(*map(float, colours[geom, :3])))
            hsv[index] = result(change, hsv[index])
            hsv[index] = hsv[index] % 1.0 if index == 0 else min(hsv[index], 1.0)
            colours[geom, :3] = colorsys.hsv_to_rgb(*hsv)

    return write


def _texture(world: World, slot: int, change: Change) -> None:
    model = world.scene.model
    name = TEXTURES[round(change.value)]
    texture = -1 if name == "flat" else int(model.texture(name).id)
    world.expand("mat_texid")[slot, model.material(change.target).id, _RGB] = texture


def _image(name: str) -> Write:
    def write(world: World, slot: int, change: Change) -> None:
        world.image[name][slot] = result(change, world.image[name][slot])

    return write


def _rows(target: str, fields: Mapping[str, Field]) -> dict[tuple[str, str], Field]:
    return {(target, name): field for name, field in fields.items()}


def _each(names: str, make: Callable[[int], Field]) -> dict[str, Field]:
    return {name: make(index) for index, name in enumerate(names)}


_LIGHT = {
    "count": Field({"set": (1, LIGHTS)}, _light_count, "lights", True, 1),
    "intensity": Field({"scale": (0.3, 2.0)}, _light_intensity),
    "temperature": Field({"set": (2000.0, 12000.0)}, _light_temperature, "K", nominal=_WHITE),
    **_each("xyz", lambda index: Field({"add": (-1.0, 1.0)}, _light_place(index), "m")),
    **{name: Field({"add": (-0.8, 0.8)}, _light_turn(name), "rad") for name in _LIGHT_AXES},
}
_CAMERA = {
    **_each("xyz", lambda index: Field({"add": (-0.2, 0.2)}, _camera_place(index), "m")),
    **{name: Field({"add": (-0.35, 0.35)}, _camera_turn(name), "rad") for name in _AXES},
    "fov": Field({"set": (30.0, 100.0), "add": (-15.0, 15.0)}, _camera_fov, "deg"),
    "focal": Field({"scale": (0.7, 1.4)}, _camera_focal),
}
_CALIBRATION = {
    **_each("xyz", lambda index: Field({"add": (-0.2, 0.2)}, _calibration(index), "m")),
    "yaw": Field({"add": (-0.35, 0.35)}, _calibration(3), "rad"),
}


def _surface(name: str) -> dict[str, Field]:
    saturation = colorsys.rgb_to_hsv(*COLOURS[name][:3])[1]
    return {
        "hue": Field({"add": (-0.5, 0.5)}, _colour(0), "turns"),
        "saturation": Field({"set": (0.0, 1.0)}, _colour(1), nominal=saturation),
        "value": Field({"scale": (0.1, 2.0)}, _colour(2)),
        "texture": Field({"set": (0, len(TEXTURES) - 1)}, _texture, "number", True, 0),
    }


_IMAGE = {
    "brightness": Field({"add": (-0.5, 0.5)}, _image("brightness"), "shares of white"),
    "contrast": Field({"scale": (0.2, 2.0)}, _image("contrast")),
    "saturation": Field({"scale": (0.0, 3.0)}, _image("saturation")),
    "noise": Field({"set": (0.0, 0.3)}, _image("noise"), "shares of white", nominal=0.0),
    "depth_dropout": Field(
        {"set": (0.0, 0.5)}, _image("depth_dropout"), "share of pixels", nominal=0.0
    ),
}
ALL_CAMERAS = "camera"
CAMERAS = tuple(f"{name}_camera" for name in cameras(("right", "left")))
VISION: Mapping[tuple[str, str], Field] = {
    **_rows("light", _LIGHT),
    **_rows(ALL_CAMERAS, _CAMERA),
    **{key: field for name in CAMERAS for key, field in _rows(name, _CAMERA).items()},
    **_rows("calibration", _CALIBRATION),
    **{key: field for name in SURFACES for key, field in _rows(name, _surface(name)).items()},
    **_rows("image", _IMAGE),
}
"""Rows of harness.sim.fields.FIELDS."""


def _axes(target: str, fields: Mapping[str, Field]) -> dict[str, tuple[str, str, str]]:
    """An axis for each field and its last operation, which is the relative one where it has two."""
    return {
        f"{target}_{name}": (target, name, list(field.operations)[-1])
        for name, field in fields.items()
    }


VISION_AXES: Mapping[str, tuple[str, str, str]] = {
    **_axes("light", _LIGHT),
    **_axes("camera", _CAMERA),
    **_axes("calibration", _CALIBRATION),
    **{name: axis for each in SURFACES for name, axis in _axes(each, _surface(each)).items()},
    **_axes("image", _IMAGE),
}
"""Axis name: target, field, operation; merged into harness.sim.randomization.AXES."""
