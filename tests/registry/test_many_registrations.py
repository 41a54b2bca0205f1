"""Sixteen who register at once: version numbers have no gap, none is given twice."""

from __future__ import annotations

import multiprocessing
import threading
from pathlib import Path
from typing import Any

import pytest
from record import POLICY, Record, write_files

from registry.home import Home
from registry.service import Actor, Registry
from registry.versions import Provenance

MANY = 16
EACH = 3
SHARED = 1000  # everyone registers these bytes, too


def _register(home: Home, folder: Path, who: int, found: Any) -> None:
    """A few checkpoints of one's own, and one that all have; tells (seed, number, created)."""
    try:
        with Registry.open(home, Actor(f"p{who}")) as registry:
            for seed in (*(who * EACH + n + 1 for n in range(EACH)), SHARED):
                made = write_files(folder / f"{who}-{seed}", seed)
                done = registry.register(made, POLICY, Provenance(commit=f"c{seed}"))
                found.put((seed, done.version.number, done.created))
    except BaseException as error:  # noqa: BLE001 the test reads it
        found.put(error if isinstance(error, Exception) else repr(error))


def check(record: Record, found: list[Any]) -> None:
    assert [one for one in found if not isinstance(one, tuple)] == []
    numbers: dict[int, set[int]] = {}
    for seed, number, _ in found:
        numbers.setdefault(seed, set()).add(number)
    assert all(len(given) == 1 for given in numbers.values()), "one content, two numbers"
    given = sorted(number for one in numbers.values() for number in one)
    assert given == list(range(1, MANY * EACH + 2)), "a gap, or a number given twice"
    assert sum(created for _, _, created in found) == len(numbers)
    stored = record.registry.list_versions()
    assert [one.number for one in stored] == given
    assert len({one.digest for one in stored}) == len(stored)
    assert record.registry.verify(stored[-1].ref) == []
    registered = [e for e in record.registry.audit_log() if e.action == "register"]
    assert sorted(e.subject for e in registered) == sorted(str(one) for one in stored)
    record.registry.verify_audit()


@pytest.mark.slow
def test_sixteen_threads(tmp_path: Path, database: str | None) -> None:
    import queue

    record = Record(tmp_path, database=database)
    found: queue.Queue[Any] = queue.Queue()
    workers = [
        threading.Thread(target=_register, args=(record.home, tmp_path / "made", n, found))
        for n in range(MANY)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    check(record, list(found.queue))


@pytest.mark.slow
def test_sixteen_processes(tmp_path: Path, database: str | None) -> None:
    record = Record(tmp_path, database=database)
    context = multiprocessing.get_context("spawn")
    found = context.Queue()
    workers = [
        context.Process(target=_register, args=(record.home, tmp_path / "made", n, found))
        for n in range(MANY)
    ]
    for worker in workers:
        worker.start()
    told = [found.get(timeout=280) for _ in range(MANY * (EACH + 1))]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    check(record, told)
