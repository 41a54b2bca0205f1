"""PyTorch's archives are taken for a sandbox only, and only as PyTorch writes them."""

from __future__ import annotations

import io
import json
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoints import (
    TENSORS,
    refused,
    write_checkpoint,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from record import POLICY, Record

from registry.backends import Settings, write_settings
from registry.checkpoint import scan
from registry.errors import Refused
from registry.home import Home
from registry.record.actors import Actor
from registry.service import Registry


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint", TENSORS)


WRITE = """
import sys, torch
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(4, 4)
        self.rest = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
        self.register_buffer("scale", torch.ones(4))
    def forward(self, x):
        return self.rest(self.first(x)) * self.scale
model, x = Model().eval(), torch.zeros(2, 4)
plain = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
torch.jit.script(plain).save(sys.argv[1] + "/scripted.pt")
torch.jit.trace(model, x).save(sys.argv[1] + "/traced.pt")
torch.export.save(torch.export.export(model, (x,)), sys.argv[1] + "/exported.pt2")
class Sized(torch.nn.Module):
    def forward(self, seen, *, scale):
        x, many = seen["observation.state"], seen["observation.state"].shape[0]
        with torch.no_grad():
            half = x[: int(many * 0.5)] * scale
        return torch.einsum("bi,bi->b", half, half), {"rows": x.reshape(many // 2, -1)}
seen, some = {"observation.state": torch.zeros(6, 4)}, torch.export.Dim.AUTO
program = torch.export.export(
    Sized(), (seen,), {"scale": torch.ones(4)},
    dynamic_shapes={"seen": {"observation.state": {0: some}}, "scale": {}},
)
assert program._guards_code
torch.export.save(program, sys.argv[1] + "/sized.pt2")
torch.save(model.state_dict(), sys.argv[1] + "/weights.pt")
torch.save(model, sys.argv[1] + "/pickled.pt")
"""


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("archives")
    subprocess.run([sys.executable, "-W", "ignore", "-c", WRITE, str(folder)], check=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scripted.pt", "traced.pt", "exported.pt2", "sized.pt2"])
def test_what_pytorch_writes_is_taken_for_a_sandbox_only(
    folder: Path, archives: Path, tmp_path: Path, name: str
) -> None:
    record = Record(tmp_path)
    plain = record.registry.register(folder, POLICY).version
    (folder / name).write_bytes((archives / name).read_bytes())
    marked = record.registry.register(folder, POLICY).version
    assert not record.registry.manifest(plain.ref).sandbox_only
    assert record.registry.manifest(marked.ref).sandbox_only
    assert record.registry.verify(marked.ref) == []


@pytest.mark.slow
def test_a_site_may_forbid_archives(folder: Path, archives: Path, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    write_settings(home, Settings(archives="forbid"))
    (folder / "scripted.pt").write_bytes((archives / "scripted.pt").read_bytes())
    with Registry.open(home, Actor("tester")) as registry:
        with pytest.raises(Refused, match="takes no TorchScript") as caught:
            registry.register(folder, POLICY)
        assert registry.list_versions() == []
    assert "scripted.pt" in caught.value.evidence


@pytest.mark.slow
@pytest.mark.parametrize("name", ["weights.pt", "pickled.pt"])
def test_pickled_weights_and_modules_are_refused(folder: Path, archives: Path, name: str) -> None:
    (folder / name).write_bytes((archives / name).read_bytes())
    refused(folder, name)


def repack(source: Path, target: Path, change: Callable[[dict[str, bytes]], object]) -> None:
    """The archive with other members, packed as PyTorch packs them."""
    with zipfile.ZipFile(source) as archive:
        members = {one.filename: archive.read(one) for one in archive.infolist()}
    change(members)
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def _reduce(members: dict[str, bytes]) -> None:
    members["scripted/data.pkl"] = b"\x80\x02cposix\nsystem\nX\x02\x00\x00\x00id\x85R."


def _stack_global(members: dict[str, bytes]) -> None:
    members["scripted/data.pkl"] = b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x02id\x85R."


def _in_constants(members: dict[str, bytes]) -> None:
    members["scripted/constants.pkl"] = b"(S'id'\nios\nsystem\n."


def _behind_the_stop(members: dict[str, bytes]) -> None:
    members["scripted/constants.pkl"] += b"cposix\nsystem\n."


def _in_debug(members: dict[str, bytes]) -> None:
    name = next(name for name in members if name.endswith(".debug_pkl"))
    members[name] = b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R."


def _class_that_is_not_its_own(members: dict[str, bytes]) -> None:
    content = members["scripted/data.pkl"]
    members["scripted/data.pkl"] = content.replace(b"c__torch__", b"c__t_rch__")


def _extra(members: dict[str, bytes]) -> None:
    members["scripted/extra/hook.py"] = b"import os"


def _library(members: dict[str, bytes]) -> None:
    members["scripted/data/aotinductor/model/x.so"] = b"\x7fELF"


def _climbs(members: dict[str, bytes]) -> None:
    members["scripted/code/../../../x.py"] = b""


def _second_folder(members: dict[str, bytes]) -> None:
    members["other/data.pkl"] = members["scripted/data.pkl"]


def _no_version(members: dict[str, bytes]) -> None:
    del members["scripted/version"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        _reduce, _stack_global, _in_constants, _behind_the_stop, _in_debug, _library,
        _class_that_is_not_its_own, _extra, _climbs, _second_folder, _no_version,
    ],
)  # fmt: skip
def test_an_archive_that_pytorch_would_not_write_is_refused(
    folder: Path, archives: Path, change: Callable[[dict[str, bytes]], object]
) -> None:
    repack(archives / "scripted.pt", folder / "scripted.pt", lambda members: None)
    scan(folder)
    repack(archives / "scripted.pt", folder / "scripted.pt", change)
    refused(folder, "scripted.pt may not be kept")


MKDIR = "__import__('os').mkdir('made')"
Said = dict[str, Any]


def _payload(path: str, *, use_pickle: object = False) -> Callable[[dict[str, bytes]], object]:
    """A constant that is an entry of its own, with a tensor's description."""

    def change(members: dict[str, bytes]) -> None:
        name = "exported/data/constants/model_constants_config.json"
        weights = json.loads(members["exported/data/weights/model_weights_config.json"])
        like = next(iter(weights["config"].values()))
        said = json.loads(members[name])
        said["config"]["more"] = like | {"path_name": path, "use_pickle": use_pickle}
        members[name] = json.dumps(said).encode()

    return change


def _member(name: str) -> Callable[[dict[str, bytes]], object]:
    return lambda members: members.update({f"exported/{name}": pickle.dumps(print, 2)})


def _objects(said: object) -> list[Said]:
    """Every JSON object below this one."""
    if isinstance(said, list):
        return [found for each in said for found in _objects(each)]
    if isinstance(said, dict):
        return [said, *(found for each in said.values() for found in _objects(each))]
    return []


def _says(key: str, value: object) -> Callable[[dict[str, bytes]], object]:
    """The program, where it says `key` at all, says this there."""

    def change(members: dict[str, bytes]) -> None:
        name = next(name for name in members if name.endswith("/models/model.json"))
        said = json.loads(members[name])
        holders = [one for one in _objects(said) if key in one]
        assert holders
        for one in holders:
            one[key] = value
        members[name] = json.dumps(said).encode()

    return change


def _imports(said: object) -> str:
    """A shape of inputs that makes PyTorch import a module."""
    leaf = {"type": "builtins.dict", "context": json.dumps(said), "children_spec": []}
    return json.dumps([1, leaf])


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        _member("data/constants/opaque_obj_0"), _member("data/constants/custom_obj_0"),
        _member("data/weights/model.pt"), _member("data/constants/model.pt"),
        _member("data/weights/weight_x"), _member("extra/hook.py"),
        _member("data/aotinductor/model/x.so"),
        _payload("opaque_obj_0"), _payload("custom_obj_0"), _payload("../weights/weight_0"),
        _payload("tensor_0", use_pickle=True), _payload("tensor_0", use_pickle=None),
        _payload("weight_0"),
    ],
)  # fmt: skip
def test_what_pytorch_would_unpickle_of_a_program_is_refused(
    folder: Path, archives: Path, change: Callable[[dict[str, bytes]], object]
) -> None:
    """Whatever its entry says: PyTorch goes by the name."""
    repack(archives / "exported.pt2", folder / "policy.pt2", _payload("tensor_0"))
    scan(folder)
    repack(archives / "exported.pt2", folder / "policy.pt2", change)
    refused(folder, "policy.pt2 may not be kept")


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        _says("expr_str", MKDIR), _says("expr_str", "Symbol('s0').__class__"),
        _says("expr_str", "sympify('s0')"), _says("expr_str", "[Integer(1) for s1 in s2]"),
        _says("guards_code", [MKDIR]), _says("guards_code", ["L['x'].tofile('made') == 1"]),
        _says("guards_code", ["1 == 1\n"]), _says("guards_code", ["L['\"'].size()[0] == 1"]),
        _says("target", "torch.os.mkdir"), _says("target", "torch.ops.load_library.__call__"),
        _says("target", "_operator.methodcaller"), _says("as_name", f"x={MKDIR}"),
        _says("forward_arg_names", [f"x={MKDIR}"]), _says("name", f'x"]; {MKDIR}'),
        _says("tensor_values", {"metadata": {"sizes": [{"as_expr": {"expr_str": MKDIR}}]}}),
        _says("custom_obj_values", {"metadata": {"name": MKDIR, "class_fqn": ""}}),
        _says("in_spec", _imports([{"__enum__": True, "fqn": "this:x", "name": "x"}])),
        _says("out_spec", _imports({"default_factory_module": "this"})),
        _says("in_spec", _imports([f"x={MKDIR}"])), _says("in_spec", "[" * 100_000),
    ],
)  # fmt: skip
def test_a_program_that_pytorch_would_make_other_code_of_is_refused(
    folder: Path, archives: Path, change: Callable[[dict[str, bytes]], object]
) -> None:
    """It evaluates sizes and guards, writes names into code, imports and looks up what is named."""
    repack(archives / "sized.pt2", folder / "policy.pt2", change)
    refused(folder, "policy.pt2 may not be kept: models/model.json")


