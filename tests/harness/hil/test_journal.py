"""The journal survives what a power cut, a kill and a full disk do to it, and notices tampering."""

import os
import random
import signal
from collections import Counter

import pytest
from hil_bench import Bench, ScriptedRobot

from harness.hil.clocks import JumpClock
from harness.hil.journal import GENESIS, Journal, read
from harness.hil.model import State
from harness.hil.replay import replay
from registry.errors import Corrupt
from registry.gates import TrialGate

SHORT = TrialGate(suite="s", reject_below=0.4, accept_at=0.92, max_trials=12)


def lifts(n: int) -> bool:
    return n != 1


def run_in_a_process_killed_after(folder, records: int) -> bool:
    """Runs the short gate in a real process that gets SIGKILL right after record `records` is on
    disk; True when it was killed, False when the run ended before."""
    child = os.fork()
    if child == 0:
        bench = Bench(folder, ScriptedRobot(lifts_at=lifts))

        def count(record):
            bench.hear(record)
            if record.n + 1 == records:
                os.kill(os.getpid(), signal.SIGKILL)

        bench.go(gate=SHORT, on_event=count)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        assert os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def whole(folder):
    """The same run without a kill: its attempts, and how many records it took."""
    bench = Bench(folder, ScriptedRobot(lifts_at=lifts))
    result = bench.go(gate=SHORT)
    return result, len(read(bench.journal.read_bytes(), "")[0])


@pytest.mark.slow
def test_killed_at_every_record_nothing_is_lost_and_nothing_counted_twice(tmp_path):
    reference, length = whole(tmp_path / "whole")
    assert len(reference.attempts) >= 5
    lost_after_arming = 0
    for at in range(1, length + 1):
        folder = tmp_path / f"at-{at}"
        assert run_in_a_process_killed_after(folder, at)
        left = read((folder / "run.jsonl").read_bytes(), "")[0]
        assert len(left) == at, "what was announced is on the disk"
        before = replay(left)
        bench = Bench(folder, ScriptedRobot(lifts_at=lifts))
        result = bench.go(gate=SHORT)
        assert [a.number for a in result.attempts] == list(range(1, len(result.attempts) + 1))
        assert result.attempts[: len(before.attempts)] == before.attempts
        counted = Counter(a.trial for a in result.attempts if a.outcome != "void")
        assert set(counted.values()) == {1}, "each trial counts once"
        assert sorted(counted) == list(range(len(counted))), "no trial is left out"
        if before.open is not None:
            settled = result.attempts[before.open.number - 1]
            match before.open.state:
                case State.ARMED | State.RUN:
                    lost_after_arming += 1
                    assert (settled.outcome, settled.mode) == ("failure", "agent_lost")
                case State.JUDGE | State.EVIDENCE:
                    assert settled.outcome == before.open.judged.outcome
                case _:
                    assert (settled.outcome, settled.mode) == ("void", "E_INTERRUPTED")
    assert lost_after_arming == 2 * len(reference.attempts)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_killed_again_and_again_every_trial_counts_once_and_no_outcome_changes(tmp_path, seed):
    """Kills hit resumed runs too: while they settle what the last kill left open."""
    draw = random.Random(seed)
    known, kills, at = (), 0, 0
    while True:
        at += draw.randint(1, 14)
        if not run_in_a_process_killed_after(tmp_path, at):
            break
        kills += 1
        records = read((tmp_path / "run.jsonl").read_bytes(), "")[0]
        now = replay(records).attempts
        assert now[: len(known)] == known
        known, at = now, len(records)
    state = replay(read((tmp_path / "run.jsonl").read_bytes(), "")[0])
    assert kills >= 3
    assert state.verdict is not None
    assert state.attempts[: len(known)] == known
    assert [a.number for a in state.attempts] == list(range(1, len(state.attempts) + 1))
    counted = [a.trial for a in state.attempts if a.outcome != "void"]
    assert counted == list(range(len(counted)))


def test_torn_at_every_byte_it_opens_again_with_whole_records_only(tmp_path):
    whole(tmp_path / "whole")
    raw = (tmp_path / "whole" / "run.jsonl").read_bytes()
    raw = raw[: [i + 1 for i, byte in enumerate(raw) if byte == 10][9]]
    ends = [i + 1 for i, byte in enumerate(raw) if byte == 10]
    for cut in range(len(raw) + 1):
        records, size = read(raw[:cut], "journal")
        assert len(records) == sum(end <= cut for end in ends)
        assert size == max([end for end in ends if end <= cut], default=0)
        replay(records)


def test_a_torn_tail_is_cut_off_and_writing_goes_on(tmp_path):
    path = tmp_path / "run.jsonl"
    journal = Journal(path, JumpClock(5.0))
    journal.append("run", a=1)
    journal.append("edge", state="x")
    journal.close()
    path.write_bytes(path.read_bytes()[:-7])
    journal = Journal(path, JumpClock(6.0))
    assert [r.kind for r in journal.records] == ["run"]
    assert journal.torn > 0
    journal.append("resumed")
    journal.close()
    assert [r.kind for r in read(path.read_bytes(), "")[0]] == ["run", "resumed"]


@pytest.mark.parametrize("line", [0, 3])
def test_a_changed_line_is_named(bench, line):
    bench.go()
    raw = bench.journal.read_bytes().split(b"\n")
    raw[line] = (
        raw[line].replace(b'"kind":', b'"kinD":') if line else raw[line].replace(b"3", b"4", 1)
    )
    bench.journal.write_bytes(b"\n".join(raw))
    with pytest.raises(Corrupt) as error:
        bench.go()
    assert f"run.jsonl:{line + 1}" in error.value.evidence
    assert error.value.exit_status == 9


def test_a_line_taken_out_or_swapped_is_noticed(bench):
    bench.go()
    lines = bench.journal.read_bytes().split(b"\n")
    for changed in ([*lines[:4], *lines[5:]], [*lines[:4], lines[5], lines[4], *lines[6:]]):
        with pytest.raises(Corrupt):
            read(b"\n".join(changed), "journal")


def test_the_digest_names_every_record(tmp_path):
    journal = Journal(tmp_path / "a", JumpClock())
    assert journal.digest == "sha256:" + GENESIS
    journal.append("run", a=1)
    one = journal.digest
    journal.append("run", a=1)
    assert journal.digest != one
    journal.close()


def test_an_interrupted_write_leaves_no_half_record(tmp_path, monkeypatch):
    """Ctrl-C in the middle of a write: the record is not there, and the next one chains."""
    journal = Journal(tmp_path / "a", JumpClock())
    journal.append("run", a=1)
    real = os.fsync

    def interrupted(handle):
        monkeypatch.setattr(os, "fsync", real)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        journal.append("edge", state="armed")
    journal.append("edge", state="reset")
    journal.close()
    records, _ = read((tmp_path / "a").read_bytes(), "")
    assert [r.data for r in records] == [{"a": 1}, {"state": "reset"}]
