"""Where a command finds its registry and who it says it is."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ci.output import narrate, settings

if TYPE_CHECKING:
    from registry.service import Registry


def home_option() -> Path | None:
    """The `--home` of this command line, if one was given."""
    home = settings().get("home")
    return Path(home) if home else None


@contextmanager
def open_registry(home: Path | None = None, *, create: bool = False) -> Iterator[Registry]:
    """The registry of this command line: `--home`, the nearest `.policyctl`, or `$POLICYCTL_HOME`.

    One that is named but not there is made only where `create` says so, and that is said: it may
    be a mistyped name. Else that is NotFound.

    The actor is the user (`$POLICYCTL_ACTOR` names another), with the role `$POLICYCTL_ROLE`;
    whoever holds the files of a local home holds every right to it, so that role defaults to admin.
    """
    from registry.home import find_home
    from registry.service import Actor, Registry

    name = os.environ.get("POLICYCTL_ACTOR") or getpass.getuser()
    actor = Actor(name=name, role=os.environ.get("POLICYCTL_ROLE", "admin"))
    found = find_home(home or home_option(), must_exist=not create)
    made = home is None and not found.exists
    with Registry.open(found, actor) as registry:
        if made:
            narrate(f"made a new registry in {found.root}")
        yield registry
