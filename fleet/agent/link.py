"""The robot's one way to the outside, and its local form.

Rules of the port:
- Every method is safe to repeat: an agent that heard no answer asks again.
- `OutOfContact` means nothing was heard; whatever was sent may or may not have arrived. Any other
  error is the registry's answer.
- `assignment` is also asked once in a while during an attempt, from the control loop: it answers
  from memory or a local file, within a servo tick. A link that has to cross a network keeps the
  newest document in a thread of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from registry.assignments import Assignment
from registry.attempts import AttemptReport
from registry.errors import Corrupt, ServiceFailed

if TYPE_CHECKING:
    from registry.service import Registry


class OutOfContact(ServiceFailed):
    """The registry was not reached."""

    code = "out_of_contact"


class Link(Protocol):
    """What an agent may ask of the control plane."""

    def assignment(self, robot: str) -> Assignment | None:
        """The newest document for this robot; None when it was never assigned anything."""
        ...

    def fetch(self, digest: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The bytes stored under `digest` ("sha256:…") from `start`, in pieces.

        The caller verifies them. May be called from several threads at once.
        """
        ...

    def published(self, path: str) -> Iterator[bytes]:
        """A trust file of the registry (`metadata/…`, `targets/…`), in pieces.

        The caller trusts none of it. Raises NotFound where there is none, as where trust is off.
        """
        ...

    def report(self, robot: str, attempts: Sequence[AttemptReport]) -> int:
        """Hands over closed attempts; answers the highest number stored without a gap below it."""
        ...

    def heartbeat(
        self, robot: str, running: int | None, generation: int, status: Mapping[str, Any]
    ) -> None:
        """Says which version the runtime holds now, and under which generation."""
        ...


class LocalLink:
    """The port on a registry in the same file system: no network, the same calls."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def assignment(self, robot: str) -> Assignment | None:
        with _reached():
            return self._registry.assignment(robot)

    def fetch(self, digest: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        with _reached():
            yield from self._registry.blobs.stream(digest, start, length)

    def published(self, path: str) -> Iterator[bytes]:
        with _reached():
            yield self._registry.published(path)

    def report(self, robot: str, attempts: Sequence[AttemptReport]) -> int:
        with _reached():
            return self._registry.ingest(robot, attempts)

    def heartbeat(
        self, robot: str, running: int | None, generation: int, status: Mapping[str, Any]
    ) -> None:
        with _reached():
            self._registry.heartbeat(robot, running, generation, dict(status))


@contextmanager
def _reached() -> Iterator[None]:
    """A store that fails was not reached; bytes that do not fit their digest are an answer."""
    try:
        yield
    except Corrupt:
        raise
    except ServiceFailed as failed:
        raise OutOfContact(failed.what, evidence=failed.evidence, hint=failed.hint) from failed
