"""The record's writer: numbers, verdicts, stages, roles, leases; right and wrong requests."""

import json
import multiprocessing
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record import CLASS, GATES, HIL, POLICY, SIM, FakeClock, Record, write_files

from registry.blobs.folder import FolderBlobs
from registry.checkpoint import scan
from registry.errors import (
    ConfigError,
    Corrupt,
    NotAllowed,
    NotFound,
    Refused,
    ServiceFailed,
    UsageError,
)
from registry.home import Home
from registry.ledger.sqlite import SqliteLedger
from registry.record.actors import RIGHTS, ROLES, Actor
from registry.record.desk import Desk
from registry.record.parts import Parts
from registry.service import Registry
from registry.stages import Stage
from registry.verdicts import Outcome, judge
from registry.versions import Provenance, VersionRef


@pytest.fixture
def record(tmp_path: Path, database: str | None) -> Record:
    return Record(tmp_path, database=database)


# -- registration ----------------------------------------------------------------------------------


def test_the_same_bytes_are_the_same_version_and_provenance_is_appended(record: Record) -> None:
    folder = write_files(record.folder / "c", 1)
    first = record.registry.register(folder, POLICY, Provenance(commit="a"))
    again = record.registry.register(folder, POLICY, Provenance(commit="b", note="retry"))
    same = record.registry.register(folder, POLICY, Provenance(commit="b", note="retry"))
    assert (first.created, again.created, same.created) == (True, False, False)
    assert first.version == again.version == same.version
    commits = [one.provenance.commit for one in record.registry.provenance(first.version.ref)]
    assert commits == ["a", "b"]


def test_other_bytes_contract_environment_or_policy_are_other_versions(record: Record) -> None:
    folder = write_files(record.folder / "c", 1)
    register = record.registry.register
    one = register(folder, POLICY).version
    two = register(folder, POLICY, environment="sha256:" + "1" * 64).version
    (folder / "contract.json").write_text(json.dumps({"robot_class": CLASS, "task": "other"}))
    three = register(folder, POLICY).version
    other = register(folder, "pick-place").version
    assert [v.number for v in (one, two, three)] == [1, 2, 3]
    assert str(other) == "pick-place v1"
    assert len({v.digest for v in (one, two, three, other)}) == 4
    assert len({v.nonce for v in (one, two, three, other)}) == 4


def _register(home: Home, folder: Path) -> None:
    registry = Registry.open(home, Actor("worker"))
    registry.register(folder, POLICY, Provenance(commit=folder.name))
    registry.close()


@pytest.mark.slow
def test_sixteen_processes_registering_at_once_leave_no_gap_and_no_double(record: Record) -> None:
    folders = [write_files(record.folder / f"c{n}", n) for n in range(8)] * 2
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_register, args=(record.home, f)) for f in folders]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert [v.number for v in record.registry.list_versions(POLICY)] == list(range(1, 9))
    assert record.registry.verify_audit().seq == 8


def test_sixteen_threads_registering_at_once_leave_no_gap_and_no_double(record: Record) -> None:
    folders = [write_files(record.folder / f"c{n}", n) for n in range(16)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda folder: record.registry.register(folder, POLICY), folders))
    assert [v.number for v in record.registry.list_versions()] == list(range(1, 17))


def test_the_callers_check_comes_before_anything_is_stored(record: Record) -> None:
    def no(folder: Path) -> None:
        raise ConfigError("does not fit", where=str(folder))

    with pytest.raises(ConfigError, match="does not fit"):
        record.registry.register(write_files(record.folder / "c", 1), POLICY, check=no)
    assert record.registry.list_versions() == []
    assert not [path for path in record.home.blobs.rglob("*") if path.is_file()]


