"""How attempts fail, in our words and in those of the four sources our users come from.

One row a failure mode, whoever judged it: simulation, the lab's station or a robot of the fleet.
Columns are the vocabularies of

    manipulation  miss_grasp, wrong_position, timeout, collision: SFT and RL training, real-robot
                  evaluation (sources R and A of the requirements)
    deployment    grasp, trajectory, placement: the deployment playbook (P)
    transfer      frozen, oscillation, drift, collision, grasp: the sim-to-real article (L)
    article       visual confusion, motor overshoot: the OpenArm sim-to-real article (A)

A name is empty where that source has no word for the mode. The mapping is many to one, so counts
in a source's words are sums of ours; it is never read backwards. A mode that is not in the table
is reported under its own name with no names beside it, never dropped. Some modes only a person or
a trace tells (`wrong_object`, `overshoot`, `oscillation`); the simulation never gives those.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Names:
    """What the sources call a mode, and what happened in plain words."""

    manipulation: str = ""
    deployment: str = ""
    transfer: str = ""
    article: str = ""
    meaning: str = ""


FAILURES: Mapping[str, Names] = {
    "miss_grasp": Names("miss_grasp", "grasp", "grasp", "", "the gripper never held the object"),
    "dropped": Names("miss_grasp", "grasp", "grasp", "", "the object was lifted and then lost"),
    "wrong_position": Names(
        "wrong_position", "placement", "drift", "", "the object came to rest off its goal"
    ),
    "wrong_orientation": Names(
        "wrong_position", "placement", "drift", "", "the object was placed, but turned"
    ),
    "timeout": Names("timeout", "trajectory", "", "", "still under way when time was up"),
    "collision": Names(
        "collision", "trajectory", "collision", "", "the arm or object hit what it must not touch"
    ),
    "excess_force": Names(
        "collision", "trajectory", "collision", "", "more contact force than the task allows"
    ),
    "overspeed": Names(
        "", "trajectory", "", "motor overshoot", "a joint moved faster than the task allows"
    ),
    "overshoot": Names(
        "wrong_position", "trajectory", "drift", "motor overshoot", "the arm ran past its target"
    ),
    "oscillation": Names(
        "timeout", "trajectory", "oscillation", "motor overshoot", "the arm swung about its target"
    ),
    "terminated": Names(meaning="the environment ended the episode without a success"),
    "frozen": Names("timeout", "trajectory", "frozen", "", "the arm stopped moving"),
    "wrong_object": Names(
        "wrong_position", "grasp", "", "visual confusion", "the policy acted on the wrong thing"
    ),
    "policy_fault": Names(meaning="the policy crashed, or its action was not finite"),
    "policy_load": Names(meaning="the policy could not be loaded"),
    "policy_reset": Names(meaning="the policy failed to begin an episode"),
    "policy_crash": Names(meaning="the policy raised an error, or its process died"),
    "policy_nan": Names(meaning="the policy's action held numbers that are not finite"),
    "policy_shape": Names(meaning="the policy's action had another shape than its contract says"),
    "policy_limits": Names(meaning="the policy's action was outside its contract's limits"),
    "policy_late": Names(meaning="the policy answered later than its contract allows"),
    "operator_stop": Names(meaning="a person stopped the arm or took over"),
    "unstable": Names(meaning="the physics blew up under the policy's commands"),
    "agent_lost": Names(meaning="the robot's program died in mid-attempt"),
}


def names(mode: str) -> Names:
    """The names of a mode; all empty where the table does not know it."""
    return FAILURES.get(mode, Names())