@pytest.mark.slow
@pytest.mark.parametrize(
    "at", [-98 + 24, -98 + 32, -98 + 40, -98 + 48, -42 + 8, -22 + 10, -22 + 16]
)
def test_a_zip_in_which_another_reader_finds_another_directory_is_refused(
    folder: Path, archives: Path, at: int
) -> None:
    """Counts, length and place of the directory, at its end and in the record of large zips."""
    content = bytearray((archives / "exported.pt2").read_bytes())
    (folder / "policy.pt2").write_bytes(content)
    scan(folder)
    place = len(content) + at
    struct.pack_into("<H", content, place, (content[place] + 1) % 256)
    (folder / "policy.pt2").write_bytes(content)
    refused(folder, "policy.pt2 may not be kept")


@pytest.mark.slow
def test_a_member_with_two_names_is_refused(folder: Path, archives: Path) -> None:
    with (
        zipfile.ZipFile(archives / "exported.pt2") as source,
        zipfile.ZipFile(folder / "policy.pt2", "w") as made,
    ):
        for one in source.infolist():
            named = zipfile.ZipInfo(one.filename)
            named.extra = struct.pack("<HHBL", 0x7075, 5, 1, 0)
            made.writestr(named, source.read(one))
    refused(folder, "written in an unusual way")


