"""The release verbs as a person types them: what they print, where, and how they end."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from record import POLICY, Record
from said import Run

from ci.cli.main import main
from policies.contract import Contract, parse_contract
from policies.formats.native import Network, save
from registry.versions import VersionRef

pytestmark = pytest.mark.slow

JOINTS = [f"right_joint{n}" for n in range(1, 8)] + ["right_gripper"]


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
