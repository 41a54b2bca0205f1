"""`policyctl replay`: one simulated episode again, from its key."""

from __future__ import annotations

from pathlib import Path

import click

from ci.app import open_registry
from ci.cli.refs import policy_option, version_ref
from ci.output import emit
from registry.errors import UsageError


@click.command("replay")
@click.argument("key")
@click.option("--version", "version", required=True, help="The version whose episode it is.")
@policy_option
@click.option("--suite", help="The suite that it was played in, where it is not the gate itself.")
@click.option("--video", type=click.Path(dir_okay=False, path_type=Path), help="Film it (MP4).")
@click.option("--mcap", type=click.Path(dir_okay=False, path_type=Path), help="Log it (MCAP).")
def command(
    key: str,
    version: str,
    policy: str | None,
    suite: str | None,
    video: Path | None,
    mcap: Path | None,
) -> None:
    """Play the episode KEY of a version's last sim verdict again, bit for bit."""
    from ci.sim.replay import replay_episode

    for path, kind in ((video, ".mp4"), (mcap, ".mcap")):
        if path is not None and not (path.parent.is_dir() and path.suffix == kind):
            raise UsageError(
                f"{path} is no place for a {kind} file",
                evidence="its folder is not there"
                if path.suffix == kind
                else f"it ends in {path.suffix or 'nothing'}",
                hint=f"name a file in a folder that exists, such as episode{kind}",
            )
    with open_registry() as registry:
        ref = version_ref(registry, version, policy)
        found = replay_episode(registry, ref, key, suite=suite, video=video, mcap=mcap)
    record = found.result.record
    ended = "success" if record.success else f"failure, {record.failure_mode}"
    lines = [
        f"[bold]{found.version}[/] {key}: {ended} after {record.steps} steps",
        f"  {found.result.words}" + (f"; {found.log.words}" if found.log else ""),
    ]
    if record.detail:
        lines.append(f"  {record.detail}")
    lines += [f"  {file}" for file in found.files]
    emit(found.to_json(), "\n".join(lines))
