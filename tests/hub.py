"""A hub on this machine's loopback that speaks as much of Hugging Face's API as reading takes."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

TOKEN = "hf_tester"


@dataclass
class Repository:
    """Files at one commit, and the branches and tags that point to it."""

    files: Mapping[str, bytes]
    commit: str = "0123456789abcdef0123456789abcdef01234567"
    names: tuple[str, ...] = ("main",)
    private: bool = False


@dataclass
class Hub:
    port: int = 0
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)  # METHOD path [range]
    tokens: set[str] = field(default_factory=set)
    bent: set[str] = field(default_factory=set)  # files whose bytes change on the way
    cut: dict[str, int] = field(default_factory=dict)  # files whose next answer ends early

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def fetched(self, name: str) -> list[str]:
        return [one for one in self.requests if one.startswith("GET") and f"/{name}" in one]


@contextmanager
def running() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Quiet."""

        def do_HEAD(self) -> None:
            _answer(hub, self)

        def do_GET(self) -> None:
            _answer(hub, self)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _answer(hub: Hub, request: BaseHTTPRequestHandler) -> None:
    path = urlsplit(request.path).path
    wanted = request.headers.get("Range")
    hub.requests.append(f"{request.command} {path}" + (f" {wanted}" if wanted else ""))
    token = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if token:
        hub.tokens.add(token)
    parts = path.strip("/").split("/")
    if parts[:2] == ["api", "models"]:
        name, rest = "/".join(parts[2:4]), parts[4:]
    else:
        name, rest = "/".join(parts[:2]), parts[2:]
    repository = hub.repositories.get(name)
    if repository is None or (repository.private and token != TOKEN):
        _refuse(request, 401 if repository else 404, "RepoNotFound")
        return
    revision = rest[1] if len(rest) > 1 else "main"
    if revision not in {repository.commit, *repository.names}:
        _refuse(request, 404, "RevisionNotFound")
    elif parts[0] == "api":
        _info(request, name, repository)
    else:
        _file(hub, request, repository, "/".join(rest[2:]))


def _info(request: BaseHTTPRequestHandler, name: str, repository: Repository) -> None:
    siblings = []
    for path, content in repository.files.items():
        about = {"rfilename": path, "size": len(content), "blobId": _git(content)}
        if path.endswith(".safetensors"):
            sha256 = hashlib.sha256(content).hexdigest()
            about["lfs"] = {"sha256": sha256, "oid": sha256, "size": len(content), "pointerSize": 1}
        siblings.append(about)
    body = json.dumps({"id": name, "sha": repository.commit, "siblings": siblings}).encode()
    _send(request, 200, body, {"Content-Type": "application/json"})


def _file(hub: Hub, request: BaseHTTPRequestHandler, repository: Repository, path: str) -> None:
    if path not in repository.files:
        _refuse(request, 404, "EntryNotFound")
        return
    content = repository.files[path]
    headers = {
        "ETag": f'"{_git(content)}"',
        "X-Repo-Commit": repository.commit,
        "Accept-Ranges": "bytes",
    }
    if path in hub.bent:
        content = content[:-1] + bytes([content[-1] ^ 1])
    status, start = 200, 0
    if wanted := request.headers.get("Range"):
        start = int(wanted.removeprefix("bytes=").partition("-")[0])
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        status = 206
    cut = hub.cut.pop(path, None) if request.command == "GET" else None
    _send(request, status, content[start:], headers, cut)


def _git(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _refuse(request: BaseHTTPRequestHandler, status: int, code: str) -> None:
    _send(request, status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})


def _send(
    request: BaseHTTPRequestHandler,
    status: int,
    body: bytes,
    headers: Mapping[str, str],
    cut: int | None = None,
) -> None:
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if request.command == "HEAD":
        return
    request.wfile.write(body if cut is None else body[:cut])
    if cut is not None:
        request.wfile.flush()
        request.close_connection = True
