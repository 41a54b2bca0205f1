"""`--github`: outputs, summary, annotations and the one comment, from the dict a command emits."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ci.cli.main import cli, main
from ci.github import annotation, publish, publish_error, summary
from registry.errors import ConfigError, GateFailed, Inconclusive, PolicyctlError, ServiceFailed

FAILED: dict[str, Any] = {
    "policy": "box-grasp",
    "version": "v2",
    "ref": "box-grasp v2",
    "created": True,
    "gate": "sim",
    "outcome": "fail",
    "reason": "61 of 100 episodes succeeded; the gate wants more than 85 %",
    "numbers": {"mean": 0.61234567, "drawn": 100, "upper": None},
    "failure_modes": {"dropped": 9, "miss_grasp": 30},
    "verdicts": [{"gate": "sim", "outcome": "fail", "reason": "a | b", "numbers": {}}],
    "next": "policyctl gate show box-grasp/v2",
}


class FakeIssues(BaseHTTPRequestHandler):
    """The three calls of GitHub's issue comments that matter here, kept in the server object."""

    server: Any

    def do_GET(self) -> None:
        self._reply(200, self.server.comments)

    def do_POST(self) -> None:
        comment = {"id": len(self.server.comments) + 1, **self._body()}
        self.server.comments.append(comment)
        self._reply(self.server.post_status, comment)

    def do_PATCH(self) -> None:
        number = int(self.path.rsplit("/", 1)[1])
        found = next(c for c in self.server.comments if c["id"] == number)
        found.update(self._body())
        self._reply(200, found)

    def _body(self) -> dict[str, Any]:
        self.server.tokens.append(self.headers["Authorization"])
        body: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        return body

    def _reply(self, status: int, value: object) -> None:
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Keeps the test's output clean."""


@pytest.fixture
def issues() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), FakeIssues)
    server.comments, server.tokens, server.post_status = [], [], 201
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def runner_env(tmp_path: Path) -> dict[str, str]:
    return {
        "GITHUB_OUTPUT": str(tmp_path / "output"),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
        "GITHUB_WORKSPACE": str(tmp_path),
        "RUNNER_TEMP": str(tmp_path),
    }


def on_pull_request(env: dict[str, str], issues: Any, tmp_path: Path) -> dict[str, str]:
    event = tmp_path / "event.json"
    event.write_text(json.dumps({"pull_request": {"number": 7}}))
    return {
        **env,
        "GITHUB_TOKEN": "token-of-this-run",
        "GITHUB_REPOSITORY": "acme/robots",
        "GITHUB_EVENT_PATH": str(event),
        "GITHUB_API_URL": f"http://127.0.0.1:{issues.server_address[1]}",
    }


def test_outputs_are_the_known_scalars_of_the_dict(
    runner_env: dict[str, str], tmp_path: Path
) -> None:
    publish(FAILED, runner_env, io.StringIO())
    lines = (tmp_path / "output").read_text().splitlines()
    assert lines == [
        "policy=box-grasp",
        "version=v2",
        "ref=box-grasp v2",
        "created=true",
        "gate=sim",
        "outcome=fail",
    ]


def test_summary_says_the_verdict_first_and_the_next_command_last() -> None:
    text = summary(FAILED)
    assert text.startswith("### ❌ box-grasp v2 · sim · fail\n\n61 of 100")
    assert "| mean | 0.6123 |" in text
    assert "upper" not in text, "numbers that do not exist are left out"
    assert text.index("miss_grasp | 30") < text.index("dropped | 9")
    assert "a \\| b" in text, "a bar in a value must not make a column"
    assert text.endswith("Next: `policyctl gate show box-grasp/v2`\n")


@pytest.mark.parametrize(
    ("outcome", "level"), [("pass", "notice"), ("fail", "error"), ("inconclusive", "warning")]
)
def test_a_verdict_is_annotated_at_its_level(outcome: str, level: str) -> None:
    out = io.StringIO()
    publish({**FAILED, "outcome": outcome}, {}, out)
    assert out.getvalue().startswith(f"::{level} title=")


def test_without_githubs_files_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    publish(FAILED, {}, io.StringIO())
    assert list(tmp_path.iterdir()) == []


def test_values_cannot_become_workflow_commands_outputs_or_html(
    runner_env: dict[str, str], tmp_path: Path
) -> None:
    evil = "ok\n::error::stolen\noutcome=pass<script>@team"
    out = io.StringIO()
    publish({"policy": "p", "ref": evil, "outcome": "fail", "reason": evil}, runner_env, out)
    assert out.getvalue().count("\n") == 1
    assert "ok%0A::error::stolen" in out.getvalue()
    outputs = (tmp_path / "output").read_text()
    name, _, end = outputs.splitlines()[1].partition("<<")
    assert name == "ref"
    assert len(end) == 32, "an unguessable delimiter"
    shown = (tmp_path / "summary").read_text()
    assert "<script>" not in shown
    assert "@team" not in shown


