"""A policy asked beside the arm is blamed for the answers that an episode took, for no others."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import hil_bench
import numpy as np
import pytest
from contract_data import contract_json

from ci.station import open_bench
from fleet.kinematics import load_arms
from fleet.robot import RobotConfig
from fleet.runtime import Runtime
from harness.hil import plan
from harness.hil.clocks import JumpClock
from harness.hil.config import load_suite
from harness.hil.engine import TrialEngine
from harness.hil.hooks.stock import StockFile
from harness.hil.journal import Journal
from harness.hil.lease import OpenBench
from harness.hil.model import Attempt, PolicyError
from harness.hil.prompts.broker import Broker
from policies.contract import parse_contract
from policies.process import PolicyFailedError

pytestmark = pytest.mark.slow

WITHIN_S = 20.0
ROWS, EVERY = 12, 6
SUITE = """\
suite: lift
robot_class: openarm-v2-right
tasks:
  - name: self-reset
    task: box-grasp
    instruction: lift it
    scene:
      setup: the box in the rectangle
      x: [0.2, 0.3]
      y: [-0.2, -0.1]
      check: {hook: assumed}
    reset: {kind: robot}
    success: {judge: bench}
"""


class Fails:
    """Stands still. Its answer number `at` fails; a later one than the first, once the judge has
    decided."""

    def __init__(self, at: int, error: Exception) -> None:
        data = contract_json() | {
            "latency_ms": 100.0,
            "chunk": {"rows": ROWS, "every": EVERY, "blend": 1},
        }
        data["action"] |= {"low": [-3.5] * 8, "high": [3.5] * 8}
        self.contract = parse_contract(data)
        self.at, self.error = at, error
        self.answered, self.under_way = threading.Event(), threading.Event()
        self.decided = threading.Event()
        self.asked = 0

    def reset(self) -> None:
        self.asked = 0

    def act(self, observation: np.ndarray) -> np.ndarray:
        self.asked += 1
        if self.asked > 1:
            self.under_way.set()
            assert self.decided.wait(WITHIN_S)
        self.answered.set()
        if self.asked == self.at:
            raise self.error
        return np.zeros((1, 8 * ROWS), np.float32)


def tried(
    folder: Path, policy: Fails, monkeypatch: pytest.MonkeyPatch, *, lifts: bool = True
) -> Attempt:
    """One attempt at a station whose policies are asked in a thread; the judge decides while the
    second question is under way."""
    (folder / "suite.yaml").write_text(SUITE)
    suite = load_suite(folder / "suite.yaml")
    monkeypatch.setattr(hil_bench, "STEPS", EVERY + 2)

    def outcome(judge: Any) -> str | None:
        assert policy.answered.wait(WITHIN_S)  # the twin's clock does not wait for the thread
        if judge.decided is not None:
            assert policy.under_way.wait(WITHIN_S)
            policy.decided.set()
        found: str | None = judge.decided
        return found

    monkeypatch.setattr(hil_bench.BenchJudge, "outcome", outcome)
    config = RobotConfig.model_validate(
        {
            "robot": "lab",
            "class": "openarm-v2-right",
            "role": "lab",
            "arms": [{"name": "right", "bus": {"interface": "twin"}}],
            "twin": {"seed": 5},
        }
    )
    with open_bench(config) as robot:
        robot.lifts = lifts  # type: ignore[attr-defined]
        robot.runtime = Runtime(
            robot.runtime.servo, load_arms("openarm-v2-right"), robot.poses, async_inference=True
        )
        clock = JumpClock(1_000_000.0)
        journal = Journal(folder / "run.jsonl", clock)
        engine = TrialEngine(
            suite, robot, policy, Broker([], clock), journal, clock, OpenBench(),
            StockFile(folder / "stock.json"), "run",
        )  # fmt: skip
        try:
            return engine.attempt(1, plan.trial(suite, 1, 0))
        finally:
            journal.close()


BOOM = RuntimeError("boom")
LATE = PolicyFailedError("late", "no answer in 100 ms")


@pytest.mark.parametrize("error", [BOOM, LATE, PolicyError("policy_limits", "2 rad/step")])
@pytest.mark.parametrize(("lifts", "wanted"), [(True, ("success", "")),
                                               (False, ("failure", "miss_grasp"))])  # fmt: skip
def test_an_answer_that_nobody_takes_any_more_is_nobodys_fault(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    lifts: bool,
    wanted: tuple[str, str],
) -> None:
    policy = Fails(2, error)
    attempt = tried(tmp_path, policy, monkeypatch, lifts=lifts)
    assert (attempt.outcome, attempt.mode) == wanted, attempt.why
    assert attempt.steps == EVERY + 2


@pytest.mark.parametrize(
    ("error", "mode"),
    [
        (BOOM, "policy_crash"),
        (LATE, "policy_late"),
        (PolicyError("policy_limits", "2 rad/step"), "policy_limits"),
    ],
)
def test_an_answer_that_the_episode_took_is_the_policys_fault_by_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, mode: str
) -> None:
    attempt = tried(tmp_path, Fails(1, error), monkeypatch)
    assert (attempt.outcome, attempt.mode) == ("failure", mode)
    assert attempt.why in ("RuntimeError: boom", "no answer in 100 ms", "2 rad/step")
