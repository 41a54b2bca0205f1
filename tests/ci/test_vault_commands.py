"""The vault's verbs as a person types them: stores, sources, diff, bundles, healing, garbage."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from contract_data import contract_json
from hub import Hub, Repository, running
from said import Said

from ci.app import open_registry
from ci.bytes import BytesLine, amount
from ci.cli.main import main
from ci.fetching import checkpoint_of
from policies.contract import parse_contract
from policies.formats.native import Network, save
from registry.blobs.folder import FolderBlobs
from registry.blobs.transfer import Coming
from registry.versions import VersionRef

if TYPE_CHECKING:
    from stores import Seaweed

Run = Callable[..., Said]


def write_native(folder: Path, seed: int, **changes: Any) -> Path:
    """A checkpoint that loads: two linear layers, of which the first is the same for every seed."""
    layers = []
    for n, width in ((0, 11), (seed, 8)):
        weights = np.random.default_rng(n).normal(size=(8, width)).astype(np.float32)
        layers.append((weights, np.full(8, float(n), dtype=np.float32)))
    mean, std = np.zeros(11, dtype=np.float32), np.ones(11, dtype=np.float32)
    save(folder, parse_contract(contract_json() | changes), Network(tuple(layers), mean, std))
    return folder


@pytest.fixture
def bare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    monkeypatch.delenv("POLICYCTL_HOME", raising=False)
    monkeypatch.chdir(tmp_path)

    def typed(*words: str) -> Said:
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        said = capsys.readouterr()
        return Said(int(ended.value.code or 0), said.out, said.err)

    return typed


@pytest.fixture
def run(bare: Run) -> Run:
    """With a home here."""
    assert bare("init").status == 0
    return bare


def data(said: Said) -> dict[str, Any]:
    assert said.status == 0, said.err
    return said.data


def register(run: Run, folder: Path, *words: str) -> dict[str, Any]:
    return data(run("register", str(folder), "--policy", "box-grasp", "--output", "json", *words))


# -- diff and show ---------------------------------------------------------------------------------


def test_diff_says_what_changed(run: Run, tmp_path: Path) -> None:
    first = register(run, write_native(tmp_path / "a", 1))
    second = register(run, write_native(tmp_path / "b", 2, latency_ms=30.0))
    assert first["stored_bytes"] == first["bytes"]
    assert 0 < second["stored_bytes"] < first["bytes"]
    found = data(run("diff", "v1", "v2", "--output", "json"))
    assert found["contract"] == {"latency_ms": {"first": 10.0, "second": 30.0}}
    assert found["tensors"]["changed"]["count"] == 2
    assert found["fetched"]["bytes"] == second["stored_bytes"]
    said = run("diff", "v1", "v2").out
    assert "box-grasp v1 → box-grasp v2" in said
    assert "latency_ms: 10 → 30" in said
    assert "2 changed (288 bytes)" in said
    assert "the same files" in run("diff", "v2", "v2").out


def test_an_adapter_shows_its_base(run: Run, tmp_path: Path) -> None:
    register(run, write_native(tmp_path / "a", 1))
    made = register(run, write_native(tmp_path / "b", 2), "--base", "v1")
    shown = data(run("show", "v2", "--output", "json"))
    assert shown["base"] == {"digest": made["base"], "ref": "box-grasp v1"}
    assert "base        box-grasp v1" in run("show", "v2").out
    assert "base        none →" in run("diff", "v1", "v2").out
    missing = run("register", "b", "--policy", "box-grasp", "--base", "v9")
    assert missing.status == 6


# -- bundles ---------------------------------------------------------------------------------------


def test_a_version_travels_to_another_home(run: Run, tmp_path: Path) -> None:
    made = register(run, write_native(tmp_path / "a", 1), "--commit", "abc")
    done = data(run("export", "v1", "bundle.tar", "--output", "json"))
    assert done["bytes"] == (tmp_path / "bundle.tar").stat().st_size
    there = data(run("import", "bundle.tar", "--home", "site", "--output", "json"))
    assert (there["digest"], there["created"], there["signed"]) == (made["digest"], True, False)
    shown = data(run("show", "v1", "--home", "site", "--output", "json"))
    assert [one["commit"] for one in shown["provenance"]] == ["abc"]
    with open_registry(tmp_path / "site") as site:
        (event,) = site.audit_log()
    assert event.detail["provenance"]["commit"] == "abc", "in one transaction with the version"
    again = run("import", "bundle.tar", "--home", "site")
    assert "is already box-grasp v1" in again.out


def test_a_new_home_is_said_where_a_mistyped_name_may_have_made_it(
    run: Run, tmp_path: Path
) -> None:
    folder = write_native(tmp_path / "a", 1)
    for words in (("register", str(folder), "--policy", "box-grasp"), ("import", "bundle.tar")):
        first = run(*words, "--home", words[0], "--output", "json")
        assert first.err == f"made a new registry in {tmp_path / words[0]}\n"
        assert first.data["ref"] == "box-grasp v1"
        assert run(*words, "--home", words[0]).err == ""
        assert run("export", "v1", "bundle.tar", "--home", words[0]).err == ""
    assert run("list", "--home", "typo").status == 6
    assert not (tmp_path / "typo").exists()


def test_an_adapter_without_its_base_is_refused(run: Run, tmp_path: Path) -> None:
    register(run, write_native(tmp_path / "a", 1))
    register(run, write_native(tmp_path / "b", 2), "--base", "v1")
    assert run("export", "v1", "base.tar").status == 0
    assert run("export", "v2", "adapter.tar").status == 0
    refused = run("import", "adapter.tar", "--home", "site")
    assert refused.status == 5
    assert "its base is not in this registry" in refused.err
    assert run("import", "base.tar", "--home", "site").status == 0
    assert run("import", "adapter.tar", "--home", "site").status == 0


@pytest.mark.parametrize("content", [b"", b"not a tar", bytes(20_000)])
def test_what_is_no_bundle_is_said(run: Run, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    refused = run("import", "x.tar", "--home", "site")
    assert refused.status == 9
    assert "bundle is damaged" in refused.err


def test_another_tar_is_no_bundle(run: Run, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(write_native(tmp_path / "a", 1), "a")
    assert run("import", "x.tar", "--home", "site").status == 9


# -- healing and garbage ---------------------------------------------------------------------------


def test_verify_all_heals_from_the_mirror(bare: Run, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    assert bare("init", "--mirror", str(mirror)).status == 0
    register(bare, write_native(tmp_path / "a", 1))
    blobs = FolderBlobs(tmp_path / ".policyctl" / "blobs")
    for digest in blobs.digests():
        FolderBlobs(mirror).put(blobs.read(digest))
    largest = max(blobs.digests(), key=blobs.size)
    blobs.path(largest).chmod(0o644)
    blobs.path(largest).write_bytes(b"damaged")
    said = bare("verify", "--all", "--output", "json")
    assert len(data(said)["healed"]) == 1
    assert "healed box-grasp v1" in said.err
    assert data(bare("verify", "v1", "--output", "json"))["healed"] == []


def test_verify_of_everything_looks_at_what_no_version_names(run: Run, tmp_path: Path) -> None:
    register(run, write_native(tmp_path / "a", 1))
    blobs = FolderBlobs(tmp_path / ".policyctl" / "blobs")
    path = blobs.path(blobs.put(b"left by a killed registration"))
    path.chmod(0o644)
    path.write_bytes(b"left and rotten")
    for words in (["v1"], ["--policy", "box-grasp"]):
        assert data(run("verify", *words, "--output", "json"))["healed"] == []
    assert len(data(run("verify", "--output", "json"))["healed"]) == 1
    assert not path.exists()


def test_verify_without_a_mirror_names_the_damage_and_registering_repairs(
    run: Run, tmp_path: Path
) -> None:
    folder = write_native(tmp_path / "a", 1)
    register(run, folder)
    blobs = FolderBlobs(tmp_path / ".policyctl" / "blobs")
    tensor = next(digest for digest in blobs.digests() if blobs.size(digest) == 256)
    blobs.path(tensor).chmod(0o644)
    blobs.path(tensor).write_bytes(bytes(256))
    hurt = run("verify")
    assert hurt.status == 9
    assert "policy.safetensors: tensor" in hurt.err
    assert register(run, folder)["stored_bytes"] == 256
    assert run("verify").status == 0


def test_gc_says_what_it_would_do_and_does_it(run: Run, tmp_path: Path) -> None:
    register(run, write_native(tmp_path / "a", 1))
    FolderBlobs(tmp_path / ".policyctl" / "blobs").put(b"nobody's")
    would = data(run("gc", "--grace", "0", "--dry-run", "--output", "json"))
    assert (would["removed"], would["freed_bytes"]) == (1, 8)
    assert "0 blobs removed (0 bytes), 1 marked" in run("gc", "--yes").out
    done = data(run("gc", "--grace", "0", "--yes", "--output", "json"))
    assert (done["removed"], done["marked"]) == (1, 0)
    assert run("verify").status == 0


# -- stores and sources ----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_home_may_keep_its_files_in_a_bucket(
    bare: Run, tmp_path: Path, seaweed: Seaweed, s3_account: None
) -> None:
    url = seaweed.url()
    assert bare("init", "--store", url).status == 0
    assert url in (tmp_path / ".policyctl" / "registry.yaml").read_text()
    register(bare, write_native(tmp_path / "a", 1))
    assert bare("verify").status == 0
    assert not list((tmp_path / ".policyctl" / "blobs").iterdir())
    assert bare("init", "--store", seaweed.url()).status == 5, "a home does not change its store"


@pytest.mark.slow
def test_a_bucket_is_reached_before_a_home_names_it(
    bare: Run, tmp_path: Path, seaweed: Seaweed, s3_account: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    refused = bare("init", "--store", seaweed.url())
    assert refused.status == 7
    assert "credentials" in refused.err
    assert not (tmp_path / ".policyctl").exists()
    assert bare("init", "--store", "ftp://x").status == 2


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_a_checkpoint_of_the_hub_is_registered_with_its_commit(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = files_of(write_native(tmp_path / "a", 1)) | {"train.py": b"import os"}
    with running() as hub:
        hub_environment(hub, tmp_path, monkeypatch)
        hub.repositories["team/box-grasp"] = Repository(there)
        words = ("register", "hf://team/box-grasp@main", "--policy", "box-grasp")
        refused = run(*words)
        assert refused.status == 5
        assert "train.py" in refused.err
        made = data(run(*words, "--exclude", "*.py", "--output", "json"))
    commit = Repository({}).commit
    assert made["source"] == f"hf://team/box-grasp@{commit}"
    (origin,) = data(run("show", "v1", "--output", "json"))["provenance"]
    assert (origin["source"], origin["note"]) == (made["source"], "left out: train.py")
    assert not list((tmp_path / ".policyctl" / "cache" / "sources").iterdir())
    assert register(run, tmp_path / "a")["created"] is False, "the same files, the same version"


def hub_environment(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_TOKEN", raising=False)


def test_exclude_is_for_sources_only(run: Run, tmp_path: Path) -> None:
    write_native(tmp_path / "a", 1)
    assert run("register", "a", "--policy", "box-grasp", "--exclude", "*.md").status == 2


# -- bytes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "said"), [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (14e9, "14.0 GB")]
)
def test_amounts_are_in_decimal_units(size: float, said: str) -> None:
    assert amount(size) == said


class Screen:
    def __init__(self, live: bool) -> None:
        self.text = ""
        self._live = live

    def isatty(self) -> bool:
        return self._live

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        """Nothing waits."""


def test_progress_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ci.bytes.EVERY_S", 0.0)
    for live in (True, False):
        screen = Screen(live)
        with BytesLine("hashed", 2_000_000, screen) as line:  # type: ignore[arg-type]
            line.add(500_000)
            line.at(1_500_000, 3_000_000)
        assert ("hashed 1.5 MB of 3.0 MB" in screen.text) is live
        assert screen.text.endswith("\n") is live


def test_a_checkpoint_that_comes_from_elsewhere_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Elsewhere:
        def materialize(self, ref: VersionRef, target: Path, progress: Coming) -> Path:
            progress(0, 3_000_000)
            progress(1_500_000, 3_000_000)
            return target

    screen = Screen(True)
    monkeypatch.setattr("ci.bytes.EVERY_S", 0.0)
    monkeypatch.setattr("sys.stderr", screen)
    there = checkpoint_of(Elsewhere(), VersionRef("box-grasp", 1), tmp_path)  # type: ignore[arg-type]
    assert there == tmp_path
    assert "fetched 1.5 MB of 3.0 MB" in screen.text
