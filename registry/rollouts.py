"""A version's way into the fleet: `step(rollout, event, now) -> (rollout, commands)`, pure.

    QUEUED ─ Opened → CANARY ─ pass → WAVE 25 → WAVE 50 → WAVE 100 → DONE
                         │ undecided in time → HOLDING (a person is asked)
                         │ fail, class A, RollBack → ROLLED_BACK        Abort → ABORTED
                         └ Pause ⇄ Resume: PAUSED

 1. CANARY: the cohort interleaves candidate and baseline at the gate's ratio, every other robot
    runs the baseline. Without a baseline the cohort runs the candidate alone, the others nothing.
 2. A canary verdict PASS, and nothing else, leads into the waves. The first 25, 50, 100 % of the
    robots, the cohort first, run the candidate but for `wave_baseline` of their attempts. A wave
    ends when `bake_episodes` candidate attempts were closed in it without a FAIL; after the last
    one the candidate is what every robot runs and its stage is `fleet`.
 3. FAIL and class A events roll back from every phase between QUEUED and the end, also while
    PAUSED or HOLDING: late reports count. After ROLLED_BACK and ABORTED every robot is assigned
    the baseline alone, or nothing where there is none.
 4. HOLDING and PAUSED expose nobody: every robot runs the baseline. Resume goes back to the phase
    before, in a new segment; out of HOLDING it also grants the gate's time and episodes again.
 5. The deadline and `max_candidate_episodes` ask a person; they never decide. Deciding evidence
    that arrives with the deadline counts. The canary and each wave have a deadline of their own.
 6. DONE, ROLLED_BACK and ABORTED are ends: every event leaves them as they are.
 7. The generation rises with every change of what robots run, and never falls. A change of sides or
    ratio opens a new segment with its own salt.
 8. A robot enrolled while a rollout is under way joins last: it runs the baseline until the wave
    that reaches it, and never becomes part of the cohort.
 9. Aborting, or superseding a queued rollout, returns the candidate to the stage it came from.
10. A stop "now" ends running episodes of versions that are no longer named. The rollout that opens
    behind one so stopped says it once more: its document may be the first that a robot hears.

Crash repair: a repeated event is answered by the same rollout and no commands (Observed, because
the phase has moved on or the wave's segment holds no episodes yet; the others, because the phase or
the list of robots no longer fits). Commands that may have been lost are given again by `Repair`,
with the generation they had; whoever applies them ignores an Assign whose generation is not higher
than the robot's own, so applying twice is harmless. Times are seconds by the registry's clock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil

from registry.errors import Conflict, Refused
from registry.evidence import CanaryEvidence
from registry.gates import CanaryGate
from registry.rollout_values import (
    EXPOSING,
    STOPPED,
    TERMINAL,
    Abort,
    Assign,
    ClassA,
    Command,
    Event,
    Joined,
    Notify,
    Observed,
    Opened,
    Pause,
    Phase,
    Repair,
    Resume,
    RollBack,
    Rollout,
    SetStage,
    Superseded,
    Tick,
    wave_robots,
)
from registry.stages import Stage
from registry.verdicts import Outcome, Verdict

__all__ = [
    "EXPOSING",
    "STOPPED",
    "TERMINAL",
    "Abort",
    "Assign",
    "ClassA",
    "Command",
    "Event",
    "Held",
    "Joined",
    "Notify",
    "Observed",
    "Opened",
    "Pause",
    "Phase",
    "Repair",
    "Resume",
    "RollBack",
    "Rollout",
    "SetStage",
    "Superseded",
    "Tick",
    "assignments",
    "choose_cohort",
    "next_queued",
    "open_rollout",
    "rollback_target",
    "segment_salt",
    "step",
    "wave_robots",
]

Step = tuple[Rollout, tuple[Command, ...]]


def open_rollout(
    id: str,  # noqa: A002
    policy: str,
    candidate: int,
    baseline: int | None,
    gate: CanaryGate,
    robots: Iterable[str],
    salt: str,
    generation: int = 0,
    prior_stage: Stage = Stage.HIL,
) -> Rollout:
    """A QUEUED rollout. `generation` is the highest the policy's robots have been given so far."""
    names = sorted(set(robots))
    if not names:
        raise Refused(
            "there is no robot to roll out to",
            evidence="no robot of the policy's robot class is enrolled",
            hint="policyctl robot enrol ROBOT.yaml",
        )
    if candidate == baseline:
        raise Refused(
            f"{policy} v{candidate} is already the baseline",
            evidence="a version is not compared with itself",
            hint="`policyctl status` shows what runs where",
        )
    cohort = choose_cohort(names, gate, salt)
    others = sorted(set(names) - set(cohort), key=lambda robot: _rank(salt, robot))
    return Rollout(
        id=id,
        policy=policy,
        candidate=candidate,
        baseline=baseline,
        gate=gate,
        cohort=cohort,
        robots=(*cohort, *others),
        salt=salt,
        generation=generation,
        prior_stage=prior_stage,
    )


