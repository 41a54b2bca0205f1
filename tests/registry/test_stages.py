"""Who may climb which rung, and what the refusal says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import GateFailed, Inconclusive, PolicyctlError, Refused
from registry.stages import GATES_BELOW, LADDER, Stage, check_promotion
from registry.verdicts import Outcome

PASSED = {"sim": Outcome.PASS, "hil": Outcome.PASS, "canary": Outcome.PASS}


def test_a_version_that_passed_its_gates_climbs_to_canary_and_to_the_fleet() -> None:
    check_promotion(Stage.HIL, Stage.CANARY, PASSED, {}, None)
    check_promotion(Stage.CANARY, Stage.FLEET, PASSED, {}, None)


def test_a_failed_gate_is_named_with_exit_3() -> None:
    with pytest.raises(GateFailed) as caught:
        check_promotion(Stage.REGISTERED, Stage.CANARY, {"sim": Outcome.FAIL}, {}, None)
    assert "sim" in caught.value.what
    assert caught.value.exit_status == 3
    with pytest.raises(GateFailed):
        check_promotion(Stage.REJECTED, Stage.CANARY, {"sim": Outcome.FAIL}, {}, None)


def test_an_undecided_gate_has_exit_4_and_one_not_run_has_exit_5() -> None:
    verdicts = {"sim": Outcome.PASS, "hil": Outcome.INCONCLUSIVE}
    with pytest.raises(Inconclusive, match="hil"):
        check_promotion(Stage.SIM, Stage.CANARY, verdicts, {}, None)
    with pytest.raises(Refused, match="hil gate has not been run"):
        check_promotion(Stage.SIM, Stage.CANARY, {"sim": Outcome.PASS}, {}, None)


def test_a_gate_that_does_not_apply_is_excused_only_with_a_reason_and_only_if_it_never_failed() -> (
    None
):
    excused = {"hil": "no arm fits this policy"}
    check_promotion(Stage.SIM, Stage.CANARY, {"sim": Outcome.PASS}, excused, None)
    with pytest.raises(Refused):
        check_promotion(Stage.SIM, Stage.CANARY, {"sim": Outcome.PASS}, {"hil": " "}, None)
    failed = {"sim": Outcome.PASS, "hil": Outcome.FAIL}
    with pytest.raises(GateFailed):
        check_promotion(Stage.SIM, Stage.CANARY, failed, excused, None)
    two = {"sim": Outcome.PASS, "hil": Outcome.PASS}
    with pytest.raises(Refused):
        check_promotion(Stage.CANARY, Stage.FLEET, two, {"canary": "never"}, None)


def test_a_rolled_back_version_returns_by_recorded_override_only() -> None:
    check_promotion(Stage.ROLLED_BACK, Stage.CANARY, PASSED, {}, "the tables were lowered")
    for override in (None, "", "  "):
        with pytest.raises(Refused, match="override"):
            check_promotion(Stage.ROLLED_BACK, Stage.CANARY, PASSED, {}, override)
    with pytest.raises(Refused):
        check_promotion(Stage.ROLLED_BACK, Stage.FLEET, PASSED, {}, "please")


def test_nobody_promotes_down_or_to_an_end() -> None:
    with pytest.raises(Refused, match="already"):
        check_promotion(Stage.FLEET, Stage.CANARY, PASSED, {}, None)
    for target in (Stage.REJECTED, Stage.RETIRED, Stage.ROLLED_BACK, Stage.REGISTERED):
        with pytest.raises(Refused, match="not a stage"):
            check_promotion(Stage.HIL, target, PASSED, {}, None)


@given(
    st.sampled_from(list(Stage)),
    st.sampled_from(list(Stage)),
    st.dictionaries(st.sampled_from(["sim", "hil", "canary"]), st.sampled_from([*Outcome, None])),
    st.dictionaries(st.sampled_from(["sim", "hil", "canary"]), st.sampled_from(["", "reason"])),
    st.sampled_from([None, "", "reason"]),
)
def test_a_promoted_version_has_passed_every_earlier_gate_or_was_excused(
    current: Stage,
    target: Stage,
    verdicts: dict[str, Outcome | None],
    excused: dict[str, str],
    override: str | None,
) -> None:
    refusal: PolicyctlError | None = None
    try:
        check_promotion(current, target, verdicts, excused, override)
    except PolicyctlError as raised:
        refusal = raised
    if refusal is not None:
        assert refusal.exit_status in (3, 4, 5)
        assert refusal.evidence
        assert refusal.hint
        return
    assert target in LADDER
    assert current not in (Stage.REJECTED, Stage.RETIRED)
    for gate in GATES_BELOW[target]:
        never_run = verdicts.get(gate) is None
        assert verdicts.get(gate) is Outcome.PASS or (never_run and excused.get(gate) == "reason")
    if target is Stage.FLEET:
        assert verdicts["canary"] is Outcome.PASS
