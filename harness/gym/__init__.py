"""Any Gymnasium environment as the task of a simulation gate.

    sim:
      task: {gymnasium: "highway_env:exit-v1", success: is_success}
      axes: {config.vehicles_count: [0, 5, 15]}

An axis is an option of the environment's `reset`: the one of its name, or the `field` of its term;
a dot leads into an option that is a mapping.

How an environment is found: by Gymnasium's own ids, nothing else. `Name-v0` is one that Gymnasium
brings. `module:Name-v0` imports `module` first, which calls `gymnasium.register`: Gymnasium looks
for environments of others in no other way, and so needs the module's name for each of them. The
module has to be importable where the gate runs: installed beside policyctl, or on PYTHONPATH.

    tasks    GymTask: what a gate asks for, checked against the real environment; dead axes
    player   GymJob, what an executor takes: one policy at one task; GymPlayer, its episodes
    spaces   observations as the policy's numbers, answers as actions, what fits what
    worlds   making, resetting and stepping a foreign environment; what may go wrong there
    engine   what a result of such a task depends on besides policy and gate
"""
