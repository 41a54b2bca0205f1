"""What may come onto a robot: only what approvers signed, and what it had is not taken from it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from control_plane import ControlPlane
from trust import Line, Vault, manifest, ref
from world import Clock, SpoiledLink, Weather

from fleet.agent.admission import Admission
from fleet.agent.identity import NOBODY, Identity
from fleet.agent.link import OutOfContact
from registry.errors import Corrupt, PolicyctlError, Refused, ServiceFailed
from registry.trust.client import Stale
from registry.trust.keyring import Keyring, PublicKey
from registry.versions import digest_bytes

pytestmark = pytest.mark.slow

DECADE = 10 * 365.25 * 86400


class Wired(ControlPlane):
    """A control plane in memory whose trust files are a vault's, through a line."""

    def __init__(self, line: Line) -> None:
        super().__init__()
        self.line = line

    def published(self, path: str) -> Iterator[bytes]:
        yield from self.line(path, 0)


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.vault = Vault(folder)
        self.line = Line(self.vault.folder)
        self.weather = Weather()
        self.clock = self.vault.clock
        self.restart()

    def restart(self) -> None:
        link = SpoiledLink(Wired(self.line), self.weather)
        self.admission = Admission(self.folder / "robot", link, self.clock)

    def admit(self, number: int, *, here: bool = False, baseline: bool = False) -> None:
        digest = digest_bytes(manifest(number))
        self.admission.admit("box-grasp", number, digest, here=here, baseline=baseline)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A robot that has installed version 1 from a hardened home."""
    made = Bench(tmp_path)
    made.vault.init().harden()
    made.vault.approve(1, "dora", "emil")
    made.admit(1)
    return made


def test_without_trust_everything_is_as_before(tmp_path: Path) -> None:
    Bench(tmp_path).admit(7)


def test_without_an_anchor_what_is_here_loads_out_of_contact(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.weather.down = True
    bench.admit(7, here=True)
    with pytest.raises(OutOfContact):
        bench.admit(7)


def test_trust_that_is_turned_on_holds_from_then_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.admit(7)
    bench.vault.init()
    bench.vault.approve(1)
    with pytest.raises(Refused, match="not among the approved"):
        bench.admit(7)
    bench.admit(1)


def test_a_registry_cannot_turn_trust_off_again(bench: Bench, tmp_path: Path) -> None:
    bench.line.folder = tmp_path / "nothing"
    bench.restart()
    with pytest.raises(PolicyctlError):
        bench.admit(7)
    bench.admit(1, here=True, baseline=True)


def test_a_digest_under_an_approved_name_is_refused(bench: Bench) -> None:
    with pytest.raises(Refused, match="other bytes"):
        bench.admission.admit("box-grasp", 1, digest_bytes(b"evil"), here=False, baseline=False)


def test_a_wrong_policy_name_is_refused(bench: Bench) -> None:
    digest = digest_bytes(manifest(1))
    with pytest.raises(Refused):
        bench.admission.admit("pick-place", 1, digest, here=False, baseline=False)


def test_expiry_blocks_what_is_new_and_never_the_baseline(bench: Bench) -> None:
    bench.vault.approve(2, "dora", "emil")
    bench.clock.passes(3 * 86400)
    with pytest.raises(Stale):
        bench.admit(2)
    with pytest.raises(Stale):
        bench.admit(1)  # approved once, but its files would have to be installed again
    bench.admit(1, here=True)
    bench.admit(0, here=True, baseline=True)  # a baseline of the time before trust
    bench.restart()
    bench.admit(1, here=True)
    bench.vault.repository.freshen()
    bench.admit(2)


@pytest.mark.parametrize("years", [10, -10])
def test_a_clock_ten_years_wrong_never_stops_the_baseline(bench: Bench, years: int) -> None:
    bench.clock.passes(years / 10 * DECADE)
    bench.restart()
    bench.admit(1, here=True, baseline=True)


def test_out_of_contact_nothing_new_is_installed(bench: Bench) -> None:
    bench.vault.approve(2, "dora", "emil")
    bench.weather.down = True
    with pytest.raises(OutOfContact):
        bench.admit(2)
    bench.admit(1, here=True)


def test_what_was_taken_back_is_refused_from_then_on(bench: Bench) -> None:
    """Also out of contact, also after a restart, also when its files are here as a baseline."""
    bench.vault.with_keys("dora", "emil").withdraw([ref(1)])
    with pytest.raises(Refused, match="taken back"):
        bench.admit(1, here=True, baseline=True)
    bench.restart()
    bench.weather.down = True
    with pytest.raises(Refused, match="refusal list"):
        bench.admit(1, here=True, baseline=True)
    bench.clock.passes(DECADE)
    bench.weather.down = False
    with pytest.raises(Refused, match="refusal list"):
        bench.admit(1, here=True, baseline=True)


def test_a_new_approval_ends_a_refusal(bench: Bench) -> None:
    bench.vault.with_keys("dora", "emil").withdraw([ref(1)])
    with pytest.raises(Refused):
        bench.admit(1)
    bench.vault.approve(1, "emil", "fay")
    bench.admit(1)
    bench.weather.down = True
    bench.admit(1, here=True)


def test_an_older_good_version_is_admitted_again(bench: Bench) -> None:
    """Going back is a new order that names an old digest; metadata never goes back."""
    bench.vault.approve(2, "dora", "emil")
    bench.admit(2)
    bench.vault.with_keys("dora", "emil").withdraw([ref(2)])
    bench.admit(1, here=True, baseline=True)
    with pytest.raises(Refused):
        bench.admit(2, here=True)


def test_the_anchor_is_given_or_found_once(bench: Bench, tmp_path: Path) -> None:
    other = Vault(tmp_path / "other", Clock(bench.clock.now())).init()
    other.approve(7)
    bench.line.folder = other.folder
    with pytest.raises(PolicyctlError):
        bench.admit(7)
    bench.admission.believe(other.anchor)  # by a person's hand
    bench.admit(7)
    with pytest.raises(Corrupt):
        bench.admission.believe(b"{}")
    forged = json.loads(other.anchor)
    forged["signed"]["version"] = 9
    with pytest.raises(Corrupt, match="not signed"):
        bench.admission.believe(json.dumps(forged).encode())
    bench.admit(7)


def test_a_first_root_without_end_is_no_anchor(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.vault.init()
    bench.line.endless = {"metadata/1.root.json"}
    with pytest.raises(Corrupt, match="no end"):
        bench.admit(1)
    bench.line.endless = set()
    bench.vault.approve(1)
    bench.admit(1)


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"admitted": 1, "refused": []}', None])
def test_a_damaged_list_is_said_so(bench: Bench, content: str | None) -> None:
    path = bench.folder / "robot" / "admitted.json"
    path.unlink()
    path.mkdir() if content is None else path.write_text(content)
    with pytest.raises(Corrupt, match="cannot be read"):
        bench.admit(1)


def test_a_root_that_cannot_be_read_is_said_so_and_given_again(bench: Bench) -> None:
    path = bench.folder / "robot" / "anchor.json"
    root = path.read_bytes()
    path.unlink()
    path.mkdir()
    with pytest.raises(ServiceFailed, match="cannot be read"):
        bench.admit(2)
    bench.admit(1, here=True, baseline=True)
    path.rmdir()
    bench.admission.believe(root)
    bench.admit(1)


def test_a_server_that_hides_all_approvals_is_believed_nothing(bench: Bench) -> None:
    identity = Identity(bench.folder / "robot", lambda: bench.admission.file("keyring.json"))
    bench.line.folder = bench.folder / "nothing"
    with pytest.raises(Corrupt, match="shows no approvals"):
        identity.refresh()
    assert identity.keyring() is NOBODY


def test_metadata_that_a_kill_left_empty_is_asked_for_again(bench: Bench) -> None:
    for path in (bench.folder / "robot" / "metadata").glob("*.json"):
        if path.name != "root.json":
            path.write_bytes(b"")
    bench.restart()
    bench.admit(1)


def test_a_small_file_comes_with_the_approvals(bench: Bench) -> None:
    vault = bench.vault
    with pytest.raises(PolicyctlError):
        bench.admission.file("keyring.json")
    with pytest.raises(PolicyctlError):
        vault.approvals.put_file("keyring.json", b"{}")
    vault.with_keys("dora", "emil").sign()
    assert bench.admission.file("keyring.json") == b"{}"


def keyring_of(vault: Vault, number: int = 1) -> Keyring:
    """An approved keyring with one director."""
    made = Keyring(number=number).with_key("director", PublicKey("ab", "ed25519", "ed25519", "00"))
    vault.with_keys("dora", "emil").put_file("keyring.json", made.canonical())
    return made


def test_a_robot_kept_from_its_first_keyring_believes_nobody(bench: Bench) -> None:
    """A server may not choose that orders need no signature by withholding who signs them."""
    identity = Identity(bench.folder / "robot", lambda: bench.admission.file("keyring.json"))
    identity.refresh()
    assert identity.keyring() is None  # nobody has approved one
    made = keyring_of(bench.vault)
    kept = bench.vault.folder / "targets"
    kept.rename(bench.folder / "withheld")
    with pytest.raises(Corrupt, match="not served"):
        identity.refresh()
    assert identity.keyring() is NOBODY
    (bench.folder / "withheld").rename(kept)
    identity.refresh()
    assert identity.keyring() == made


def test_a_root_by_hand_ends_the_keyring_of_the_home_before(bench: Bench, tmp_path: Path) -> None:
    """The home that is set up anew counts its keyrings from 1; the thief's had a higher number."""
    identity = Identity(bench.folder / "robot", lambda: bench.admission.file("keyring.json"))
    old = keyring_of(bench.vault, number=41)
    identity.refresh()
    assert identity.keyring() == old
    bench.admission.believe(bench.vault.anchor, identity.forget)
    assert identity.keyring() == old  # the same root changes nothing
    other = Vault(tmp_path / "other", Clock(bench.clock.now())).init()
    with pytest.raises(Corrupt):
        bench.admission.believe(b"{}", identity.forget)
    assert identity.keyring() == old
    other.approvals.put_file("keyring.json", Keyring().canonical())
    bench.line.folder = other.folder
    bench.admission.believe(other.anchor, identity.forget)
    identity.refresh()
    assert identity.keyring() == Keyring()


def test_silence_does_not_bring_back_what_was_found_unapproved(bench: Bench) -> None:
    """Also a baseline of the time before trust, which this robot never found approved."""
    with pytest.raises(Refused, match="taken back"):
        bench.admit(0, here=True, baseline=True)
    bench.weather.down = True
    with pytest.raises(Refused, match="refusal list"):
        bench.admit(0, here=True, baseline=True)
