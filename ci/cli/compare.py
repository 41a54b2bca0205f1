"""`policyctl compare`: several versions on the same simulated scenes."""

from __future__ import annotations

import os
from pathlib import Path

import click
from rich.console import Group
from rich.table import Table

from ci.app import open_registry
from ci.cli.finite import FiniteRange
from ci.cli.refs import policy_option, version_ref
from ci.cli.sim_options import hands_options
from ci.output import emit


@click.command("compare")
@click.argument("versions", nargs=-1, required=True)
@policy_option
@click.option("--gates", type=click.Path(exists=True, path_type=Path), help="gates.yaml to use.")
@click.option("--episodes", type=click.IntRange(min=20), default=500, show_default=True)
@click.option("--alpha", type=FiniteRange(0.0001, 0.5), default=0.05, show_default=True)
@hands_options
def command(
    versions: tuple[str, ...],
    policy: str | None,
    gates: Path | None,
    episodes: int,
    alpha: float,
    executor: str,
    workers: int | None,
    address: str | None,
) -> None:
    """Compare two to six VERSIONS in simulation: same scenes, all pairs."""
    from ci.pipeline import find_gates
    from ci.sim.compare import compare
    from ci.sim.contest import Hands

    with open_registry() as registry:
        refs = [version_ref(registry, each, policy) for each in versions]
        found = find_gates(str(refs[0].policy), gates)
        hands = Hands(executor, workers or os.cpu_count() or 1, address)
        done = compare(registry, refs, found, hands=hands, episodes=episodes, alpha=alpha)
    standings, pairs = Table(box=None, pad_edge=False), Table(box=None, pad_edge=False)
    for column in ("version", "success", "episodes"):
        standings.add_column(column)
    for each in done.standings:
        rate = f"{each.successes / each.episodes:.1%}"
        standings.add_row(each.version, rate, str(each.episodes))
    for column in ("pair", "points", "only the first / second", "p (Holm)", ""):
        pairs.add_column(column)
    for pair in done.pairs:
        said = "[bold]different[/]" if pair.different else "not told apart"
        won = f"{pair.first_wins} / {pair.second_wins}"
        name = f"{pair.first} – {pair.second}"
        pairs.add_row(name, f"{pair.points:+.1f}", won, f"{pair.p:.3g}", said)
    foot = f"chance that any pair is called different wrongly: at most {done.alpha:g}"
    emit(done.to_json(), Group(standings, "", pairs, "", foot))
