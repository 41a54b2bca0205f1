"""What the record tells whoever asks, as a person types it: found, shown, verified, audited."""

from __future__ import annotations

import pytest
from record import POLICY, Record
from said import Run
from sqlalchemy import Update, update

from registry.blobs.folder import FolderBlobs
from registry.ledger.tables import policies, versions

pytestmark = pytest.mark.slow


# -- verify ----------------------------------------------------------------------------------------


def test_verify_finds_a_tampered_file_and_a_tampered_verdict(run: Run, record: Record) -> None:
    ref = record.ready()
    assert run("verify", "v1").status == 0
    assert run("verify", "--output", "json").data["verdicts"] == 2
    weights = record.registry.manifest(ref).files[1]
    path = FolderBlobs(record.home.blobs).path(weights.tensors[0].sha256)
    path.chmod(0o644)
    path.write_bytes(b"other weights")
    said = run("verify", "v1")
    assert said.status == 9
    assert "policy.safetensors" in said.err


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (update(versions).where(versions.c.number == 1).values(stage="fleet"),
         "box-grasp v1: its stage is fleet, in the audit it is hil"),
        (update(versions).where(versions.c.number == 2).values(stage="hil"),
         "box-grasp v2: its stage is hil, in the audit it is registered"),
        (update(versions).where(versions.c.number == 2).values(stage="moon"),
         "'moon' is not a valid Stage"),
        (update(versions).where(versions.c.number == 1).values(manifest="{"), "manifest '{': "),
        (update(versions).where(versions.c.number == 1).values(manifest="[]"), "manifest '[]': "),
        (update(policies).values(next_number=2), "its next version would be v2, its last is v2"),
        (update(policies).values(next_number=7), "its next version would be v7, its last is v2"),
    ],
    ids=["v1", "v2", "no stage", "no JSON", "no manifest", "lowered", "raised"],
)  # fmt: skip
def test_verify_holds_stages_and_numbers_against_the_audit(
    run: Run, record: Record, edit: Update, said: str
) -> None:
    record.ready()
    record.register()
    assert run("verify").status == 0
    with record.registry._ledger.write() as connection:
        connection.execute(edit)
    ended = run("verify")
    assert ended.status == 9
    assert said in ended.err


# -- status, fleet, history ------------------------------------------------------------------------


def test_status_shows_what_runs_where_and_what_is_under_way(run: Run, record: Record) -> None:
    assert run().status == 0
    record.to_fleet()
    opened = record.promote(record.ready())
    record.round({1: 1.0, 2: 1.0})
    record.registry.heartbeat("robot-01", 1, 0, {})
    data = run("status", "--policy", POLICY, "--output", "json").data
    assert (data["phase"], data["rollout"], data["ref"]) == ("canary", opened.id, "box-grasp v2")
    assert data["policies"][0]["running"] == {"nothing": 5, "v1": 1}
    text = run("status").out
    assert "the fleet's version: box-grasp v1" in text
    assert "box-grasp v2 canary against v1: 4 of 6 robots exposed" in text


def test_status_watch_ends_when_nothing_is_under_way(run: Run, record: Record) -> None:
    record.to_fleet()
    said = run("status", "--watch")
    assert said.status == 0
    assert "box-grasp v1" in said.out


def test_fleet_list_names_every_robot_and_its_version(run: Run, record: Record) -> None:
    record.to_fleet()
    record.registry.heartbeat("robot-02", 1, 99, {"state": "idle"})
    data = run("fleet", "list", "--output", "json").data["robots"]
    assert [one["robot"] for one in data] == [f"robot-{n:02d}" for n in range(1, 7)]
    assert [one["up_to_date"] for one in data][:2] == [False, True]
    assert "box-grasp v1" in run("fleet", "list").out


def test_history_says_who_what_and_why(run: Run, record: Record) -> None:
    record.ready()
    events = run("history", "--output", "json").data["events"]
    assert [event["action"] for event in events if event["policy"]] == [
        "register", "verdict", "stage", "verdict", "stage",
    ]  # fmt: skip
    said = run("history", "--limit", "1").out
    assert "sim → hil" in said


# -- search, tags, the past, the audit ----------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [("history",), ("history", "--at", "2026-11-26"), ("status",), ("fleet", "list"), ("report",)],
    ids=" ".join,
)
def test_a_policy_that_is_not_there_is_not_found(
    run: Run, record: Record, words: tuple[str, ...]
) -> None:
    record.register()
    said = run(*words, "--policy", "box-grsap")
    assert said.status == 6
    assert "there is no policy box-grsap" in said.err
    assert "known: box-grasp" in said.err
    assert said.out == ""


def test_versions_are_found_tagged_and_listed_up_to_a_limit(run: Run, record: Record) -> None:
    for _ in range(3):
        record.register()
    assert run("tag", "v2", "demo-day").status == 0
    assert run("tag", "v3", "demo-day").status == 5
    found = run("list", "--tag", "demo-day", "--output", "json").data
    assert [one["number"] for one in found["versions"]] == [2]
    assert run("show", "v2", "--output", "json").data["tags"] == ["demo-day"]
    short = run("list", "--limit", "2")
    assert "box-grasp v1" not in short.out
    assert "1 older ones are not shown" in short.out
    assert run("list", "--limit", "2", "--all").status == 2
    assert run("list", "--commit", "zzz").out == "no version is like that\n"
    assert run("list", "--tag", "").out == "no version is like that\n"
    assert run("tag", "v2", "demo-day", "--remove").status == 0
    assert run("list", "--tag", "demo-day", "--output", "json").data["versions"] == []


def test_history_at_a_date_tells_the_fleet_of_then(run: Run, record: Record) -> None:
    record.register()
    day = "2027-01-15"  # the test clock's day
    then = run("history", "--at", day, "--output", "json").data
    assert then["policies"] == [
        {"policy": "box-grasp", "serving": None, "stages": {"v1": "registered"}, "robots": {}}
    ]
    assert "the fleet ran no version" in run("history", "--at", day).out
    assert "nothing was registered" in run("history", "--at", "2000-01-01").out
    said = run("history", "--at", "yesterday")
    assert said.status == 2
    assert "not a date" in said.err


def test_the_audits_head_can_be_written_down_and_asked_for(run: Run, record: Record) -> None:
    record.register()
    head = run("audit", "verify", "--output", "json").data["head"]
    record.register()
    assert run("audit", "verify", "--expect", head).status == 0
    number, _, digest = head.partition(":")
    other = f"{number}:{digest[::-1]}"
    said = run("audit", "verify", "--expect", other)
    assert said.status == 9
    assert "altered" in said.err


@pytest.mark.parametrize(
    "head",
    ["", "nonsense", " 1:" + "0" * 64, "01:" + "0" * 64, "0:" + "f" * 64, "²:" + "0" * 64,
     "9" * 5000 + ":" + "0" * 64, "1:" + "0" * 64 + "\n"],
)  # fmt: skip
def test_what_is_no_head_of_an_audit_is_never_taken_for_known(
    run: Run, record: Record, head: str
) -> None:
    """An empty one is a variable that a CI job has not set."""
    record.register()
    said = run("audit", "verify", "--expect", head)
    assert said.status == 2
    assert "is not an audit's head" in said.err
    assert "hint: copy it whole from what `policyctl audit verify` printed" in said.err


def test_the_head_of_an_empty_audit_can_be_asked_for(run: Run, record: Record) -> None:
    head = run("audit", "verify", "--output", "json").data["head"]
    record.register()
    assert run("audit", "verify", "--expect", head).status == 0
