"""Wherever episodes are played: equal records, none lost or doubled, nothing left running."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sim_jobs import ExpertJob, Faulty, ScriptedJob
from sim_policies import ExpertPolicy, write_still

from harness.sim.episode import EpisodeRecord, EpisodeSpec
from harness.sim.executors import EXECUTORS, Executor, executor
from harness.sim.executors.chunks import CHUNK, FIRST, ChunkFailed, cut
from harness.sim.executors.processes import Processes
from harness.sim.executors.threads import InProcess, LockStep
from harness.sim.grid import Grid
from harness.sim.results import digest_rows, row
from registry.errors import ConfigError, ServiceFailed, UsageError

pytestmark = pytest.mark.slow

GRID = Grid.of("box-grasp", {"friction": (0.5, 1.5), "delay": (0, 3)}, 3)
NUMBERS = range(GRID.population)
SPECS = [EpisodeSpec((), episode) for episode in range(100)]
TESTS = Path(__file__).parents[1]

needs_ray = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed"),
]
WORKERS = [
    pytest.param("processes", id="processes"),
    pytest.param("ray", marks=needs_ray, id="ray"),
]
"""Executors whose workers are processes of their own."""


def digest(played: Iterable[EpisodeRecord]) -> str:
    """The digest of the whole grid's results, in the population's order."""
    records = {record.spec: record for record in played}
    return digest_rows([row(GRID, n, records[GRID.spec(n)]) for n in NUMBERS])


def specs(*, backwards: bool = False) -> list[EpisodeSpec]:
    numbers = reversed(NUMBERS) if backwards else NUMBERS
    return [GRID.spec(number) for number in numbers]


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        os.sched_yield()


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[str]:
    """A cluster of two cores that maps of this process use as it is; its address."""
    import ray

    from harness.sim.executors.ray import cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), *sys.path]))
        with cluster(ray, None, 2):
            yield ray.get_runtime_context().gcs_address


@pytest.fixture(autouse=True)
def _one_cluster(request: pytest.FixtureRequest) -> None:
    """Tests on Ray share a cluster, but for those that start a program."""
    callspec = getattr(request.node, "callspec", None)
    if callspec and callspec.params.get("name") == "ray" and "whom" not in callspec.params:
        request.getfixturevalue("ray_cluster")


# -- equal results ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone() -> str:
    """The grid's digest, each episode played by itself."""
    player = InProcess(ExpertPolicy(), slots=1, threads=1)
    return digest(record for spec in specs() for record in player.map([spec]))


@pytest.mark.parametrize(("slots", "threads"), [(5, 1), (12, 2), (7, 3), (64, 4)])
def test_results_do_not_depend_on_slots_or_threads(alone: str, slots: int, threads: int) -> None:
    player = InProcess(ExpertPolicy(), slots=slots, threads=threads)
    assert digest(player.map(specs(backwards=True))) == alone


@pytest.mark.parametrize("name", ["threads", *WORKERS])
@pytest.mark.parametrize("workers", [1, 2])
def test_results_do_not_depend_on_the_executor(alone: str, name: str, workers: int) -> None:
    job = ExpertJob(slots=5)
    assert digest(executor(name, job, workers=workers).map(specs())) == alone


MODES = {"raise": "policy_crash", "nan": "policy_nan", "shape": "policy_shape"}


@pytest.mark.parametrize("name", WORKERS)
@pytest.mark.parametrize("fault", MODES)
def test_a_policy_that_fails_fails_in_the_same_episodes_everywhere(name: str, fault: str) -> None:
    here = InProcess(Faulty(fault), slots=7, threads=2).map(specs())
    records = {record.spec: record for record in here}
    there = executor(name, ExpertJob(5, fault), workers=2).map(specs(backwards=True))
    assert digest(there) == digest(records.values())
    faults = [record.failure_mode == MODES[fault] for record in records.values()]
    assert any(faults)
    assert not all(faults)


def test_a_version_is_loaded_where_it_is_played(tmp_path: Path) -> None:
    job = LockStep(write_still(tmp_path / "checkpoint"), "sha256:1", slots=4)
    few = specs()[:4]
    ends = [
        {record.spec: record.digest for record in executor(name, job, workers=2).map(few)}
        for name in ("threads", "processes")
    ]
    assert ends[0] == ends[1]
    assert list(ends[0]) != []


# -- in this process -------------------------------------------------------------------------------


def players() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("player-")}


class Failing(ExpertPolicy):
    """Asks to be interrupted, as a rig's fault inside the policy's thread would."""

    def act(self, observation: Any) -> Any:
        raise SystemExit("from a thread")


def test_what_a_thread_raises_reaches_the_caller_and_ends_the_others() -> None:
    with pytest.raises(SystemExit, match="from a thread"):
        list(InProcess(Failing(), slots=4).map(specs()))
    assert not players()


