"""Bundles with signatures, as a person types them: who signed decides whether a site takes one."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from contract_data import contract_json
from said import Said

from ci.cli.main import main
from policies.contract import parse_contract
from policies.formats.native import Network, save
from registry.bundle import SIGNATURES
from registry.trust.keys import public_key

Run = Callable[..., Said]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    import numpy as np

    monkeypatch.delenv("POLICYCTL_HOME", raising=False)
    monkeypatch.chdir(tmp_path)

    def typed(*words: str) -> Said:
        with pytest.raises(SystemExit) as ended:
            main([*words, "--output", "json"])
        said = capsys.readouterr()
        return Said(int(ended.value.code or 0), said.out, said.err)

    zeros = np.zeros(8, dtype=np.float32)
    layer = (np.ones((8, 11), dtype=np.float32), zeros)
    mean, std = np.zeros(11, dtype=np.float32), np.ones(11, dtype=np.float32)
    save(tmp_path / "made", parse_contract(contract_json()), Network((layer,), mean, std))
    for words in (
        ("init",),
        ("register", "made", "--policy", "box-grasp"),
        ("trust", "key", "release"),
        ("trust", "key", "other"),
        ("export", "v1", "signed.tar", "--key", "file:release"),
        ("export", "v1", "plain.tar"),
    ):
        said = typed(*words)
        assert said.status == 0, said.err + said.out
    return typed


def taken(run: Run, file: str, *words: str) -> Said:
    return run("import", file, "--home", "elsewhere", *words)


def altered(source: str, target: str, change: Callable[[bytes], bytes]) -> None:
    """The bundle with other signatures."""
    with tarfile.open(source) as old, tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as new:
        for member in old:
            stream = old.extractfile(member)
            assert stream is not None
            content = stream.read()
            if member.name == SIGNATURES:
                content = change(content)
                member.size = len(content)
            new.addfile(member, io.BytesIO(content))


def test_a_signed_bundle_is_taken_for_its_signature(run: Run) -> None:
    said = taken(run, "signed.tar", "--signed-by", "other.pub", "--signed-by", "release.pub")
    assert said.status == 0, said.out
    assert said.data["signature_checked"]
    assert said.data["version"] == "v1"


def test_others_signatures_and_none_are_refused_before_anything_is_kept(run: Run) -> None:
    for file, key in (("signed.tar", "other.pub"), ("plain.tar", "release.pub")):
        said = taken(run, file, "--signed-by", key)
        assert said.status == 7
        error = said.data["error"]
        assert "one of" in error["what"] + error["evidence"]
    assert run("list", "--home", "elsewhere").data["versions"] == []


def test_without_asking_import_says_that_nobody_asked(run: Run) -> None:
    said = taken(run, "signed.tar")
    assert said.status == 0
    assert (said.data["signed"], said.data["signature_checked"]) == (True, False)


def test_the_same_version_and_key_make_the_same_bytes(run: Run) -> None:
    assert run("export", "v1", "again.tar", "--key", "file:release").status == 0
    assert Path("again.tar").read_bytes() == Path("signed.tar").read_bytes()


def forgeries() -> dict[str, Callable[[bytes], bytes]]:
    def flipped(raw: bytes) -> bytes:
        said = json.loads(raw)
        (one,) = said["signatures"]
        one["sig"] = one["sig"][:8] + ("A" if one["sig"][8] != "A" else "B") + one["sig"][9:]
        return json.dumps(said).encode()

    def of_something_else(raw: bytes) -> bytes:
        return json.dumps(json.loads(raw) | {"payload": "e30="}).encode()

    def of_another_kind(raw: bytes) -> bytes:
        return json.dumps(json.loads(raw) | {"payloadType": "text/plain"}).encode()

    return {
        "flipped": flipped, "payload": of_something_else, "kind": of_another_kind,
        "nonsense": lambda raw: b"[1]", "empty": lambda raw: b"",
    }  # fmt: skip


@pytest.mark.parametrize("how", list(forgeries()))
def test_a_signature_that_does_not_fit_is_refused(run: Run, how: str) -> None:
    altered("signed.tar", "forged.tar", forgeries()[how])
    said = taken(run, "forged.tar", "--signed-by", "release.pub")
    assert said.status == 9, said.out
    assert said.data["error"]["code"] == "forged"


@pytest.mark.parametrize("broken", ["release", "other"])
@pytest.mark.parametrize("first", ["release", "other"])
def test_of_several_signatures_one_that_fits_is_enough(run: Run, first: str, broken: str) -> None:
    """Where the broken one stands makes no difference, and it counts for nothing."""
    second = "other" if first == "release" else "release"
    keys = ("--key", f"file:{first}", "--key", f"file:{second}")
    assert run("export", "v1", "both.tar", *keys).status == 0
    for known in ("release", "other"):
        assert taken(run, "both.tar", "--signed-by", f"{known}.pub").status == 0
    name = public_key(Path(f"{broken}.pub")).keyid

    def spoil(raw: bytes) -> bytes:
        envelope = json.loads(raw)
        (mine,) = (one for one in envelope["signatures"] if one["keyid"] == name)
        mine["sig"] = envelope["signatures"][mine is envelope["signatures"][0]]["sig"]
        return json.dumps(envelope).encode()

    altered("both.tar", "broken.tar", spoil)
    both = ("--signed-by", "release.pub", "--signed-by", "other.pub")
    assert taken(run, "broken.tar", *both).status == 0
    other = "other" if broken == "release" else "release"
    assert taken(run, "broken.tar", "--signed-by", f"{other}.pub").status == 0
    said = taken(run, "broken.tar", "--signed-by", f"{broken}.pub")
    assert said.status == 9
    assert said.data["error"]["code"] == "forged"
