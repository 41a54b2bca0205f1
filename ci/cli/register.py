"""`policyctl register`: gives a checkpoint its version."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ci.app import open_registry
from ci.cli.output import emit
from ci.cli.refs import version_json
from registry.errors import ConfigError, NotFound, UsageError

if TYPE_CHECKING:
    from registry.config import PolicyConfig


@click.command("register")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--policy", help="The policy; by default the one of policy.yaml at or above DIR.")
@click.option("--commit", help="The commit that made it.")
@click.option("--dataset", help="The data that it was trained on.")
@click.option("--base-model", help="The version or model that training started from.")
@click.option("--run", help="The training run.")
@click.option("--note", help="Anything else worth keeping.")
def command(
    directory: Path,
    policy: str | None,
    commit: str | None,
    dataset: str | None,
    base_model: str | None,
    run: str | None,
    note: str | None,
) -> None:
    """Give the checkpoint in DIRECTORY a version.

    DIRECTORY holds the checkpoint, or a policy.yaml that names it. The same files, contract and
    environment are the same version, whoever registers them; where they came from is appended.
    """
    from registry.versions import Provenance

    config = _config(directory, policy)
    folder = _checkpoint(directory, config)
    name = policy or (config.name if config else None)
    if name is None:
        raise UsageError(
            "which policy is this a version of?",
            evidence=f"no policy.yaml at or above {directory}",
            hint=f"policyctl register {directory} --policy NAME",
        )
    origin = Provenance(commit, dataset, base_model, run, None, note)
    with open_registry(create=True) as registry:
        done = registry.register(
            folder,
            name,
            origin,
            environment=_environment(config),
            check=lambda found: check_checkpoint(found, config),
        )
        files = [entry.path for entry in registry.manifest(done.version.ref).files]
    record = done.version
    said = "is" if done.created else "is already"
    emit(
        {
            **version_json(record),
            "created": done.created,
            "files": files,
            "next": f"policyctl gate run sim v{record.number} --policy {record.policy}",
        },
        f"{folder} {said} [bold]{record}[/] ({record.digest[:19]}…), stage {record.stage}",
    )


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


def check_checkpoint(folder: Path, config: PolicyConfig | None) -> None:
    """The policy loads, and its contract fits the robot class and the task it is released for."""
    from policies.contract import ROBOT_CLASSES
    from policies.loading import load_policy
    from policies.space import is_space_checkpoint

    if is_space_checkpoint(folder):
        _check_space(folder, config)
        return
    contract = load_policy(folder).contract
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
