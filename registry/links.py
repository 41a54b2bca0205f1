"""Where a person can look at what provenance names: addresses, made from what was written down.

| written                                   | leads to                                      |
|-------------------------------------------|-----------------------------------------------|
| `https://…`, `http://…`                   | itself                                        |
| `hf://org/name@commit`                    | the hub's page of that commit                 |
| `hf://datasets/org/name@commit`           | the same of a data set                        |
| `wandb://entity/project/run`              | the run on Weights & Biases                   |
| `mlflow://host/experiment/run`            | the run on that MLflow server                 |
| `github://owner/name@commit` as commit    | the commit on GitHub                          |

Anything else has no address that could be known here, and gets none. Pure: nothing is asked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote

from registry.versions import Provenance

_REVISION = re.compile(r"(?P<path>[^@]+?)(?:@(?P<revision>[^@]+))?")
HUB, WANDB, GITHUB = "https://huggingface.co", "https://wandb.ai", "https://github.com"


def link_of(text: str) -> str | None:
    """The address that a provenance field leads to."""
    scheme, colon, rest = text.strip().partition("://")
    found = _REVISION.fullmatch(rest)
    if not colon or not rest or any(c.isspace() or ord(c) < 32 for c in rest) or found is None:
        return None
    path, revision = found["path"].strip("/"), found["revision"]
    parts = path.split("/")
    if scheme in ("https", "http"):
        return f"{scheme}://{rest}"
    if scheme == "hf" and len(parts) == (3 if parts[0] == "datasets" else 2):
        tree = f"/tree/{quote(revision)}" if revision else ""
        return f"{HUB}/{quote(path)}{tree}"
    if scheme == "wandb" and len(parts) == 3:
        entity, project, run = map(quote, parts)
        return f"{WANDB}/{entity}/{project}/runs/{run}"
    if scheme == "mlflow" and len(parts) == 3:
        host, experiment, run = parts
        return f"https://{host}/#/experiments/{quote(experiment)}/runs/{quote(run)}"
    if scheme == "github" and len(parts) == 2 and revision:
        return f"{GITHUB}/{quote(path)}/commit/{quote(revision)}"
    return None


def links_of(origin: Provenance) -> Mapping[str, str]:
    """The addresses of a provenance record, by field. What is no text (older programs recorded what
    a bundle said unseen) has none."""
    said = {
        "run": origin.run,
        "dataset": origin.dataset,
        "source": origin.source,
        "base_model": origin.base_model,
        "commit": origin.commit,
    }
    return {
        name: link
        for name, text in said.items()
        if isinstance(text, str) and (link := link_of(text))
    }
