"""The release verbs as a person types them: what they print, where, and how they end."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from record import CANARY, HIL, POLICY, SIM, SUITE, Record
from said import Said

from ci.cli.main import main
from policies.contract import Contract, parse_contract
from policies.formats.native import Network, save
from registry.blobs.folder import FolderBlobs
from registry.home import Home
from registry.versions import VersionRef

pytestmark = pytest.mark.slow

GATES = f"""
sim: {{task: box-grasp, axes: {{friction: [0.5, 1.0]}}, episodes_per_cell: {SIM.episodes_per_cell}}}
hil: {{suite: {HIL.suite}}}
canary: {{ratio: {CANARY.ratio}, waves: [50, 100], wave_baseline: 1/4, bake_episodes: 12}}
"""
JOINTS = [f"right_joint{n}" for n in range(1, 8)] + ["right_gripper"]


Run = Callable[..., Said]


def contract(**changes: Any) -> Contract:
    fields: dict[str, Any] = {
        "schema": "policyctl.contract/1",
        "task": "box-grasp",
        "robot_class": "openarm-v2-right",
        "arms": ["right"],
        "joints": JOINTS,
        "rate_hz": 50,
        "observation": [{"name": "joint_position", "width": 8}],
        "action": {
            "space": "delta", "limit": [0.05] * 8, "ema_alpha": 0.7,
            "low": [-1.0] * 8, "high": [1.0] * 8,
        },
        "memory_mb": 10,
        "load_s": 1.0,
        "latency_ms": 20.0,
    }  # fmt: skip
    return parse_contract(fields | changes)


def write_native(folder: Path, seed: int, **changes: Any) -> Path:
    """A checkpoint that loads: one linear layer."""
    weights = np.random.default_rng(seed).normal(size=(8, 8)).astype(np.float32)
    zeros = np.zeros(8, dtype=np.float32)
    layers = ((weights, zeros),)
    save(folder, contract(**changes), Network(layers, zeros, np.ones(8, dtype=np.float32)))
    return folder


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's repository with a policy folder of their own."""
    folder = tmp_path / "repository" / "policies" / "box_grasp"
    folder.mkdir(parents=True)
    (folder / "gates.yaml").write_text(GATES)
    (folder / HIL.suite).parent.mkdir()
    (folder / HIL.suite).write_text(SUITE)
    (folder / "policy.yaml").write_text(
        "name: box-grasp\ntask: box-grasp\nrobot_class: openarm-v2-right\ncheckpoint: made\n"
    )
    monkeypatch.delenv("POLICYCTL_HOME", raising=False)
    monkeypatch.chdir(folder.parents[1])
    return folder.parents[1]