def choose_cohort(robots: Iterable[str], gate: CanaryGate, salt: str) -> tuple[str, ...]:
    """`fraction` of the robots, at least `cohort_min` where there are so many, chosen by hash."""
    names = sorted(set(robots), key=lambda robot: _rank(salt, robot))
    size = max(ceil(gate.fraction * len(names)), gate.cohort_min)
    return tuple(names[:size])


def segment_salt(salt: str, segment: int) -> str:
    """The salt that `interleave.side` takes: each segment shuffles anew."""
    return hashlib.sha256(f"{salt}\x1f{segment}".encode()).hexdigest()[:32]


def assignments(rollout: Rollout) -> tuple[Assign, ...]:
    """What every robot is to run in the present phase; nothing for a rollout that never opened."""
    if rollout.opened_at is None:
        return ()
    if rollout.phase is Phase.DONE:
        return tuple(_only(rollout, robot, rollout.candidate) for robot in rollout.robots)
    exposed = rollout.exposed
    salt = segment_salt(rollout.salt, rollout.segment)
    orders = [
        Assign(
            robot,
            rollout.candidate,
            rollout.baseline,
            rollout.ratio,
            salt,
            rollout.segment,
            rollout.generation,
            rollout.stop,
        )
        for robot in exposed
    ]
    if rollout.baseline is not None or not exposed:
        rest = [robot for robot in rollout.robots if robot not in exposed]
        orders += [_only(rollout, robot, rollout.baseline) for robot in rest]
    return tuple(orders)


def step(rollout: Rollout, event: Event, now: float) -> Step:
    """What the rollout becomes, and the commands that make it so."""
    if isinstance(event, Repair):
        return rollout, _commands(rollout)
    if rollout.phase in TERMINAL:
        return rollout, ()
    if rollout.phase is Phase.QUEUED:
        return _step_queued(rollout, event, now)
    match event:
        case Observed(evidence, verdict):
            _check(rollout, evidence, verdict)
            return _observe(rollout, evidence, verdict, now)
        case ClassA(robot, kind):
            if kind not in rollout.gate.class_a:
                return rollout, ()
            return _end(rollout, Phase.ROLLED_BACK, f"class A event on {robot}: {kind}", "now")
        case Pause(reason) if rollout.phase in EXPOSING:
            return _interrupt(rollout, Phase.PAUSED, reason or "paused")
        case Resume() if rollout.phase in STOPPED:
            return _resume(rollout, now)
        case Joined(robot) if robot not in rollout.robots:
            return _join(rollout, robot)
        case Abort(reason, immediately):
            return _end(rollout, Phase.ABORTED, reason, "now" if immediately else "")
        case RollBack(reason, immediately):
            return _end(rollout, Phase.ROLLED_BACK, reason, "now" if immediately else "")
        case Tick() if rollout.phase in EXPOSING and _late(rollout, now):
            return _hold(rollout, "the deadline passed without a decision")
        case _:
            return rollout, ()


def next_queued(queued: Sequence[Rollout]) -> tuple[Rollout | None, tuple[Rollout, ...]]:
    """(the newest candidate waiting, those it supersedes)."""
    waiting = sorted(
        (rollout for rollout in queued if rollout.phase is Phase.QUEUED),
        key=lambda rollout: rollout.candidate,
    )
    return (waiting[-1], tuple(waiting[:-1])) if waiting else (None, ())


