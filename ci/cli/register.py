"""`policyctl register`: gives a checkpoint its version."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ci.app import home_option, open_registry
from ci.bytes import BytesLine, amount
from ci.cli.refs import version_json, version_ref
from ci.output import emit
from registry.errors import ConfigError, NotFound, UsageError

if TYPE_CHECKING:
    from registry.config import PolicyConfig


@click.command("register")
@click.argument("source")
@click.option("--policy", help="The policy; by default the one of policy.yaml at or above DIR.")
@click.option("--commit", help="The commit that made it.")
@click.option("--dataset", help="The data that it was trained on.")
@click.option("--base", metavar="VERSION", help="The version that this adapter is applied to.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="Files of a source to leave out.")
@click.option("--base-model", help="The version or model that training started from.")
@click.option("--run", help="The training run.")
@click.option("--note", help="Anything else worth keeping.")
def command(
    source: str,
    policy: str | None,
    commit: str | None,
    dataset: str | None,
    base: str | None,
    exclude: tuple[str, ...],
    base_model: str | None,
    run: str | None,
    note: str | None,
) -> None:
    """Give the checkpoint at SOURCE a version.

    SOURCE is a folder that holds the checkpoint, or a policy.yaml that names it; or s3://BUCKET/
    PREFIX, or hf://ORG/NAME@COMMIT. The same files, contract and environment are the same version,
    whoever registers them; where they came from is appended.
    """
    from registry.sources import fetch, is_remote
    from registry.versions import Provenance

    if exclude and not is_remote(source):
        raise UsageError(
            "--exclude is for s3:// and hf://", hint="take the files out of the folder"
        )
    directory = Path.cwd() if is_remote(source) else Path(source)
    config = _config(directory, policy)
    name = policy or (config.name if config else None)
    if name is None:
        raise UsageError(
            "which policy is this a version of?",
            evidence=f"no policy.yaml at or above {directory}",
            hint=f"policyctl register {source} --policy NAME",
        )
    with open_registry(create=True) as registry:
        based_on = version_ref(registry, base, name) if base else None
        with BytesLine("fetched") as line, fetch(source, _cache(), exclude, line.add) as fetched:
            folder = fetched.folder if fetched.origin else _checkpoint(directory, config)
            origin = Provenance(
                commit, dataset, base_model, run, None, _note(note, fetched.excluded),
                fetched.origin or None,
            )  # fmt: skip
            with BytesLine("read") as line:
                done = registry.register(
                    folder,
                    name,
                    origin,
                    environment=_environment(config),
                    check=lambda found: check_checkpoint(found, config, adapter=base is not None),
                    base=based_on,
                    progress=line.add,
                )
        manifest = registry.manifest(done.version.ref)
    record = done.version
    said = "is" if done.created else "is already"
    new = f", {amount(done.written)} of {amount(manifest.size)} new" if done.created else ""
    emit(
        {
            **version_json(record),
            "created": done.created,
            "files": [entry.path for entry in manifest.files],
            "bytes": manifest.size,
            "stored_bytes": done.written,
            "base": manifest.base or None,
            "sandbox_only": manifest.sandbox_only,
            "source": fetched.origin or None,
            "next": f"policyctl gate run sim v{record.number} --policy {record.policy}",
        },
        f"{fetched.origin or folder} {said} [bold]{record}[/] ({record.digest[:19]}…), "
        f"stage {record.stage}{new}",
    )


def _note(note: str | None, excluded: tuple[str, ...]) -> str | None:
    left_out = f"left out: {', '.join(excluded)}" if excluded else None
    return "; ".join(part for part in (note, left_out) if part) or None


def _cache() -> Path:
    """Where what is fetched waits until it is registered."""
    from registry.home import find_home
    from registry.scratch import SOURCES

    return find_home(home_option(), must_exist=False).cache / SOURCES


def _config(directory: Path, policy: str | None) -> PolicyConfig | None:
    """The policy's configuration: beside the checkpoint, in this repository, or none."""
    from registry.config import POLICY_FILE, find_policy, load_policy_yaml

    if (directory / POLICY_FILE).is_file():
        config = load_policy_yaml(directory)
        if policy is not None and policy != config.name:
            raise UsageError(
                f"{directory} is the folder of {config.name}, not of {policy}",
                evidence=str(directory / POLICY_FILE),
                hint="leave --policy out, or name the checkpoint's own folder",
            )
        return config
    starts = [directory, Path.cwd()] if policy else [directory]
    for start in starts:
        try:
            return find_policy(start, policy)
        except NotFound:
            continue
    return None


def _checkpoint(directory: Path, config: PolicyConfig | None) -> Path:
    """The folder of the files: DIRECTORY itself, or what its policy.yaml names."""
    from registry.config import POLICY_FILE

    if not directory.is_dir():
        raise NotFound(
            "no checkpoint there",
            evidence=f"{directory} is not a folder",
            hint="name the folder that holds policy.safetensors and contract.json",
        )
    if config is None or not (directory / POLICY_FILE).is_file():
        return directory
    if config.checkpoint_path is None:
        raise ConfigError(
            "policy.yaml names no checkpoint",
            where=str(directory / POLICY_FILE),
            field="checkpoint",
            hint="add `checkpoint: FOLDER`, or name the checkpoint's folder itself",
        )
    return config.checkpoint_path


def _environment(config: PolicyConfig | None) -> str:
    """The digest of the policy's environment lock, where it has one."""
    from registry.versions import digest_bytes

    if config is None or config.environment is None:
        return ""
    path = config.folder / config.environment
    try:
        return digest_bytes(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"cannot read the environment lock: {error.strerror}",
            where=str(config.folder / "policy.yaml"),
            field=f"environment: {path}",
        ) from None


def check_checkpoint(folder: Path, config: PolicyConfig | None, *, adapter: bool = False) -> None:
    """The policy loads, and its contract fits the robot class and the task it is released for.

    An adapter is no policy without its base: of it only the contract is looked at.
    """
    from policies.contract import ROBOT_CLASSES, read_contract
    from policies.loading import load_policy
    from policies.space import is_space_checkpoint

    if is_space_checkpoint(folder):
        _check_space(folder, config)
        return
    contract = read_contract(folder) if adapter else load_policy(folder).contract
    wanted = config.robot_class if config else contract.robot_class
    if wanted not in ROBOT_CLASSES:
        raise ConfigError(
            f"there is no robot class {wanted!r}",
            where=str(config.folder / "policy.yaml" if config else folder / "contract.json"),
            field="robot_class",
            hint=f"known: {', '.join(sorted(ROBOT_CLASSES))}",
        )
    task = config.task if config else None
    contract.check(ROBOT_CLASSES[wanted], task, where=str(folder / "contract.json"))


def _check_space(folder: Path, config: PolicyConfig | None) -> None:
    """The same of a policy for a Gymnasium task."""
    from policies.loading import load_space_policy

    contract = load_space_policy(folder).contract
    if config is not None:
        contract.check(config.robot_class, config.task, where=str(folder / "contract.json"))
