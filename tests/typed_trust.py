"""A home whose trust is set up by typing: its people, their keys, and what they do."""

from __future__ import annotations

from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
from said import Run, Said
from scripted_policies import write_checkpoint
from trust import Line
from world import judge_hil, judge_sim

from registry.home import Home
from registry.service import Actor, Registry
from registry.trust.client import TrustClient
from registry.versions import Provenance, VersionRef

ROOT_PEOPLE, APPROVERS = ("anna", "ben", "cleo"), ("dora", "emil", "fay")
GATES = """
sim: {not_applicable: "tried in the lab"}
hil: {not_applicable: "tried in the lab"}
canary: {bake_episodes: 12}
"""


def done(said: Said) -> dict[str, Any]:
    assert said.status == 0, said.err + said.out
    return said.data


def people(run: Run, *names: str) -> None:
    for name in names:
        done(run("trust", "key", f"people/{name}"))


def signing(*names: str) -> list[str]:
    return [word for name in names for word in ("--key", f"file:people/{name}")]


def hardening() -> list[str]:
    roots = [word for name in ROOT_PEOPLE for word in ("--root", f"people/{name}.pub")]
    approvers = [word for name in APPROVERS for word in ("--approver", f"people/{name}.pub")]
    return ["trust", "harden", *roots, *approvers]


def hardened(run: Run) -> None:
    done(run("trust", "init"))
    people(run, *ROOT_PEOPLE, *APPROVERS)
    assert run(*hardening()).status == 8
    assert run("trust", "sign", *signing("anna", "ben")).status == 8
    done(run("trust", "sign", *signing("dora", "emil")))


def tried(folder: Path) -> VersionRef:
    """A registered version that has passed simulation and the lab, and a robot for it."""
    with Registry.open(Home(folder / ".policyctl"), Actor("test")) as registry:
        registry.enrol_robot("robot-01", "openarm-v2-right")
        count = len(registry.list_versions("box-grasp"))
        made = write_checkpoint(folder / f"made-{count}", 0.9, load_s=1.0 + count)
        ref = registry.register(made, "box-grasp").version.ref
        judge_sim(registry, ref)
        judge_hil(registry, ref)
        (folder / "gates.yaml").write_text(GATES)
        return ref


def opened(folder: Path) -> Registry:
    return Registry.open(Home(folder / ".policyctl"), Actor("test"))


def registered(folder: Path, registry: Registry) -> VersionRef:
    made = write_checkpoint(folder / f"made-{len(registry.list_versions())}", 0.9)
    origin = Provenance(run="wandb://team/box/7ab", dataset="hf://datasets/team/boxes@0a1b")
    return registry.register(made, "box-grasp", origin).version.ref


def promote(run: Run, ref: VersionRef, *words: str) -> Said:
    return run("promote", str(ref), "--stage", "canary", "--gates", "gates.yaml", *words)


def robot(folder: Path) -> TrustClient:
    vault = folder / ".policyctl" / "trust"
    anchor = (vault / "metadata" / "1.root.json").read_bytes()
    return TrustClient(folder / "robot", Line(vault), anchor)


def keys_of(run: Run, role: str) -> list[str]:
    roles = done(run("trust", "status"))["roles"]
    return next([key["key"] for key in one["keys"]] for one in roles if one["role"] == role)


def name_of(run: Run, person: str) -> str:
    from registry.trust.keys import public_key

    return public_key(Path(f"people/{person}.pub")).keyid


def killed_at(monkeypatch: pytest.MonkeyPatch, place: str, calls: int = 0) -> None:
    """From now on the process dies at `place`, after so many whole calls of it."""
    whole, left = resolve_name(place), [calls]

    def dies(*given: Any, **named: Any) -> Any:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        return whole(*given, **named)

    monkeypatch.setattr(place, dies)
