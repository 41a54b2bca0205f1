"""What stands between a policy, the lock-step environment and a verdict.

- A policy that raises, or answers with another shape, has failed in the episodes it was asked
  about and in no other: their rows become NaN, which shaping turns into the failure `policy_fault`.
  Other rows of the same call are asked again one by one, so what an episode suffers does not depend
  on its batch mates.
- Results are released in the order in which the episodes were drawn, never first to finish first:
  short episodes are mostly successes, and a verdict that saw them early would be biased.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from harness.sim.env import Act
from harness.sim.episode import EpisodeRecord, EpisodeSpec

Rows = npt.NDArray[np.float32]


def guarded(act: Act, joints: int) -> Act:
    """`act` that always answers (n, joints), with NaN rows where the policy did not."""

    def ask(observation: Rows) -> Rows:
        answer = _try(act, observation, joints)
        if answer is not None:
            return answer
        answers = [_try(act, observation[i : i + 1], joints) for i in range(len(observation))]
        nothing = np.full((1, joints), np.nan, dtype=np.float32)
        return np.concatenate([nothing if row is None else row for row in answers])

    return ask


def _try(act: Act, observation: Rows, joints: int) -> Rows | None:
    try:
        answer = np.asarray(act(observation), dtype=np.float32)
    except Exception:  # noqa: BLE001 - whatever a policy raises is the policy's failure
        return None
    return answer if answer.shape == (len(observation), joints) else None


def in_order(
    records: Iterable[EpisodeRecord], specs: Sequence[EpisodeSpec]
) -> Iterator[EpisodeRecord]:
    """The records of `specs` in their order; one that finishes early waits for those before it."""
    waiting: dict[EpisodeSpec, EpisodeRecord] = {}
    wanted = iter(specs)
    spec = next(wanted, None)
    for record in records:
        waiting[record.spec] = record
        while spec is not None and spec in waiting:
            yield waiting.pop(spec)
            spec = next(wanted, None)
    if spec is not None:
        raise RuntimeError(f"the executor ended without episode {spec}")
