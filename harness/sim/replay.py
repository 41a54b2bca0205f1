"""One episode again, from its key: the same bits, or a plain word that they are not.

- By inference: the version's policy is asked again. On the engine that made the record (same
  fingerprint) the digest of the final state is equal, or something is broken.
- By action log: the recorded outputs are played without a policy. That needs the physics alone, so
  it also tells apart whether a difference came from inference or from physics.
- On another engine a digest says nothing; the outcome is compared, and the log is played, which
  keeps at least the policy's side of the record.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.sim.env import BatchEnv
from harness.sim.episode import EpisodeRecord, EpisodeSpec
from harness.sim.results import Row, rounded, unpack
from harness.sim.runner import Watch, inference, play_one
from harness.sim.scene import Scene
from policies import Policy
from policies.contract import Contract
from registry.errors import Corrupt, NotFound

Rows = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Replay:
    """What came of playing an episode again. `by` is inference or actions."""

    record: EpisodeRecord
    by: str
    identical: bool | None
    """Whether the final state has the recorded bits; None where the engine is another one."""
    same_outcome: bool

    @property
    def words(self) -> str:
        if self.identical:
            return f"bit-identical by {self.by}"
        if self.identical is False:
            return f"not the recorded bits by {self.by}, on the engine that recorded them"
        outcome = "the recorded outcome" if self.same_outcome else "another outcome"
        return f"{outcome} by {self.by}, on another engine than the record's"


def infer(
    policy: Policy,
    spec: EpisodeSpec,
    watch: Watch | None = None,
    scene: Scene | None = None,
) -> EpisodeRecord:
    """Play an episode by its policy."""
    env = BatchEnv(policy.contract, 1, scene=scene)
    return play_one(env, spec, inference(env, policy.act), watch)


def by_actions(
    contract: Contract,
    spec: EpisodeSpec,
    actions: bytes,
    watch: Watch | None = None,
    scene: Scene | None = None,
) -> EpisodeRecord:
    """Play an episode by its recorded outputs."""
    outputs = np.frombuffer(actions, dtype=np.float32).reshape(-1, len(contract.joints))

    def answer(step: int) -> Rows:
        if step >= len(outputs):
            raise Corrupt(
                "the action log ends before the episode does",
                evidence=f"{len(outputs)} steps",
                hint="the engine is not the one that recorded it",
            )
        return outputs[step : step + 1]

    return play_one(BatchEnv(contract, 1, scene=scene), spec, answer, watch)


def replay(
    policy: Policy,
    spec: EpisodeSpec,
    row: Row,
    *,
    same_engine: bool,
    watch: Watch | None = None,
    scene: Scene | None = None,
) -> Replay:
    """Play the episode of `row` again: by inference on its own engine, else by its action log.

    `watch` sees that very episode; `scene` takes the place of the task's own, to be seen better.
    Raises NotFound where another engine recorded it and no log was kept.
    """
    if same_engine:
        record = infer(policy, spec, watch, scene)
        return compared(record, row, "inference", same_engine=True)
    actions = unpack(row.actions)
    if not actions:
        raise NotFound(
            f"{row.key} was recorded on another engine, and no action log was kept",
            evidence="logs are kept of failures and of flips against the baseline",
            hint="run the gate again on this engine",
        )
    record = by_actions(policy.contract, spec, actions, watch, scene)
    return compared(record, row, "actions", same_engine=False)


def replay_log(
    contract: Contract, spec: EpisodeSpec, row: Row, *, same_engine: bool
) -> Replay | None:
    """Play the kept action log of a row; None where there is none."""
    actions = unpack(row.actions)
    if not actions:
        return None
    record = by_actions(contract, spec, actions)
    return compared(record, row, "actions", same_engine=same_engine)


def compared(record: EpisodeRecord, row: Row, by: str, *, same_engine: bool) -> Replay:
    """An episode played again beside what was recorded of it: state, outcome, course and counts.

    Recorded outputs cannot tell a policy that crashed from one that answered NaN.
    """
    same_outcome = record.success == row.success
    blamed = by == "actions" and row.failure_mode.startswith("policy_")
    identical = (
        same_outcome
        and record.digest == row.digest
        and (blamed or record.failure_mode == row.failure_mode)
        and record.steps == row.steps
        and rounded(record.metrics) == row.metrics
        and {name: n for name, n in record.interventions.items() if n} == row.interventions
    )
    return Replay(record, by, identical if same_engine else None, same_outcome)
