"""The box-grasp scene on the official OpenArm v2 model, shared by simulation and twin.

Rules
- The model is the official one (openarm-mujoco, bimanual); arms that are not asked for are deleted,
  not frozen. Geoms that cannot collide and meshes nobody uses go too (they cost 40 MB and .7 s),
  unless `visuals` keeps them for rendering. Pairs of links that their joints keep apart are not
  searched for contacts (a fifth of the physics' time): no contact is lost by it, so no bit changes.
- What a scene shows besides (lights, cameras, walls, textures) is in scenery.py.
- Motors follow the MIT law of the real drivers: tau = kp (q_des - q) + kd (dq_des - dq) + tau_ff,
  computed inside every physics step. The actuator's gain is 1 and its bias (0, -kp, -kd), so
  ctrl = kp q_des + kd dq_des + tau_ff (`mit_ctrl`). Torque is clipped at the motor's peak.
- Euler, elliptic cones, impratio 10, as the official scenes. Gravity is compensated by MuJoCo where
  `gravcomp` (simulation), else the servo has to send it as tau_ff (twin).
- The box has contact priority 2: its friction is the friction of the grasp. With the official
  priority 0 the fingers' coefficient 1 would win and the friction axis would be dead.
- Frame "base" is arm_origin, the shoulder mount, at world z .698 m: x forward, y left, z up.
  Units SI. One arm is 8 joints: joint1..joint7, gripper (0 closed; right opens negative).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt

from fleet.can.motors import PEAK_TORQUE
from fleet.kinematics import TCP_OFFSET
from fleet.servo import KD, KP
from harness.sim.scenery import COLOURS, furnish
from harness.tasks.task import Task
from policies.contract import ArmSpec
from registry.errors import ServiceFailed

BASE_HEIGHT = 0.698
"""World z [m] of the base frame's origin."""

PREFIX = "robot/"
"""What the official model's names begin with in the compiled scene."""

BOX_FRICTION = (0.01, 0.0001)
"""Torsional [m] and rolling friction of the box; the sliding coefficient is an axis."""

HULL_RGBA = (0.2, 0.2, 0.22, 1.0)
"""Colour of the robot's collision shapes, which images show where there are no visual meshes."""
_NET_FORCE = 3
"""MuJoCo's reduction of a contact sensor to the sum of its contacts' forces."""

APART = {
    "base_link": ("link1", "link2", "link3"),
    "link1": ("link3", "link4"),
    "link2": ("link4", "link5"),
    "link3": ("link6",),
    "link4": ("link6", "ee_base_link"),
    "link5": ("ee_base_link", "ee_inner_finger", "ee_outer_finger"),
    "link6": ("ee_inner_finger", "ee_outer_finger"),
}
"""Links of one arm that never touch, also where the joints between them are .1 rad past a limit."""


@dataclass(frozen=True)
class SceneConfig:
    """What a scene is built from; two equal configs compile to equal models."""

    timestep: float = 0.002
    gravcomp: bool = True
    arms: tuple[str, ...] = ("right",)
    table_z: float = -0.445
    """Table top in the base frame [m]."""
    box_half: float = 0.025
    box_mass: float = 0.2
    box_friction: float = 0.8
    forces: bool = False
    """Whether the hands' contact forces are measured."""
    visuals: bool = False

    @classmethod
    def of(cls, task: Task, arms: tuple[str, ...], *, visuals: bool = False) -> SceneConfig:
        """A task's nominal scene."""
        return cls(
            arms=arms,
            table_z=task.table_z,
            box_half=task.box_half,
            box_mass=task.box_mass,
            forces=task.watched,
            visuals=visuals,
        )


@dataclass(frozen=True)
class ArmIndex:
    """Where one arm's 8 joints live in the model: (8,) indices in joint order."""

    name: str
    qpos: npt.NDArray[np.intp]
    dof: npt.NDArray[np.intp]
    ctrl: npt.NDArray[np.intp]
    mirror_qpos: int
    """qpos of the second finger, tied to the gripper joint; set both on reset."""
    hand_body: int
    tcp_site: int
    touch: tuple[int, int]
    """sensordata of the two fingers' contacts with the box: > 0 where they touch."""


