"""A draft that is carried to the machine where a key is kept, signed there, and carried back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tuf.api.metadata import Metadata
from tuf.api.serialization import DeserializationError

from registry.errors import Corrupt
from registry.storage import disk_errors, write_whole
from registry.trust.keys import Signer
from registry.trust.signers import add_signature


def read_draft(file: Path) -> Metadata[Any]:
    """Raises Corrupt for what is no TUF metadata."""
    try:
        return Metadata.from_bytes(file.read_bytes())
    except (DeserializationError, OSError) as wrong:
        raise Corrupt("that is no draft", evidence=f"{file}: {wrong}") from wrong


def sign_draft(file: Path, draft: Metadata[Any], signers: Sequence[Signer]) -> None:
    """Adds these signatures to the file."""
    for signer in signers:
        add_signature(draft, signer)
    with disk_errors(file):
        write_whole(file, draft.to_bytes())
