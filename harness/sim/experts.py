"""Which scripted expert drives a contract's robot at its task, if any does."""

from __future__ import annotations

import numpy as np

from fleet.kinematics import ArmKinematics
from harness.sim.arms import Expert as RightArm
from harness.sim.arms import ForArms
from harness.sim.expert import Expert, ExpertConfig
from harness.sim.place_expert import PlaceConfig, PlaceExpert
from harness.tasks import TASKS
from harness.tasks.box_grasp import BoxGrasp
from harness.tasks.pick_place import PickPlace
from policies.contract import Contract
from policies.training.recipe import Teacher


def expert_of(contract: Contract, teacher: Teacher | None = None) -> ForArms | None:
    """The expert, as `teacher` describes it; None for a task without one, or other than joint
    steps."""
    if contract.action.space != "delta":
        return None
    teacher, task = teacher or Teacher(), TASKS.get(contract.task)
    limit = np.array(contract.action.limit[:8])
    if isinstance(task, PickPlace):
        place = PlaceConfig(close=teacher.close, speed=teacher.speed)
        right: RightArm = PlaceExpert(ArmKinematics.load("right"), limit, place, task)
    elif isinstance(task, BoxGrasp):
        lift = ExpertConfig(
            close=teacher.close,
            lift_m=teacher.lift_m,
            speed=teacher.speed,
            lift_speed=teacher.lift_speed,
        )
        right = Expert(ArmKinematics.load("right"), limit, lift, task)
    else:
        return None
    return ForArms(right, contract.arms)
