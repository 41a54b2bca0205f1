"""One robot that believes a keyring, and whoever holds the director's key."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from control_plane import ControlPlane
from scripted_policies import write_checkpoint
from trusted import Keys
from world import Clock, Robot

from fleet.agent.identity import Identity
from fleet.agent.orders import ANSWER_S
from registry.assignments import Assignment
from registry.home import Home
from registry.trust.documents import seal_assignment

NAME = "robot-01"
HALF = {"ratio": "1/2", "salt": "pepper", "segment": 0}


class Signed:
    """One robot that believes a keyring, and whoever holds the director's key."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.keys = Keys(Home(folder / "home"))
        self.plane = ControlPlane()
        self.digests = {
            number: self.plane.publish(write_checkpoint(folder / f"v{number}", rate))
            for number, rate in {1: 1.0, 2: 0.0}.items()
        }
        identity = Identity(folder / NAME)
        self.keys.folder.write_keyring(self.keys.keyring.with_robot(NAME, identity.make_key()))
        self.believe()
        self.robot = Robot(NAME, folder, self.plane, self.clock, identity=identity)

    def believe(self) -> None:
        """The newest keyring reaches the robot."""
        where = Identity(self.keys.folder.root.parents[1] / NAME)
        assert where.believe(self.keys.keyring)

    def order(self, *, signer: str | None = "director", **fields: Any) -> Assignment:
        """The next document, signed by whoever says so."""
        fields.setdefault("answers", self.challenge())
        bare = self.plane.assign(NAME, digests=self.digests, **fields)
        return self.tell(bare, signer)

    def tell(self, document: Assignment, signer: str | None = "director") -> Assignment:
        if signer is not None:
            document = seal_assignment(document, self.keys.signer(signer))
        self.plane.documents[NAME] = document
        return document

    def challenge(self) -> str:
        """What the robot's next heartbeat says."""
        return self.robot.supervisor.orders.challenge()

    def renew(self, document: Assignment) -> Assignment:
        return self.tell(replace(document, answers=self.challenge()))

    def rounds(self, count: int) -> list[int]:
        """What the robot ran in so many rounds."""
        before = len(self.robot.ran)
        for _ in range(count):
            self.robot.tick()
        return [ran.version for ran in self.robot.ran[before:]]

    def waits_in_vain(self) -> None:
        """For an answer, until it goes on without the candidate."""
        assert self.rounds(2) == []
        self.clock.passes(ANSWER_S)

    def refusals(self) -> str:
        return "\n".join(self.robot.supervisor.orders.refused)
