"""Loading a version by what its files are, from an allow-list of formats.

A format is recognised by content (the files and the format tag in the weights), never by a name the
uploader chose, and never by trying an unpickler: a pickle can run code, so it is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import cast

from policies import Policy, SpacePolicy
from policies.contract import FILE_NAME as CONTRACT_FILE
from registry.errors import ConfigError

FORMATS: dict[str, tuple[frozenset[str], str]] = {
    "native": (frozenset({CONTRACT_FILE, "policy.safetensors"}), "policies.formats.native:load"),
}
"""Format name: the files that make it, and its loader, imported on use."""

UNSAFE_SUFFIXES = frozenset({".pkl", ".pickle", ".joblib", ".dill", ".ckpt", ".pth", ".bin"})


def detect(folder: Path) -> str:
    """Name of the format of a checkpoint folder; ConfigError where there is none we load."""
    if not folder.is_dir():
        raise ConfigError("the checkpoint is not a folder", where=str(folder))
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    unsafe = sorted(name for name in files if Path(name).suffix in UNSAFE_SUFFIXES)
    if unsafe:
        raise ConfigError(
            "the checkpoint holds a pickle, which can run code when it is read",
            where=str(folder),
            field=", ".join(unsafe),
            hint="export the weights as safetensors",
        )
    for name, (needed, _) in FORMATS.items():
        if needed <= files:
            return name
    missing = {name: sorted(needed - files) for name, (needed, _) in FORMATS.items()}
    raise ConfigError(
        "the folder is not a checkpoint in a format that policyctl loads",
        where=str(folder),
        field="; ".join(f"{name} needs {', '.join(files)}" for name, files in missing.items()),
        hint="give the folder that holds contract.json and policy.safetensors",
    )


def load_policy(folder: Path) -> Policy:
    """The policy in a checkpoint folder, checked: contract, tensors, shapes, finite."""
    module, _, function = FORMATS[detect(folder)][1].partition(":")
    loader = cast("Callable[[Path], Policy]", getattr(import_module(module), function))
    return loader(folder)


def load_space_policy(folder: Path) -> SpacePolicy:
    """A policy for a Gymnasium task, which `load_policy` refuses: checked as thoroughly."""
    detect(folder)
    from policies.formats import space

    return space.load(folder)
