"""`policyctl sysid`: how one real arm differs from the model, and a scene overlay that says so."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ci.output import emit
from registry.errors import Refused, UsageError

if TYPE_CHECKING:
    from harness.episodes.log import MotionLog
    from harness.sim.sysid import Estimate, Fit, Unknown

MISFIT = 25.0
"""chi2/dof above which the scene, and not the noise, limits the fit."""
GROUPS = ("friction", "damping", "armature", "gains", "latency")


@click.command("sysid")
@click.argument("log", metavar="LOG.mcap", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Write a scene overlay (YAML)."
)
@click.option(
    "--fit",
    "groups",
    default=",".join(GROUPS),
    show_default=True,
    help="What to fit; the rest stays as the model has it.",
)
@click.option(
    "--threads", default=os.cpu_count() or 1, show_default="all cores", type=click.IntRange(1)
)
def command(log: Path, out: Path | None, groups: str, threads: int) -> None:
    """Fit joint friction, damping, armature, gains and command latency to LOG.mcap.

    The log holds joint states and commands of one whole arm at servo rate while it moves freely:
    harness.sim.motion.excitation makes such a motion, and record drives a servo along it. Each
    fitted number comes with its standard error; what the motion does not determine is named and
    stays as the model has it.
    """
    chosen = _groups(groups)
    if out is not None and out.exists():
        raise Refused(
            "the overlay exists already",
            evidence=str(out),
            hint="name another file with --out; an overlay is never overwritten",
        )
    from harness.episodes.log import read_log
    from harness.sim.sysid import fit

    motion = read_log(log)
    found = fit(motion, log, chosen, threads=threads)
    if out is not None:
        _write(out, log, motion, found)
    emit(_as_json(log, out, found), _as_text(out, found))


def _groups(text: str) -> tuple[str, ...]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    unknown = [word for word in words if word not in GROUPS]
    if unknown or not words:
        raise UsageError(
            f"--fit knows no {unknown[0]!r}" if unknown else "--fit names nothing to fit",
            hint=f"of these, with commas between: {','.join(GROUPS)}",
        )
    return tuple(group for group in GROUPS if group in words)


def _write(out: Path, log: Path, motion: MotionLog, found: Fit) -> None:
    from harness.sim.overlay import dump_overlay
    from registry.storage import disk_errors, write_whole

    head = [
        f"Fitted by policyctl sysid to {log.name}: the {found.arm} arm, {motion.time[-1]:.1f} s,",
        f"chi2/dof {found.chi2_dof:.2f}; behind each value its standard error.",
    ]
    if found.left:
        names = ", ".join(unknown.name for unknown in found.left)
        head.append(f"Not determined by this motion, as in the model: {names}")
    notes = {
        change: f"± {e.error:.2g}" + (" (shared)" if e.unknown.shared else "")
        for e in found.estimates
        for change in e.unknown.changes(e.value)
    }
    with disk_errors(out):
        write_whole(out, dump_overlay(found.changes(), notes, "\n".join(head)).encode())


def _unit(unknown: Unknown) -> str:
    if unknown.scaled:
        return "x model"
    return "Nm" if unknown.field == "friction" else "s"


def _as_json(log: Path, out: Path | None, found: Fit) -> dict[str, Any]:
    def told(e: Estimate) -> dict[str, Any]:
        return {
            "parameter": e.unknown.name,
            "unit": _unit(e.unknown),
            "nominal": e.nominal,
            "value": e.value,
            "standard_error": e.error,
            "shared": e.unknown.shared,
        }

    return {
        "log": str(log),
        "arm": found.arm,
        "overlay": None if out is None else str(out),
        "estimates": [told(e) for e in found.estimates],
        "not_determined": [
            {"parameter": unknown.name, "unit": _unit(unknown), "standard_error": error}
            for unknown, error in found.left.items()
        ],
        "chi2_dof": found.chi2_dof,
        "samples": found.samples,
        "singular_values": list(found.singular_values),
        "simulations": found.simulations,
        "seconds": round(found.seconds, 1),
    }


def _as_text(out: Path | None, found: Fit) -> Any:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("parameter")
    for name in ("model", "fitted", "±"):
        table.add_column(name, justify="right")
    table.add_column("unit")
    for e in found.estimates:
        table.add_row(
            e.unknown.name,
            f"{e.nominal:.4f}",
            f"{e.value:.4f}",
            f"{e.error:.4f}",
            _unit(e.unknown) + (", shared" if e.unknown.shared else ""),
        )
    lines = [
        f"{found.arm} arm: chi2/dof {found.chi2_dof:.2f} of {found.samples} samples; "
        f"weakest direction {min(found.singular_values):.1f} (below 1 it would not be determined); "
        f"{found.simulations} simulations, {found.seconds:.1f} s"
    ]
    lines += [
        f"not determined by this motion: {unknown.name} (± {error:.2g} {_unit(unknown)}), "
        "left as the model has it"
        for unknown, error in found.left.items()
    ]
    if found.chi2_dof > MISFIT:
        lines.append(
            "the scene explains this log badly: something touched the arm, or it is another arm"
        )
    if out is not None:
        lines.append(f"overlay: {out}")
    return Group(table, Text("\n".join(lines)))
