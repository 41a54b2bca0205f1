"""What `--github` adds to a command inside GitHub Actions, from the same dict that it emits.

    outputs      known scalars of the dict, one `name=value` each, appended to $GITHUB_OUTPUT
    summary      markdown, appended to $GITHUB_STEP_SUMMARY
    annotations  `::notice|warning|error …::` lines on stderr, which the runner reads as it does
                 stdout; an error that names `file:line` is shown at that line of the change
    comment      the summary under a hidden mark, written to $RUNNER_TEMP/policyctl-comment.md; and,
                 where a GITHUB_TOKEN is given and the event is a pull request, posted: the comment
                 that carries the mark is changed, so a pull request has one and not one per run

A file that the environment does not name is not written, so `--github` is harmless anywhere; one
that it names and that cannot be written ends a command that did well with exit status 9. Values
come from evidence and from users' files: they are escaped before they meet a workflow command, an
output or markdown. A comment that cannot be posted (a fork's token may only read) is a warning: the
verdict stands without it.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from registry.errors import ConfigError, Inconclusive, PolicyctlError, ServiceFailed

OUTPUTS = (
    "policy",
    "version",
    "ref",
    "number",
    "digest",
    "created",
    "stage",
    "gate",
    "outcome",
    "rollout",
    "phase",
)
MARK = "<!-- policyctl {name} -->"
COMMENT = "policyctl-comment.md"
_MARKS = {"pass": "✅", "fail": "❌", "inconclusive": "❔"}
_LEVELS = {"pass": "notice", "fail": "error", "inconclusive": "warning"}
_TIMEOUT_S = 15.0


def publish(
    data: Mapping[str, Any],
    environ: Mapping[str, str] = os.environ,
    out: IO[str] | None = None,
    *,
    report: str = "",
) -> None:
    """Tells GitHub what a command found. `out` is where annotations go, stderr by default.

    `report` is markdown that says more than the dict does, and takes its place in the summary.
    """
    out = out or sys.stderr
    for name in OUTPUTS:
        if isinstance(data.get(name), str | int):
            _output(environ, name, data[name])
    text = summary(data)
    _append(environ.get("GITHUB_STEP_SUMMARY"), (report or text) + "\n")
    if "outcome" in data:
        level = _LEVELS.get(str(data["outcome"]), "notice")
        out.write(annotation(level, str(data.get("reason", "")), title=_title(data)) + "\n")
    body = MARK.format(name=data.get("policy", "")) + "\n" + text
    if folder := environ.get("RUNNER_TEMP"):
        _write(Path(folder, COMMENT), body, "w")
    if problem := _comment(body, environ):
        out.write(annotation("warning", problem, title="policyctl: no comment") + "\n")


def publish_error(
    error: PolicyctlError, environ: Mapping[str, str] = os.environ, out: IO[str] | None = None
) -> None:
    """Tells GitHub what went wrong, at its file and line where the error knows them."""
    out = out or sys.stderr
    _output(environ, "error", error.code)
    _output(environ, "exit_status", error.exit_status)
    level = "warning" if isinstance(error, Inconclusive) else "error"
    file, line = _place(error, environ)
    message = "\n".join(part for part in (error.what, error.evidence, error.hint) if part)
    out.write(annotation(level, message, title=f"policyctl: {error.code}", file=file, line=line))
    out.write("\n")
    lines = [f"### {_MARKS['fail']} {plain(error.what)}", ""]
    lines += [f"- {plain(part)}" for part in (error.evidence, error.hint) if part]
    _append(environ.get("GITHUB_STEP_SUMMARY"), "\n".join(lines) + "\n")


def annotation(
    level: str, message: str, *, title: str = "", file: str | None = None, line: str | None = None
) -> str:
    """One workflow command. `level` is notice, warning or error."""
    fields = {"file": file, "line": line, "title": title}
    given = ",".join(f"{name}={_property(text)}" for name, text in fields.items() if text)
    return f"::{level} {given}::{_data(message)}"


def summary(data: Mapping[str, Any]) -> str:
    """The dict as markdown: heading, reason, numbers, one table per list, the next command."""
    parts = [f"### {_title(data)}"]
    if data.get("reason"):
        parts.append(plain(data["reason"]))
    facts = {
        name: data[name]
        for name in ("stage", "digest", "rollout", "phase", "more", "seconds", "robot_class")
        if data.get(name) not in (None, "")
    }
    facts |= {name: value for name, value in _mapping(data, "numbers").items() if value is not None}
    if facts:
        parts.append(
            markdown_table(("", ""), [(name, _number(value)) for name, value in facts.items()])
        )
    if modes := _mapping(data, "failure_modes"):
        rows = sorted(modes.items(), key=lambda pair: (-int(pair[1]), pair[0]))
        parts.append(markdown_table(("failure mode", "episodes"), rows))
    for name in ("verdicts", "worst_cells"):
        table = [row for row in data.get(name) or () if isinstance(row, Mapping)]
        if table:
            parts.append(_rows(table))
    if cohort := data.get("cohort"):
        parts.append("Cohort: " + ", ".join(plain(robot) for robot in cohort))
    if data.get("next"):
        parts.append(f"Next: `{plain(data['next'])}`")
    return "\n\n".join(parts) + "\n"


def _title(data: Mapping[str, Any]) -> str:
    words = [plain(data.get("ref") or data.get("policy") or "policyctl")]
    if data.get("gate"):
        words.append(f"· {plain(data['gate'])}")
    if data.get("outcome"):
        words.append(f"· {plain(data['outcome'])}")
    mark = _MARKS.get(str(data.get("outcome", "")))
    return " ".join([mark, *words] if mark else words)


def _mapping(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = data.get(name)
    return value if isinstance(value, Mapping) else {}


def _rows(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = [
        name
        for name, value in rows[0].items()
        if not isinstance(value, Mapping | list) and not str(value).startswith("sha256:")
    ]
    body = []
    for row in rows:
        cells = [_number(row.get(name)) for name in columns]
        if mark := _MARKS.get(str(row.get("outcome", ""))):
            cells[columns.index("outcome")] = f"{mark} {row['outcome']}"
        body.append(cells)
    return markdown_table(columns, body)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(plain(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def plain(text: object) -> str:
    """Text that markdown and HTML leave as it is, on one line."""
    flat = " ".join(str(text).split())
    for mark, instead in (
        ("&", "&amp;"),
        ("<", "&lt;"),
        (">", "&gt;"),
        ("|", "\\|"),
        ("@", "@\u200b"),
    ):
        flat = flat.replace(mark, instead)
    return flat


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _output(environ: Mapping[str, str], name: str, value: object) -> None:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if "\n" in text or "\r" in text:
        # a delimiter that the value cannot contain, so no value can smuggle in a second output
        end = secrets.token_hex(16)
        _append(environ.get("GITHUB_OUTPUT"), f"{name}<<{end}\n{text}\n{end}\n")
    else:
        _append(environ.get("GITHUB_OUTPUT"), f"{name}={text}\n")


def _append(path: str | None, text: str) -> None:
    if path:
        _write(Path(path), text, "a")


def _write(path: Path, text: str, mode: str) -> None:
    """A step that comes later reads it: what it lacks is said."""
    try:
        with path.open(mode, encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ServiceFailed(
            "GitHub is not told: its file cannot be written",
            evidence=f"{path}: {error.strerror or error}",
            hint="see to GITHUB_OUTPUT, GITHUB_STEP_SUMMARY and RUNNER_TEMP, or leave --github out",
        ) from error


def _place(error: PolicyctlError, environ: Mapping[str, str]) -> tuple[str | None, str | None]:
    """File relative to the checkout, and line, of an error about a file."""
    if not isinstance(error, ConfigError):
        return None, None
    file, _, line = error.where.rpartition(":")
    if not line.isdigit():
        file, line = error.where, ""
    root = Path(environ.get("GITHUB_WORKSPACE", "."))
    path = Path(file)
    if path.is_absolute() and path.is_relative_to(root.absolute()):
        file = str(path.relative_to(root.absolute()))
    return file, line or None


def _comment(body: str, environ: Mapping[str, str]) -> str | None:
    """Posts or changes the one comment. Returns why it could not, or None."""
    token, repository = environ.get("GITHUB_TOKEN"), environ.get("GITHUB_REPOSITORY")
    event = environ.get("GITHUB_EVENT_PATH")
    if not (token and repository and event and Path(event).is_file()):
        return None
    try:
        pull = json.loads(Path(event).read_text(encoding="utf-8")).get("pull_request")
    except (OSError, ValueError, AttributeError) as error:
        return f"the comment was not posted: {event}: {error}"
    if not pull:
        return None
    api = environ.get("GITHUB_API_URL", "https://api.github.com")
    base = f"{api}/repos/{repository}/issues"
    mark = body.splitlines()[0]
    try:
        mine = None
        for page in range(1, 11):
            url = f"{base}/{int(pull['number'])}/comments?per_page=100&page={page}"
            comments = _call("GET", url, token)
            mine = next((c for c in comments if str(c["body"]).startswith(mark)), mine)
            if mine or len(comments) < 100:
                break
        if mine:
            _call("PATCH", f"{base}/comments/{int(mine['id'])}", token, {"body": body})
        else:
            _call("POST", f"{base}/{int(pull['number'])}/comments", token, {"body": body})
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"the comment was not posted: {error}"
    return None


def _call(method: str, url: str, token: str, body: Mapping[str, Any] | None = None) -> Any:
    if not url.startswith(("https://", "http://127.0.0.1:", "http://localhost:")):
        raise ValueError(f"{url} is not https")
    request = urllib.request.Request(
        url,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={
            "Accept": "application/vnd.github+json",
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/json",
            "X-GitHub-Api-Version": "2022-11-28",
        },
    )
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as reply:
        return json.load(reply)