def test_a_checkpoint_may_hold_only_inert_files(record: Record, tmp_path: Path) -> None:
    def refused(name: str, content: bytes) -> Refused:
        folder = write_files(tmp_path / name.replace("/", "-"), 1)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        with pytest.raises((Refused, ConfigError)) as caught:
            record.registry.register(folder, POLICY)
        assert name.split("/")[-1] in str(caught.value)
        return caught.value

    refused("run.py", b"print(1)")
    refused("weights.pt", b"\x80\x04K\x01.")
    refused("extra.safetensors", b"\x80\x04K\x01.")
    refused("note.txt", b"\0binary")
    refused("recipe.json", b"{")
    refused(".hidden.json", b"{}")
    refused("sub/odd name.json", b"{}")
    assert record.registry.list_versions() == []


def test_a_file_nested_without_end_is_refused(record: Record, tmp_path: Path) -> None:
    folder = write_files(tmp_path / "deep", 1)
    (folder / "recipe.json").write_text('{"a":' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(ConfigError, match="not JSON"):
        record.registry.register(folder, POLICY, Provenance())
    assert record.registry.list_versions() == []


def test_links_are_refused_wherever_they_point(record: Record, tmp_path: Path) -> None:
    folder = write_files(tmp_path / "c", 1)
    (folder / "recipe.json").symlink_to("/etc/hostname")
    with pytest.raises(Refused, match="is a link"):
        record.registry.register(folder, POLICY)
    (folder / "recipe.json").unlink()
    (folder / "sub").symlink_to(tmp_path)
    with pytest.raises(Refused, match="is a link"):
        record.registry.register(folder, POLICY)


@settings(max_examples=40)
@given(data=st.data())
def test_a_cut_or_lengthened_weights_file_never_becomes_a_version(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = write_files(tmp_path_factory.mktemp("c"), 1)
    path = folder / "policy.safetensors"
    whole = path.read_bytes()
    keep = data.draw(st.integers(0, len(whole) + 20).filter(lambda n: n != len(whole)))
    path.write_bytes((whole + bytes(20))[:keep])
    with pytest.raises(ConfigError) as caught:
        scan(folder)
    assert str(path) in caught.value.where


def test_overlapping_or_misdescribed_tensors_are_damage(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "c", 1)
    path = folder / "policy.safetensors"
    for header in (
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
         "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}},
        {"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F128", "shape": [2], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}},
        {"a": "what"},
    ):  # fmt: skip
        raw = json.dumps(header).encode()
        path.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(8))
        with pytest.raises(ConfigError, match="damaged"):
            scan(folder)


def test_names_and_folders_that_are_none_are_said(record: Record) -> None:
    folder = write_files(record.folder / "c", 1)
    with pytest.raises(UsageError, match="not a policy's name"):
        record.registry.register(folder, "Box Grasp")
    with pytest.raises(NotFound, match="no checkpoint"):
        record.registry.register(record.folder / "nowhere", POLICY)
    (folder / "contract.json").unlink()
    with pytest.raises(ConfigError, match=r"no contract\.json"):
        record.registry.register(folder, POLICY)


FULL = """
import resource, sys
from pathlib import Path
from registry.errors import ServiceFailed
from registry.home import Home
from registry.service import Actor, Registry
registry = Registry.open(Home(Path(sys.argv[1])), Actor("a"))
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
try:
    registry.register(Path(sys.argv[2]), "box-grasp")
except ServiceFailed as error:
    print(error)
    sys.exit(error.exit_status)
"""


