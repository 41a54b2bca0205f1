"""YAML that a person wrote, read strictly: every complaint names file, line and field.

- Keys nobody knows are refused, with the nearest known one; a key given twice is refused.
- Files are plain data: no tags, no merge keys, at most 1 MB, and aliases cannot multiply it.
- `load_yaml(path, Model)` checks against a pydantic model with `extra="forbid"`.
"""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from registry.errors import ConfigError

MAX_BYTES = 1 << 20
MAX_NODES = 100_000

Loc = tuple[str | int, ...]
ModelT = TypeVar("ModelT", bound=BaseModel)


class Strict(BaseModel):
    """The base of every model of a file: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def load_yaml(path: Path, model: type[ModelT]) -> ModelT:
    """Reads `path` as a `model`. Raises ConfigError with `path:line` and the field."""
    data, lines = read_yaml(path)
    if not isinstance(data, dict):
        raise ConfigError(
            f"{path.name} must be a mapping of keys, not {_kind(data)}",
            where=f"{path}:1",
            hint="start it with `key: value` lines",
        )
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _config_error(path, model, lines, error) from None


def read_yaml(path: Path) -> tuple[Any, dict[Loc, int]]:
    """The plain data of a YAML file, and the line of every key and item by its place."""
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"cannot read {path.name}: {error.strerror}",
            where=str(path),
            hint="check the path, or write the file",
        ) from None
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path.name} is larger than 1 MB", where=str(path))
    try:
        loader = yaml.SafeLoader(content.decode("utf-8"))
        node = loader.get_single_node()
        reader = _Reader(path, loader)
        data = None if node is None else reader.value(node, ())
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path.name} is not UTF-8 text: {error}", where=str(path)) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(
            f"{path.name} is not YAML: {problem}",
            where=f"{path}:{line}",
            hint="check indentation, colons and quotes near that line",
        ) from None
    return data, reader.lines


class _Reader:
    """Turns YAML nodes into plain data and remembers where each came from."""

    def __init__(self, path: Path, loader: yaml.SafeLoader) -> None:
        self.path = path
        self.lines: dict[Loc, int] = {}
        self._loader = loader
        self._open: set[int] = set()
        self._count = 0

    def value(self, node: yaml.Node, loc: Loc) -> Any:
        self.lines.setdefault(loc, node.start_mark.line + 1)
        self._count += 1
        if id(node) in self._open:
            self._refuse(node, loc, "an alias that contains itself")
        if self._count > MAX_NODES:
            self._refuse(node, loc, "too many values, counting aliases")
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, loc)
            if isinstance(node, yaml.SequenceNode):
                return [self.value(item, (*loc, i)) for i, item in enumerate(node.value)]
            return self._scalar(node, loc)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, loc: Loc) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        first_line: dict[Any, int] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._refuse(key_node, loc, "a key that is not a plain word")
            key = key_node.value if key_node.tag.endswith(":merge") else self._scalar(key_node, loc)
            line = key_node.start_mark.line + 1
            if key in found:
                raise ConfigError(
                    f"{_field((*loc, key))!r} is given twice",
                    where=f"{self.path}:{line}",
                    field=_field((*loc, key)),
                    hint=f"keep one of them; the first is on line {first_line[key]}",
                )
            if key_node.tag.endswith(":merge"):
                self._refuse(key_node, loc, "a merge key (<<)")
            first_line[key] = line
            place = (*loc, key if isinstance(key, int) else str(key))
            self.lines[place] = line
            found[key] = self.value(value_node, place)
        return found

    def _scalar(self, node: yaml.Node, loc: Loc) -> Any:
        if not node.tag.startswith("tag:yaml.org,2002:"):
            self._refuse(node, loc, f"the tag {node.tag}")
        try:
            return self._loader.construct_object(node, deep=True)
        except ValueError as error:  # a date or number that is none
            self._refuse(node, loc, f"{node.value!r}: {error}")

    def _refuse(self, node: yaml.Node, loc: Loc, what: str) -> typing.NoReturn:
        raise ConfigError(
            f"{self.path.name} has {what}, which is not allowed here",
            where=f"{self.path}:{node.start_mark.line + 1}",
            field=_field(loc),
            hint="write plain keys, lists, numbers and strings",
        )


def _config_error(
    path: Path, model: type[BaseModel], lines: dict[Loc, int], error: ValidationError
) -> ConfigError:
    """The first complaint in the order of the file, and how many more there are."""
    details = error.errors(include_url=False)
    # A key misspelt is also a key missing: say the first, it explains the second.
    first = min(
        details,
        key=lambda d: (d["type"] != "extra_forbidden", lines[_place(_loc(d), lines)]),
    )
    place = _place(_loc(first), lines)
    field = place
    if first["type"] in ("missing", "extra_forbidden") and place[-1:] != first["loc"][-1:]:
        field = (*place, first["loc"][-1])
    what, hint = _complaint(first, model, _field(place or first["loc"]))
    if len(details) > 1:
        what += f" (and {len(details) - 1} more)"
    return ConfigError(what, where=f"{path}:{lines[place]}", field=_field(field), hint=hint)


def _complaint(detail: ErrorDetails, model: type[BaseModel], named: str) -> tuple[str, str]:
    """What is wrong and a hint; `named` is the field as the file has it."""
    loc = detail["loc"]
    if detail["type"] == "extra_forbidden":
        known = _fields_at(model, loc[:-1])
        near = difflib.get_close_matches(str(loc[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(sorted(known))}"
        return f"unknown key {str(loc[-1])!r}", hint
    if detail["type"] == "missing":
        return f"missing key {str(loc[-1])!r}", f"add `{loc[-1]}:` there"
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"]) if "ctx" in detail else detail["msg"], ""
    shown = repr(detail["input"])
    if detail["type"] in ("tuple_type", "list_type"):
        return f"{named} must be a list, not {shown[:60]}", "start each item with `- `"
    if detail["type"] in ("model_type", "dict_type"):
        return f"{named} must be a mapping of keys, not {shown[:60]}", (
            f"known keys: {', '.join(sorted(_fields_at(model, loc)))}"
            if detail["type"] == "model_type"
            else ""
        )
    message = detail["msg"][:1].lower() + detail["msg"][1:]
    return f"{named}: {message}, not {shown[:60]}", ""


def _loc(detail: ErrorDetails) -> Loc:
    """Where the complaint belongs. A rule of a whole section names its key first: `key: …`, or the
    way to it: `suites.camera.alpha …`."""
    loc = detail["loc"]
    word = re.match(r"Value error, (\w[\w-]*(?:\.[\w-]+)*)", detail["msg"])
    return (*loc, *word[1].split(".")) if word else loc


def _place(loc: Sequence[str | int], lines: dict[Loc, int]) -> Loc:
    """The deepest part of `loc` that the file has; pydantic's own markers are passed over."""
    place: Loc = ()
    for part in loc:
        if (*place, part) in lines:
            place = (*place, part)
    return place if place in lines else ()


def _fields_at(model: type[BaseModel], loc: Sequence[str | int]) -> list[str]:
    """The keys that a model knows at a place of the file."""
    models = [model]
    for part in loc:
        below: list[type[BaseModel]] = []
        for one in models:
            field = one.model_fields.get(str(part)) or next(
                (f for f in one.model_fields.values() if f.alias == part), None
            )
            if field is not None:
                below += _models_in(field.annotation)
        models = below or models
    return [field.alias or name for one in models for name, field in one.model_fields.items()]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if isinstance(annotation, types.GenericAlias | types.UnionType) or typing.get_origin(
        annotation
    ):
        return [model for part in typing.get_args(annotation) for model in _models_in(part)]
    return []


def _field(loc: Sequence[Any]) -> str:
    return ".".join(str(part) for part in loc)


def _kind(data: Any) -> str:
    if data is None:
        return "an empty file"
    return "a list" if isinstance(data, list) else type(data).__name__
