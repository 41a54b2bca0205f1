"""`policyctl` typed in a folder with a home of its own, for each test of trust."""

from __future__ import annotations

from pathlib import Path

import pytest
from said import Said
from typed_trust import Run

from ci.cli.main import main


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    for name in ("POLICYCTL_HOME", "POLICYCTL_TRUST_KEYS", "POLICYCTL_SIGNER_RUNNER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)

    def typed(*words: str) -> Said:
        with pytest.raises(SystemExit) as ended:
            main([*words, "--output", "json"])
        said = capsys.readouterr()
        return Said(int(ended.value.code or 0), said.out, said.err)

    assert typed("init").status == 0
    return typed
