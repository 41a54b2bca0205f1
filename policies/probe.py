"""A dry run of a loaded policy, before anything that could move listens to it."""

from __future__ import annotations

import time

import numpy as np

from policies import Policy
from registry.errors import Refused

STEPS = 20


def probe(policy: Policy, steps: int = STEPS) -> None:
    """Asks `policy` for `steps` answers to random observations and forgets them.

    Raises Refused where an answer has the wrong shape or is not finite, or where the typical step
    (the median after a warm-up) is later than the contract's latency. A single late step is the
    runtime's affair, which counts it as a failure.
    """
    contract = policy.contract
    expected = (1, contract.outputs)
    rng = np.random.default_rng(0)
    took = []
    policy.reset()
    for step in range(steps):
        observed = rng.uniform(-1.0, 1.0, (1, contract.width)).astype(np.float32)
        began = time.perf_counter()
        action = policy.act(observed)
        took.append(time.perf_counter() - began)
        if action.shape != expected:
            raise Refused(
                "the policy answers the wrong shape",
                evidence=f"{action.shape}, expected {expected}",
            )
        if not np.isfinite(action).all():
            raise Refused("the policy answers values that are not finite", evidence=f"step {step}")
    policy.reset()
    typical = float(np.median(took[steps // 4 :]))
    if typical > contract.latency_s:
        raise Refused(
            "the policy is slower than its contract says",
            evidence=f"{typical * 1000:.1f} ms a step, contract {contract.latency_ms} ms",
        )
