"""Our trust client behind the command line that tuf-conformance speaks to (its CLIENT-CLI.md).

`make conformance SUITE=DIR` runs the suite in DIR against it. Nothing here decides anything: both
commands are `registry.trust.client` over `registry.trust.fetcher`, as the agent uses them.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from registry.errors import PolicyctlError
from registry.trust.client import TrustClient
from registry.trust.fetcher import HttpSource


def client(given: argparse.Namespace) -> TrustClient:
    return TrustClient(
        given.metadata_dir,
        HttpSource(),
        None,
        metadata_url=given.metadata_url,
        targets_url=given.target_base_url or "none/",
        metadata_folder=given.metadata_dir,
        targets_folder=given.target_dir,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="policyctl's TUF client under test")
    parser.add_argument("--metadata-url", default="")
    parser.add_argument("--metadata-dir", type=Path, required=True)
    parser.add_argument("--target-name", action="append", default=[])
    parser.add_argument("--target-dir", type=Path)
    parser.add_argument("--target-base-url")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init").add_argument("trusted_root", type=Path)
    commands.add_parser("refresh")
    commands.add_parser("download")
    given = parser.parse_args()
    try:
        if given.command == "init":
            shutil.copyfile(given.trusted_root, given.metadata_dir / "root.json")
        elif given.command == "refresh":
            client(given).refresh()
        else:
            ours = client(given)
            ours.refresh()
            for name in given.target_name:
                ours.file(name)
    except PolicyctlError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
