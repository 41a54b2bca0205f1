"""Evidence, gates, assignments and attempts survive their JSON; inconsistent counts are refused."""

import json
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.assignments import Assignment
from registry.attempts import AttemptReport
from registry.evidence import (
    CanaryEvidence,
    GridEvidence,
    Paired,
    Segment,
    StratumCounts,
    Subject,
    Tally,
    TrialEvidence,
    evidence_from_json,
)
from registry.gates import (
    CanaryGate,
    Gates,
    GridGate,
    Regression,
    Term,
    TrialGate,
    Weights,
    gate_from_json,
)
from registry.versions import digest_of

COMMON = {
    "subject": Subject("box-grasp", 3, "sha256:" + "1" * 64),
    "gate_digest": "sha256:" + "2" * 64,
    "robot_class": "openarm-v2-right",
    "engine": "mujoco 3.17",
    "judge": "joints 1",
    "attempts_digest": "sha256:" + "3" * 64,
}
counts = st.integers(0, 50)
tallies = st.builds(Tally, counts, counts, counts)


@st.composite
def segments_drawn(draw: st.DrawFn, index: int = 0) -> Segment:
    a, b = draw(st.sampled_from([(1, 2), (1, 4), (3, 4), (19, 20), (1, 1)]))
    strata, inside, controls = [], Tally(), Tally()
    for number in range(draw(st.integers(0, 3))):
        blocks = draw(st.integers(0, 5))
        xc = draw(st.integers(0, a * blocks))
        xk = draw(st.integers(0, (b - a) * blocks))
        of_candidate = Tally(xc, a * blocks - xc)
        of_baseline = Tally(xk, (b - a) * blocks - xk)
        strata.append(StratumCounts(f"robot-{number}/lift", of_candidate, of_baseline))
        inside, controls = inside + of_candidate, controls + of_baseline
    return Segment(index, a, b, tuple(strata), inside + draw(tallies), controls + draw(tallies))


@given(segments_drawn(0), segments_drawn(1), counts, counts, st.sampled_from([None, 1]))
def test_canary_evidence_survives_its_json(
    first: Segment, second: Segment, outstanding: int, events: int, baseline: int | None
) -> None:
    evidence = CanaryEvidence(
        **COMMON,
        rollout="r1",
        baseline=baseline,
        segments=(first, second),
        outstanding=outstanding,
        class_a_events=events,
        weights_digest=Weights().digest,
    )
    back = evidence_from_json(json.loads(json.dumps(evidence.to_json())))
    assert back == evidence
    assert back.digest == evidence.digest
    assert evidence.candidate_total == first.candidate + second.candidate


def test_grid_and_trial_evidence_survive_their_json() -> None:
    grid = GridEvidence(
        **COMMON,
        population=100,
        drawn=3,
        successes=2,
        nonce="n",
        order_digest="sha256:" + "4" * 64,
        cells=(("friction=.3", Tally(1, 1)), ("friction=.5", Tally(1, 0))),
    )
    assert "paired" not in grid.to_json()
    compared = replace(grid, paired=Paired(replace(grid.subject, number=2), 3, 1, 0, 2))
    trials = TrialEvidence(
        **COMMON, success=4, failure=1, void=1, tasks=(("lift", Tally(4, 1, 1)),)
    )
    for evidence in (grid, compared, trials):
        back = evidence_from_json(json.loads(json.dumps(evidence.to_json())))
        assert back == evidence
        assert back.digest == evidence.digest
    assert grid.digest != trials.digest


def test_an_unknown_field_or_kind_is_not_evidence() -> None:
    data = TrialEvidence(**COMMON, success=1, failure=0).to_json()
    with pytest.raises(TypeError):
        evidence_from_json({**data, "extra": 1})
    with pytest.raises(ValueError, match="kind"):
        evidence_from_json({**data, "kind": "hearsay"})
    with pytest.raises(ValueError, match="schema"):
        evidence_from_json({**data, "schema": "policyctl.evidence/9"})


