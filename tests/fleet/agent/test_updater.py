"""The updater: nothing unverified is loaded, nothing half-done stays, going back costs nothing."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from control_plane import ControlPlane
from safetensors.numpy import save_file
from scripted_policies import POLICY, ROBOT_CLASS, TASK, load_scripted
from scripted_policies import write_checkpoint as checkpoint
from world import SpoiledLink, Weather

import fleet.agent.updater as updater_module
from fleet.agent.link import OutOfContact
from fleet.agent.updater import Updater
from policies import Policy
from registry.errors import ConfigError, Corrupt, Refused, ServiceFailed
from registry.versions import FileEntry, Manifest, digest_bytes


class Bench:
    """A control plane with blobs, a spoiled link to it, and an updater."""

    def __init__(self, folder: Path) -> None:
        self.plane = ControlPlane()
        self.weather = Weather()
        self.folder = folder
        self.restart()

    def restart(self) -> None:
        link = SpoiledLink(self.plane, self.weather)
        self.updater = Updater(self.folder / "robot", link, ROBOT_CLASS, load=load_scripted)

    def publish(self, rate: float, pieces: bool = False, **contract: object) -> str:
        folder = checkpoint(self.folder / f"made-{rate}", rate, **contract)
        return self.plane.publish(folder, pieces=pieces)

    def prepare(self, number: int, digest: str) -> float:
        policy = self.updater.prepare(POLICY, number, digest, TASK).policy
        return policy.rate  # type: ignore[attr-defined]

    def folders(self) -> list[str]:
        """The versions that are there whole."""
        names = [path.name for path in (self.folder / "robot").iterdir() if path.is_dir()]
        return sorted(name for name in names if not name.startswith("."))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def name(digest: str) -> str:
    return digest.removeprefix("sha256:")


def test_a_version_is_fetched_verified_and_loaded(bench: Bench) -> None:
    digest = bench.publish(0.9)
    assert bench.prepare(1, digest) == 0.9
    assert bench.folders() == [name(digest)]
    assert bench.updater.fetches == 3  # manifest, contract, weights


def test_going_back_needs_no_download(bench: Bench) -> None:
    good, better, worse = bench.publish(0.9), bench.publish(0.95), bench.publish(0.1)
    bench.prepare(1, good)
    bench.updater.settle(good, [good])
    bench.prepare(2, worse)
    bench.updater.settle(good, [good, worse])  # a canary: the baseline stays what it was
    bench.prepare(3, better)
    bench.updater.settle(better, [better])  # the fleet moved on
    assert bench.folders() == sorted([name(good), name(better)])
    bench.restart()
    bench.weather.down = True
    assert bench.prepare(1, good) == 0.9
    assert bench.updater.fetches == 0


@pytest.mark.parametrize("where", ["load", "act"])
def test_a_version_that_breaks_is_refused_and_what_runs_stays(bench: Bench, where: str) -> None:
    good, broken = bench.publish(0.9), bench.publish(0.1)

    def load(folder: Path) -> Policy:
        policy = load_scripted(folder)
        if folder.parent.name == name(good):
            return policy
        if where == "load":
            raise RecursionError("a contract without end")

        def act(observation: object) -> None:
            raise IndexError("no such joint")

        policy.act = act  # type: ignore[method-assign, assignment]
        return policy

    link = SpoiledLink(bench.plane, bench.weather)
    bench.updater = Updater(bench.folder / "robot", link, ROBOT_CLASS, load=load)
    assert bench.prepare(1, good) == 0.9
    with pytest.raises(Refused, match="breaks when it is loaded"):
        bench.prepare(2, broken)
    assert bench.prepare(1, good) == 0.9


def test_what_nothing_needs_is_pruned(bench: Bench) -> None:
    digests = [bench.publish(rate) for rate in (0.5, 0.6, 0.7)]
    for number, digest in enumerate(digests, 1):
        bench.prepare(number, digest)
        bench.updater.settle(digest, [digest])
    assert bench.folders() == sorted(name(digest) for digest in digests[1:])


def test_while_the_list_of_baselines_cannot_be_read_nothing_is_removed(bench: Bench) -> None:
    digests = [bench.publish(rate) for rate in (0.5, 0.6)]
    for number, digest in enumerate(digests, 1):
        bench.prepare(number, digest)
    (bench.folder / "robot" / "baselines.json").mkdir(parents=True)
    with pytest.raises(ServiceFailed, match="nothing was removed"):
        bench.updater.settle(digests[1], [digests[1]])
    assert {name(digest) for digest in digests} <= set(bench.folders())
    bench.prepare(1, digests[0])


def test_on_a_full_disk_what_nothing_needs_makes_room_for_the_list(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk holds what it holds, and not a byte more."""
    digests = [bench.publish(rate) for rate in (0.5, 0.6, 0.7)]
    for number, digest in enumerate(digests, 1):
        bench.prepare(number, digest)
        if number < 3:
            bench.updater.settle(digest, [digest])
    write, full = updater_module.write_whole, bench.folders()

    def room_for(path: Path, content: bytes) -> None:
        if bench.folders() == full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, content)

    monkeypatch.setattr(updater_module, "write_whole", room_for)
    bench.updater.settle(digests[2], [digests[2]])
    assert bench.folders() == sorted(name(digest) for digest in digests[1:])
    listed = json.loads((bench.folder / "robot" / "baselines.json").read_bytes())
    assert listed == [digests[2], digests[1]]


