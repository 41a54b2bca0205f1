"""Going back: never gated, always possible while a good version is left.

It ends an open rollout and those that wait, then names the target to every robot of the policy
under a generation higher than any before. Robots keep the target's files: nothing is downloaded.
It never goes forward: a target has held the fleet and was not rolled back, rejected or retired, and
what reached the fleet after the target is rolled back with the version that is left. So the next
rollback goes further back, and the way forward is a promotion.
"""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from registry.errors import Refused, UsageError
from registry.ledger.tables import climbs, rollouts
from registry.record.desk import Desk
from registry.record.model import VersionRecord
from registry.record.robots import Robots, only
from registry.record.rollouts import Rollouts, open_row, read_serving, rollout_record
from registry.record.versions import Versions, read_version, read_versions, require_policy
from registry.rollouts import Abort, Held, Phase, RollBack, rollback_target
from registry.stages import Stage
from registry.versions import VersionRef


class GoingBack:
    def __init__(self, desk: Desk, versions: Versions, robots: Robots, rollouts: Rollouts) -> None:
        self._desk = desk
        self._versions = versions
        self._robots = robots
        self._rollouts = rollouts

    def rollback(
        self,
        policy: str,
        reason: str,
        to: int | None = None,
        *,
        now: bool = False,
        dry_run: bool = False,
    ) -> VersionRecord:
        """Returns every robot of a policy to the version that `to` names, else to the newest good
        one, and answers which that is. `now`: running episodes stop at once.

        Raises Refused where there is nothing to go back to. With `dry_run` nothing is changed.
        """
        self._desk.actor.require("stop")
        if not reason.strip():
            raise UsageError("a rollback needs its reason", hint="say it with --reason '…'")
        with self._desk.ledger.write() as connection:
            target = self._target(connection, policy, to)
            if dry_run:
                return target
            self._withdraw_queued(connection, policy, reason)
            row = open_row(connection, policy)
            if row is not None:
                open_one = rollout_record(row)
                self._rollouts.apply(
                    connection,
                    open_one.rollout,
                    open_one.revision,
                    RollBack(reason, now),
                    self._desk.clock.now(),
                )
            if read_serving(connection, policy) != target.number:
                self._return(connection, target, reason, "now" if now else "")
            done = read_version(connection, target.ref)
        self._rollouts.sign_orders()
        return done

    def _target(self, connection: Connection, policy: str, to: int | None) -> VersionRecord:
        row, serving = open_row(connection, policy), read_serving(connection, policy)
        leaving = row.candidate if row is not None else serving
        if leaving is None and to is None:
            require_policy(connection, policy)
            raise Refused(
                "there is nothing to go back to",
                evidence=f"no version of {policy} has reached a robot",
                hint=f"`policyctl list --policy {policy}` shows how far each has climbed",
            )
        if to is None:
            if row is not None and serving is not None:
                return read_version(connection, VersionRef(policy, serving))
            if row is not None:
                raise Refused(
                    "there is nothing to go back to",
                    evidence=f"{policy} v{row.candidate} is the first version, its rollout is open",
                    hint=f"end it: `policyctl abort --policy {policy} --reason WHY`; "
                    "--now stops its episodes at once",
                )
            past = [
                Held(one.number, one.held_fleet, one.stage)
                for one in read_versions(connection, policy)
            ]
            return read_version(connection, VersionRef(policy, rollback_target(past, leaving)))
        target = read_version(connection, VersionRef(policy, to))
        if row is None and to == serving:
            raise Refused(
                f"every robot is already told to run {target}",
                evidence="no rollout is open and it is what the fleet serves",
                hint="`policyctl fleet list` shows what each robot runs",
            )
        ended = target.stage in (Stage.REJECTED, Stage.ROLLED_BACK, Stage.RETIRED)
        tried = row is not None and to == row.candidate
        if ended or tried or not target.held_fleet:
            # A version under trial again may have held the fleet once: this would fill it, ungated.
            again = " --override --reason WHY" if target.stage is Stage.ROLLED_BACK else ""
            was = f"its stage is {target.stage}" if ended or tried else "it never held the fleet"
            raise Refused(
                f"{target} is not a version to go back to",
                evidence=was,
                hint=f"going forward is `policyctl promote '{target}' --stage canary{again}`",
            )
        return target

    def _return(
        self, connection: Connection, target: VersionRecord, reason: str, stop: str
    ) -> None:
        """A new generation that names the target to every robot; what came after it, what they
        leave included, is rolled back."""
        policy, leaving = target.policy, read_serving(connection, target.policy)
        for number in _after(connection, target):
            self._versions.set_stage(
                connection, VersionRef(policy, number), Stage.ROLLED_BACK, reason=reason
            )
        self._rollouts.serve(connection, policy, target.number)
        names = self._robots.of_policy(connection, policy, target.robot_class)
        generation = self._robots.newest_generation(connection, policy, names) + 1
        for name in names:
            order = only(name, target.number, generation, stop)
            self._robots.assign(connection, policy, order, None)
        self._desk.note(
            connection,
            "rollback",
            target.ref,
            policy=policy,
            reason=reason,
            detail={"from": leaving, "to": target.number, "generation": generation},
        )

    def _withdraw_queued(self, connection: Connection, policy: str, reason: str) -> None:
        for row in connection.execute(
            select(rollouts).where(
                rollouts.c.policy == policy, rollouts.c.phase == str(Phase.QUEUED)
            )
        ).all():
            one = rollout_record(row)
            now = self._desk.clock.now()
            self._rollouts.apply(connection, one.rollout, one.revision, Abort(reason), now)


def _after(connection: Connection, target: VersionRecord) -> list[int]:
    """The versions at `fleet` that reached it after the target last did."""
    reached = (
        select(climbs.c.number, func.max(climbs.c.id).label("place"))
        .where(climbs.c.policy == target.policy, climbs.c.stage == str(Stage.FLEET))
        .group_by(climbs.c.number)
    )
    place = {row.number: row.place for row in connection.execute(reached)}
    return [
        one.number
        for one in read_versions(connection, target.policy)
        if one.stage is Stage.FLEET and place[one.number] > place[target.number]
    ]
