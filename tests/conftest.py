"""What every test may count on, however the test run itself was started."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import machine
import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from stores import Seaweed

# A run started in the background by a shell without job control ignores ctrl-C, and so would each
# program that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is no failure: no example of a property has a deadline.
settings.register_profile("policyctl", settings.default, deadline=None)
settings.load_profile("policyctl")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker(machine.real_time.name):
        machine.begin()


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