def test_a_list_that_the_disk_does_not_take_is_told_and_written_by_the_next_try(
    bench: Bench,
) -> None:
    digest = bench.publish(0.9)
    bench.prepare(1, digest)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, hard))
    try:
        with pytest.raises(ServiceFailed, match="cannot tidy up"):
            bench.updater.settle(digest, [digest])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    bench.updater.settle(digest, [digest])
    assert json.loads((bench.folder / "robot" / "baselines.json").read_bytes()) == [digest]


def test_a_folder_that_cannot_be_pruned_keeps_no_baseline_from_the_list(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest, other = bench.publish(0.9), bench.publish(0.1)
    bench.prepare(1, digest)
    bench.prepare(2, other)

    def busy(path: Path) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", busy)
        with pytest.raises(ServiceFailed, match="cannot tidy up"):
            bench.updater.settle(digest, [digest])
    assert json.loads((bench.folder / "robot" / "baselines.json").read_bytes()) == [digest]
    bench.updater.settle(digest, [digest])
    assert bench.folders() == [name(digest)]


@pytest.mark.parametrize("damage", [b"", b"[", b"{}", b'["x", 7]'])
def test_a_damaged_list_of_baselines_names_none_and_is_written_anew(
    bench: Bench, damage: bytes
) -> None:
    digest = bench.publish(0.9)
    bench.prepare(1, digest)
    bench.updater.settle(digest, [digest])
    listed = bench.folder / "robot" / "baselines.json"
    whole = listed.read_bytes()
    listed.write_bytes(damage)
    bench.restart()
    assert bench.prepare(1, digest) == 0.9
    bench.updater.settle(digest, [digest])
    assert listed.read_bytes() == whole


@pytest.fixture
def unreadable(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> tuple[str, list[OSError]]:
    """A version that the robot has, and what its disk says of it, once each."""
    digest = bench.publish(0.9)
    bench.prepare(1, digest)
    bench.restart()
    said: list[OSError] = []
    check = updater_module._check

    def reads(entry: FileEntry, path: Path) -> None:
        if said:
            raise said.pop()
        check(entry, path)

    monkeypatch.setattr(updater_module, "_check", reads)
    return digest, said


def test_a_file_that_the_disk_lost_is_fetched_again(
    bench: Bench, unreadable: tuple[str, list[OSError]]
) -> None:
    digest, said = unreadable
    said.append(OSError(errno.EIO, "a sector is gone"))
    assert bench.prepare(1, digest) == 0.9
    assert bench.updater.fetches > 0


def test_a_version_that_cannot_be_read_now_stays_for_the_next_try(
    bench: Bench, unreadable: tuple[str, list[OSError]]
) -> None:
    digest, said = unreadable
    said.append(OSError(errno.EMFILE, "too many open files"))
    bench.weather.down = True
    with pytest.raises(ServiceFailed, match="cannot read a version"):
        bench.prepare(1, digest)
    assert bench.prepare(1, digest) == 0.9


@pytest.mark.parametrize("which", ["manifest", "file"])
def test_corrupt_bytes_are_refused_and_leave_nothing(bench: Bench, which: str) -> None:
    digest = bench.publish(0.9)
    others = [blob for blob in bench.plane.blobs if blob != digest]
    bench.weather.corrupt = {digest} if which == "manifest" else {others[0]}
    with pytest.raises(Corrupt):
        bench.prepare(1, digest)
    assert list((bench.folder / "robot").iterdir()) == []
    bench.weather.corrupt = set()
    assert bench.prepare(1, digest) == 0.9


def test_bytes_without_end_are_cut_off(bench: Bench) -> None:
    digest = bench.publish(0.9)
    weights = next(d for d, data in bench.plane.blobs.items() if b"rate" in data and d != digest)
    bench.plane.blobs[weights] *= 1000
    bench.plane.endless = True
    with pytest.raises(Corrupt, match="more bytes"):
        bench.prepare(1, digest)


def test_bits_that_rot_on_the_robot_are_found_before_the_next_load(bench: Bench) -> None:
    digest = bench.publish(0.9)
    bench.prepare(1, digest)
    bench.restart()
    weights = bench.folder / "robot" / name(digest) / "files" / "policy.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    bench.weather.down = True
    with pytest.raises(OutOfContact):
        bench.prepare(1, digest)
    bench.weather.down = False
    assert bench.prepare(1, digest) == 0.9


@pytest.mark.parametrize("path", ["../escaped", "/absolute", "a/../../b", ""])
def test_a_manifest_that_climbs_is_refused(bench: Bench, path: str) -> None:
    honest = Manifest(POLICY, (FileEntry("inside", digest_bytes(b"x"), 1),))
    raw = honest.canonical().replace(b'"inside"', f'"{path}"'.encode())
    bench.plane.blobs |= {digest_bytes(raw): raw, digest_bytes(b"x"): b"x"}
    with pytest.raises(Corrupt):
        bench.prepare(1, digest_bytes(raw))
    assert list(bench.folder.rglob("escaped")) == []


def test_another_policys_files_are_refused(bench: Bench) -> None:
    digest = bench.plane.publish(checkpoint(bench.folder / "made", 0.9), policy="pouring")
    with pytest.raises(Corrupt, match="another policy"):
        bench.prepare(1, digest)


def test_a_contract_that_does_not_fit_is_refused(bench: Bench) -> None:
    digest = bench.publish(0.9, task="pouring")
    with pytest.raises(ConfigError, match="task"):
        bench.prepare(1, digest)


def test_a_policy_that_answers_nan_is_refused_before_it_moves_anything(bench: Bench) -> None:
    with pytest.raises(Refused, match="not finite"):
        bench.prepare(1, bench.publish(float("nan")))


def test_a_policy_slower_than_its_contract_is_refused(bench: Bench) -> None:
    with pytest.raises(Refused, match="slower"):
        bench.prepare(1, bench.publish(0.9, latency_ms=1e-9))


def fetch_in_a_process_killed_at(point: int, bench: Bench, digest: str) -> bool:
    """Forks; the child is killed for real at its `point`-th durable write. True: it lived on."""
    child = os.fork()
    if child == 0:
        writes = 0
        durable = os.fsync

        def fsync(handle: int) -> None:
            nonlocal writes
            writes += 1
            if writes == point:
                os.kill(os.getpid(), signal.SIGKILL)
            durable(handle)

        os.fsync = fsync
        status = 1
        try:
            bench.prepare(1, digest)
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    ended = os.waitstatus_to_exitcode(status)
    assert ended in (0, -signal.SIGKILL)
    return ended == 0


@pytest.mark.slow
def test_a_fetch_killed_anywhere_leaves_a_whole_version_or_none(bench: Bench) -> None:
    digest = bench.publish(0.9)
    seen = set()
    for point in range(1, 20):
        shutil.rmtree(bench.folder / "robot", ignore_errors=True)
        bench.restart()
        lived = fetch_in_a_process_killed_at(point, bench, digest)
        bench.restart()
        complete = bench.updater.holds(digest)
        assert bench.folders() == ([name(digest)] if complete else [])
        assert bench.prepare(1, digest) == 0.9
        assert bench.updater.fetches <= (0 if complete else 3)
        seen.add(complete)
        if lived:
            break
    assert lived
    assert seen == {True, False}


def test_a_full_disk_refuses_the_version_and_leaves_nothing(bench: Bench) -> None:
    digest = bench.publish(0.9)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, hard))
    try:
        with pytest.raises(ServiceFailed, match="cannot store"):
            bench.prepare(1, digest)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((bench.folder / "robot").iterdir()) == []
    assert bench.prepare(1, digest) == 0.9