def test_what_the_specs_raise_reaches_the_caller() -> None:
    def broken() -> Iterable[EpisodeSpec]:
        yield from specs()[:5]
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(InProcess(ExpertPolicy(), slots=4).map(broken()))
    assert not players()


def test_closing_a_map_ends_its_threads_and_another_can_follow() -> None:
    player = InProcess(ExpertPolicy(), slots=4)
    with contextlib.closing(player.map(specs())) as records:
        first = next(records)
        assert len(players()) == 2
    assert not players()
    again = {record.spec: record for record in player.map([first.spec])}
    assert again[first.spec].digest == first.digest


def test_a_small_map_is_spread_over_both_halves() -> None:
    asked: set[str] = set()

    class Noting(ExpertPolicy):
        def act(self, observation: Any) -> Any:
            asked.add(threading.current_thread().name)
            return super().act(observation)

    with contextlib.closing(InProcess(Noting(), slots=64).map(specs()[:2])) as records:
        next(records)
    assert asked == {"player-0", "player-1"}


# -- chunks ----------------------------------------------------------------------------------------


@given(st.integers(0, 700), st.integers(1, 9))
def test_chunks_hold_every_episode_once_and_in_order(count: int, workers: int) -> None:
    wanted = [EpisodeSpec((), episode) for episode in range(count)]
    chunks = cut("a job", wanted, workers)
    assert [spec for chunk in chunks for spec in chunk.specs] == wanted
    assert all(0 < len(chunk.specs) <= CHUNK for chunk in chunks)
    assert all(len(chunk.specs) <= FIRST for chunk in chunks[:workers])
    assert len({chunk.key for chunk in chunks}) == len(chunks)


def test_a_chunk_is_named_by_its_content() -> None:
    key = cut("a job", SPECS[:9], 1)[0].key
    assert cut("a job", list(SPECS[:9]), 1)[0].key == key
    assert cut("another", SPECS[:9], 1)[0].key != key
    assert cut("a job", SPECS[1:10], 1)[0].key != key


# -- workers that die ------------------------------------------------------------------------------


def run(name: str, job: ScriptedJob, workers: int = 2) -> list[EpisodeRecord]:
    return list(executor(name, job, workers=workers).map(SPECS))


@pytest.mark.parametrize("name", WORKERS)
def test_a_killed_worker_loses_nothing_and_doubles_nothing(name: str, tmp_path: Path) -> None:
    job = ScriptedJob(tmp_path, dies_at=40)
    records = run(name, job)
    assert sorted(record.spec.episode for record in records) == list(range(100))
    assert len(list(tmp_path.glob("death-*"))) == 1
    assert len(job.workers()) in (2, 3), "the killed one's successor may come when all is done"
    assert_gone(job)


@pytest.mark.parametrize("name", WORKERS)
def test_a_chunk_that_kills_three_workers_is_named(name: str, tmp_path: Path) -> None:
    job = ScriptedJob(tmp_path, dies_at=40, deaths=99)
    with pytest.raises(ChunkFailed) as caught:
        run(name, job)
    assert 40 in {spec.episode for spec in caught.value.chunk.specs}
    assert caught.value.chunk.key in caught.value.evidence
    assert len(list(tmp_path.glob("death-*"))) == 3
    assert_gone(job)


@pytest.mark.parametrize("name", WORKERS)
def test_an_answered_chunk_is_not_played_again(name: str, tmp_path: Path) -> None:
    run(name, ScriptedJob(tmp_path, dies_at=90))
    played = [path.name.split("-")[1] for path in tmp_path.glob("played-*")]
    assert {int(episode) for episode in played} == set(range(100))
    twice = {int(episode) for episode in played if played.count(episode) > 1}
    chunk = next(c for c in cut("scripted", SPECS, 2) if SPECS[90] in c.specs)
    assert twice <= {spec.episode for spec in chunk.specs}


