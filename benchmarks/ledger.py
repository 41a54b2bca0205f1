"""`list`, `show`, search and the audit with 10,000 synthetic versions in a home, beyond start-up.

A home of SQLite is filled with rows as registration writes them: 10 policies, each version with a
manifest of 40 files, its provenance, its climb and its audit event. Then each command runs
in this process, its output discarded, so that neither Python's start nor a terminal is measured.
The reference is what the issue of speed is about: a pause that nobody notices (50 ms).

    benchmarks/ledger.py [--versions N] [--repeats N]
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from shared.figures import line
from sqlalchemy import insert

from ci.cli.main import main as policyctl
from registry.home import Home
from registry.ledger import tables
from registry.record import audit
from registry.record.actors import Actor
from registry.service import Registry
from registry.versions import FileEntry, Manifest

POLICIES = 10
FILES = 40
LIMIT_S = 0.050
COMMANDS = (
    ("list",),
    ("list", "--policy", "policy-3", "--stage", "registered"),
    ("list", "--commit", "c4242"),
    ("list", "--digest", "DIGEST"),
    ("list", "--tag", "tag-7"),
    ("show", "policy-3 v500"),
    ("history", "--policy", "policy-3", "--at", "2030-01-01"),
)


def digest(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def manifest(policy: str, number: int) -> Manifest:
    files = tuple(
        FileEntry(f"part-{i:02d}.safetensors", digest(f"{policy}{number}{i}"), 1 << 20)
        for i in range(FILES)
    )
    return Manifest(policy, files, {"robot_class": "openarm-v2-right", "task": "box-grasp"})


def fill(home: Home, versions: int) -> str:
    """Rows as the record writes them; the digest of one version in the middle."""
    registry = Registry.open(home, Actor("synthetic"))
    each = versions // POLICIES
    picked = ""
    with registry._ledger.write() as connection:
        for p in range(POLICIES):
            policy = f"policy-{p}"
            connection.execute(
                insert(tables.policies).values(
                    name=policy, next_number=each + 1, serving=each, revision=1, created_at=0.0
                )
            )
            rows = [row(policy, number, p * each + number) for number in range(1, each + 1)]
            connection.execute(insert(tables.versions), rows)
            picked = picked or rows[each // 2]["digest"]
            about = [{"policy": policy, "number": r["number"], "at": r["created_at"]} for r in rows]
            origin = [
                {
                    **a,
                    "actor": "ci",
                    "commit": f"c{p}{a['number']}",
                    "record": {"commit": f"c{p}{a['number']}"},
                }
                for a in about
            ]
            connection.execute(insert(tables.provenance), origin)
            climbed = [{**a, "stage": "registered", "actor": "ci", "reason": ""} for a in about]
            connection.execute(insert(tables.climbs), climbed)
            connection.execute(
                insert(tables.tags),
                [{**a, "tag": f"tag-{a['number']}", "actor": "ci"} for a in about],
            )
            for a in about:
                audit.append(
                    connection, at=a["at"], actor=Actor("ci"), action="register",
                    subject=f"{policy} v{a['number']}", policy=policy,
                )  # fmt: skip
    registry.close()
    return picked


def row(policy: str, number: int, at: int) -> dict[str, Any]:
    made = manifest(policy, number)
    return {
        "policy": policy, "number": number, "digest": made.digest,
        "manifest": made.canonical().decode(), "nonce": "0" * 32, "stage": "registered",
        "revision": 1, "created_at": float(at), "created_by": "ci",
        "robot_class": "openarm-v2-right", "task": "box-grasp",
    }  # fmt: skip


def seconds(words: tuple[str, ...], home: Path) -> float:
    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), ended():
        policyctl(["--home", str(home), *words])
    return time.perf_counter() - began


@contextlib.contextmanager
def ended() -> Iterator[None]:
    """A command ends with its exit status; any but 0 is a benchmark that measured an error."""
    try:
        yield
    except SystemExit as status:
        if status.code:
            raise RuntimeError(f"the command ended with {status.code}") from None


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--versions", type=int, default=10_000)
    options.add_argument("--repeats", type=int, default=15)
    given = options.parse_args()
    met = []
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        picked = fill(home, given.versions)
        for words in COMMANDS:
            typed = tuple(picked[7:17] if word == "DIGEST" else word for word in words)
            seconds(typed, home.root)
            took = median(seconds(typed, home.root) for _ in range(given.repeats))
            met.append(
                line(
                    f"milliseconds of `{' '.join(words)}`, {given.versions} versions", took * 1e3,
                    "ms", "a pause nobody notices", LIMIT_S * 1e3, 1.0, less_is_better=True,
                )
            )  # fmt: skip
        with Registry.open(home, Actor("reader")) as registry:
            began = time.perf_counter()
            events = registry.verify_audit().seq
            line("audit events checked", events / (time.perf_counter() - began), "1/s",
                 "events", events)  # fmt: skip
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
