"""`policyctl report`: what was seen and what it proves, as one self-contained page."""

from __future__ import annotations

import time
from pathlib import Path

import click

from ci.app import open_registry
from ci.output import emit


@click.command(name="report")
@click.option("--policy", help="The policy; the only one there is needs no name.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("report.html"),
    show_default=True,
    help="Where to write the page.",
)
@click.option("--scene/--no-scene", default=True, help="A picture of the scene, where GL works.")
def command(policy: str | None, out: Path, scene: bool) -> None:
    """Write an HTML report of a policy's versions, verdicts and rollouts."""
    from ci.report.html import render
    from ci.report.model import build
    from ci.report.scene import picture
    from registry.storage import disk_errors

    with open_registry() as registry:
        policy = policy or registry.only_policy()
        registry.require_policy(policy)
        report = build(registry, policy, now=time.time(), scene=picture() if scene else "")
    page = render(report)
    with disk_errors(out):
        out.write_text(page, encoding="utf-8")
    emit({"policy": policy, "report": str(out), "bytes": len(page)}, f"{out} ({len(page)} bytes)")
