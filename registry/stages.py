"""The ladder a version climbs, and who may climb it.

    registered → sim → hil → canary → fleet         ends: rejected, rolled_back, retired

A version's stage names the highest rung it has climbed: `sim` and `hil` once that gate has passed,
`canary` while its rollout is open, `fleet` once its rollout is done. Rules:

1. A rung is climbed from the one below it, never from further down.
2. A gate that has not passed stops the climb: failed (exit 3), undecided (exit 4), not run (5).
   A gate may be declared not applicable to a policy, with a reason that is kept; canary may not.
3. Going back is not a promotion and is never asked here.
4. `rolled_back → canary` only by a recorded override; its canary starts with new counts. The same
   holds after an aborted rollout that closed candidate episodes (`registry.record.promotion`). An
   override never excuses a gate: the version's earlier verdicts are still asked for.
5. `rejected` and `retired` are ends. A rejected version is trained again, not promoted.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from registry.errors import GateFailed, Inconclusive, Refused
from registry.verdicts import Outcome


class Stage(StrEnum):
    REGISTERED = "registered"
    SIM = "sim"
    HIL = "hil"
    CANARY = "canary"
    FLEET = "fleet"
    REJECTED = "rejected"
    ROLLED_BACK = "rolled_back"
    RETIRED = "retired"


LADDER: tuple[Stage, ...] = (Stage.REGISTERED, Stage.SIM, Stage.HIL, Stage.CANARY, Stage.FLEET)
ENDS: frozenset[Stage] = frozenset({Stage.REJECTED, Stage.ROLLED_BACK, Stage.RETIRED})

# The gates that must have passed before a version may stand on a rung.
GATES_BELOW: Mapping[Stage, tuple[str, ...]] = {
    Stage.REGISTERED: (),
    Stage.SIM: ("sim",),
    Stage.HIL: ("sim", "hil"),
    Stage.CANARY: ("sim", "hil"),
    Stage.FLEET: ("sim", "hil", "canary"),
}
MAY_BE_NOT_APPLICABLE: frozenset[str] = frozenset({"sim", "hil"})


def check_promotion(
    current: Stage,
    target: Stage,
    verdicts: Mapping[str, Outcome | None],
    not_applicable: Mapping[str, str],
    override: str | None,
    *,
    evidence: Mapping[str, str] | None = None,
) -> None:
    """Return if a version at `current` may climb to `target`; else raise what stands in the way.

    `verdicts` holds the newest verdict per gate name (missing or None: never run);
    `not_applicable` maps a gate to the reason why this policy has none; `override` is the reason a
    person gave, or None; `evidence` what an error says of a gate's newest verdict, by gate. Raises
    GateFailed, Inconclusive or Refused.
    """
    if target not in LADDER or target is Stage.REGISTERED:
        raise Refused(
            f"{target} is not a stage to promote to",
            evidence=f"the ladder is {' → '.join(LADDER)}",
            hint="name a stage further up: --stage canary",
        )
    needed = GATES_BELOW[target]
    unmet = [gate for gate in needed if not _met(gate, verdicts, not_applicable)]
    if current in {Stage.REJECTED, Stage.RETIRED}:
        _explain(unmet, verdicts, target, evidence or {})
        raise Refused(
            f"a {current} version climbs no further",
            evidence=f"stage {current} is an end",
            hint="train and register a new version",
        )
    if current is Stage.ROLLED_BACK:
        _explain(unmet, verdicts, target, evidence or {})
        if target is not Stage.CANARY or not (override and override.strip()):
            raise Refused(
                "a rolled back version returns only to canary, and only by a recorded override",
                evidence=f"stage {current}, target {target}, override {override or 'none'}",
                hint="policyctl promote VERSION --stage canary --override --reason '…'",
            )
        return
    if LADDER.index(target) <= LADDER.index(current):
        raise Refused(
            f"the version already stands on {current}",
            evidence=f"target {target} is not above it",
            hint="`policyctl status` shows what runs where",
        )
    _explain(unmet, verdicts, target, evidence or {})
    if target is Stage.FLEET and current is not Stage.CANARY:
        raise Refused(
            "a version reaches the fleet from canary only",
            evidence=f"stage {current}",
            hint="policyctl promote VERSION --stage canary",
        )


def command_of(gate: str, version: str) -> str:
    """The command that puts a version through a gate."""
    if gate == "canary":
        return f"policyctl promote {version} --stage canary"
    station = " --station STATION.yaml" if gate == "hil" else ""
    return f"policyctl gate run {gate} {version}{station}"


def _met(
    gate: str, verdicts: Mapping[str, Outcome | None], not_applicable: Mapping[str, str]
) -> bool:
    excused = gate in MAY_BE_NOT_APPLICABLE and bool(not_applicable.get(gate, "").strip())
    # A gate that was run and failed counts, whether or not it had to be run.
    return verdicts.get(gate) is Outcome.PASS or (excused and verdicts.get(gate) is None)


def _explain(
    unmet: list[str],
    verdicts: Mapping[str, Outcome | None],
    target: Stage,
    evidence: Mapping[str, str],
) -> None:
    """Raise for the first unmet gate. The lowest gate is named first: fix that one first."""
    for gate in unmet:
        outcome = verdicts.get(gate)
        if outcome is Outcome.FAIL:
            raise GateFailed(
                f"the {gate} gate failed, so the version does not climb to {target}",
                evidence=evidence.get(gate, f"verdict of {gate}: {outcome}"),
                hint="`policyctl show VERSION` says why",
            )
        if outcome is Outcome.INCONCLUSIVE:
            raise Inconclusive(
                f"the {gate} gate has not decided, so the version does not climb to {target}",
                evidence=evidence.get(gate, f"verdict of {gate}: {outcome}"),
                hint=f"more episodes may decide: `{command_of(gate, 'VERSION')}`",
            )
        raise Refused(
            f"the {gate} gate has not been run, so the version does not climb to {target}",
            evidence=f"{gate}: no verdict",
            hint=command_of(gate, "VERSION"),
        )
