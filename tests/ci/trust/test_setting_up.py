"""Trust set up as a person types it: one key at first, then several people's."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typed_trust import Run, done, hardened, people, promote, robot, tried

from registry.home import Home
from registry.service import Actor, Registry

pytestmark = pytest.mark.slow


def test_trust_in_a_minute_with_one_key(run: Run, tmp_path: Path) -> None:
    began = time.monotonic()
    said = done(run("trust", "init"))
    assert time.monotonic() - began < 30
    state = done(run("trust", "status"))
    assert not state["hardened"]
    assert any("trust harden" in nag for nag in state["nags"])
    key = tmp_path / ".policyctl" / "trust" / "keys" / "home.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert Path(said["anchor"]).is_file()
    assert run("trust", "init").status == 5
    ref = tried(tmp_path)
    done(promote(run, ref))
    client = robot(tmp_path)
    client.refresh()
    assert client.find("box-grasp/v1.json") is not None


def test_versions_in_the_fleet_are_approved_by_init(run: Run, tmp_path: Path) -> None:
    ref = tried(tmp_path)
    done(promote(run, ref))
    assert done(run("trust", "init"))["approved"] == ["box-grasp v1"]
    assert done(run("trust", "status"))["approved"] == ["box-grasp/v1.json"]


def test_a_key_from_the_environment(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people(run, "ci")
    monkeypatch.setenv("CI_KEY", (tmp_path / "people" / "ci").read_text())
    done(run("trust", "init", "--key", "env:CI_KEY"))
    done(promote(run, tried(tmp_path)))
    assert not (tmp_path / ".policyctl" / "trust" / "keys").exists()


def test_hardening_waits_for_its_people(run: Run) -> None:
    hardened(run)
    state = done(run("trust", "status"))
    assert state["hardened"]
    assert state["nags"] == []


def test_without_trust_its_commands_say_so(run: Run) -> None:
    for words in (("status",), ("sign",), ("freshen",), ("rotate", "aa"), ("renew",)):
        said = run("trust", *words)
        assert said.status == 6, words
        assert "policyctl trust init" in said.data["error"]["hint"]
    tried(Path.cwd())
    assert run("approve", "v1").status == 6
    assert not Path(".policyctl/trust").exists()


def test_who_is_no_approver_changes_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    done(run("trust", "init"))
    monkeypatch.setenv("POLICYCTL_ROLE", "publisher")
    assert run("trust", "sign").status == 7
    assert run("trust", "drop").status == 7
    assert run("trust", "recover", "aa").status == 7
    assert run("trust", "status").status == 0


def test_acts_of_trust_are_in_the_audit(run: Run, tmp_path: Path) -> None:
    hardened(run)
    with Registry.open(Home(tmp_path / ".policyctl"), Actor("reader")) as registry:
        actions = [event.action for event in registry.audit_log()]
    assert actions == ["trust_init", "trust_harden", "trust_sign", "trust_sign"]


def test_a_home_with_trust_lists_as_lightly_as_before(run: Run, tmp_path: Path) -> None:
    done(run("trust", "init"))
    code = (
        "import sys, json\nfrom ci.cli.main import main\n"
        "try:\n    main(['list'])\nexcept SystemExit: pass\n"
        "print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
        env=dict(os.environ),
    )  # fmt: skip
    heavy = {"tuf", "securesystemslib", "cryptography", "boto3"}
    assert heavy.isdisjoint(json.loads(said.stdout.splitlines()[-1]))
