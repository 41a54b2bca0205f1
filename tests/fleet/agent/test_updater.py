"""The updater: nothing unverified is loaded, nothing half-done stays, going back costs nothing."""

from __future__ import annotations

import os
import resource
import shutil
import signal
from pathlib import Path

import pytest
from world import POLICY, ROBOT_CLASS, TASK, SpoiledLink, Table, Weather, load_scripted
from world import write_checkpoint as checkpoint

from fleet.agent.link import OutOfContact
from fleet.agent.updater import Updater
from policies import Policy
from registry.errors import ConfigError, Corrupt, Refused, ServiceFailed
from registry.versions import FileEntry, Manifest, digest_bytes


class Bench:
    """A table of blobs, a spoiled link to it, and an updater."""

    def __init__(self, folder: Path) -> None:
        self.table = Table()
        self.weather = Weather()
        self.folder = folder
        self.restart()

    def restart(self) -> None:
        link = SpoiledLink(self.table, self.weather)
        self.updater = Updater(self.folder / "robot", link, ROBOT_CLASS, load=load_scripted)

    def publish(self, rate: float, **contract: object) -> str:
        return self.table.publish(checkpoint(self.folder / f"made-{rate}", rate, **contract))

    def prepare(self, number: int, digest: str) -> float:
        policy = self.updater.prepare(POLICY, number, digest, TASK).policy
        return policy.rate  # type: ignore[attr-defined]

    def folders(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "robot").iterdir() if path.is_dir())


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

    link = SpoiledLink(bench.table, bench.weather)
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


@pytest.mark.parametrize("which", ["manifest", "file"])
def test_corrupt_bytes_are_refused_and_leave_nothing(bench: Bench, which: str) -> None:
    digest = bench.publish(0.9)
    others = [blob for blob in bench.table.blobs if blob != digest]
    bench.weather.corrupt = {digest} if which == "manifest" else {others[0]}
    with pytest.raises(Corrupt):
        bench.prepare(1, digest)
    assert bench.folders() == []
    bench.weather.corrupt = set()
    assert bench.prepare(1, digest) == 0.9


def test_bytes_without_end_are_cut_off(bench: Bench) -> None:
    digest = bench.publish(0.9)
    weights = next(d for d, data in bench.table.blobs.items() if b"rate" in data and d != digest)
    bench.table.blobs[weights] *= 1000
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
    bench.table.blobs |= {digest_bytes(raw): raw, digest_bytes(b"x"): b"x"}
    with pytest.raises(Corrupt):
        bench.prepare(1, digest_bytes(raw))
    assert list(bench.folder.rglob("escaped")) == []


def test_another_policys_files_are_refused(bench: Bench) -> None:
    digest = bench.table.publish(checkpoint(bench.folder / "made", 0.9), policy="pouring")
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
        assert bench.updater.fetches == (0 if complete else 3)
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
    assert bench.folders() == []
    assert bench.prepare(1, digest) == 0.9
