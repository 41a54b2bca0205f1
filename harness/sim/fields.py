"""What may be changed in a simulated world: a target, its field, and what each operation means.

    target                  fields (operations; values are SI, scales are multiples of the nominal)
    box                     mass, friction (sliding), size, shape, x, y, yaw
    table                   height
    joints, jointN, gripper friction, damping, armature, strength (torque limit), kp, kd
    gripper                 compliance (softness of the contact with the object)
    world                   gravity
    command                 delay (policy steps), latency_s, noise (standard deviation, rad)
    observation             delay (policy steps), noise (see harness/sim/signals.py)
    torque                  noise (standard deviation of measured joint torque, Nm)
    light, camera, …        what images show, see harness/sim/vision.py

- A field is a row of `FIELDS` with the range in which its simulation means something; a value
  outside is refused where it is written down.
- The object's contact priority makes its friction and softness those of the grasp and of the table;
  the fingers' and the table's own would be dead, and are not offered.
- Mass scales the inertia with it. Size and shape keep the mass. Gravity is not known to the
  controller: the motors go on carrying the nominal weight.
- `jointN` means that joint of every arm, `left_jointN` of one; joints includes grippers, of which
  the finger that the motor turns changes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np

from harness.sim.episode import Change
from harness.sim.field import Field as Field
from harness.sim.field import result
from harness.sim.scene import SceneConfig
from harness.sim.vision import ALL_CAMERAS, CAMERAS, VISION
from policies.contract import ROBOT_CLASSES
from registry.errors import ConfigError

if TYPE_CHECKING:
    from harness.sim.world import World

_JOINTS = ROBOT_CLASSES["openarm-v2-bimanual"].joints
JOINT = re.compile(r"(?:(left|right)_)?(?:joint([1-7])|(gripper)|(joints))")
MAX_DELAY = 15
"""Longest action delay [policy steps]."""
Extent = tuple[float, float, float]
SHAPES: tuple[tuple[Any, Extent, Extent], ...] = (
    (mujoco.mjtGeom.mjGEOM_BOX, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
    (mujoco.mjtGeom.mjGEOM_CYLINDER, (1.0, 1.0, 0.0), (1.0, 1.0, 1.0)),
    (mujoco.mjtGeom.mjGEOM_BOX, (0.8, 1.2, 1.0), (0.8, 1.2, 1.0)),
    (mujoco.mjtGeom.mjGEOM_BOX, (0.9, 0.9, 1.4), (0.9, 0.9, 1.4)),
)
"""Shapes of the object by number: cube, upright cylinder, brick, tall box. Each with its size as
MuJoCo wants it and its half extents, in half edges of the task's object."""


def _box_mass(world: World, slot: int, change: Change) -> None:
    body, mass = world.scene.box_body, world.expand("body_mass")
    was = float(mass[slot, body])
    mass[slot, body] = result(change, was)
    world.expand("body_inertia")[slot, body] *= mass[slot, body] / was


def _box_friction(world: World, slot: int, change: Change) -> None:
    friction = world.expand("geom_friction")[slot, world.scene.box_geom]
    friction[0] = result(change, friction[0])


def _box_size(world: World, slot: int, change: Change) -> None:
    world.box_scale[slot] *= result(change, 1.0)
    _remake_box(world, slot)


def _box_shape(world: World, slot: int, change: Change) -> None:
    world.box_shape[slot] = round(change.value)
    _remake_box(world, slot)


def _remake_box(world: World, slot: int) -> None:
    """Geometry and inertia of the object's shape at its scale; the mass stays."""
    kind, size, extent = SHAPES[world.box_shape[slot]]
    geom, body = world.scene.box_geom, world.scene.box_body
    unit = world.scene.config.box_half * world.box_scale[slot]
    half = np.array(extent) * unit
    world.expand("geom_type")[slot, geom] = int(kind)
    world.expand("geom_size")[slot, geom] = np.array(size) * unit
    _bounds(world, slot, half)
    world.box_half[slot] = half[2]
    x, y, z = half**2
    shape = np.array([y + z, x + z, x + y]) / 3.0
    if kind == mujoco.mjtGeom.mjGEOM_CYLINDER:
        shape = np.array([x / 4 + z / 3, x / 4 + z / 3, x / 2])
    world.expand("body_inertia")[slot, body] = world.expand("body_mass")[slot, body] * shape