@pytest.mark.slow
@pytest.mark.parametrize("change", ["before", "behind", "bomb", "doubled", "cut"])
def test_a_zip_that_is_more_or_less_than_an_archive_is_refused(
    folder: Path, archives: Path, change: str
) -> None:
    whole = (archives / "scripted.pt").read_bytes()
    path = folder / "scripted.pt"
    if change == "before":
        path.write_bytes(b"\x80\x02." + whole)
    elif change == "behind":
        path.write_bytes(whole + b"cposix\nsystem\n.")
    elif change == "cut":
        path.write_bytes(whole[:-30])
    else:
        with (
            zipfile.ZipFile(archives / "scripted.pt") as source,
            zipfile.ZipFile(path, "w") as made,
        ):
            for one in source.infolist():
                made.writestr(one.filename, source.read(one))
            if change == "bomb":
                packed = zipfile.ZIP_DEFLATED
                made.writestr("scripted/code/x.py", bytes(200 << 20), compress_type=packed)
            else:
                with pytest.warns(UserWarning, match="Duplicate"):
                    made.writestr("scripted/version", b"3\n")
    refused(folder, "scripted.pt may not be kept")


@pytest.mark.slow
@settings(max_examples=150)
@given(data=st.data())
def test_an_archive_spoiled_anywhere_never_lets_a_foreign_name_in(
    archives: Path, data: st.DataObject
) -> None:
    """Whatever passes still names nothing but what is allowed, as Python's own tools read it."""
    import pickletools

    from registry.archives import _GLOBALS, _OWN_CLASS, check_archive

    content = bytearray((archives / "scripted.pt").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        check_archive(io.BytesIO(content), len(content), ".pt")
    except ValueError:
        return
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for one in archive.infolist():
            if one.filename.endswith("pkl"):
                try:
                    read = list(pickletools.genops(archive.read(one)))
                except (ValueError, zipfile.BadZipFile):
                    continue
                named = {str(word) for code, word, _ in read if code.name == "GLOBAL"}
                assert all(word in _GLOBALS or _OWN_CLASS.fullmatch(word) for word in named)
