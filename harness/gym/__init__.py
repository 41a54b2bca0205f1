"""Any Gymnasium environment as the task of a simulation gate.

    task: {gymnasium: "highway_env:exit-v1", success: is_success, axes: [config.vehicles_count]}

How an environment is found: by Gymnasium's own ids, nothing else. `Name-v0` and `space/Name-v0` are
those that Gymnasium and its installed plugins register (entry points `gymnasium.envs`);
`module:Name-v0` imports `module` first, which calls `gymnasium.register`. The module has to be
importable where the gate runs: installed beside policyctl, or on PYTHONPATH.

    tasks    GymTask: what gates.yaml says, checked against the real environment; dead axes
    player   GymJob, what an executor takes: one policy at one task; GymPlayer, its episodes
    spaces   observations as the policy's numbers, answers as actions, what fits what
    worlds   making, resetting and stepping a foreign environment; what may go wrong there
    engine   what a result of such a task depends on besides policy and gate
"""