def _bounds(world: World, slot: int, half: Any) -> None:
    """Bounding volumes of the object, which collision looks at first."""
    geom, body = world.scene.box_geom, world.scene.box_body
    world.expand("geom_rbound")[slot, geom] = np.linalg.norm(half)
    world.expand("geom_aabb")[slot, geom, 3:] = half
    model = world.scene.model
    first, count = int(model.body_bvhadr[body]), int(model.body_bvhnum[body])
    world.expand("bvh_aabb")[slot, first : first + count, 3:] = half


def _place(index: int) -> Callable[[World, int, Change], None]:
    def write(world: World, slot: int, change: Change) -> None:
        world.placed[slot, index] += change.value

    return write


def _table_height(world: World, slot: int, change: Change) -> None:
    world.expand("geom_pos")[slot, world.scene.table_geom, 2] += change.value
    world.table_z[slot] += change.value


def _dof(name: str) -> Callable[[World, int, Change], None]:
    def write(world: World, slot: int, change: Change) -> None:
        values = world.expand(name)[slot]
        for joint in joints(world.scene.joint_names, change.target):
            dof = world.scene.dof[joint]
            values[dof] = result(change, values[dof])

    return write


def _strength(world: World, slot: int, change: Change) -> None:
    for joint in joints(world.scene.joint_names, change.target):
        world.expand("actuator_forcerange")[slot, world.scene.ctrl[joint]] *= change.value


def _kp(world: World, slot: int, change: Change) -> None:
    for joint in joints(world.scene.joint_names, change.target):
        world.kp[slot, joint] = result(change, world.kp[slot, joint])
        bias = world.expand("actuator_biasprm")[slot, world.scene.ctrl[joint]]
        bias[1] = -world.kp[slot, joint]


def _kd(world: World, slot: int, change: Change) -> None:
    for joint in joints(world.scene.joint_names, change.target):
        world.kd[slot, joint] = result(change, world.kd[slot, joint])
        bias = world.expand("actuator_biasprm")[slot, world.scene.ctrl[joint]]
        bias[2] = -world.kd[slot, joint]


def _compliance(world: World, slot: int, change: Change) -> None:
    world.expand("geom_solref")[slot, world.scene.box_geom, 0] *= change.value


def _gravity(world: World, slot: int, change: Change) -> None:
    world.expand("opt.gravity")[slot] *= change.value
    carried = world.expand("body_gravcomp")[slot]
    carried[world.nominal("body_gravcomp") > 0] /= change.value


def _signal(name: str) -> Callable[[World, int, Change], None]:
    def write(world: World, slot: int, change: Change) -> None:
        world.signals.set(name, slot, change.value)

    return write