@pytest.mark.parametrize("limit", [0, 60, 4096])
def test_a_full_disk_leaves_the_record_as_it_was(record: Record, limit: int) -> None:
    record.register()
    folder = write_files(record.folder / "big", 7)
    (folder / "notes.txt").write_text("x" * 10_000)
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(record.home.root), str(folder), str(limit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ServiceFailed.exit_status, done.stdout + done.stderr
    assert "disk is full" in done.stdout
    assert len(record.registry.list_versions()) == 1
    assert record.registry.verify(VersionRef(POLICY, 1)) == []
    assert record.registry.verify_audit().seq == 1
    assert record.registry.register(folder, POLICY).version.number == 2


# -- reading and verifying -------------------------------------------------------------------------


def test_materialized_files_are_the_registered_ones(record: Record, tmp_path: Path) -> None:
    ref = record.register(3)
    target = record.registry.materialize(ref, tmp_path / "out")
    for name in ("policy.safetensors", "contract.json"):
        assert (target / name).read_bytes() == (record.folder / "checkpoint-3" / name).read_bytes()


def test_a_tampered_blob_is_corrupt_and_named(record: Record, tmp_path: Path) -> None:
    ref = record.register()
    assert record.registry.verify(ref) == []
    weights = record.registry.manifest(ref).files[1]
    path = FolderBlobs(record.home.blobs).path(weights.tensors[0].sha256)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert any("policy.safetensors" in problem for problem in record.registry.verify(ref))
    with pytest.raises(Corrupt):
        record.registry.materialize(ref, tmp_path / "out")


def test_a_bare_number_is_of_the_only_policy_else_the_candidates_are_named(
    record: Record,
) -> None:
    with pytest.raises(NotFound):
        record.registry.resolve(VersionRef(None, 1))
    record.register(1)
    assert record.registry.resolve(VersionRef(None, 1)) == VersionRef(POLICY, 1)
    record.register(1, policy="pick-place")
    with pytest.raises(UsageError, match="box-grasp, pick-place"):
        record.registry.resolve(VersionRef(None, 1))
    with pytest.raises(NotFound, match="the newest is box-grasp v1"):
        record.registry.version(VersionRef(POLICY, 12))


# -- verdicts and stages ---------------------------------------------------------------------------


def test_passed_gates_lift_the_stage_and_are_kept_with_their_evidence(record: Record) -> None:
    ref = record.register()
    record.sim(ref)
    assert record.registry.version(ref).stage is Stage.SIM
    record.hil(ref)
    record.hil(ref)
    assert record.registry.version(ref).stage is Stage.HIL
    kept = record.registry.verdicts(ref)
    assert [one.verdict.gate for one in kept] == ["sim", "hil"]
    assert [judge(one.gate, one.evidence) for one in kept] == [one.verdict for one in kept]


def test_hil_alone_does_not_lift_past_sim_until_sim_has_passed(record: Record) -> None:
    ref = record.register()
    record.hil(ref)
    assert record.registry.version(ref).stage is Stage.REGISTERED
    record.sim(ref)
    assert record.registry.version(ref).stage is Stage.HIL


def test_a_failed_gate_rejects_and_an_undecided_one_does_not(record: Record) -> None:
    ref = record.register()
    record.sim(ref)
    record.hil(ref, success=3)
    assert record.registry.verdicts(ref)[-1].verdict.outcome is Outcome.INCONCLUSIVE
    assert record.registry.version(ref).stage is Stage.SIM
    weak = record.register()
    record.sim(weak, successes=40)
    assert record.registry.version(weak).stage is Stage.REJECTED
    record.sim(weak)
    assert record.registry.version(weak).stage is Stage.REJECTED


def test_no_verdict_is_recorded_that_its_rule_does_not_give(record: Record) -> None:
    weak, good = record.register(), record.register()
    poor = record.evidence(weak, SIM, successes=40)
    rich = record.evidence(good, SIM, successes=100)
    with pytest.raises(Refused, match="not what the sim gate says"):
        record.registry.record_verdict(weak, SIM, poor, judge(SIM, rich))
    with pytest.raises(Refused, match="not of box-grasp v1"):
        record.registry.record_verdict(weak, SIM, rich, judge(SIM, rich))
    assert record.registry.verdicts(weak) == []


def test_a_result_is_kept_under_what_made_it(record: Record) -> None:
    assert record.registry.cached_result("k") is None
    record.registry.store_result("k", {"episodes": [1, 0]})
    record.registry.store_result("k", {"episodes": [9]})
    assert record.registry.cached_result("k") == {"episodes": [1, 0]}


# -- roles -----------------------------------------------------------------------------------------


def test_every_role_may_do_what_its_rights_say_and_nothing_else(record: Record) -> None:
    for act, allowed in RIGHTS.items():
        for role in ROLES:
            actor = Actor("x", role)
            if role == "admin" or role in allowed:
                actor.require(act)
            else:
                with pytest.raises(NotAllowed):
                    actor.require(act)
    with pytest.raises(UsageError, match="not a role"):
        Actor("x", "boss")


def test_a_viewer_reads_and_changes_nothing(record: Record) -> None:
    ref = record.ready()
    viewer = record.as_role("viewer")
    assert viewer.version(ref).stage is Stage.HIL
    found = record.evidence(ref, HIL, success=20, failure=0)
    for change in (
        lambda: viewer.register(record.folder / "checkpoint-1", POLICY),
        lambda: viewer.promote(ref, Stage.CANARY, GATES),
        lambda: viewer.rollback(POLICY, "why"),
        lambda: viewer.pause(POLICY),
        lambda: viewer.enrol_robot("r", CLASS),
        lambda: viewer.record_verdict(ref, HIL, found, judge(HIL, found)),
        lambda: viewer.acquire_lease("lab", "me", 10.0),
        lambda: viewer.store_result("k", {}),
    ):
        with pytest.raises(NotAllowed, match="role viewer"):
            change()


def test_a_publisher_registers_but_does_not_promote(record: Record) -> None:
    publisher = record.as_role("publisher")
    publisher.register(write_files(record.folder / "p", 5), POLICY)
    with pytest.raises(NotAllowed):
        publisher.promote(VersionRef(POLICY, 1), Stage.CANARY, GATES)


def test_every_change_is_in_the_audit_with_who_and_why(record: Record) -> None:
    ref = record.ready()
    seen = [(event.actor, event.action, event.subject) for event in record.registry.history(POLICY)]
    assert seen == [
        ("tester", "register", str(ref)),
        ("tester", "verdict", str(ref)),
        ("tester", "stage", str(ref)),
        ("tester", "verdict", str(ref)),
        ("tester", "stage", str(ref)),
    ]
    assert record.registry.verify_audit().seq == len(record.registry.audit_log())


# -- leases ----------------------------------------------------------------------------------------


def test_one_holder_moves_the_station_and_the_token_rises(record: Record) -> None:
    registry, clock = record.registry, record.clock
    first = registry.acquire_lease("lab", "ann", 60.0)
    with pytest.raises(Refused, match="by ann"):
        registry.acquire_lease("lab", "bob", 60.0)
    clock.time += 30.0
    first = registry.renew_lease(first, 60.0)
    clock.time += 61.0
    assert registry.lease("lab") is None
    with pytest.raises(Refused, match="lost"):
        registry.renew_lease(first, 60.0)
    second = registry.acquire_lease("lab", "bob", 60.0)
    assert second.token > first.token
    registry.release_lease(first)
    assert registry.lease("lab") == second
    registry.release_lease(second)
    assert registry.acquire_lease("lab", "ann", 60.0).token > second.token


def test_a_holder_that_starts_again_fences_off_its_own_older_token(record: Record) -> None:
    old = record.registry.acquire_lease("lab", "ann", 60.0)
    new = record.registry.acquire_lease("lab", "ann", 60.0)
    with pytest.raises(Refused, match=f"this is token {old.token}"):
        record.registry.renew_lease(old, 60.0)
    record.registry.renew_lease(new, 60.0)


# -- opening ---------------------------------------------------------------------------------------


def test_a_registry_is_not_made_by_looking_for_it(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="policyctl init"):
        Registry.open(Home(tmp_path / "no"), Actor("a"), create=False)
    assert not (tmp_path / "no").exists()


def test_the_facade_takes_any_ledger_and_blobs(tmp_path: Path) -> None:
    ledger, blobs = SqliteLedger(tmp_path / "x.db"), FolderBlobs(tmp_path / "b")
    desk = Desk(ledger, blobs, FakeClock(), Actor("a"))
    with Registry(Parts(desk, mirror=None, approvals=None, archives=True)) as registry:
        assert registry.list_versions() == []


def test_importing_the_service_loads_nothing_heavy() -> None:
    code = (
        "import sys, registry.service; "
        "print({'scipy', 'numpy', 'mujoco', 'torch', 'alembic', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