# -- tensors ---------------------------------------------------------------------------------------


def tensors_of(rate: float, changed: dict[str, int] | None = None) -> dict[str, np.ndarray]:
    """Forty tensors of 100 kB, two of 3 MB, one without elements; `changed` by name."""
    sizes = {f"layer-{i:02d}": 25_000 for i in range(40)} | {"big-0": 750_000, "big-1": 750_000}
    made = {
        name: np.random.default_rng([i, (changed or {}).get(name, 0)]).random(size, np.float32)
        for i, (name, size) in enumerate(sizes.items())
    }
    return made | {"rate": np.array([rate]), "empty": np.zeros((0, 4), np.float32)}


def publish_tensors(bench: Bench, rate: float, **changed: int) -> str:
    folder = checkpoint(bench.folder / f"made-{rate}", rate)
    renamed = {name.replace("_", "-"): seed for name, seed in changed.items()}
    save_file(tensors_of(rate, renamed), folder / "policy.safetensors")
    return bench.plane.publish(folder, pieces=True)


def test_only_tensors_that_changed_are_fetched(bench: Bench) -> None:
    old, new = publish_tensors(bench, 0.9), publish_tensors(bench, 0.8, layer_07=1, big_1=1)
    assert bench.prepare(1, old) == 0.9
    before = bench.updater.bytes_fetched
    bench.restart()
    assert bench.prepare(2, new) == 0.8
    manifest = len(bench.plane.blobs[new])
    assert bench.updater.fetches == 4  # manifest, layer-07, big-1, rate
    assert bench.updater.bytes_fetched == manifest + 100_000 + 3_000_000 + 8
    assert before > 10_000_000
    made = bench.folder / "made-0.8" / "policy.safetensors"
    installed = bench.folder / "robot" / name(new) / "files" / "policy.safetensors"
    assert installed.read_bytes() == made.read_bytes()


