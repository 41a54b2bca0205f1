"""The parts of the record, each given those that it works with."""

from __future__ import annotations

from pathlib import Path

from registry.ports import BlobStore
from registry.record.advancing import Advancing
from registry.record.approving import Approving
from registry.record.attempts import Attempts
from registry.record.collection import Collector
from registry.record.desk import Desk
from registry.record.episodes import Episodes
from registry.record.going_back import GoingBack
from registry.record.healing import Healer
from registry.record.history import History
from registry.record.leases import Leases
from registry.record.promotion import Promotion
from registry.record.registration import Registrar
from registry.record.robots import Robots
from registry.record.rollouts import Rollouts
from registry.record.verdicts import Verdicts
from registry.record.versions import Versions
from registry.trust.home_approvals import HomeApprovals


class Parts:
    def __init__(
        self,
        desk: Desk,
        mirror: BlobStore | None,
        approvals: HomeApprovals | None,
        *,
        archives: bool,
        scratch: Path | None = None,
    ) -> None:
        self.desk = desk
        self.versions = Versions(desk)
        self.registrar = Registrar(desk, self.versions, archives=archives)
        self.collector = Collector(desk, scratch)
        self.healer = Healer(desk, self.versions, mirror)
        self.verdicts = Verdicts(desk, self.versions)
        self.episodes = Episodes(desk)
        self.robots = Robots(desk)
        self.attempts = Attempts(desk)
        self.rollouts = Rollouts(desk, self.versions, self.verdicts, self.robots)
        self.advancing = Advancing(desk, self.verdicts, self.rollouts)
        self.promotion = Promotion(desk, self.versions, self.rollouts, approvals)
        self.approving = Approving(desk, self.versions, self.rollouts, approvals)
        self.going_back = GoingBack(desk, self.versions, self.robots, self.rollouts)
        self.leases = Leases(desk)
        self.history = History(desk)
