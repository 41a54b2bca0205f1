"""What the acts of `policyctl trust` share: the home's trust, its approvals with keys at hand, and
the end of an act that may wait for signatures (exit status 8)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ci.output import emit
from registry.errors import NotFound, Pending

if TYPE_CHECKING:
    from registry.service import Registry
    from registry.trust.approvals import Approvals
    from registry.trust.authority import Trust

key_option = click.option(
    "--key",
    "places",
    metavar="PLACE",
    multiple=True,
    help="A key to sign with: file:PATH, env:NAME…",
)
file_type = click.Path(exists=True, dir_okay=False, path_type=Path)


def open_approvals(
    registry: Registry,
    places: tuple[str, ...] = (),
    *,
    new: bool = False,
    mending: bool = False,
) -> Approvals:
    """The home's approvals with these keys at hand; `new`: also where robots cannot read them yet;
    `mending`: also where they cannot any more.

    Raises NotFound where trust is not set up, Corrupt where it is lost.
    """
    from registry.trust.home_approvals import HomeApprovals

    home = registry.approvals
    if not new and not (mending and home.begun):
        if registry.trust is not None and not home.on:
            registry.trust.require()  # lost is not the same as never had
        home.require()
    return HomeApprovals(home.folder.parent, home.clock, places).open()


def require_trust(registry: Registry) -> Trust:
    """Raises NotFound where trust is not set up."""
    if registry.trust is None:
        raise NotFound("this home has no trust set up", hint="run `policyctl trust init`")
    return registry.trust


def told(approvals: Approvals, data: dict[str, Any], text: str) -> None:
    """The end of an act that may wait for signatures: exit status 8 where it does."""
    missing = approvals.repository.missing()
    folder = approvals.repository.folder / "drafts"
    data |= {"missing": {one.role: one.left for one in missing}}
    if not missing:
        emit(data, text)
        return
    left = max(one.left for one in missing)
    waits = Pending(
        f"{len(missing)} parts wait for signatures, up to {left} more each",
        evidence=f"drafts in {folder}; robots see nothing of it until then",
        hint="each signer runs `policyctl trust sign --key KEY`",
    )
    emit(data, f"{text} as far as it goes", error=waits)
