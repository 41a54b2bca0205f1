"""Which database and which store a home uses: its own files, or what its `registry.yaml` names.

    database: postgresql://policyctl@db.example:5432/registry
    store: s3://robot-policies/registry
    mirror: s3://elsewhere/registry        # or a folder: a second store that heals the first
    archives: forbid                       # no TorchScript or .pt2 archives at this site

Credentials are never in that file: PostgreSQL reads `PGPASSWORD` and `~/.pgpass`, S3 the usual
environment, profile or role of AWS. `policyctl init --database URL --store URL` writes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from registry.blobs.folder import FolderBlobs
from registry.errors import Refused
from registry.home import Home
from registry.ledger.sqlite import SqliteLedger
from registry.ports import BlobStore, Ledger
from registry.storage import disk_errors, write_whole


@dataclass(frozen=True)
class Settings:
    """`registry.yaml`, as it is read by `registry.home_file`."""

    database: str | None = None
    store: str | None = None
    mirror: str | None = None
    archives: str | None = None  # `forbid`: no TorchScript, no .pt2, not even for a sandbox


def settings_of(home: Home) -> Settings:
    """What the home's file says; all defaults where there is none. Raises ConfigError."""
    if not home.settings.is_file():
        return Settings()
    from registry.home_file import read

    return Settings(**read(home.settings))


def write_settings(home: Home, settings: Settings) -> None:
    """Writes the file of a new home. A home that holds a record never changes its place by this."""
    said = {key: value for key, value in vars(settings).items() if value is not None}
    if not said:
        return
    if home.exists and settings_of(home) != settings:
        raise Refused(
            "there is already another registry in this home",
            evidence=str(home.settings if home.settings.is_file() else home.database),
            hint="name another folder",
        )
    lines = "".join(f"{key}: {value}\n" for key, value in said.items())
    with disk_errors(home.settings):
        home.root.mkdir(parents=True, exist_ok=True)
        write_whole(home.settings, lines.encode())


def open_ledger(home: Home) -> Ledger:
    """Raises ConfigError, ServiceFailed, NotAllowed or Refused (a newer program's database)."""
    url = settings_of(home).database
    if url is None:
        return SqliteLedger(home.database)
    from registry.ledger.postgres import PostgresLedger

    return PostgresLedger(url)


def open_blobs(home: Home) -> BlobStore:
    """Raises ConfigError, or NotAllowed where there are no credentials for the store."""
    url = settings_of(home).store
    return FolderBlobs(home.blobs) if url is None else open_store(url)


def open_mirror(home: Home) -> BlobStore | None:
    """The second store, if the home has one."""
    url = settings_of(home).mirror
    return None if url is None else open_store(url)


def open_store(url: str) -> BlobStore:
    """`s3://…`, or the path of a folder."""
    if not url.startswith("s3://"):
        return FolderBlobs(Path(url).expanduser())
    from registry.blobs.s3 import S3Blobs

    return S3Blobs(url)
