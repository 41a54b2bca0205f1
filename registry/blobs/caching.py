"""A folder on this machine between a store elsewhere and whoever reads it.

What is in it can be fetched again: a piece that is damaged or gone there is, once, and whoever asks
never hears of it. So anybody may remove anything from it at any time.
"""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

from registry.blobs.folder import FolderBlobs
from registry.blobs.tensors import problems_of, write_file
from registry.blobs.transfer import transfer
from registry.errors import Corrupt, NotFound
from registry.ports import BlobStore
from registry.versions import FileEntry


def write_cached(store: BlobStore, cache: FolderBlobs, entry: FileEntry, target: Path) -> None:
    """See `write_file`. Its pieces are in `cache` already, if nothing happened to them."""
    try:
        write_file(cache, entry, target)
    except (Corrupt, NotFound):
        for piece, _ in problems_of(cache, entry):
            cache.remove(piece.sha256)
        transfer(store, cache, entry.pieces)
        write_file(cache, entry, target)


def prune(cache: FolderBlobs, needed: Set[str]) -> int:
    """Removes what nothing needs and what killed transfers left; how many."""
    unneeded = [digest for digest in cache.digests() if digest not in needed]
    for digest in unneeded:
        cache.remove(digest)
    return len(unneeded) + cache.sweep()
