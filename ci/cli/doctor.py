"""`policyctl doctor`: what this machine can and cannot do, why, and what would change it.

Each check is a function without arguments that returns a `Finding`; a check never raises and never
changes the machine. `missing` findings that a command needs are errors there, not here: doctor's
exit status is 0 unless something every command needs is broken.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from ci.output import emit
from fleet.realtime import Granted, lock_memory, take_priority
from harness.sim import gl
from registry.errors import ServiceFailed


@dataclass(frozen=True)
class Finding:
    """`state` is ok, missing (a feature is off) or broken (nothing works)."""

    name: str
    state: str
    found: str
    hint: str = ""


def _python() -> Finding:
    return Finding("python", "ok", f"{platform.python_version()} on {platform.machine()}")


def _sqlite() -> Finding:
    return Finding("sqlite", "ok", sqlite3.sqlite_version)


def _package(name: str, distribution: str, module: str, extra: str) -> Callable[[], Finding]:
    def check() -> Finding:
        try:
            if find_spec(module) is None:
                raise PackageNotFoundError(distribution)
            return Finding(name, "ok", version(distribution))
        except PackageNotFoundError:
            return Finding(name, "missing", "not installed", f"pip install 'policyctl[{extra}]'")

    return check


def _openarm_model() -> Finding:
    if find_spec("openarm_mujoco") is None:
        return Finding("OpenArm model", "missing", "not installed", "pip install 'policyctl[sim]'")
    from openarm_mujoco import v2

    path = Path(v2.asset_path("openarm_bimanual.xml"))
    if not path.exists():
        return Finding(
            "OpenArm model",
            "missing",
            f"{path} is absent",
            "install into a venv, not with --target",
        )
    return Finding("OpenArm model", "ok", version("openarm-mujoco"))


def _gl() -> Finding:
    if find_spec("mujoco") is None:
        return Finding("rendering", "missing", "needs mujoco", "pip install 'policyctl[sim]'")
    found = gl.working()
    if found:
        return Finding("rendering", "ok", f"{found.backend}, {found.driver}")
    return Finding(
        "rendering",
        "missing",
        f"none of {', '.join(gl.BACKENDS)} renders",
        f"{gl.HINT}; camera policies and pictures in reports need it",
    )


def _socketcan() -> Finding:
    if not hasattr(socket, "PF_CAN"):
        return Finding("SocketCAN", "missing", f"not on {sys.platform}", "twins need none")
    try:
        socket.socket(socket.PF_CAN, socket.SOCK_RAW, socket.CAN_RAW).close()
    except OSError as error:
        return Finding("SocketCAN", "missing", str(error), "modprobe can can_raw; twins need none")
    return Finding("SocketCAN", "ok", "PF_CAN sockets open")


def _cuda() -> Finding:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Finding("CUDA", "missing", "no NVIDIA driver", "policies of the demo need none")
    done = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=30, check=False)
    return Finding("CUDA", "ok" if done.returncode == 0 else "missing", done.stdout.strip()[:80])


def _realtime(ask: Callable[[], Granted]) -> Callable[[], Finding]:
    """A servo process asks the kernel for this: a child asks here, so nothing stays changed."""

    def check() -> Finding:
        if not hasattr(os, "fork"):
            wish = ask.__name__.replace("_", " ")
            return Finding(wish, "missing", f"not on {sys.platform}", "robots run Linux")
        code = (
            "import json; from dataclasses import asdict; from fleet import realtime as r;"
            f"print(json.dumps(asdict(r.{ask.__name__}())))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
        )
        if done.returncode != 0:
            return Finding(ask.__name__, "missing", done.stderr.strip()[-80:])
        got = Granted(**json.loads(done.stdout))
        state = "ok" if got.granted else "missing"
        hint = "" if got.granted else f"a real arm wants {got.hint}"
        return Finding(got.name, state, got.found, hint)

    return check


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    state = "ok" if free > 0.5 else "broken"
    return Finding(
        "disk", state, f"{free:.1f} GB free here", "" if state == "ok" else "free some space"
    )


CHECKS: tuple[Callable[[], Finding], ...] = (
    _python,
    _sqlite,
    _disk,
    _package("mujoco", "mujoco", "mujoco", "sim"),
    _openarm_model,
    _gl,
    _package("python-can", "python-can", "can", "robot"),
    _socketcan,
    _package("torch", "torch", "torch", "train"),
    _cuda,
    _realtime(take_priority),
    _realtime(lock_memory),
)


@click.command(name="doctor")
def command() -> None:
    """What this machine can and cannot do, and why."""
    findings = [check() for check in CHECKS]
    table = Table(box=None, pad_edge=False)
    for column in ("", "what", "found", "to change it"):
        table.add_column(column)
    marks = {"ok": "[green]ok[/]", "missing": "[yellow]missing[/]", "broken": "[red]broken[/]"}
    for finding in findings:
        table.add_row(marks[finding.state], finding.name, Text(finding.found), Text(finding.hint))
    emit({"findings": [asdict(finding) for finding in findings]}, table)
    broken = [finding for finding in findings if finding.state == "broken"]
    if broken:
        raise ServiceFailed(
            f"{broken[0].name} is broken", evidence=broken[0].found, hint=broken[0].hint
        )
