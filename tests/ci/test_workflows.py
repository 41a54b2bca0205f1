"""The workflows: valid, hardened, and made of commands that exist and work."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from github_actions import Actions, Expression
from sim_policies import write_overflowing

from ci.cli.main import cli
from ci.demo.robots import write_robot_files

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ACTIONS = sorted((ROOT / ".github" / "actions").glob("*/action.yml"))
BIN = Path(sys.executable).parent
Json = dict[str, Any]


def read(path: Path) -> Json:
    loaded: Json = yaml.safe_load(path.read_text())
    return loaded


def steps_of(path: Path) -> Iterator[Json]:
    data = read(path)
    for job in data.get("jobs", {}).values():
        yield from job.get("steps", ())
    yield from data.get("runs", {}).get("steps", ())


# -- static ----------------------------------------------------------------------------------------


def tool(*words: str | Path) -> None:
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_workflows_and_actions_fit_githubs_schemas() -> None:
    check = BIN / "check-jsonschema"
    tool(check, "--builtin-schema", "vendor.github-workflows", *WORKFLOWS)
    tool(check, "--builtin-schema", "vendor.github-actions", *ACTIONS)


def test_zizmor_finds_nothing_not_even_as_an_auditor() -> None:
    tool(BIN / "zizmor", "--offline", "--quiet", "--persona", "auditor", ROOT / ".github")


@pytest.mark.parametrize("path", [*WORKFLOWS, *ACTIONS], ids=lambda path: path.name)
def test_actions_of_others_are_pinned_by_commit_and_say_their_version(path: Path) -> None:
    for line in path.read_text().splitlines():
        if found := re.search(r"uses: (\S+)(.*)", line):
            used, comment = found.groups()
            if not used.startswith("$/.github/"):
                assert re.search(r"@[0-9a-f]{40}$", used), line
                assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), line


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_has_no_rights_no_filter_and_no_secret(path: Path) -> None:
    data: dict[Any, Any] = read(path)
    events = data[True]  # YAML reads the key `on` as true
    assert data["permissions"] == {}
    assert "pull_request_target" not in events
    for event in events.values():
        assert not {"paths", "paths-ignore"} & set(event or {})
    assert "secrets." not in path.read_text()


def test_a_step_of_the_road_is_one_policyctl_command() -> None:
    for name in ("policy.yml", "_gate.yml"):
        for step in steps_of(ROOT / ".github" / "workflows" / name):
            if "run" in step:
                assert re.fullmatch(r"policyctl [^\n;&|]+ --github|exit 1", step["run"])
                assert "${{" not in step["run"], "values reach a shell as variables only"


def test_the_arm_moves_for_merged_work_on_a_lab_machine_only() -> None:
    hil = read(ROOT / ".github/workflows/policy.yml")["jobs"]["hil"]
    assert json.loads(hil["with"]["runner"]) == ["self-hosted", "hil", "openarm"]

    def runs(event: str, ref: str, fork: bool) -> bool:
        return played(hil["if"], event, ref, fork=fork)

    assert runs("merge_group", "refs/heads/gh-readonly-queue/main/pr-1", False)
    assert runs("push", "refs/heads/main", False)
    assert not runs("push", "refs/heads/topic", False)
    assert not runs("pull_request", "refs/pull/1/merge", False)
    assert not runs("push", "refs/heads/main", True)


@pytest.mark.parametrize(
    ("stage", "hil", "canary"),
    [
        ("registered", True, True),
        ("sim", True, True),
        ("hil", False, True),
        ("canary", False, False),
        ("fleet", False, False),
        ("rolled_back", False, False),
    ],
)
def test_what_a_version_has_shown_is_not_asked_of_it_again(
    stage: str, hil: bool, canary: bool
) -> None:
    jobs = read(ROOT / ".github/workflows/policy.yml")["jobs"]
    assert played(jobs["hil"]["if"], "push", "refs/heads/main", stage=stage) is hil
    assert played(jobs["canary"]["if"], "push", "refs/heads/main", stage=stage) is canary


def played(
    condition: str, event: str, ref: str, *, fork: bool = False, stage: str = "registered"
) -> bool:
    github = {"event_name": event, "ref": ref, "event": {"repository": {"fork": fork}}}
    outputs = {"stage": stage, "home": "/srv/registry"}
    needs = {"register": {"result": "success", "outputs": outputs}}
    return bool(Expression(condition, {"github": github, "needs": needs}).value())


def test_gates_always_runs_and_waits_for_every_job() -> None:
    jobs = read(ROOT / ".github/workflows/policy.yml")["jobs"]
    assert jobs["gates"]["name"] == "Gates"
    assert jobs["gates"]["if"] == "always()"
    assert set(jobs["gates"]["needs"]) == set(jobs) - {"gates"}


# -- every `policyctl …` that we tell people to type parses ----------------------------------------

STANDS_FOR = "v1"
"""What a placeholder becomes: `{ref}`, `$VERSION`, `DIR`, `<name>`, `…`."""


def commands_in_workflows() -> Iterator[tuple[str, str]]:
    for path in (*WORKFLOWS, *ACTIONS):
        for step in steps_of(path):
            for line in str(step.get("run", "")).splitlines():
                if line.startswith("policyctl "):
                    yield path.name, line


def commands_in_text() -> Iterator[tuple[str, str]]:
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = path.read_text()
        for line in re.findall(r"^\s*(?:\$ )?(policyctl(?: .*)?)$", text, re.M):
            yield path.name, line.split("  #")[0]
        for line in re.findall(r"`(policyctl(?: [^`\n]+)?)`", text):
            yield path.name, line


def commands_in_code() -> Iterator[tuple[str, str]]:
    """A string of ours quotes commands in backticks, or is one command from end to end."""
    for room in ("registry", "policies", "fleet", "harness", "ci"):
        for path in sorted((ROOT / room).rglob("*.py")):
            for text in strings_of(ast.parse(path.read_text())):
                quoted = re.findall(r"`(policyctl [^`\n]+)`", text)
                whole = [text] if re.fullmatch(r"policyctl [^`\n]+", text) else []
                for line in quoted or whole:
                    yield str(path.relative_to(ROOT)), line


def strings_of(node: ast.AST) -> Iterator[str]:
    """The strings of a module, with `{}` where an f-string puts a value."""
    if isinstance(node, ast.JoinedStr):
        yield "".join(
            str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values
        )
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    for child in ast.iter_child_nodes(node):
        yield from strings_of(child)


def parse(line: str) -> None:
    """Parses a command line against the real commands, without running it."""
    line = re.sub(r"\$\{?\w+\}?|\{[^}]*\}|<[^>]*>", STANDS_FOR, line)
    words = shlex.split(line)[1:]
    words = [STANDS_FOR if word.isupper() or word == "…" else word for word in words]
    command: click.Command = cli
    context = click.Context(cli, info_name="policyctl")
    named = True
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        if words[0] == STANDS_FOR:
            return  # the command itself is filled in when it is printed
        found = command.get_command(context, words[0])
        assert found is not None, f"there is no command {words[0]!r}"
        command, words = found, words[1:]
        context = click.Context(command, parent=context, info_name=words[0] if words else "")
    named = not words
    try:
        command.make_context("policyctl", list(words), parent=context.parent)
    except click.exceptions.Exit:
        return  # --help, --version
    except click.exceptions.NoArgsIsHelpError:
        return
    except click.MissingParameter:
        assert named, "a command that is only named may leave out its arguments"
    except click.BadParameter as error:
        # a file that stands for one, or a placeholder where a number belongs
        a_file = isinstance(error.param and error.param.type, click.Path)
        if not a_file and STANDS_FOR not in error.format_message():
            raise


@pytest.mark.parametrize(
    ("where", "line"),
    sorted({*commands_in_workflows(), *commands_in_text(), *commands_in_code()}),
)
def test_every_command_we_print_parses(where: str, line: str) -> None:
    parse(line)


def test_workflow_commands_are_found() -> None:
    assert len(list(commands_in_workflows())) >= 5


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """What a checkout leaves: the parts of this repository that the workflow reads."""
    for part in (".github", "policies/box_grasp"):
        shutil.copytree(ROOT / part, tmp_path / "checkout" / part)
    return tmp_path / "checkout"


def bring_v1(workspace: Path) -> None:
    part = Path("ci/demo/checkpoints/v1")
    shutil.copytree(ROOT / part, workspace / part)


def github(event: str, ref: str, **payload: Any) -> Json:
    return {
        "event_name": event,
        "ref": ref,
        "sha": "0123456789abcdef0123456789abcdef01234567",
        "run_id": "1",
        "token": "",
        "event": {"repository": {"fork": False}, **payload},
    }


@pytest.mark.slow
def test_a_pull_request_is_registered_simulated_and_summed_up(workspace: Path) -> None:
    bring_v1(workspace)
    event = github("pull_request", "refs/pull/7/merge", pull_request={"base": {"sha": "main"}})
    actions = Actions(workspace, event, {})
    results = actions.play(workspace / ".github/workflows/policy.yml")
    assert results == {
        "register": "success",
        "sim": "success",
        "hil": "skipped",
        "canary": "skipped",
        "gates": "success",
    }, actions.ran
    assert "✅ box-grasp v1 · sim · pass" in actions.summary


@pytest.mark.slow
def test_the_road_of_a_commit_on_main_from_register_to_the_summary(
    workspace: Path, tmp_path: Path
) -> None:
    bring_v1(workspace)
    home = tmp_path / "team"
    lab, robots = write_robot_files(tmp_path / "robots", 4)
    tool(BIN / "policyctl", "init", "--home", home)
    for robot in robots:
        tool(BIN / "policyctl", "robot", "enrol", robot, "--home", home)
    variables = {
        "POLICYCTL_HOME": str(home),
        "POLICYCTL_RUNNER": '["self-hosted", "registry"]',
        "POLICYCTL_STATION": str(lab),
        "POLICYCTL_PROMPTS": "scripted",
    }
    actions = Actions(workspace, github("push", "refs/heads/main"), variables)
    results = actions.play(workspace / ".github/workflows/policy.yml")
    assert set(results.values()) == {"success"}, actions.ran
    ran = [line.split()[1:4] for _, line, _ in actions.ran]
    assert [words[0] for words in ran] == ["register", "gate", "gate", "promote", "show"]
    assert "· sim · pass" in actions.summary
    assert "· hil · pass" in actions.summary

    again = Actions(workspace, github("push", "refs/heads/main"), variables)
    results = again.play(workspace / ".github/workflows/policy.yml")
    assert results == {
        "register": "success",
        "sim": "success",
        "hil": "skipped",
        "canary": "skipped",
        "gates": "success",
    }, again.ran


@pytest.mark.slow
def test_a_policy_that_fails_its_gate_turns_gates_red(workspace: Path) -> None:
    write_overflowing(workspace / "ci/demo/checkpoints/v1")
    event = github("pull_request", "refs/pull/7/merge", pull_request={"base": {"sha": "main"}})
    actions = Actions(workspace, event, {})
    results = actions.play(workspace / ".github/workflows/policy.yml")
    assert results == {
        "register": "success",
        "sim": "failure",
        "hil": "skipped",
        "canary": "skipped",
        "gates": "failure",
    }, actions.ran
    assert "❌ box-grasp v1 · sim · fail" in actions.summary
    told = next(output for _, line, output in actions.ran if "run sim" in line)
    assert told.count("::error ") == 1
    assert actions.ran[-1][1] == "exit 1"


@pytest.mark.slow
def test_a_pull_request_is_judged_by_the_base_branchs_gates(workspace: Path) -> None:
    """A threshold that the pull request lowers changes nothing for itself."""
    write_overflowing(workspace / "ci/demo/checkpoints/v1")
    base = workspace / "base/policies/box_grasp"
    shutil.copytree(workspace / "policies/box_grasp", base)
    mine = workspace / "policies/box_grasp/gates.yaml"
    mine.write_text(mine.read_text().replace("threshold: 0.85", "threshold: 0.01"))
    event = github("pull_request", "refs/pull/7/merge", pull_request={"base": {"sha": "main"}})
    actions = Actions(workspace, event, {})
    assert actions.play(workspace / ".github/workflows/policy.yml")["sim"] == "failure"
    told = next(output for _, line, output in actions.ran if "run sim" in line)
    assert "0.85" in told or "85" in told
