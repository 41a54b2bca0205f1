"""Checkpoints on the Hugging Face hub, or a server that speaks its API (`HF_ENDPOINT`).

The revision is resolved to a commit first, and the commit is what is fetched and recorded. A token
comes from `HF_TOKEN` alone, never from a file of the user. A file must have the digest that the hub
lists. The hub's own client fetches; what it resumes by is a chunk of 10 MB.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from registry.blobs.hashing import CHUNK
from registry.errors import Corrupt, NotAllowed, NotFound, ServiceFailed, UsageError
from registry.sources import Fetched, Progress, choose, held
from registry.storage import disk_errors

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

_SOURCE = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
HINT = "written hf://ORG/NAME@COMMIT"
DEFAULT_ENDPOINT = "https://huggingface.co"


def parse_source(source: str) -> tuple[str, str | None]:
    """Repository and revision. Raises UsageError."""
    match = _SOURCE.fullmatch(source)
    if match is None:
        raise UsageError(f"not a repository: {source!r}", hint=HINT)
    return match["repo"], match["revision"]


@contextmanager
def fetch_hub(
    source: str, cache: Path, exclude: tuple[str, ...], progress: Progress | None
) -> Iterator[Fetched]:
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    repo, revision = parse_source(source)
    endpoint = os.environ.get("HF_ENDPOINT", DEFAULT_ENDPOINT)
    token = os.environ.get("HF_TOKEN") or False
    with _hub_errors(source, endpoint):
        api = HfApi(endpoint=endpoint, token=token)
        info: ModelInfo = api.model_info(repo, revision=revision, files_metadata=True)
    commit = str(info.sha)
    listed = {one.rfilename: one for one in info.siblings or ()}
    taken, left = choose(listed, exclude, source)
    name = hashlib.sha256(f"{endpoint}\0{repo}\0{commit}\0{taken}".encode()).hexdigest()[:32]
    folder = cache / name
    with held(folder):
        for each in taken:
            if not _is_there(folder / each, listed[each]):
                with _hub_errors(source, endpoint):
                    hf_hub_download(
                        repo,
                        each,
                        revision=commit,
                        local_dir=folder,
                        endpoint=endpoint,
                        token=token,
                    )
                if not _is_there(folder / each, listed[each]):
                    raise _other_bytes(folder / each)
            if progress is not None:
                progress((folder / each).stat().st_size)
        with disk_errors(folder):
            shutil.rmtree(folder / ".cache", ignore_errors=True)
        yield Fetched(folder, f"hf://{repo}@{commit}", tuple(left))


def _is_there(path: Path, listed: RepoSibling) -> bool:
    """The file has the bytes of the commit: by sha256 where the hub knows it, else by git's own."""
    if not path.is_file() or (listed.size is not None and path.stat().st_size != listed.size):
        return False
    with path.open("rb") as stream:
        if listed.lfs is not None:
            return bool(hashlib.file_digest(stream, "sha256").hexdigest() == listed.lfs.sha256)
        if listed.blob_id is None:
            return True
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        while data := stream.read(CHUNK):
            digest.update(data)
        return bool(digest.hexdigest() == listed.blob_id)


def _other_bytes(path: Path) -> Corrupt:
    """It is deleted, so that a retry fetches it."""
    path.unlink(missing_ok=True)
    return Corrupt(
        "a file is not what the hub says it is",
        evidence=path.name,
        hint="run it again; if it stays, the source is damaged",
    )


@contextmanager
def _hub_errors(source: str, endpoint: str) -> Iterator[None]:
    """What the hub's client raises, as ours."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        HTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError as error:
        raise _not_allowed(source, error) from error
    except LocalEntryNotFoundError as error:  # asked for a file, the hub did not answer
        raise _not_reached(endpoint, error) from error
    except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError) as error:
        raise NotFound(
            "there is no such repository, revision or file on the hub",
            evidence=f"{source} at {endpoint}",
            hint="a private one needs HF_TOKEN",
        ) from error
    except HFValidationError as error:
        raise UsageError(f"not a repository: {source!r}", evidence=str(error), hint=HINT) from error
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code in (401, 403):
            raise _not_allowed(source, error) from error
        raise ServiceFailed(
            "the hub failed",
            evidence=f"{endpoint}: {error}".splitlines()[0],
            hint="run it again; what was fetched is not fetched twice",
        ) from error
    except (HTTPError, ConnectionError, TimeoutError) as error:
        raise _not_reached(endpoint, error) from error


def _not_reached(endpoint: str, error: Exception) -> ServiceFailed:
    return ServiceFailed(
        "the hub was not reached",
        evidence=f"{endpoint}: {error}".splitlines()[0],
        hint="check the network and HF_ENDPOINT; what was fetched is not fetched twice",
    )


def _not_allowed(source: str, error: Exception) -> NotAllowed:
    return NotAllowed(
        "the hub does not let this token read that",
        evidence=f"{source}: {error}".splitlines()[0],
        hint="set HF_TOKEN to one that may",
    )
