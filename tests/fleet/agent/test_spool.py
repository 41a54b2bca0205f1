"""The spool: numbers without gaps, indices that are consumed at open, nothing lost to a kill."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.agent.spool import Opening, Result, Spool
from registry.errors import Refused, ServiceFailed


def opening(index: int, *, salt: str = "salt", stratum: str = "box", segment: int = 0) -> Opening:
    return Opening(
        policy="box-grasp",
        version=2,
        side="candidate",
        generation=4,
        salt=salt,
        segment=segment,
        stratum=stratum,
        index=index,
        task="box-grasp",
        judge="joints/1",
        opened_at=10.0,
        scene={"mass": 0.9},
    )


def spool_at(folder: Path, **options: int) -> Spool:
    return Spool(folder / "spool.db", "robot-01", **options)


def test_an_attempt_is_numbered_opened_and_closed_once(tmp_path: Path) -> None:
    spool = spool_at(tmp_path)
    assert spool.open(opening(0)) == 1
    report = spool.close(
        1, Result("success", duration_s=8.0, steps=400, interventions={"speed": 3})
    )
    assert (report.robot, report.number, report.index, report.outcome) == (
        "robot-01",
        1,
        0,
        "success",
    )
    assert report.scene == {"mass": 0.9}
    with pytest.raises(Refused, match="not open"):
        spool.close(1, Result("failure"))
    assert spool.unreported() == [report]


def test_one_attempt_at_a_time(tmp_path: Path) -> None:
    spool = spool_at(tmp_path)
    spool.open(opening(0))
    with pytest.raises(Refused, match="attempt 1 is still open"):
        spool.open(opening(1))


@pytest.mark.parametrize("index", [0, 2])
def test_an_index_cannot_be_drawn_again_or_skipped(tmp_path: Path, index: int) -> None:
    spool = spool_at(tmp_path)
    spool.close(spool.open(opening(0)), Result("success"))
    with pytest.raises(Refused, match="index"):
        spool.open(opening(index))


def test_an_attempt_left_open_becomes_agent_lost(tmp_path: Path) -> None:
    spool = spool_at(tmp_path)
    spool.open(opening(0))
    spool.close_file()
    again = spool_at(tmp_path)
    assert again.recovered == (1,)
    assert [(r.outcome, r.failure_mode) for r in again.unreported()] == [("failure", "agent_lost")]
    assert again.next_index("salt", 0, "box") == 1


def test_acknowledged_attempts_are_pruned_but_never_the_counters(tmp_path: Path) -> None:
    spool = spool_at(tmp_path, keep=2)
    for index in range(6):
        spool.close(spool.open(opening(index)), Result("success"))
    spool.acknowledge(6)
    assert spool.unreported() == []
    spool.acknowledge(4)  # the registry was restored from a backup: it may have the rest again
    assert [report.number for report in spool.unreported()] == [5, 6]
    spool.close_file()
    assert spool_at(tmp_path).open(opening(6)) == 7


def test_a_registry_that_lacks_what_was_pruned_is_refused(tmp_path: Path) -> None:
    """Nobody can give it that any more, and it would acknowledge nothing after it."""
    spool = spool_at(tmp_path, keep=2)
    spool.acknowledge(0)
    for index in range(6):
        spool.close(spool.open(opening(index)), Result("success"))
    spool.acknowledge(6)
    with pytest.raises(Refused, match="no longer has") as caught:
        spool.acknowledge(3)
    assert caught.value.evidence == "it holds them up to 3, the spool from 5 on"
    assert spool.acknowledged == 6
    spool.acknowledge(4)


def test_a_full_spool_refuses_motion_instead_of_dropping_evidence(tmp_path: Path) -> None:
    spool = spool_at(tmp_path, limit=2)
    for index in range(2):
        spool.close(spool.open(opening(index)), Result("success"))
    with pytest.raises(Refused, match="wait for the registry"):
        spool.open(opening(2))
    spool.acknowledge(1)
    assert spool.open(opening(2)) == 3


def test_a_robot_that_lost_its_disk_may_not_start_counting_again(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="reported 57 attempts"):
        spool_at(tmp_path).acknowledge(57)


def test_a_spool_belongs_to_one_agent_and_one_robot(tmp_path: Path) -> None:
    spool = spool_at(tmp_path)
    with pytest.raises(Refused, match="another agent"):
        spool_at(tmp_path)
    spool.close_file()
    with pytest.raises(Refused, match="robot-01"):
        Spool(tmp_path / "spool.db", "robot-02")


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 1), st.booleans(), st.booleans()),
        max_size=15,
    )
)
def test_numbers_and_indices_never_skip_or_repeat(
    tmp_path_factory: pytest.TempPathFactory, attempts: list[tuple[str, int, bool, bool]]
) -> None:
    """Whatever is opened, closed or lost in whatever strata, both counters stay gapless."""
    folder = tmp_path_factory.mktemp("spool")
    spool = spool_at(folder)
    for stratum, segment, closes, restarts in attempts:
        index = spool.next_index("salt", segment, stratum)
        number = spool.open(opening(index, stratum=stratum, segment=segment))
        if closes:
            spool.close(number, Result("success"))
        if restarts or not closes:
            spool.close_file()
            spool = spool_at(folder)
    reports = spool.unreported()
    assert [report.number for report in reports] == list(range(1, len(attempts) + 1))
    for stratum in "ab":
        for segment in (0, 1):
            mine = [r.index for r in reports if (r.stratum, r.segment) == (stratum, segment)]
            assert mine == list(range(len(mine)))
    spool.close_file()


KILLED = """
import os, signal, sys
from pathlib import Path
from fleet.agent.spool import Opening, Result, Spool
spool = Spool(Path(sys.argv[1]), "robot-01")
def attempt():
    index = spool.next_index("salt", 0, "box")
    drawn = ("box-grasp", 2, "candidate", 4, "salt", 0, "box", index)
    return spool.open(Opening(*drawn, task="t", judge="j", opened_at=1.0))
spool.close(attempt(), Result("success"))
number = attempt()
print(number, flush=True)
if sys.argv[2] == "closed":
    spool.close(number, Result("success"))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    ("killed_when", "outcomes"),
    [("open", ["success", "failure"]), ("closed", ["success", "success"])],
)
def test_kill_dash_nine_loses_nothing(
    tmp_path: Path, killed_when: str, outcomes: list[str]
) -> None:
    """A real process, really killed between opening and closing: its index stays consumed."""
    path = tmp_path / "spool.db"
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(path), killed_when], capture_output=True, text=True
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert ended.stdout.strip() == "2"
    spool = spool_at(tmp_path)
    assert [report.outcome for report in spool.unreported()] == outcomes
    assert spool.next_index("salt", 0, "box") == 2
    with pytest.raises(Refused, match="index"):
        spool.open(opening(1))
    assert spool.open(opening(2)) == 3


def test_a_full_disk_refuses_the_attempt_and_keeps_the_record(tmp_path: Path) -> None:
    """A real limit on file size: opening fails before motion, and what was written stays whole."""
    spool = spool_at(tmp_path)
    spool.close(spool.open(opening(0)), Result("success"))
    wal = os.path.getsize(tmp_path / "spool.db-wal")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (wal, hard))

    def fill_the_disk() -> None:
        for index in range(1, 2000):
            spool.close(spool.open(opening(index)), Result("success"))

    try:
        with pytest.raises(ServiceFailed, match="cannot write"):
            fill_the_disk()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    known = spool.last_number
    spool.close_file()
    again = spool_at(tmp_path)
    assert [report.number for report in again.unreported(5000)] == list(range(1, known + 1))
