"""A GitHub Actions runner, as far as our workflows need one.

`Actions` plays a workflow the way a runner does: jobs in order, `if`, `env`, `needs` and outputs
through the expression language, reusable workflows in place, every `run:` by bash with the GITHUB_*
files faked. `uses:` steps of others are played as what they leave behind: a checkout is the
workspace itself, an artifact is the folder that is still there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

BIN = Path(sys.executable).parent
Json = dict[str, Any]


# -- the expression language, as far as these workflows use it -------------------------------------

_TOKEN = re.compile(r"\s*('(?:[^']|'')*'|&&|\|\||==|!=|[!(),]|[\w-]+(?:\.(?:[\w-]+|\*))*)")


@dataclass
class Expression:
    """`a && b || f(c.d, 'text')` over contexts. An unknown property is the empty string."""

    text: str
    contexts: Mapping[str, Any]
    tokens: list[str] = field(default_factory=list)

    def value(self) -> Any:
        text = self.text.strip().removeprefix("${{").removesuffix("}}").strip()
        self.tokens = _TOKEN.findall(text)
        assert "".join(self.tokens) == re.sub(r"\s+(?=(?:[^']*'[^']*')*[^']*$)", "", text)
        found = self._or()
        assert not self.tokens, f"left over: {self.tokens}"
        return found

    def _take(self, *wanted: str) -> str | None:
        return self.tokens.pop(0) if self.tokens and self.tokens[0] in wanted else None

    def _or(self) -> Any:
        left = self._and()
        while self._take("||"):
            right = self._and()
            left = left or right
        return left

    def _and(self) -> Any:
        left = self._equal()
        while self._take("&&"):
            right = self._equal()
            left = left and right
        return left

    def _equal(self) -> Any:
        left = self._not()
        while operator := self._take("==", "!="):
            right = self._not()
            left = (left == right) is (operator == "==")
        return left

    def _not(self) -> Any:
        if self._take("!"):
            return not self._not()
        if self._take("("):
            inner = self._or()
            assert self._take(")")
            return inner
        token = self.tokens.pop(0)
        if token.startswith("'"):
            return token[1:-1].replace("''", "'")
        if self._take("("):
            arguments = []
            while not self._take(")"):
                arguments.append(self._or())
                self._take(",")
            return self._call(token, arguments)
        if token in ("true", "false"):
            return token == "true"
        return self._look(self.contexts, token.split("."))

    def _look(self, at: Any, names: list[str]) -> Any:
        for index, name in enumerate(names):
            if name == "*":
                return [self._look(each, names[index + 1 :]) for each in at.values()]
            at = at.get(name, "") if isinstance(at, Mapping) else ""
        return at

    def _call(self, name: str, arguments: list[Any]) -> Any:
        functions: dict[str, Callable[..., Any]] = {
            "always": lambda: True,
            "cancelled": lambda: False,
            "failure": lambda: any(
                need["result"] == "failure" for need in self.contexts["needs"].values()
            ),
            "contains": lambda where, what: what in where,
            "fromJSON": json.loads,
        }
        return functions[name](*arguments)


# -- the runner ------------------------------------------------------------------------------------


@dataclass
class Actions:
    """Plays workflows in `workspace`. `ran` lists what each `run:` said: (job, line, output)."""

    workspace: Path
    github: Json
    variables: Json
    ran: list[tuple[str, str, str]] = field(default_factory=list)
    summary: str = ""

    def play(self, path: Path, inputs: Json | None = None) -> dict[str, str]:
        """The result of every job."""
        workflow: Json = yaml.safe_load(path.read_text())
        needs: Json = {}
        for name, job in workflow["jobs"].items():
            contexts: Json = {
                "github": self.github,
                "vars": self.variables,
                "inputs": inputs or {},
                "needs": {need: needs[need] for need in _list(job.get("needs"))},
                "steps": {},
            }
            contexts["env"] = self._fill(workflow.get("env", {}), contexts)
            contexts["env"] |= self._fill(job.get("env", {}), contexts)
            ready = all(need["result"] == "success" for need in contexts["needs"].values())
            condition = str(job.get("if", "true"))
            asks = re.search(r"\b(always|failure|cancelled)\(\)", condition)  # else: success()
            if not Expression(condition, contexts).value() or not (ready or asks):
                needs[name] = {"result": "skipped", "outputs": {}}
                continue
            if "uses" in job:
                called = self.workspace / str(job["uses"]).removeprefix("$/")
                results = self.play(called, self._fill(job["with"], contexts))
                worst = {"success"} if set(results.values()) == {"success"} else {"failure"}
                needs[name] = {"result": worst.pop(), "outputs": {}}
            else:
                passed = self._steps(name, job["steps"], contexts)
                outputs = self._fill(job.get("outputs", {}), contexts)
                needs[name] = {"result": "success" if passed else "failure", "outputs": outputs}
        return {name: need["result"] for name, need in needs.items()}

    def _steps(self, job: str, steps: list[Json], contexts: Json) -> bool:
        passed = True
        for step in steps:
            condition = str(step.get("if", "true"))
            if (
                not (passed or "always()" in condition)
                or not Expression(condition, contexts).value()
            ):
                continue
            if "run" in step:
                passed &= self._run(job, step, contexts)
            else:
                self._use(step, contexts)
        return passed

    def _run(self, job: str, step: Json, contexts: Json) -> bool:
        output, summary = self.workspace / "_output", self.workspace / "_summary"
        output.write_text("")
        summary.write_text("")
        env = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("GITHUB_", "POLICYCTL_"))},
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "GITHUB_OUTPUT": str(output),
            "GITHUB_STEP_SUMMARY": str(summary),
            "GITHUB_WORKSPACE": str(self.workspace),
            **{k: str(v) for k, v in contexts["env"].items()},
            **{k: str(v) for k, v in self._fill(step.get("env", {}), contexts).items()},
        }
        done = subprocess.run(
            ["bash", "-e", "-c", step["run"]],
            cwd=self.workspace, env=env, capture_output=True, text=True,
        )  # fmt: skip
        pairs = [line.split("=", 1) for line in output.read_text().splitlines()]
        if "id" in step:
            contexts["steps"][step["id"]] = {"outputs": dict(pairs)}
        self.ran.append((job, step["run"], done.stdout + done.stderr))
        self.summary += summary.read_text()
        return done.returncode == 0

    def _use(self, step: Json, contexts: Json) -> None:
        given = self._fill(step.get("with", {}), contexts)
        action = str(step["uses"]).split("@")[0]
        if action == "actions/checkout" and "path" in given:
            folder = given["sparse-checkout"]
            target = self.workspace / given["path"] / folder
            if not target.exists():  # a test that has a base branch has put it there
                shutil.copytree(self.workspace / folder, target)
        elif action.endswith("-artifact"):
            if given["name"] == "registry":
                assert (self.workspace / given["path"] / "registry.db").is_file()
            else:
                assert (self.workspace / given["path"] / "report.html").is_file()
        else:
            assert action in ("actions/checkout", "$/.github/actions/setup"), action

    def _fill(self, values: Json, contexts: Json) -> Json:
        return {name: self._text(value, contexts) for name, value in values.items()}

    def _text(self, value: Any, contexts: Json) -> Any:
        if not isinstance(value, str) or "${{" not in value:
            return value
        parts = re.split(r"(\$\{\{.*?\}\})", value)
        found = [
            Expression(part, contexts).value() if part.startswith("${{") else part
            for part in parts
            if part
        ]
        return found[0] if len(found) == 1 else "".join(map(str, found))


def _list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())
