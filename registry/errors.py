"""Every error a user can meet, and the exit status each one means.

    PolicyctlError                     1  bug (never raised on purpose)
    ├── UsageError                     2  the command line is wrong
    │   └── ConfigError                2  a file is wrong: names file, line and field
    ├── GateFailed                     3  evidence shows the version is not good enough
    ├── Inconclusive                   4  evidence does not decide yet
    ├── Refused                        5  ladder, state or lock says no
    │   ├── Conflict                   5  somebody else changed the record first
    │   └── NotSigned                  5  trust is set up, and this has no signature
    ├── NotFound                       6  no such policy, version, robot, rollout, blob
    ├── NotAllowed                     7  the actor's role may not do this
    │   └── WrongSigner                7  the key that signed it may not do this
    ├── Pending                        8  waits for a person or a signature
    ├── ServiceFailed                  9  rig, robot, store or service failed
    │   └── Corrupt                    9  stored bytes do not match their digest
    │       └── Forged                 9  what is there is not what was signed
    └── Interrupted                  130  ctrl-C; the arm is safe, the record is whole

An error is three lines, printed to stderr: *what* went wrong, the *evidence* for it, and a *hint*
that names the next command. Errors are raised before anything is changed, or after everything
that was begun has been undone.
"""

from __future__ import annotations

from typing import ClassVar


class PolicyctlError(Exception):
    """What went wrong, the evidence for it, and what to do next."""

    exit_status: ClassVar[int] = 1
    code: ClassVar[str] = "bug"
    told: bool = False  # already part of the output that was asked for

    def __init__(self, what: str, *, evidence: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.evidence = evidence
        self.hint = hint

    def __str__(self) -> str:
        return "\n".join(line for line in (self.what, self.evidence, self.hint) if line)

    def as_dict(self) -> dict[str, object]:
        """The error as `--output json` prints it."""
        return {
            "code": self.code,
            "exit_status": self.exit_status,
            "what": self.what,
            "evidence": self.evidence,
            "hint": self.hint,
        }


class UsageError(PolicyctlError):
    exit_status = 2
    code = "usage"


class ConfigError(UsageError):
    """A file the user wrote is wrong. `where` is `path:line` when the line is known."""

    code = "config"

    def __init__(self, what: str, *, where: str, field: str = "", hint: str = "") -> None:
        evidence = f"{where}: {field}" if field else where
        super().__init__(what, evidence=evidence, hint=hint)
        self.where = where
        self.field = field


class GateFailed(PolicyctlError):
    exit_status = 3
    code = "gate_failed"


class Inconclusive(PolicyctlError):
    exit_status = 4
    code = "inconclusive"


class Refused(PolicyctlError):
    exit_status = 5
    code = "refused"


class Conflict(Refused):
    """The record changed between reading and writing; reading again is safe."""

    code = "conflict"


class NotSigned(Refused):
    """A home with trust takes nothing unsigned."""

    code = "not_signed"


class NotFound(PolicyctlError):
    exit_status = 6
    code = "not_found"


class NotAllowed(PolicyctlError):
    exit_status = 7
    code = "not_allowed"


class WrongSigner(NotAllowed):
    """Signed, by a key that the keyring does not list for it."""

    code = "wrong_signer"


class Pending(PolicyctlError):
    exit_status = 8
    code = "pending"


class ServiceFailed(PolicyctlError):
    exit_status = 9
    code = "service_failed"


class Corrupt(ServiceFailed):
    code = "corrupt"


class Forged(Corrupt):
    """A signature does not fit, or signed and stored say different things."""

    code = "forged"


class Interrupted(PolicyctlError):
    exit_status = 130
    code = "interrupted"