def test_inconsistent_counts_are_refused() -> None:
    whole = Tally(2, 0)
    with pytest.raises(ValueError, match="not complete blocks"):
        Segment(0, 1, 4, (StratumCounts("r/t", whole, Tally(5, 0)),), whole, Tally(5, 0))
    with pytest.raises(ValueError, match="only 1 closed"):
        Segment(0, 1, 2, (StratumCounts("r/t", whole, whole),), Tally(1, 0), whole)
    with pytest.raises(ValueError, match="twice"):
        Segment(0, 1, 2, (StratumCounts("r/t", Tally(), Tally()),) * 2)
    with pytest.raises(ValueError, match="negative"):
        Tally(-1)
    segments = (Segment(1, 1, 2), Segment(0, 1, 2))
    with pytest.raises(ValueError, match="order"):
        CanaryEvidence(**COMMON, rollout="r", baseline=1, segments=segments)
    with pytest.raises(ValueError, match="drawn"):
        GridEvidence(
            **COMMON, population=9, drawn=3, successes=4, nonce="", order_digest="", cells=()
        )
    with pytest.raises(ValueError, match="sum"):
        TrialEvidence(**COMMON, success=1, failure=0, tasks=(("lift", Tally(2, 0)),))


def test_void_attempts_enter_no_rate() -> None:
    assert Tally(3, 1, 5).n == 4
    assert Tally(3, 1, 5).total == 9


@pytest.mark.parametrize(
    "gate",
    [
        GridGate("box-grasp", {"friction": (0.3, 1), "delay": (0, 1, 2)}, 50),
        GridGate("box-grasp", {"friction": (0.3, 1)}, edition=1),
        GridGate(
            "X-v0",
            {"m": Term((), (0.5, 2)), "g": Term((1.0,), None, "world", "gravity", "scale")},
            200,
            name="sim:wide",
            regression=Regression(0.1, 0.05),
            floor=0.6,
            floor_alpha=0.1,
            object="cylinder",
            gymnasium={"success": "is_success"},
        ),
        TrialGate("hil/lift.yaml", max_trials=60),
        CanaryGate(ratio=Fraction(1, 2), weights=Weights(history=(99, 1)), waves=(50, 100)),
    ],
)
def test_gates_survive_their_json(gate: GridGate | TrialGate | CanaryGate) -> None:
    back = gate_from_json(json.loads(json.dumps(gate.to_json())))
    assert back == gate
    assert back.digest == gate.digest


def test_a_gate_of_before_keeps_its_digest() -> None:
    """What v0001's program wrote: no field that came later, and not edition 2."""
    old = {
        "gate": "grid", "name": "sim", "task": "box-grasp", "axes": {"friction": [0.3, 1.0]},
        "episodes_per_cell": 50, "threshold": 0.85, "alpha": 0.01,
    }  # fmt: skip
    gate = gate_from_json(old)
    assert gate.to_json() == old
    assert gate.digest == digest_of(old)
    assert gate != GridGate("box-grasp", {"friction": (0.3, 1.0)})


@pytest.mark.parametrize(
    "wrong",
    [
        {"floor": 1.0},
        {"floor_alpha": 0.5},
        {"gymnasium": {}},
        {"edition": 3},
        {"edition": 1, "floor": 0.5},
    ],
)
def test_a_grid_gate_that_cannot_be_judged_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        GridGate("t", {"a": (1.0,)}, **wrong)


def test_a_suite_is_named_after_its_gate() -> None:
    suite = GridGate("t", {"a": (1.0,)}, name="sim:camera")
    gates = Gates(suite, None, CanaryGate(), {"hil": "no lab"}, {"camera": suite})
    assert gates.digest != Gates(suite, None, CanaryGate(), {"hil": "no lab"}).digest
    for name in ("other", "Camera", "a-name-that-is-long"):
        with pytest.raises(ValueError, match=name):
            Gates(suite, None, CanaryGate(), {"hil": "no lab"}, {name: suite})