@pytest.fixture
def run(work: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def typed(*words: str) -> Said:
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        said = capsys.readouterr()
        return Said(int(ended.value.code or 0), said.out, said.err)

    assert typed("init").status == 0
    return typed


@pytest.fixture
def record(run: Run, work: Path, tmp_path: Path) -> Record:
    """The home of `run`, with robots, for what is not typed here."""
    record = Record(tmp_path / "other", robots=0)
    record.registry.close()
    record.home = Home(work / ".policyctl")
    record.registry = record.as_role("admin")
    for n in range(1, 7):
        record.registry.enrol_robot(f"robot-{n:02d}", "openarm-v2-right", {"role": "robot"})
    return record


# -- init, register, list, show --------------------------------------------------------------------


def test_init_again_is_harmless(run: Run, work: Path) -> None:
    said = run("init", "--output", "json")
    assert said.status == 0
    assert said.data["created"] is False
    assert said.data["home"] == str(work / ".policyctl")


def test_without_a_home_every_verb_says_how_to_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("POLICYCTL_HOME", raising=False)
    for words in (["list"], ["status"], ["history"], ["fleet", "list"], ["verify"], []):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 6
        assert "policyctl init" in capsys.readouterr().err


def test_register_says_the_full_name_and_the_same_bytes_again_end_well(
    run: Run, work: Path
) -> None:
    folder = write_native(work / "checkpoint", 1)
    first = run("register", str(folder), "--policy", POLICY, "--commit", "abc")
    assert first.status == 0
    assert "box-grasp v1" in first.out
    again = run("register", str(folder), "--policy", POLICY, "--commit", "def", "--output", "json")
    assert again.status == 0
    assert again.data["created"] is False
    assert again.data["ref"] == "box-grasp v1"
    shown = run("show", "v1", "--output", "json").data
    assert [one["commit"] for one in shown["provenance"]] == ["abc", "def"]


def test_register_takes_a_policy_folder_that_names_its_checkpoint(run: Run, work: Path) -> None:
    write_native(work / "policies" / "box_grasp" / "made", 1)
    said = run("register", str(work / "policies" / "box_grasp"), "--output", "json")
    assert said.status == 0
    assert (said.data["policy"], said.data["number"]) == (POLICY, 1)


def test_register_makes_the_home_that_the_environment_names(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POLICYCTL_HOME", str(work / "fresh"))
    write_native(work / "checkpoint", 1)
    with pytest.raises(SystemExit) as ended:
        main(["register", "checkpoint", "--policy", POLICY])
    assert ended.value.code in (0, None)
    assert (work / "fresh" / "registry.db").is_file()
    assert "box-grasp v1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"task": "pick-place"}, "task"),
        ({"arms": ["left"], "joints": [j.replace("right", "left") for j in JOINTS]}, "arms"),
        ({"joints": [*JOINTS[1:], JOINTS[0]]}, "joints"),
        ({"robot_class": "openarm-v9"}, "robot_class"),
    ],
)
def test_a_contract_that_does_not_fit_is_refused_before_anything_is_stored(
    run: Run, work: Path, changes: dict[str, Any], field: str
) -> None:
    folder = write_native(work / "checkpoint", 1, **changes)
    said = run("register", str(folder), "--policy", POLICY)
    assert said.status == 2
    assert field in said.err
    assert run("list", "--output", "json").data["versions"] == []
    assert not list((work / ".policyctl" / "blobs").rglob("*"))


@pytest.mark.parametrize("damage", ["cut", "flip header", "not finite", "pickle"])
def test_a_damaged_checkpoint_is_refused_before_anything_is_stored(
    run: Run, work: Path, damage: str
) -> None:
    folder = write_native(work / "checkpoint", 1)
    path = folder / "policy.safetensors"
    whole = path.read_bytes()
    bad = {
        "cut": whole[:-10],
        "flip header": whole[:20] + b"\xff" + whole[21:],
        "not finite": whole[:-4] + np.float32(np.nan).tobytes(),
        "pickle": b"\x80\x04K\x01.",
    }[damage]
    path.write_bytes(bad)
    said = run("register", str(folder), "--policy", POLICY)
    assert said.status == 2, said.err
    assert "policy.safetensors" in said.err
    assert "Traceback" not in said.err
    assert run("list", "--output", "json").data["versions"] == []


def test_a_wrong_policy_yaml_names_file_line_and_the_nearest_key(run: Run, work: Path) -> None:
    folder = work / "policies" / "box_grasp"
    (folder / "policy.yaml").write_text("name: box-grasp\ntask: t\nrobot_clas: c\n")
    said = run("register", str(folder))
    assert said.status == 2
    assert f"{folder / 'policy.yaml'}:3" in said.err
    assert "did you mean 'robot_class'?" in said.err


def test_a_checkpoint_without_a_policy_asks_for_its_name(run: Run, work: Path) -> None:
    said = run("register", str(write_native(work / "checkpoint", 1)))
    assert said.status == 2
    assert "--policy NAME" in said.err


