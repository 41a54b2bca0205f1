"""A home: the folder that holds one registry on one machine.

    registry.db   the ledger (SQLite, WAL), unless registry.yaml names another database
    registry.yaml where the ledger is, if not here (`registry.backends`)
    blobs/        files by digest
    cache/        what can be made again
    logs/         what programs said

It is found like git finds its repository: `--home`, else the nearest `.policyctl` folder at or
above the working directory, else `POLICYCTL_HOME`. Only `init` makes one, and `register` and
`import` where `--home` or `POLICYCTL_HOME` names it: they say so.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from registry.errors import NotFound, UsageError
from registry.storage import disk_errors

FOLDER = ".policyctl"
VARIABLE = "POLICYCTL_HOME"


@dataclass(frozen=True)
class Home:
    root: Path

    @property
    def database(self) -> Path:
        return self.root / "registry.db"

    @property
    def settings(self) -> Path:
        return self.root / "registry.yaml"

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def exists(self) -> bool:
        return self.database.is_file() or self.settings.is_file()

    def make(self) -> Home:
        """Makes the folders, if they are not there. Git never commits what is inside."""
        with disk_errors(self.root):
            for folder in (self.root, self.blobs, self.cache, self.logs):
                folder.mkdir(parents=True, exist_ok=True)
            ignore = self.root / ".gitignore"
            if not ignore.exists():
                ignore.write_text("*\n")
        return self


def find_home(
    explicit: Path | None = None, *, start: Path | None = None, must_exist: bool = True
) -> Home:
    """The home of this command line: where a registry is, or where one may be made.

    Raises NotFound when neither `explicit`, a `.policyctl` folder nor `POLICYCTL_HOME` names one,
    or the one named holds no registry though it `must_exist`; UsageError when it is a file.
    """
    home = _find(explicit, start)
    if must_exist and not home.exists:
        raise no_registry(home.root)
    return home


def no_registry(root: Path) -> NotFound:
    return NotFound(
        "there is no registry there",
        evidence=f"{root} holds neither registry.db nor registry.yaml",
        hint="run `policyctl init`",
    )


def _find(explicit: Path | None, start: Path | None) -> Home:
    if explicit is not None:
        return _named(explicit)
    start = (start or Path.cwd()).absolute()
    for folder in (start, *start.parents):
        if (folder / FOLDER).is_dir():
            return Home(folder / FOLDER)
    if from_environment := os.environ.get(VARIABLE):
        return _named(Path(from_environment))
    raise NotFound(
        "no registry home here",
        evidence=f"no {FOLDER} folder at or above {start}, and {VARIABLE} is not set",
        hint="run `policyctl init`",
    )


def _named(path: Path) -> Home:
    path = path.expanduser().absolute()
    root = path / FOLDER if (path / FOLDER).is_dir() else path
    if root.exists() and not root.is_dir():
        raise UsageError(
            f"{root} is not a folder", hint="give --home a folder, or run `policyctl init`"
        )
    return Home(root)
