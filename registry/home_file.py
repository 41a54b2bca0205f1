"""Reads a home's `registry.yaml`, strictly; most homes have none (see `registry.backends`)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import field_validator

from registry.errors import UsageError
from registry.yaml_file import Strict, load_yaml


class HomeFile(Strict):
    database: str | None = None
    store: str | None = None
    mirror: str | None = None
    archives: Literal["allow", "forbid"] | None = None

    @field_validator("database")
    @classmethod
    def _is_database(cls, value: str | None) -> str | None:
        if value is not None:
            from registry.ledger.postgres import parse_url

            try:
                parse_url(value)
            except UsageError as error:
                raise ValueError(f"database: {error.what}; {error.hint}") from None
        return value

    @field_validator("store", "mirror")
    @classmethod
    def _is_store(cls, value: str | None) -> str | None:
        if value is not None and "://" in value:
            from registry.blobs.bucket import parse_url

            try:
                parse_url(value)
            except UsageError as error:
                raise ValueError(f"{error.what}; {error.hint}") from None
        elif value is not None and not Path(value).expanduser().is_absolute():
            raise ValueError(f"a store is s3://… or an absolute path, not {value!r}")
        return value


def read(path: Path) -> dict[str, str | None]:
    """The settings by name. Raises ConfigError with file and line."""
    return load_yaml(path, HomeFile).model_dump()