def test_a_bare_number_names_its_candidates_or_takes_the_folder_one_stands_in(
    run: Run, record: Record, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record.register(1)
    record.register(1, policy="pick-place")
    said = run("show", "v1")
    assert said.status == 2
    assert "box-grasp, pick-place" in said.err
    assert run("show", "v1", "--policy", "pick-place", "--output", "json").data["ref"] == (
        "pick-place v1"
    )
    assert run("show", "pick-place v1").out.startswith("pick-place v1")
    monkeypatch.chdir(work / "policies" / "box_grasp")
    assert run("show", "v1").out.startswith("box-grasp v1")
    assert run("show", "v9").status == 6
    assert run("show", "twelve").status == 2


def test_list_is_data_and_narration_stays_off_stdout(run: Run, record: Record) -> None:
    assert run("list", "--output", "json").data["versions"] == []
    record.register()
    said = run("list")
    assert "box-grasp v1" in said.out
    assert said.err == ""


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


# -- promote, stops, rollback ----------------------------------------------------------------------


def test_promoting_out_of_order_ends_with_5_and_the_next_command(run: Run, record: Record) -> None:
    record.register()
    said = run("promote", "v1", "--stage", "canary")
    assert said.status == 5
    assert "box-grasp v1" in said.err
    assert "policyctl gate run sim 'box-grasp v1'" in said.err


def test_promoting_a_failed_version_ends_with_3_gate_and_numbers(run: Run, record: Record) -> None:
    record.sim(record.register(), successes=40)
    said = run("promote", "v1", "--stage", "canary", "--output", "json")
    assert said.status == 3
    error = said.data["error"]
    assert "sim gate failed" in error["what"]
    assert "40 of 100 episodes" in error["evidence"]


def test_promote_opens_a_rollout_and_the_second_is_refused(run: Run, record: Record) -> None:
    record.ready(), record.ready()
    plan = run("promote", "v1", "--stage", "canary", "--dry-run", "--output", "json").data
    assert (plan["dry_run"], plan["stage"], len(plan["cohort"])) == (True, "hil", 4)
    assert record.registry.rollouts() == []
    said = run("promote", "v1", "--stage", "canary", "--output", "json").data
    assert (said["phase"], said["ref"], said["stage"]) == ("canary", "box-grasp v1", "canary")
    second = run("promote", "v2", "--stage", "canary")
    assert second.status == 5
    assert "already open" in second.err
    assert run("promote", "v2", "--stage", "canary", "--queue").status == 0


def test_stops_need_a_reason_where_it_is_kept(run: Run, record: Record) -> None:
    record.promote(record.ready())
    assert run("abort").status == 2
    assert run("rollback").status == 2
    assert run("promote", "v1", "--stage", "canary", "--override").status == 2
    assert "box-grasp v1" in run("pause", "--reason", "look [here]").out
    assert "policyctl resume" in run("status").out
    assert run("resume").status == 0
    aborted = run("abort", "--reason", "no", "--now", "--output", "json").data
    assert aborted["phase"] == "aborted"
    assert run("abort", "--reason", "no").status == 5


def test_rollback_plans_returns_and_has_nothing_left_to_go_back_to(
    run: Run, record: Record
) -> None:
    assert run("rollback", "--policy", POLICY, "--reason", "x").status == 6
    record.to_fleet()
    nothing = run("rollback", "--policy", POLICY, "--reason", "x")
    assert nothing.status == 5
    assert "nothing to go back to" in nothing.err
    record.to_fleet()
    plan = run("rollback", "--reason", "x", "--dry-run", "--output", "json").data
    assert (plan["ref"], plan["from"], len(plan["robots"])) == ("box-grasp v1", 2, 6)
    assert record.told() == {(None, 2)}
    done = run("rollback", "--to", "v1", "--reason", "drops the [red] ones", "--yes")
    assert done.status == 0
    assert "6 robots return to box-grasp v1: drops the [red] ones" in done.out
    assert record.told() == {(None, 1)}
    assert run("rollback", "--to", "v2", "--reason", "x", "--yes").status == 5
    history = run("history", "--policy", POLICY, "--output", "json").data["events"]
    assert history[-1]["reason"] == "drops the [red] ones"


def test_a_viewer_may_look_and_not_touch(
    run: Run, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    record.promote(record.ready())
    monkeypatch.setenv("POLICYCTL_ROLE", "viewer")
    assert run("status").status == 0
    said = run("pause", "--reason", "x")
    assert said.status == 7
    assert "role viewer" in said.err


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


def test_a_full_disk_ends_with_9_and_the_record_whole(run: Run, record: Record, work: Path) -> None:
    record.register()
    folder = write_native(work / "checkpoint", 1)
    code = (
        "import resource, sys\n"
        "from ci.cli.main import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "main(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "register", str(folder), "--policy", POLICY],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 9, done.stderr
    assert "the disk is full" in done.stderr
    assert len(run("list", "--output", "json").data["versions"]) == 1
    assert run("verify").status == 0
    assert record.registry.verify(VersionRef(POLICY, 1)) == []


# -- search, tags, the past, the audit ----------------------------------------------------------


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
    assert run("audit", "verify", "--expect", "nonsense").status == 2