@dataclass(frozen=True)
class Scene:
    """A compiled scene and its indices."""

    config: SceneConfig
    model: Any
    arms: tuple[ArmIndex, ...]
    qpos: npt.NDArray[np.intp]
    dof: npt.NDArray[np.intp]
    ctrl: npt.NDArray[np.intp]
    arm_dof: npt.NDArray[np.intp]
    """(7 A,) degrees of freedom of the arms' joints, grippers left out."""
    touch: npt.NDArray[np.intp]
    """(A, 2) sensordata addresses of the fingers' contacts with the box."""
    force: npt.NDArray[np.intp]
    """(A, 2, 3) of the net forces of each hand on box and table [N]; A = 0 without `forces`."""
    kp: npt.NDArray[np.float64]
    kd: npt.NDArray[np.float64]
    q_min: npt.NDArray[np.float64]
    q_max: npt.NDArray[np.float64]
    joint_names: tuple[str, ...]
    """As in a contract: right_joint1, …, right_gripper."""
    table_geom: int
    box_body: int
    box_geom: int
    box_qpos: int
    """First of the box's 7 qpos entries: world position, then quaternion w x y z."""
    box_dof: int

    def mit_ctrl(
        self,
        q: npt.NDArray[np.float64],
        dq: npt.NDArray[np.float64] | float = 0.0,
        tau: npt.NDArray[np.float64] | float = 0.0,
    ) -> npt.NDArray[np.float64]:
        """ctrl [Nm] of a desired position q [rad], speed dq [rad/s], feed-forward tau [Nm]."""
        return np.asarray(self.kp * q + self.kd * dq + tau)


def asset_path() -> Path:
    """The official bimanual model's file."""
    try:
        import openarm_mujoco.v2 as official

        path = Path(official.asset_path("openarm_bimanual.xml"))
    except ImportError as error:
        raise ServiceFailed(
            "the OpenArm model is not installed",
            evidence=str(error),
            hint="pip install 'policyctl[sim]'",
        ) from error
    if not path.is_file():
        raise ServiceFailed(
            "the OpenArm model's files are missing",
            evidence=str(path),
            hint="reinstall openarm-mujoco into a virtual environment, not with --target",
        )
    return path


def build_scene(config: SceneConfig | None = None) -> Scene:
    """The scene with a model of its own: .05 s and 4 MB without visuals, .005 s from then on."""
    scene = _compiled(config or SceneConfig())
    return replace(scene, model=copy.copy(scene.model))


@lru_cache(maxsize=4)
def _compiled(config: SceneConfig) -> Scene:
    """Compiled once a process; nobody writes to this one's model."""
    robot = _robot(config)
    parent = mujoco.MjSpec()
    parent.modelname = "box_grasp"
    parent.option.timestep = config.timestep
    parent.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    parent.option.impratio = 10.0
    parent.option.integrator = mujoco.mjtIntegrator.mjINT_EULER
    parent.option.jacobian = mujoco.mjtJacobian.mjJAC_DENSE
    world = parent.worldbody
    world.add_geom(
        name="table",
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=[0.30, 0.45, 0.02],
        pos=[0.27, 0.0, BASE_HEIGHT + config.table_z - 0.02],
        friction=[0.8, 0.01, 0.0001],
        material="table",
        rgba=COLOURS["table"],
    )
    _add_box(world, config)
    parent.attach(robot, frame=world.add_frame(pos=[0.0, 0.0, BASE_HEIGHT]), prefix=PREFIX)
    furnish(parent, BASE_HEIGHT + config.table_z)
    for arm in config.arms:
        _add_touch(parent, arm)
        _exclude_apart(parent, arm)
        if config.forces:
            _add_force(parent, arm)
    return _index(config, parent.compile())


def _robot(config: SceneConfig) -> Any:
    """The official model with only the arms asked for, MIT actuators and TCP sites."""
    robot = mujoco.MjSpec.from_file(str(asset_path()))
    for side in ("left", "right"):
        if side not in config.arms:
            robot.delete(robot.body(f"openarm_{side}_base_link"))
    if not config.visuals:
        for geom in [g for g in robot.geoms if g.contype == 0 and g.conaffinity == 0]:
            robot.delete(geom)
        used = {geom.meshname for geom in robot.geoms}
        for mesh in [m for m in robot.meshes if m.name not in used]:
            robot.delete(mesh)
        for geom in robot.geoms:
            geom.rgba = HULL_RGBA
    for body in robot.bodies:
        if body.name != "world":
            body.gravcomp = 1.0 if config.gravcomp else 0.0
    for arm in config.arms:
        for index, name in enumerate(_actuators(arm)):
            actuator = robot.actuator(name)
            actuator.gaintype = mujoco.mjtGain.mjGAIN_FIXED
            actuator.biastype = mujoco.mjtBias.mjBIAS_AFFINE
            actuator.gainprm[:3] = [1.0, 0.0, 0.0]
            actuator.biasprm[:3] = [0.0, -KP[index], -KD[index]]
            actuator.ctrllimited = False
            actuator.forcelimited = True
            actuator.forcerange = [-PEAK_TORQUE[index], PEAK_TORQUE[index]]
        robot.body(f"openarm_{arm}_ee_base_link").add_site(name=f"{arm}_tcp", pos=list(TCP_OFFSET))
    return robot


