"""The tasks as Gymnasium environments: importing this module registers them, and nothing more.

    import harness.sim.gym
    gymnasium.make("policyctl/PickPlace-v0")

or, where no line can be added, `gymnasium.make("harness.sim.gym:policyctl/PickPlace-v0")`, which
imports the module before the colon. Gymnasium finds environments that are not its own in no other
way: it has no entry point for plugins. Ids are registered by names alone, the simulator is imported
where an environment is made. `harness/sim/gym_env.py` says how they behave.
"""

from __future__ import annotations

import gymnasium

ENVIRONMENTS = {
    "policyctl/BoxGrasp-v0": "box-grasp",
    "policyctl/PickPlace-v0": "pick-place",
    "policyctl/PickPlaceAligned-v0": "pick-place-aligned",
}
"""Gymnasium's ids, with the tasks they are."""


def register() -> None:
    """Name the tasks to Gymnasium; done again, it changes nothing."""
    for name, task in ENVIRONMENTS.items():
        if name not in gymnasium.registry:
            gymnasium.register(
                id=name,
                entry_point="harness.sim.gym_env:TaskEnv",
                vector_entry_point="harness.sim.gym_env:TaskVectorEnv",
                kwargs={"task": task},
            )


register()