@dataclass(frozen=True)
class Held:
    """A version's past: whether it ever held `fleet`, and its stage now."""

    number: int
    held_fleet: bool
    stage: Stage


def rollback_target(history: Iterable[Held], leaving: int | None = None) -> int:
    """The newest version that held `fleet` and is not rolled back, rejected or retired.

    `leaving` is the version being rolled back, which is never its own target. Raises Refused where
    there is nothing to go back to.
    """
    out = {Stage.ROLLED_BACK, Stage.REJECTED, Stage.RETIRED}
    good = [
        past.number
        for past in history
        if past.held_fleet and past.stage not in out and past.number != leaving
    ]
    if not good:
        raise Refused(
            "there is nothing to go back to",
            evidence="no other version has held the fleet and is still good",
            hint="`policyctl list` shows which versions ever held the fleet, and their stage",
        )
    return max(good)


def _step_queued(rollout: Rollout, event: Event, now: float) -> Step:
    match event:
        case Opened():
            opened = replace(
                rollout,
                phase=Phase.CANARY,
                generation=rollout.generation + 1,
                opened_at=now,
                deadline_at=now + rollout.gate.deadline_s,
                episodes_allowed=rollout.gate.max_candidate_episodes,
            )
            against = "alone" if opened.baseline is None else f"against v{opened.baseline}"
            text = f"canary {against} on {len(opened.cohort)} of {len(opened.robots)} robots"
            return opened, (*_commands(opened), _notice(opened, text))
        case Joined(robot) if robot not in rollout.robots:
            return replace(rollout, robots=(*rollout.robots, robot)), ()
        case Superseded(by):
            return _withdraw(rollout, f"superseded by v{by}")
        case Abort(reason) | RollBack(reason):
            return _withdraw(rollout, reason)
        case _:
            return rollout, ()


def _observe(rollout: Rollout, evidence: CanaryEvidence, verdict: Verdict, now: float) -> Step:
    if verdict.outcome is Outcome.FAIL:
        stop = "now" if evidence.class_a_events else ""
        return _end(rollout, Phase.ROLLED_BACK, verdict.reason, stop)
    if rollout.phase in STOPPED:
        return rollout, ()
    if rollout.phase is Phase.CANARY and verdict.outcome is Outcome.PASS:
        return _next_wave(rollout, verdict.reason, now)
    if verdict.outcome is Outcome.INCONCLUSIVE and verdict.final:
        return _hold(rollout, verdict.reason)
    if rollout.phase is Phase.WAVE and _baked(rollout, evidence) >= rollout.gate.bake_episodes:
        return _next_wave(rollout, f"baked {_baked(rollout, evidence)} episodes", now)
    spent = evidence.candidate_total.n + evidence.outstanding
    if rollout.phase is Phase.CANARY and spent >= rollout.episodes_allowed:
        return _hold(rollout, f"undecided after {spent} candidate episodes: {verdict.reason}")
    if _late(rollout, now):
        return _hold(rollout, f"the deadline passed: {verdict.reason}")
    return rollout, ()


def _next_wave(rollout: Rollout, why: str, now: float) -> Step:
    wave = rollout.wave + 1
    segment = rollout.segment + 1
    moved = replace(
        rollout,
        wave=wave,
        segment=segment,
        wave_segment=segment,
        generation=rollout.generation + 1,
        deadline_at=now + rollout.gate.deadline_s,
        stop="",
        reason=why,
    )
    if wave == len(rollout.gate.waves):
        done = replace(moved, phase=Phase.DONE, wave=rollout.wave)
        return done, (*_commands(done), _notice(done, f"runs on the whole fleet: {why}"))
    moved = replace(moved, phase=Phase.WAVE)
    size = len(wave_robots(moved, wave))
    text = f"wave {rollout.gate.waves[wave]} %, {size} of {len(moved.robots)} robots: {why}"
    return moved, (*_commands(moved), _notice(moved, text))


def _join(rollout: Rollout, robot: str) -> Step:
    """Everyone's generation rises; sides, ratio and segment stay, so no block is cut short."""
    joined = replace(rollout, robots=(*rollout.robots, robot), generation=rollout.generation + 1)
    return joined, (*_commands(joined), _notice(joined, f"{robot} joined"))