ARM: Mapping[str, Field] = {
    "friction": Field(
        {"set": (0.0, 2.0), "scale": (0.0, 10.0), "add": (0.0, 2.0)}, _dof("dof_frictionloss"), "Nm"
    ),
    "damping": Field(
        {"set": (0.0, 100.0), "scale": (0.0, 10.0), "add": (0.0, 5.0)},
        _dof("dof_damping"),
        "Nm s/rad",
    ),
    "armature": Field(
        {"set": (0.0, 1.0), "scale": (0.0, 10.0), "add": (0.0, 1.0)}, _dof("dof_armature"), "kg m2"
    ),
    "strength": Field({"scale": (0.05, 2.0)}, _strength),
    "kp": Field({"set": (1.0, 500.0), "scale": (0.1, 10.0)}, _kp, "Nm/rad"),
    "kd": Field({"set": (0.0, 500.0), "scale": (0.0, 10.0)}, _kd, "Nm s/rad"),
}
FIELDS: Mapping[tuple[str, str], Field] = {
    ("box", "mass"): Field({"set": (0.005, 10.0), "scale": (0.1, 20.0)}, _box_mass, "kg"),
    ("box", "friction"): Field(
        {"set": (0.05, 3.0), "scale": (0.1, 4.0)}, _box_friction, nominal=SceneConfig.box_friction
    ),
    ("box", "size"): Field({"scale": (0.5, 1.5)}, _box_size),
    ("box", "shape"): Field({"set": (0, len(SHAPES) - 1)}, _box_shape, "number", True, 0),
    ("box", "x"): Field({"add": (-0.1, 0.1)}, _place(0), "m"),
    ("box", "y"): Field({"add": (-0.1, 0.1)}, _place(1), "m"),
    ("box", "yaw"): Field({"add": (-np.pi, np.pi)}, _place(2), "rad"),
    ("table", "height"): Field({"add": (-0.05, 0.05)}, _table_height, "m"),
    ("gripper", "compliance"): Field({"scale": (1.0, 20.0)}, _compliance),
    ("world", "gravity"): Field({"scale": (0.5, 1.5)}, _gravity),
    ("command", "delay"): Field(
        {"set": (0, MAX_DELAY)}, _signal("command_delay"), "policy steps", True, 0
    ),
    ("command", "latency_s"): Field({"set": (0.0, 0.1)}, _signal("latency_s"), "s", nominal=0.0),
    ("command", "noise"): Field({"set": (0.0, 0.2)}, _signal("command_noise"), "rad", nominal=0.0),
    ("observation", "delay"): Field(
        {"set": (0, 3)}, _signal("observation_delay"), "policy steps", True, 0
    ),
    ("observation", "noise"): Field({"set": (0.0, 1.0)}, _signal("observation_noise"), nominal=0.0),
    ("torque", "noise"): Field({"set": (0.0, 5.0)}, _signal("torque_noise"), "Nm", nominal=0.0),
    **VISION,
}


def apply(world: World, slot: int, changes: Iterable[Change]) -> None:
    """Makes changes in one scene; the world's `settle` makes them count."""
    for change in changes:
        find(change).write(world, slot, change)


def joints(names: tuple[str, ...], target: str) -> list[int]:
    """Indices of the joints that a target means; none where it names no joint."""
    match = JOINT.fullmatch(target)
    if match is None:
        return []
    side, number, gripper, _ = match.groups()
    return [
        index
        for index, name in enumerate(names)
        if (side is None or name.startswith(side))
        and (number is None or name.endswith(f"joint{number}"))
        and (gripper is None or name.endswith("gripper"))
    ]


def parts(target: str) -> tuple[str, ...]:
    """The single joints or cameras that a target means, or the target itself."""
    if target == ALL_CAMERAS:
        return CAMERAS
    return tuple(_JOINTS[index] for index in joints(_JOINTS, target)) or (target,)


def find(change: Change, *, where: str = "Change", field: str = "") -> Field:
    """The field of a change. Raises ConfigError naming what there is; `where` and `field` say where
    it was written."""
    found = FIELDS.get((change.target, change.field))
    if found is None and JOINT.fullmatch(change.target):
        found = ARM.get(change.field)
    if found is None:
        targets = sorted({target for target, _ in FIELDS} | {"joints", "joint1"})
        known = sorted({name for target, name in FIELDS if target == change.target})
        if JOINT.fullmatch(change.target):
            known = sorted({*known, *ARM})
        raise ConfigError(
            f"a simulation has no '{change.target}.{change.field}' to change",
            where=where,
            field=field or f"{change.target}.{change.field}",
            hint=f"fields of {change.target}: {', '.join(known)}"
            if known
            else f"targets: {', '.join(targets)}",
        )
    bounds = found.operations.get(change.operation)
    if bounds is None:
        raise ConfigError(
            f"'{change.target}.{change.field}' has no operation '{change.operation}'",
            where=where,
            field=field or "operation",
            hint=f"operations: {', '.join(found.operations)}",
        )
    low, high = bounds
    unit = "times the nominal" if change.operation == "scale" else found.unit
    if not low <= change.value <= high:
        raise ConfigError(
            f"{change.value:g} is outside '{change.target}.{change.field}'",
            where=where,
            field=field or "values",
            hint=f"{change.operation} from {low:g} to {high:g} {unit}".rstrip(),
        )
    if found.whole and change.value != int(change.value):
        raise ConfigError(
            f"{change.value:g} is no whole number of {found.unit}",
            where=where,
            field=field or "values",
        )
    return found
