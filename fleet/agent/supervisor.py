"""The agent's loop: hear what to run, make it ready, try, write down, report.

Rules:
- One round: poll the assignment; fetch, verify and load what it names; choose the side of the next
  attempt; run it; hand over what is closed. Level-triggered: a round that failed anywhere is
  repeated by the next one, and a lost answer costs one poll.
- The side is what `registry.interleave` names for the next index of the spool. Index and number are
  consumed durably when the runtime calls back, after the scene was checked and before motion.
- Versions switch between attempts. Only a document with stop "now" that no longer names the running
  version ends an attempt (a protective stop, failure `stopped`); it is looked for once a `poll_s`.
- Asked to stop once, the running attempt is finished, the way home included; asked twice, the arm
  stops at once (failure `agent_stopped`). Before an attempt is opened once is enough, and neither
  that nor a stop "now" costs one.
- While a candidate cannot be prepared, or is out of contact, the baseline runs alone and outside
  the comparison (side "only", segment -1). Where not even the baseline can be prepared, the last
  good one stays, unless it was stopped "now" or approvers took it back: then the robot stands
  still. A withdrawn candidate never runs again, whatever else fails. A document whose signature is
  no longer trusted leaves the baseline alone, too. An agent that starts on a damaged keyring trusts
  no document, and runs the last one's baseline alone, if that lies here and was one before.
- Closed attempts are handed over before the next is opened. While they are refused (they differ
  from the registry's record, or either side lost its own) no attempt is opened: the robot stands
  still, says so (`report_refused`) and asks again every round. Out of contact is no refusal.
- Nothing to run, `work: on_rollout` without a candidate, or the budget of attempts spent: the robot
  stands still and only answers.

`run` is the runtime: it gets a ready version, calls `open_attempt(scene)` before motion, polls
`should_stop()` whenever the arm moves, and returns the result, or None where no attempt was opened
because the scene was not ready or a stop came first. Times are seconds; `now` is Unix time,
`monotonic` never jumps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from fleet.agent.choice import Choice, Prepared, Work, choose, names
from fleet.agent.identity import Identity
from fleet.agent.link import Link, OutOfContact
from fleet.agent.orders import Orders
from fleet.agent.spool import Opening, Result, Spool
from fleet.agent.updater import Ready, Updater
from fleet.stopping import Stop
from registry.assignments import Assignment
from registry.attempts import AttemptReport
from registry.errors import Corrupt, PolicyctlError

REPORT_BATCH = 64
KEYRING_S = 30.0
RETRY_FIRST_S = 1.0
RETRY_LAST_S = 60.0


class Run(Protocol):
    """One attempt by the runtime."""

    def __call__(
        self,
        ready: Ready,
        open_attempt: Callable[[Mapping[str, Any]], None],
        should_stop: Callable[[], str | None],
    ) -> Result | None: ...


def since_boot() -> float:
    """Seconds that never jump, and go on while the computer sleeps: so do orders elsewhere."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Supervisor:
    """Drives one robot. `tick` is one round; `loop` repeats it until it is told to stop."""

    def __init__(
        self,
        work: Work,
        link: Link,
        spool: Spool,
        updater: Updater,
        run: Run,
        *,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = since_boot,
        extra: Callable[[], Mapping[str, Any]] = dict,
        identity: Identity | None = None,
    ) -> None:
        self._work = work
        self._link = link
        self._spool = spool
        self._updater = updater
        self._run = run
        self._now = now
        self._monotonic = monotonic
        self._extra = extra
        self._identity = identity
        believed = identity.believed if identity else lambda: None
        self.orders = Orders(work.robot, spool, monotonic, believed)
        self._keyring_at = float("-inf")
        self._trust_problem = ""
        self._prepared: Prepared | None = None
        self._failed: Assignment | None = None
        self._problem = ""
        self._retry_at = 0.0
        self._retry_s = RETRY_FIRST_S
        self._stop: Stop | None = None
        self._polled_at = 0.0
        self._open: Mapping[str, Any] | None = None
        self._said: tuple[Any, ...] = ()
        self._said_at = 0.0
        self._acquainted = False
        self._report_refused = ""
        self.attempts = 0
        """Attempts begun by this agent."""

    # -- the loop --------------------------------------------------------------------------------

    def loop(self, stop: Stop) -> None:
        """Rounds until a stop is requested or the budget is spent; says goodbye at the end."""
        self._stop = stop
        while not stop.requested and not self._spent():
            if not self.tick():
                stop.wait(self._work.poll_s)
        self._deliver(state="stopped")

    def tick(self) -> bool:
        """One round; True when an attempt was opened."""
        self._learn_keys()
        self._poll()
        self._prepare()
        self._let_go()
        self._report()
        choice = None if self._spent() or self._report_refused else self._choose()
        if choice is None:
            self._deliver(state="report refused" if self._report_refused else "idle")
            return False
        opened = self._attempt(choice)
        self._deliver(state="working" if opened else "waiting for the scene")
        return opened

    def _spent(self) -> bool:
        return self._work.max_attempts is not None and self.attempts >= self._work.max_attempts

    # -- what to run -----------------------------------------------------------------------------

    def _learn_keys(self) -> None:
        """Now and then, and between attempts only: whose signatures count."""
        if self._identity is None or self._monotonic() - self._keyring_at < KEYRING_S:
            return
        self._keyring_at = self._monotonic()
        try:
            self._identity.refresh()
            self._identity.keyring()
        except PolicyctlError as error:
            self._trust_problem = f"{error.what} ({error.evidence})"
        else:
            self._trust_problem = ""

    def _sealed(self, report: AttemptReport) -> AttemptReport:
        return self._identity.seal(report) if self._identity else report

    def _poll(self) -> None:
        self._polled_at = self._monotonic()
        try:
            self.orders.heard(self._link.assignment(self._work.robot))
        except OutOfContact:
            self.orders.unheard()
        except Corrupt as error:  # an order that nobody can read is none, and no contact
            self.orders.unreadable(f"{error.what} ({error.evidence})")

    def _prepare(self) -> None:
        """Makes the newest document's versions ready, the baseline first; a failure is retried."""
        newest, prepared = self.orders.newest, self._prepared
        if newest is None and prepared is None:
            self._prepare_untrusted()
        if newest is None or (prepared and prepared.assignment == newest and not self._problem):
            return
        if newest != self._failed:
            self._retry_s = RETRY_FIRST_S
        elif self._monotonic() < self._retry_at:
            return
        try:
            baseline = self._ready(newest, newest.baseline)
            if baseline is not None:
                self._prepared = Prepared(newest, None, baseline)
            self._prepared = Prepared(newest, self._ready(newest, newest.candidate), baseline)
            self._updater.settle(
                newest.digests[newest.baseline] if newest.baseline is not None else None,
                [newest.digests[version] for version in newest.versions],
            )
        except PolicyctlError as error:
            self._failed, self._problem = newest, f"{error.what} ({error.evidence})"
            self._retry_at = self._monotonic() + self._retry_s
            self._retry_s = min(2 * self._retry_s, RETRY_LAST_S)
            return
        self._failed, self._problem = None, ""

    def _prepare_untrusted(self) -> None:
        """On a damaged keyring: the baseline of the document in the spool, and nothing fetched."""
        damage = self._identity.damage if self._identity else ""
        if not damage or self._monotonic() < self._retry_at:
            return
        self._problem = damage
        self._retry_at = self._monotonic() + RETRY_LAST_S
        last = self.orders.kept()
        if last is None or (self._work.on_rollout_only and last.candidate is None):
            return
        try:
            baseline = self._ready(last, last.baseline, held_only=True)
        except PolicyctlError as error:
            self._problem = f"{damage}; {error.what} ({error.evidence})"
        else:
            self._prepared = Prepared(last, None, baseline)

    def _let_go(self) -> None:
        """What approvers took back since it was loaded runs no more."""
        prepared = self._prepared
        if prepared is None:
            return
        gone = self._updater.taken_back(prepared.candidate, prepared.baseline)
        if not gone:
            return
        self._problem = "; ".join(gone.values())
        candidate, baseline = (
            None if ready is None or ready.digest in gone else ready
            for ready in (prepared.candidate, prepared.baseline)
        )
        self._prepared = Prepared(prepared.assignment, candidate, baseline)

    def _ready(
        self, document: Assignment, version: int | None, *, held_only: bool = False
    ) -> Ready | None:
        if version is None:
            return None
        digest, task = document.digests[version], self._work.task
        return self._updater.prepare(document.policy, version, digest, task, held_only=held_only)

    def _choose(self) -> Choice | None:
        return choose(
            self._work,
            self.orders.newest,
            self._prepared,
            self._spool.next_index,
            in_contact=self.orders.in_contact,
            is_asked=self.orders.is_asked,
        )

    # -- one attempt -----------------------------------------------------------------------------

    def _attempt(self, choice: Choice) -> bool:
        number = 0

        def open_attempt(scene: Mapping[str, Any]) -> None:
            nonlocal number
            number = self._spool.open(
                Opening(
                    policy=choice.ready.policy_name,
                    version=choice.ready.version,
                    side=choice.side,
                    generation=choice.generation,
                    salt=choice.salt,
                    segment=choice.segment,
                    stratum=self._work.stratum,
                    index=choice.index,
                    task=self._work.task,
                    judge=self._work.judge,
                    opened_at=self._now(),
                    scene=scene,
                    terms=choice.terms,
                )
            )
            self.attempts += 1
            self.orders.attempt_begins()
            self._open = {"number": number, "side": choice.side}
            self._deliver(state="working", running=choice.ready.version)

        def should_stop() -> str | None:
            return self._should_stop(choice, opened=bool(number))

        result = self._run(choice.ready, open_attempt, should_stop)
        if not number:
            return False
        self._spool.close(number, result or Result("void", "rig_fault"))
        self._open = None
        return True

    def _should_stop(self, choice: Choice, *, opened: bool) -> str | None:
        """Why the arm has to stop now; None almost always."""
        stop = self._stop
        if stop is not None and (stop.now if opened else stop.requested):
            return "agent_stopped"
        if self._monotonic() - self._polled_at >= self._work.poll_s:
            self._poll()
        newest = self.orders.newest
        if not opened and self._is_off(choice, newest):
            return "stopped"
        if newest is None or newest.stop != "now" or newest.generation <= choice.generation:
            return None
        return None if names(newest, choice.ready) else "stopped"

    def _is_off(self, choice: Choice, newest: Assignment | None) -> bool:
        """A turn in the comparison may no longer be begun: nobody could call it back now, or its
        version is ordered no more. The baseline outside of it may, as always."""
        if choice.side == "only":
            return False
        return not self.orders.in_contact or newest is None or not names(newest, choice.ready)

    # -- what is said ----------------------------------------------------------------------------

    def _deliver(self, *, state: str, running: int | None = None) -> None:
        """Hands over closed attempts; says how things stand when that changed or is due."""
        self._report()
        try:
            self._say(state, running)
        except OutOfContact:
            self.orders.unheard()

    def _report(self) -> None:
        """Hands over closed attempts, or keeps why that was refused for people to read."""
        try:
            self._hand_over()
        except OutOfContact:
            self.orders.unheard()
        except PolicyctlError as refused:
            self._report_refused = f"{refused.what} ({refused.evidence})"
        else:
            self._report_refused = ""

    def _hand_over(self) -> None:
        if not self._acquainted:
            self._spool.acknowledge(self._link.report(self._work.robot, []))
            self._acquainted = True
        while batch := self._spool.unreported(REPORT_BATCH):
            stored = self._link.report(self._work.robot, [self._sealed(one) for one in batch])
            self._spool.acknowledge(stored)
            if stored < batch[-1].number:
                return

    def _say(self, state: str, running: int | None) -> None:
        prepared = self._prepared
        document = prepared.assignment if prepared else None
        if running is None:
            choice = self._choose()
            held = choice.ready if choice else (prepared.baseline if prepared else None)
            running = held.version if held else None
        generation = document.generation if document else 0
        challenge = self.orders.challenge()
        refused = tuple(self.orders.refused)
        said = (generation, state, self._problem, self._report_refused, refused, challenge)
        due = self._monotonic() - self._said_at >= self._work.heartbeat_s
        if said == self._said and not due and not self._open and state != "stopped":
            return
        status = {
            "state": state,
            "policy": document.policy if document else None,
            "candidate": document.candidate if document else None,
            "baseline": document.baseline if document else None,
            "in_contact": self.orders.in_contact,
            "challenge": challenge,
            "problem": self._problem,
            "report_refused": self._report_refused,
            "refused": list(self.orders.refused),
            "trust_problem": self._trust_problem,
            "open_attempt": self._open,
            "attempts": self._spool.last_number,
            "unreported": self._spool.waiting,
            "fetches": self._updater.fetches,
            "recovered": list(self._spool.recovered),
            **self._extra(),
        }
        self._link.heartbeat(self._work.robot, running, generation, status)
        self._said, self._said_at = said, self._monotonic()