def test_a_rotten_tensor_is_fetched_and_the_others_are_not(bench: Bench) -> None:
    digest = publish_tensors(bench, 0.9)
    bench.prepare(1, digest)
    bench.restart()
    weights = bench.folder / "robot" / name(digest) / "files" / "policy.safetensors"
    content = bytearray(weights.read_bytes())
    content[-10] ^= 1
    weights.write_bytes(content)
    assert bench.prepare(1, digest) == 0.9
    assert bench.updater.fetches == 2  # the manifest and one tensor
    assert bench.folders() == [name(digest)]
    assert not list((bench.folder / "robot").glob(".damaged-*"))


def test_a_held_tensor_that_rotted_is_not_taken_for_another_version(bench: Bench) -> None:
    old, new = publish_tensors(bench, 0.9), publish_tensors(bench, 0.8)
    bench.prepare(1, old)
    weights = bench.folder / "robot" / name(old) / "files" / "policy.safetensors"
    content = bytearray(weights.read_bytes())
    content[3_000_000] ^= 1
    weights.write_bytes(content)
    assert bench.prepare(2, new) == 0.8


@pytest.mark.parametrize("corrupt", [False, True])
def test_a_fetch_that_is_cut_goes_on_where_it_was(bench: Bench, corrupt: bool) -> None:
    """Cut within the second large tensor; what is there is hashed again before it is built upon."""
    digest = publish_tensors(bench, 0.9)
    inner, sent = bench.updater._link.fetch, 0

    def cut(digest: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        nonlocal sent
        for data in inner(digest, start, length):
            sent += len(data)
            if sent > 5_500_000:
                raise OutOfContact("the cable")
            yield data

    bench.updater._link.fetch = cut  # type: ignore[method-assign]
    with pytest.raises(OutOfContact):
        bench.prepare(1, digest)
    assert bench.folders() == []
    part = bench.folder / "robot" / f".incoming-{name(digest)}" / "files" / "policy.safetensors"
    kept = part.stat().st_size
    assert kept > 5_500_000 - (4 << 20)
    if corrupt:  # the supply was lost: bytes that never reached the disk read as zeros
        with part.open("r+b") as stream:
            stream.seek(kept - 1000)
            stream.write(bytes(1000))
    bench.restart()
    bench.updater.settle(None, [digest])  # an assignment still names it
    assert bench.prepare(1, digest) == 0.9
    made = (bench.folder / "made-0.9" / "policy.safetensors").stat().st_size
    lost = 3_000_000 if corrupt else 0
    assert bench.updater.bytes_fetched <= made - kept + lost + 2000


def test_what_was_half_fetched_and_is_no_longer_named_is_deleted(bench: Bench) -> None:
    digest = publish_tensors(bench, 0.9)
    bench.weather.down = True
    with pytest.raises(OutOfContact):
        bench.prepare(1, digest)
    bench.updater.settle(None, [])
    assert list((bench.folder / "robot").iterdir()) == []


def test_a_program_for_a_sandbox_is_refused_where_there_is_none(bench: Bench) -> None:
    raw = bench.plane.blobs[bench.publish(0.9)]
    said = json.loads(raw) | {"schema": "policyctl.manifest/2", "base": None, "sandbox_only": True}
    marked = Manifest.from_json(said)
    bench.plane.blobs[marked.digest] = marked.canonical()
    with pytest.raises(Refused, match="only a sandbox may run"):
        bench.prepare(1, marked.digest)
    link = SpoiledLink(bench.plane, bench.weather)
    bench.updater = Updater(
        bench.folder / "other", link, ROBOT_CLASS, load=load_scripted, sandboxed=True
    )
    assert bench.prepare(1, marked.digest) == 0.9