def test_an_error_about_a_file_is_shown_at_its_line(
    runner_env: dict[str, str], tmp_path: Path
) -> None:
    error = ConfigError(
        "there is no axis 'fricton'",
        where=f"{tmp_path}/policies/box_grasp/gates.yaml:7",
        field="sim.axes",
        hint="did you mean 'friction'?",
    )
    out = io.StringIO()
    publish_error(error, runner_env, out)
    assert out.getvalue().startswith(
        "::error file=policies/box_grasp/gates.yaml,line=7,title=policyctl%3A config::"
    )
    assert "did you mean 'friction'?" in out.getvalue()
    assert "error=config\nexit_status=2\n" in (tmp_path / "output").read_text()
    assert "there is no axis" in (tmp_path / "summary").read_text()


@pytest.mark.parametrize(
    ("error", "level"), [(GateFailed("no"), "error"), (Inconclusive("not yet"), "warning")]
)
def test_errors_are_annotated_at_their_level(error: PolicyctlError, level: str) -> None:
    out = io.StringIO()
    publish_error(error, {}, out)
    assert out.getvalue().startswith(f"::{level} ")


def test_annotation_properties_are_escaped() -> None:
    assert annotation("notice", "50%", title="a,b:c") == "::notice title=a%2Cb%3Ac::50%25"


def test_a_pull_request_has_one_comment_brought_up_to_date(
    runner_env: dict[str, str], issues: Any, tmp_path: Path
) -> None:
    env = on_pull_request(runner_env, issues, tmp_path)
    issues.comments.append({"id": 1, "body": "looks good to me"})
    publish(FAILED, env, io.StringIO())
    publish({**FAILED, "version": "v3", "ref": "box-grasp v3", "outcome": "pass"}, env)
    assert len(issues.comments) == 2
    assert issues.comments[0]["body"] == "looks good to me"
    assert "✅ box-grasp v3" in issues.comments[1]["body"]
    assert "box-grasp v2 ·" not in issues.comments[1]["body"]
    assert issues.comments[1]["body"] == (tmp_path / "policyctl-comment.md").read_text()
    assert set(issues.tokens) == {"Bearer token-of-this-run"}


def test_two_policies_have_a_comment_each(
    runner_env: dict[str, str], issues: Any, tmp_path: Path
) -> None:
    env = on_pull_request(runner_env, issues, tmp_path)
    publish(FAILED, env, io.StringIO())
    publish({**FAILED, "policy": "pick-place", "ref": "pick-place v1"}, env, io.StringIO())
    assert len(issues.comments) == 2


def test_a_token_that_may_not_comment_is_a_warning_not_a_failure(
    runner_env: dict[str, str], issues: Any, tmp_path: Path
) -> None:
    issues.post_status = 403
    out = io.StringIO()
    publish(FAILED, on_pull_request(runner_env, issues, tmp_path), out)
    assert "::warning title=policyctl%3A no comment::" in out.getvalue()
    assert "403" in out.getvalue()
    assert "token-of-this-run" not in out.getvalue()


def test_a_token_is_never_sent_in_the_clear(
    runner_env: dict[str, str], issues: Any, tmp_path: Path
) -> None:
    env = on_pull_request(runner_env, issues, tmp_path)
    env["GITHUB_API_URL"] = "http://github.example.com/api/v3"
    out = io.StringIO()
    publish(FAILED, env, out)
    assert "is not https" in out.getvalue()
    assert issues.tokens == []


def test_every_command_takes_github(runner_env: dict[str, str], tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["doctor", "--github"], env=runner_env)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "summary").read_text().startswith("### policyctl")


@pytest.mark.parametrize("name", ["GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "RUNNER_TEMP"])
def test_a_file_that_cannot_be_written_is_named(
    runner_env: dict[str, str], tmp_path: Path, name: str
) -> None:
    (tmp_path / "in the way").mkdir()
    (tmp_path / "file").touch()
    place = tmp_path / ("file" if name == "RUNNER_TEMP" else "in the way")
    with pytest.raises(ServiceFailed) as caught:
        publish(FAILED, {**runner_env, name: str(place)}, io.StringIO())
    assert str(place) in caught.value.evidence
    assert name in caught.value.hint


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize(("words", "status"), [(["doctor"], 9), (["show", "v7"], 6)])
def test_what_github_is_not_told_ends_no_command_in_a_traceback(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    words: list[str],
    status: int,
    form: str,
) -> None:
    """A command that did well ends with 9, one that failed as it did."""
    monkeypatch.delenv("POLICYCTL_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["init"])
    assert ended.value.code == 0
    capfd.readouterr()
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        main([*words, "--github", "--output", form])
    assert ended.value.code == status
    said = capfd.readouterr()
    assert "Traceback" not in said.err
    assert said.err.count("GitHub is not told") == 1
    if form == "json":
        assert json.loads(said.out)["schema"] == "policyctl/1"


def test_an_event_that_cannot_be_read_is_a_warning(
    runner_env: dict[str, str], issues: Any, tmp_path: Path
) -> None:
    env = on_pull_request(runner_env, issues, tmp_path)
    Path(env["GITHUB_EVENT_PATH"]).write_text("{")
    out = io.StringIO()
    publish(FAILED, env, out)
    assert "::warning" in out.getvalue()
    assert "event.json" in out.getvalue()