def _interrupt(rollout: Rollout, phase: Phase, why: str) -> Step:
    stopped = replace(
        rollout,
        phase=phase,
        paused_from=rollout.phase,
        generation=rollout.generation + 1,
        stop="",
        reason=why,
    )
    return stopped, (*_commands(stopped), _notice(stopped, f"{phase}: {why}"))


def _hold(rollout: Rollout, why: str) -> Step:
    held, commands = _interrupt(rollout, Phase.HOLDING, why)
    ask = "baseline restored; resume goes on, abort or rollback ends it"
    return held, (*commands, _notice(held, ask))


def _resume(rollout: Rollout, now: float) -> Step:
    assert rollout.paused_from is not None
    resumed = replace(
        rollout,
        phase=rollout.paused_from,
        paused_from=None,
        segment=rollout.segment + 1,
        generation=rollout.generation + 1,
        reason="resumed",
    )
    if rollout.phase is Phase.HOLDING:
        gate = rollout.gate
        resumed = replace(
            resumed,
            deadline_at=now + gate.deadline_s,
            episodes_allowed=rollout.episodes_allowed + gate.max_candidate_episodes,
        )
    return resumed, (*_commands(resumed), _notice(resumed, f"{resumed.phase} resumed"))


def _end(rollout: Rollout, phase: Phase, why: str, stop: str = "") -> Step:
    ended = replace(
        rollout,
        phase=phase,
        paused_from=None,
        generation=rollout.generation + 1,
        stop=stop,
        reason=why,
    )
    to = "nothing" if ended.baseline is None else f"v{ended.baseline}"
    return ended, (*_commands(ended), _notice(ended, f"{phase}, back to {to}: {why}"))


def _withdraw(rollout: Rollout, why: str) -> Step:
    gone = replace(rollout, phase=Phase.ABORTED, reason=why)
    return gone, (*_commands(gone), _notice(gone, f"left the queue: {why}"))


def _commands(rollout: Rollout) -> tuple[Command, ...]:
    """The assignments of the present phase and the candidate's stage."""
    if rollout.phase is Phase.QUEUED:
        return ()
    stage = {
        Phase.DONE: Stage.FLEET,
        Phase.ROLLED_BACK: Stage.ROLLED_BACK,
        Phase.ABORTED: rollout.prior_stage,
    }.get(rollout.phase, Stage.CANARY)
    return (*assignments(rollout), SetStage(rollout.candidate, stage))


def _only(rollout: Rollout, robot: str, number: int | None) -> Assign:
    return Assign(
        robot, None, number, Fraction(0), "", rollout.segment, rollout.generation, rollout.stop
    )


def _baked(rollout: Rollout, evidence: CanaryEvidence) -> int:
    """Candidate attempts closed with an outcome since the present wave began."""
    return sum(s.candidate.n for s in evidence.segments if s.index >= rollout.wave_segment)


def _late(rollout: Rollout, now: float) -> bool:
    return rollout.deadline_at is not None and now >= rollout.deadline_at


def _notice(rollout: Rollout, text: str) -> Notify:
    return Notify(f"{rollout.policy} v{rollout.candidate}: {text}")


def _rank(salt: str, robot: str) -> bytes:
    return hashlib.sha256(f"cohort\x1f{salt}\x1f{robot}".encode()).digest()


def _check(rollout: Rollout, evidence: CanaryEvidence, verdict: Verdict) -> None:
    """The snapshot must be of this rollout, and the verdict of this snapshot under this gate."""
    gate = rollout.gate.digest
    claims = {
        "rollout": (evidence.rollout, rollout.id),
        "candidate": (evidence.subject.number, rollout.candidate),
        "baseline": (evidence.baseline, rollout.baseline),
        "gate of the evidence": (evidence.gate_digest, gate),
        "gate of the verdict": (verdict.gate_digest, gate),
        "evidence of the verdict": (verdict.evidence, evidence.digest),
    }
    for claim, (found, expected) in claims.items():
        if found != expected:
            raise Conflict(
                f"the snapshot does not belong to this rollout: {claim} differs",
                evidence=f"found {found}, expected {expected}",
                hint="the next snapshot is taken from the record as it is now",
            )