def _add_box(world: Any, config: SceneConfig) -> None:
    body = world.add_body(
        name="box", pos=[0.25, -0.18, BASE_HEIGHT + config.table_z + config.box_half]
    )
    body.add_freejoint(name="box")
    body.add_geom(
        name="box",
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=[config.box_half] * 3,
        mass=config.box_mass,
        friction=[config.box_friction, *BOX_FRICTION],
        condim=4,
        priority=2,
        solref=[0.005, 1.0],
        material="box",
        rgba=COLOURS["box"],
    )


def _add_touch(parent: Any, arm: str) -> None:
    for finger in ("inner", "outer"):
        parent.add_sensor(
            name=f"{arm}_{finger}_touch",
            type=mujoco.mjtSensor.mjSENS_CONTACT,
            objtype=mujoco.mjtObj.mjOBJ_BODY,
            objname=f"{PREFIX}openarm_{arm}_ee_{finger}_finger",
            reftype=mujoco.mjtObj.mjOBJ_BODY,
            refname="box",
            intprm=[1, 0, 1],
        )


def _add_force(parent: Any, arm: str) -> None:
    """Net force, world frame, of hand and fingers together on the box and on the table."""
    for name, kind in (("box", mujoco.mjtObj.mjOBJ_BODY), ("table", mujoco.mjtObj.mjOBJ_GEOM)):
        parent.add_sensor(
            name=f"{arm}_{name}_force",
            type=mujoco.mjtSensor.mjSENS_CONTACT,
            objtype=mujoco.mjtObj.mjOBJ_XBODY,
            objname=f"{PREFIX}openarm_{arm}_ee_base_link",
            reftype=kind,
            refname=name,
            intprm=[1 << mujoco.mjtConDataField.mjCONDATA_FORCE.value, _NET_FORCE, 1],
        )


def _exclude_apart(parent: Any, arm: str) -> None:
    for one, other in ((link, far) for link, others in APART.items() for far in others):
        parent.add_exclude(
            name=f"{arm}_{one}_{other}",
            bodyname1=f"{PREFIX}openarm_{arm}_{one}",
            bodyname2=f"{PREFIX}openarm_{arm}_{other}",
        )


def _actuators(arm: str) -> list[str]:
    return [f"{arm}_joint{i}_ctrl" for i in range(1, 8)] + [f"{arm}_finger1_ctrl"]


def _force_addresses(config: SceneConfig, model: Any) -> npt.NDArray[np.intp]:
    first = [
        [int(model.sensor(f"{arm}_{name}_force").adr[0]) for name in ("box", "table")]
        for arm in (config.arms if config.forces else ())
    ]
    return np.array(first, dtype=np.intp).reshape(-1, 2, 1) + np.arange(3)


def _index(config: SceneConfig, model: Any) -> Scene:
    arms = []
    for name in config.arms:
        joints = [model.joint(f"{PREFIX}openarm_{name}_joint{i}") for i in range(1, 8)]
        joints.append(model.joint(f"{PREFIX}openarm_{name}_finger_joint1"))
        arms.append(
            ArmIndex(
                name=name,
                qpos=np.array([j.qposadr[0] for j in joints]),
                dof=np.array([j.dofadr[0] for j in joints]),
                ctrl=np.array([model.actuator(PREFIX + a).id for a in _actuators(name)]),
                mirror_qpos=int(model.joint(f"{PREFIX}openarm_{name}_finger_joint2").qposadr[0]),
                hand_body=int(model.body(f"{PREFIX}openarm_{name}_ee_base_link").id),
                tcp_site=int(model.site(f"{PREFIX}{name}_tcp").id),
                touch=(
                    int(model.sensor(f"{name}_inner_touch").adr[0]),
                    int(model.sensor(f"{name}_outer_touch").adr[0]),
                ),
            )
        )
    qpos = np.concatenate([arm.qpos for arm in arms])
    ranges = np.array([model.jnt_range[np.flatnonzero(model.jnt_qposadr == a)[0]] for a in qpos])
    box = model.joint("box")
    return Scene(
        config=config,
        model=model,
        arms=tuple(arms),
        qpos=qpos,
        dof=np.concatenate([arm.dof for arm in arms]),
        ctrl=np.concatenate([arm.ctrl for arm in arms]),
        arm_dof=np.concatenate([arm.dof[:7] for arm in arms]),
        touch=np.array([arm.touch for arm in arms]),
        force=_force_addresses(config, model),
        kp=np.tile(KP, len(arms)),
        kd=np.tile(KD, len(arms)),
        q_min=ranges[:, 0],
        q_max=ranges[:, 1],
        joint_names=tuple(joint for arm in config.arms for joint in ArmSpec(arm).joints),
        table_geom=int(model.geom("table").id),
        box_body=int(model.body("box").id),
        box_geom=int(model.geom("box").id),
        box_qpos=int(box.qposadr[0]),
        box_dof=int(box.dofadr[0]),
    )
