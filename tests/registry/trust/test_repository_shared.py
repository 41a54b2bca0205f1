"""The repository of approved versions while somebody else is at it: readers, robots, approvers."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from trust import Vault, ref, robot, sees

from registry.errors import Corrupt, NotFound, Pending
from registry.trust.home_approvals import HomeApprovals

pytestmark = pytest.mark.slow


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path).init()


# -- what somebody else is at ----------------------------------------------------------------------


def home_of(vault: Vault) -> HomeApprovals:
    return HomeApprovals(vault.folder.parent, vault.clock)


def signed_but_unpublished(vault: Vault) -> None:
    """A bin that two approvers signed, and nobody has published."""
    with pytest.raises(Pending):
        vault.approve(1, "dora")
    vault.opened("emil").sign()
    assert vault.repository.missing() == []


def test_whoever_only_reads_does_not_wait_for_one_that_changes_something(vault: Vault) -> None:
    vault.harden()
    signed_but_unpublished(vault)
    began = time.monotonic()
    with vault.opened().changing():
        assert home_of(vault).open().status().approved == ()
    assert time.monotonic() - began < 30
    assert home_of(vault).approved([ref(1)]) == [ref(1)]


def test_who_may_not_write_reads_what_is_published(vault: Vault) -> None:
    vault.harden()
    signed_but_unpublished(vault)
    (vault.folder / "lock").unlink()
    (vault.folder / "lock").mkdir()  # cannot be opened, not even by root
    assert home_of(vault).approved([ref(1)]) == []


def test_a_draft_that_cannot_be_read_keeps_nobody_from_what_is_published(vault: Vault) -> None:
    vault.approve(1)
    (vault.folder / "drafts" / "bin-00.json").write_text("{")
    assert home_of(vault).approved([ref(1)]) == [ref(1)]
    with pytest.raises(Corrupt, match="cannot be read"):
        home_of(vault).open().status()


def test_drafts_may_go_while_they_are_read(vault: Vault) -> None:
    """One lies there and waits; others come and go by another process."""
    vault.harden()
    with pytest.raises(Pending):
        vault.approve(1)
    (role,) = vault.repository.drafts()
    draft = vault.repository.drafts()[role]
    other = next(name for name in vault.repository.published.bins() if name > role)
    ended = threading.Event()

    def comes_and_goes() -> None:
        while not ended.is_set():
            vault.repository.put_draft(other, draft)
            vault.repository.drop_draft(other)

    with ThreadPoolExecutor(1) as pool:
        going = pool.submit(comes_and_goes)
        try:
            for _ in range(2000):
                assert role in vault.opened().drafts()
        finally:
            ended.set()
        going.result()


# -- served and shared -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "keys/home.pem", "metadata/../keys/home.pem", "/etc/passwd", "metadata/", "metadata",
        "places.json", "drafts/root.json", "metadata/.hidden", "targets/..", "metadata/a/b", "",
    ],
)  # fmt: skip
def test_robots_are_served_what_is_published_and_nothing_else(tmp_path: Path, path: str) -> None:
    vault = Vault(tmp_path).init()
    home = HomeApprovals(tmp_path, vault.clock)
    assert home.published("metadata/timestamp.json")
    (vault.folder / "metadata" / ".hidden").write_text("x")
    with pytest.raises(NotFound):
        home.published(path)


def test_many_approve_at_once_and_none_is_lost(vault: Vault, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(vault.approve, range(1, 25)))
    assert len(vault.approvals.status().approved) == 24
    assert sees(robot(vault, tmp_path / "robot"), 24)


def test_a_robot_may_read_while_others_approve(vault: Vault, tmp_path: Path) -> None:
    """What is published never changes under a reader, and timestamp.json changes at once."""
    vault.approve(1)
    client = robot(vault, tmp_path / "robot")
    with ThreadPoolExecutor(1) as pool:
        approving = pool.submit(lambda: [vault.approve(number) for number in range(2, 14)])
        looks = 0
        while not approving.done() or not looks:
            assert sees(client, 1)
            looks += 1
        approving.result()
    assert sees(client, 13)
