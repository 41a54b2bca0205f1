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
from harness.sim.runner import Answer, Watch, inference, play_one
from harness.sim.scene import Scene
from policies import Policy
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


class Replayer:
    """Plays episodes of one policy again, one at a time, all in one environment.

    `scene` takes the place of the task's own, to be seen better. An episode leaves no trace in the
    next, so it does not matter how many are played or in which order.
    """

    def __init__(self, policy: Policy, scene: Scene | None = None) -> None:
        self._policy = policy
        self._env = BatchEnv(policy.contract, 1, scene=scene)
        self._infer = inference(self._env, policy.act)

    def replay(
        self, spec: EpisodeSpec, row: Row, *, same_engine: bool, watch: Watch | None = None
    ) -> Replay:
        """Play the episode of `row`: by inference on its own engine, else by its action log.

        `watch` sees that very episode. Raises NotFound where another engine recorded it and no log
        was kept.
        """
        if same_engine:
            record = self._play(spec, self._infer, watch)
            return compared(record, row, "inference", same_engine=True)
        found = self.replay_log(spec, row, same_engine=False, watch=watch)
        if found is None:
            raise NotFound(
                f"{row.key} was recorded on another engine, and no action log was kept",
                evidence="logs are kept of failures and of flips against the baseline",
                hint="run the gate again on this engine",
            )
        return found

    def replay_log(
        self, spec: EpisodeSpec, row: Row, *, same_engine: bool, watch: Watch | None = None
    ) -> Replay | None:
        """Play the kept action log of a row, without asking the policy; None where none is kept."""
        actions = unpack(row.actions)
        if not actions:
            return None
        joints = len(self._policy.contract.joints)
        outputs = np.frombuffer(actions, dtype=np.float32).reshape(-1, joints)

        def answer(step: int) -> Rows:
            if step >= len(outputs):
                raise Corrupt(
                    "the action log ends before the episode does",
                    evidence=f"{len(outputs)} steps",
                    hint="the engine is not the one that recorded it",
                )
            return outputs[step : step + 1]

        record = self._play(spec, answer, watch)
        return compared(record, row, "actions", same_engine=same_engine)

    def _play(self, spec: EpisodeSpec, answer: Answer, watch: Watch | None) -> EpisodeRecord:
        self._env.on_tick = None  # whoever recorded the last episode has seen it end
        return play_one(self._env, spec, answer, watch)


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
