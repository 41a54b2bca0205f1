"""Who asks, and what their role lets them do.

People hold one of viewer, publisher, technician, operator, approver, admin; machines are robot or
controller. Going forward needs a right; stopping and going back need far less, so that whoever
stands beside a robot can always do it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from registry.errors import NotAllowed, UsageError

PEOPLE = ("viewer", "publisher", "technician", "operator", "approver", "admin")
MACHINES = ("robot", "controller")
ROLES = PEOPLE + MACHINES

_EVERYONE_WHO_ACTS = frozenset({"technician", "operator", "approver"})

# What each act needs; admin may do everything.
RIGHTS: Mapping[str, frozenset[str]] = {
    "register": frozenset({"publisher", "operator", "approver"}),
    "record_verdict": frozenset({"publisher", "technician", "operator", "approver", "controller"}),
    "promote": frozenset({"operator", "approver"}),
    "override": frozenset({"approver"}),
    "trust": frozenset({"approver"}),
    "resume": frozenset({"operator", "approver"}),
    "stop": _EVERYONE_WHO_ACTS | {"controller"},
    "advance": frozenset({"operator", "approver", "controller"}),
    "enrol": frozenset({"operator", "approver"}),
    "report": _EVERYONE_WHO_ACTS | {"robot", "controller"},
    "lease": _EVERYONE_WHO_ACTS | {"robot"},
    "collect": frozenset(),
    "heal": frozenset({"technician", "operator", "approver"}),
    "cache": frozenset(ROLES) - {"viewer"},
}


@dataclass(frozen=True)
class Actor:
    """A person or machine by name, and its role."""

    name: str
    role: str = "admin"

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise UsageError(
                f"{self.role!r} is not a role",
                evidence=f"actor {self.name}",
                hint=f"roles: {', '.join(ROLES)}",
            )

    def require(self, act: str) -> None:
        """Returns if the role covers `act`, else raises NotAllowed."""
        if self.role == "admin" or self.role in RIGHTS[act]:
            return
        able = [role for role in PEOPLE if role in RIGHTS[act] or role == "admin"]
        raise NotAllowed(
            f"{self.name} may not {act.replace('_', ' ')}",
            evidence=f"role {self.role}; it takes {' or '.join(able)}",
            hint="ask one of them, or have an admin give you the role",
        )