@pytest.mark.parametrize("name", WORKERS)
def test_an_error_of_ours_comes_back_whole(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        run(name, ScriptedJob(tmp_path, raises_at=3))
    assert (caught.value.what, caught.value.where) == ("it does not fit", "contract.json")
    assert caught.value.evidence == "contract.json: rate_hz"
    assert "in a worker" in caught.value.__notes__[0]


# -- nothing left running --------------------------------------------------------------------------


def assert_gone(job: ScriptedJob) -> None:
    wait_for(lambda: not any(map(running, job.workers())), "a worker is left")


def running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("name", WORKERS)
def test_closing_a_map_ends_its_workers(name: str, tmp_path: Path) -> None:
    before = set(psutil.Process().children())  # a Ray cluster of other tests may be held
    job = ScriptedJob(tmp_path, waits_at=60)
    with contextlib.closing(executor(name, job, workers=2).map(SPECS)) as records:
        next(records)
        wait_for((tmp_path / "waiting").exists, "no worker waits")
    assert job.workers()
    assert_gone(job)
    if name == "processes":
        assert set(psutil.Process().children()) <= before


PROGRAM = """
import signal, sys
from pathlib import Path
from sim_jobs import ScriptedJob
from harness.sim.episode import EpisodeSpec
from harness.sim.executors import executor
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.default_int_handler)
name, folder, waits_at, *address = sys.argv[1:]
job = ScriptedJob(Path(folder), waits_at=int(waits_at))
made = executor(name, job, workers=2, address=address[0] if address else None)
try:
    print(len(list(made.map([EpisodeSpec((), e) for e in range(100)]))))
except KeyboardInterrupt:
    sys.exit(130)
"""


def program(name: str, folder: Path, *options: str) -> subprocess.Popen[str]:
    """A program that plays, in a folder like a user's own."""
    repository = folder / "repository"
    (repository / "policies").mkdir(parents=True)
    (repository / "policies/__init__.py").write_text("raise ImportError('the user\\'s own')")
    return subprocess.Popen(
        [sys.executable, "-P", "-c", PROGRAM, name, folder, *options],
        cwd=repository,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )


def waiting_program(name: str, folder: Path) -> subprocess.Popen[str]:
    """A program one of whose workers waits to be ended."""
    process = program(name, folder, "10")
    waiting = (folder / "waiting").exists
    wait_for(lambda: waiting() or process.poll() is not None, "no worker waits")
    assert process.poll() is None, process.communicate()[1]
    return process


def family(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


@pytest.mark.parametrize("whom", ["process", "group"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", WORKERS)
def test_a_signal_leaves_no_child(
    name: str, number: signal.Signals, whom: str, tmp_path: Path
) -> None:
    process = waiting_program(name, tmp_path)
    children = family(process.pid)
    (os.killpg if whom == "group" else os.kill)(process.pid, number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    # of a worker that is ended while it loads, glfw may leave a line: it asks a process of its own
    assert not {"KeyboardInterrupt", "harness"} & set(re.split(r"\W", said)), said
    assert children
    wait_for(lambda: not any(running(child.pid) for child in children), "a child is left")


def test_a_killed_program_leaves_no_child(tmp_path: Path) -> None:
    process = waiting_program("processes", tmp_path)
    children = family(process.pid)
    process.kill()
    process.communicate(timeout=60)
    assert len(children) == 2
    wait_for(lambda: not any(running(child.pid) for child in children), "a child is left")


@pytest.mark.parametrize("name", [pytest.param("ray", marks=needs_ray)])
def test_a_program_joins_a_cluster_and_leaves_it_as_it_was(
    name: str, ray_cluster: str, tmp_path: Path
) -> None:
    import ray

    before = ray.cluster_resources()["CPU"]
    process = program(name, tmp_path, "-1", ray_cluster)
    said, erred = process.communicate(timeout=120)
    assert (process.returncode, said.strip()) == (0, "100"), erred
    assert ray.cluster_resources()["CPU"] == before
    assert_gone(ScriptedJob(tmp_path))


@pytest.mark.parametrize("name", [pytest.param("ray", marks=needs_ray)])
def test_an_address_without_a_cluster_is_an_error_of_the_service(name: str, tmp_path: Path) -> None:
    process = program(name, tmp_path, "-1", "127.0.0.1:1")
    _, erred = process.communicate(timeout=60)
    assert "there is no Ray cluster to play on" in erred


def test_ctrl_c_ends_the_threads_at_once() -> None:
    """The interrupt comes while the caller waits for a record."""
    began = time.monotonic()

    class Interrupting(ExpertPolicy):
        pressed = False

        def act(self, observation: Any) -> Any:
            if not self.pressed:
                self.pressed = True
                signal.raise_signal(signal.SIGINT)
            return super().act(observation)

    with pytest.raises(KeyboardInterrupt):
        list(InProcess(Interrupting(), slots=4).map(specs()))
    assert not players()
    assert time.monotonic() - began < 10


# -- names -----------------------------------------------------------------------------------------


def test_every_name_is_an_executor(tmp_path: Path) -> None:
    assert set(EXECUTORS) == {"threads", "processes", "ray"}
    made: Executor = executor("processes", ScriptedJob(tmp_path), workers=1)
    assert isinstance(made, Processes)


def test_an_unknown_name_and_a_vain_address_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no executor 'slurm'"):
        executor("slurm", ScriptedJob(tmp_path), workers=1)
    with pytest.raises(UsageError, match="has no address"):
        executor("threads", ScriptedJob(tmp_path), workers=1, address="here:6379")


def test_a_missing_ray_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"policyctl\[ray\]"):
        executor("ray", ScriptedJob(tmp_path), workers=1)


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_with_another_engine_refuses(name: str, tmp_path: Path) -> None:
    job = LockStep(write_still(tmp_path / "still"), "sha256:0", 2, engine="mujoco 9.9.9")
    with pytest.raises(ServiceFailed, match="another engine"):
        list(executor(name, job, workers=1).map([EpisodeSpec((), 0)]))
