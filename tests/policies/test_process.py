"""The policy's process: whatever goes wrong inside has a mode and is the policy's failure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from contract_data import contract_json

import ci.demo.steps
from policies.contract import Contract, parse_contract
from policies.loading import load_policy
from policies.process import InlinePolicy, PolicyFailedError, host

Rows = npt.NDArray[np.float32]
SEEN = np.zeros((2, 11), dtype=np.float32)


class Fake:
    """A policy that does what the test says."""

    def __init__(self, answer: object) -> None:
        self._answer = answer
        self.resets = 0

    @property
    def contract(self) -> Contract:
        return parse_contract(contract_json())

    def reset(self) -> None:
        self.resets += 1

    def act(self, observation: Rows) -> Rows:
        if isinstance(self._answer, Exception):
            raise self._answer
        return np.asarray(self._answer, dtype=np.float32)


class Ticking:
    """A clock that advances by a fixed time a look."""

    def __init__(self, step: float) -> None:
        self._now, self._step = 0.0, step

    def __call__(self) -> float:
        self._now += self._step
        return self._now


def loaded(answer: object, step: float = 0.001) -> InlinePolicy:
    process = InlinePolicy(lambda folder: Fake(answer), Ticking(step))
    process.start()
    process.load(Path("v1"))
    return process


def test_it_answers_in_time() -> None:
    process = loaded(np.full((2, 8), 0.25))
    process.reset()
    assert process.act(SEEN, deadline_s=0.01).shape == (2, 8)


@pytest.mark.parametrize(
    ("answer", "mode"),
    [
        (RuntimeError("boom"), "crash"),
        (np.zeros((2, 7)), "shape"),
        (np.full((2, 8), np.nan), "nan"),
    ],
)
def test_a_failure_has_a_mode(answer: object, mode: str) -> None:
    with pytest.raises(PolicyFailedError) as caught:
        loaded(answer).act(SEEN)
    assert caught.value.mode == mode


def test_a_late_answer_is_not_used() -> None:
    process = loaded(np.zeros((2, 8)), step=0.05)
    with pytest.raises(PolicyFailedError) as caught:
        process.act(SEEN, deadline_s=0.02)
    assert caught.value.mode == "late"


def test_nothing_acts_before_loading_or_after_closing() -> None:
    process = loaded(np.zeros((2, 8)))
    process.close()
    for call in (process.reset, lambda: process.act(SEEN)):
        with pytest.raises(PolicyFailedError) as caught:
            call()
        assert caught.value.mode == "load"


def test_a_hosted_checkpoint_is_a_policy_with_its_contract() -> None:
    shipped = Path(ci.demo.steps.__file__).with_name("checkpoints") / "v1"
    process = host(shipped)
    assert process.contract.task == "box-grasp"
    process.reset()
    seen = np.zeros((1, process.contract.width), dtype=np.float32)
    np.testing.assert_array_equal(process.act(seen), load_policy(shipped).act(seen))
    process.close()
