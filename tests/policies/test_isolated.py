"""A policy in a process of its own: every way to fail has a mode, and comes in time."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import process_policies
import pytest
from machine import real_time

import ci.demo.steps
from policies.isolated import SubprocessPolicy
from policies.loading import load_policy
from policies.process import PolicyFailedError

pytestmark = [pytest.mark.slow, real_time]
FOLDER = Path("v1")


@pytest.fixture
def policy() -> Iterator[SubprocessPolicy]:
    process = SubprocessPolicy(process_policies.load, hang_s=1.0)
    process.load(FOLDER)
    yield process
    process.close()


def seen(what: float, value: float = 0.0, width: int = 11) -> np.ndarray:
    rows = np.zeros((1, width), dtype=np.float32)
    rows[0, :2] = what, value
    return rows


def mode_of(policy: SubprocessPolicy, what: float, value: float = 0.0) -> str:
    with pytest.raises(PolicyFailedError) as caught:
        policy.act(seen(what, value), deadline_s=0.2)
    return caught.value.mode


def test_it_acts_in_another_process(policy: SubprocessPolicy) -> None:
    policy.reset()
    np.testing.assert_array_equal(policy.act(seen(0, 0.25), 0.5), np.full((1, 8), 0.25))
    assert policy.act(seen(6), 0.5)[0, 0] == np.float32(policy.pid) != np.float32(os.getpid())


@pytest.mark.parametrize(("what", "mode"), [(1, "crash"), (2, "crash"), (3, "nan"), (5, "shape")])
def test_a_failure_has_a_mode_and_reset_makes_it_whole(
    policy: SubprocessPolicy, what: float, mode: str
) -> None:
    assert mode_of(policy, what) == mode
    policy.reset()
    assert policy.act(seen(0, 0.5), 0.5)[0, 0] == 0.5


def test_a_late_answer_comes_in_time_as_late_and_is_never_used(policy: SubprocessPolicy) -> None:
    began = time.monotonic()
    assert mode_of(policy, 4, 0.4) == "late"
    assert time.monotonic() - began < 0.3
    answer = policy.act(seen(0, 0.75), deadline_s=2.0)
    assert answer[0, 0] == 0.75  # not the 0.4 of the call that was given up


def test_a_hang_is_late_and_the_next_attempt_gets_a_new_process(policy: SubprocessPolicy) -> None:
    old = policy.pid
    assert mode_of(policy, 4, 3600.0) == "late"
    policy.reset()
    assert policy.pid != old
    assert policy.act(seen(0, 0.5), 0.5)[0, 0] == 0.5


def test_a_stopped_process_does_not_hold_up_a_large_call(policy: SubprocessPolicy) -> None:
    assert policy.pid is not None
    os.kill(policy.pid, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(PolicyFailedError) as caught:
        policy.act(seen(0, 0.0, width=4_000_000), deadline_s=0.2)
    assert caught.value.mode == "late"
    assert time.monotonic() - began < 1.0


def test_a_failed_process_stays_failed_until_reset(policy: SubprocessPolicy) -> None:
    assert mode_of(policy, 2) == "crash"
    assert mode_of(policy, 0) == "crash"


def test_a_wrong_checkpoint_says_what_is_wrong_with_it() -> None:
    from registry.errors import ConfigError

    process = SubprocessPolicy(process_policies.refuse)
    with pytest.raises(ConfigError) as caught:
        process.load(FOLDER)
    process.close()
    assert (caught.value.where, caught.value.field) == ("v1", "policy.safetensors")
    assert caught.value.hint == "train"


def test_a_loader_that_fails_is_the_policys_failure() -> None:
    process = SubprocessPolicy(process_policies.explode)
    with pytest.raises(PolicyFailedError) as caught:
        process.load(FOLDER)
    process.close()
    assert caught.value.mode == "load"


def test_closing_ends_the_process(policy: SubprocessPolicy) -> None:
    pid = policy.pid
    policy.close()
    policy.close()
    assert pid is not None
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(PolicyFailedError):
        policy.act(seen(0))


def test_a_shipped_checkpoint_acts_to_the_bit_as_inline() -> None:
    shipped = Path(ci.demo.steps.__file__).with_name("checkpoints") / "v1"
    process = SubprocessPolicy()
    contract = process.load(shipped)
    rows = np.linspace(-1, 1, contract.width, dtype=np.float32)[None]
    process.reset()
    np.testing.assert_array_equal(process.act(rows, 1.0), load_policy(shipped).act(rows))
    process.close()
