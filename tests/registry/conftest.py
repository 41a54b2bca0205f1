"""The record's tests run on each database that it may live in, the blobs' on each kind of store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from databases import Postgres
    from stores import Seaweed


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    from databases import running

    with running() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def database(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """None for the file of the home itself, else a database's URL."""
    if request.param == "sqlite":
        yield None
        return
    server: Postgres = request.getfixturevalue("postgres")
    url = server.fresh()
    yield url
    server.drop(url)


@pytest.fixture(scope="session")
def seaweed() -> Iterator[Seaweed]:
    from stores import running

    with running() as server:
        yield server


@pytest.fixture
def s3_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of somebody who may use the bucket."""
    from stores import KEY, SECRET

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