def test_paired_counts_that_cannot_be_are_refused() -> None:
    baseline = COMMON["subject"]
    with pytest.raises(ValueError, match="negative"):
        Paired(baseline, 3, -1, 0, 0)
    with pytest.raises(ValueError, match="in 3 pairs"):
        Paired(baseline, 3, 1, 1, 2)
    grid = GridEvidence(
        **COMMON, population=9, drawn=4, successes=3, nonce="", order_digest="", cells=()
    )
    for paired, why in [
        (Paired(baseline, 5, 0, 0, 0), "5 pairs of 4"),
        (Paired(baseline, 4, 2, 0, 0), "1 failures"),
        (Paired(baseline, 4, 0, 4, 0), "3 successes"),
    ]:
        with pytest.raises(ValueError, match=why):
            replace(grid, paired=paired)
    with pytest.raises(ValueError, match="3 successes"):
        replace(grid, cells=(("a", Tally(4, 0)),))


def test_a_gate_reads_decimals_as_they_are_written() -> None:
    gate = CanaryGate(ratio=0.25, wave_baseline=0.05)  # type: ignore[arg-type]
    assert gate.ratio == Fraction(1, 4)
    assert gate.wave_ratio == Fraction(19, 20)
    assert gate == CanaryGate()


@pytest.mark.parametrize(
    "wrong",
    [
        {"ratio": Fraction(1)},
        {"waves": (50, 25, 100)},
        {"waves": (25, 50)},
        {"margin": 0.0},
        {"interleave": "robot"},
        {"deadline_s": 0},
        {"bake_episodes": 0},
    ],
)
def test_a_canary_gate_that_cannot_decide_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        CanaryGate(**wrong)  # type: ignore[arg-type]


def test_a_missing_gate_needs_a_reason() -> None:
    Gates(None, TrialGate("s"), CanaryGate(), {"sim": "no simulator of this cell"})
    with pytest.raises(ValueError, match="sim"):
        Gates(None, TrialGate("s"), CanaryGate())
    assert GridGate("t", {"a": (1.0, 2.0), "b": (3.0,)}, 50).population == 100


def test_assignments_and_attempts_survive_their_json() -> None:
    assignment = Assignment(
        "robot-01", "box-grasp", 7, 3, 1, "1/2", "salt", 2, {3: "sha256:a", 1: "sha256:b"}, 12.5
    )
    assert Assignment.from_json(json.loads(json.dumps(assignment.to_json()))) == assignment
    assert assignment.versions == (3, 1)
    assert assignment.fraction == Fraction(1, 2)
    attempt = AttemptReport(
        robot="robot-01", number=1, policy="box-grasp", version=3, side="candidate", generation=7,
        segment=2, stratum="lift", index=0, task="lift", outcome="failure",
        failure_mode="agent_lost", interventions={"speed": 2}, safety_events=("contact_force",),
        scene={"mass": 0.9},
    )  # fmt: skip
    assert AttemptReport.from_json(json.loads(json.dumps(attempt.to_json()))) == attempt
    with pytest.raises(ValueError, match="outcome"):
        AttemptReport.from_json({**attempt.to_json(), "outcome": "maybe"})
    with pytest.raises(ValueError, match="from 1"):
        AttemptReport.from_json({**attempt.to_json(), "number": 0})


def test_the_nouns_import_neither_numpy_scipy_nor_a_framework() -> None:
    """Importing what every robot and every command needs stays light."""
    program = (
        "import sys\n"
        "import registry.versions, registry.stages, registry.gates, registry.evidence\n"
        "import registry.rollouts, registry.interleave, registry.attempts, registry.assignments\n"
        "heavy = {'numpy', 'scipy', 'pydantic', 'yaml', 'sqlalchemy', 'click'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
