"""What the JSON of an exported program may say.

PyTorch makes Python of it when it loads one: it evaluates expressions of sizes (sympy) and guards,
writes the names that it finds into code, imports what a shape of inputs names, and looks up an
operator by the path that it is given. So each string is what PyTorch writes there, or one in which
no code can be: without brackets, quotes and line ends nothing is called.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

MAX_EXPRESSION = 20_000
_WORD = re.compile(r"[A-Za-z0-9_.:*+/<=>, -]*")
_EXPRESSION = re.compile(r"[A-Za-z0-9_.:*+/<=>, ()'\[\]%!&|~^-]*")
_TEXT = re.compile(r"(?!__)[A-Za-z0-9_./ +-]*")  # a key, a symbol or a number, quoted
_SYMBOL = re.compile(r"[a-z]{1,5}\d+|true|false|oo|zoo|nan|int_oo")
_OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims?|higher_order|quantized|quantized_decomposed|torchvision)"
    r"\.(__i?(and|or|xor|lshift|rshift)__|(?!__)[A-Za-z0-9_]+)(\.[A-Za-z][A-Za-z0-9_]*)?"
    r"|_operator\.(eq|ne|le|ge|lt|gt|neg|pos|add|sub|mul|truediv|floordiv|mod|pow|and_|or_|not_"
    r"|lshift|rshift|getitem)"
    r"|math\.[a-z][a-z0-9_]*|torch\.sym_[a-z]+|torch\._sym_[a-z0-9]+"
    r"|torch\._functorch\.predispatch\."
    r"(_add_batch_dim|_remove_batch_dim|_vmap_(in|de)crement_nesting|lazy_load_decompositions)"
)
_OF_SIZES = frozenset(
    {
        "Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Mod", "Max", "Min", "Abs",
        "floor", "ceiling", "sqrt", "exp", "log", "Piecewise", "ExprCondPair", "Tuple",
        "Equality", "Unequality", "GreaterThan", "LessThan", "StrictGreaterThan", "StrictLessThan",
        "Eq", "Ne", "Ge", "Le", "Gt", "Lt", "And", "Or", "Not",
        "FloorDiv", "ModularIndexing", "Where", "PythonMod", "CleanDiv", "CeilToInt", "FloorToInt",
        "CeilDiv", "LShift", "RShift", "PowByNatural", "FloatPow", "FloatTrueDiv", "IntTrueDiv",
        "IsNonOverlappingAndDenseIndicator", "TruncToFloat", "TruncToInt", "RoundToInt",
        "RoundDecimal", "ToFloat", "Identity",
        "max", "min", "abs", "round", "int", "float",
    }
)  # fmt: skip
_OF_GUARDS = re.compile(
    r"size|stride|storage_offset|sym_[a-z]+|_sym_[a-z]+|trunc|floor|ceil|sqrt|isnan|inf|nan|pow|log"
)
_SHAPE = (
    ast.Expression, ast.Call, ast.keyword, ast.Constant, ast.Name, ast.Attribute, ast.Subscript,
    ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.expr_context, ast.operator,
    ast.unaryop, ast.boolop, ast.cmpop,
)  # fmt: skip
_TREES = {"in_spec", "out_spec", "context"}  # JSON within a string


def check_program(said: Any, name: str) -> None:
    """Raises ValueError for a string that PyTorch would not have written there."""
    waiting: list[tuple[str, Any]] = [("", said)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, dict):
            waiting += _items(key, value, name)
        elif isinstance(value, list):
            waiting += (("" if key in _TREES else key, each) for each in value)
        elif isinstance(value, str):
            if key in _TREES and (tree := _tree(value, name)) is not None:
                waiting.append(("", tree))
            elif not _is_allowed(key, value):
                raise ValueError(f"{name} says {key} {value[:100]!r}, which may be code")


def check_payloads(said: Any, prefix: str, name: str) -> None:
    """`prefix`: of members that hold nothing but numbers; PyTorch unpickles what others name.

    Raises ValueError.
    """
    check_program(said, name)
    payloads = said.get("config") if isinstance(said, dict) else None
    if not isinstance(payloads, dict):
        raise ValueError(f"{name} lists no tensors")
    for each, payload in payloads.items():
        path = payload.get("path_name") if isinstance(payload, dict) else None
        if not isinstance(path, str) or not re.fullmatch(rf"{prefix}_[0-9]+", path):
            raise ValueError(f"{name} names {path!r} for {each}, which is no tensor")
        if payload.get("use_pickle") is not False:
            raise ValueError(f"{name} asks for an unpickler")


def _items(key: str, value: dict[str, Any], name: str) -> list[tuple[str, Any]]:
    """What is to be looked at in an object, its own names being allowed."""
    for each, found in value.items():
        if each in {"__enum__", "default_factory_module"}:
            raise ValueError(f"{name} names a module to import")
        if each == "custom_obj_values" and found:
            raise ValueError(f"{name} has objects that are no tensors")
        if key != "range_constraints" and not _WORD.fullmatch(each):
            raise ValueError(f"{name} has the key {each[:100]!r}, which may be code")
    return [(each, found) for each, found in value.items() if not _is_data(each, found)]


def _is_data(key: str, value: Any) -> bool:
    """Text that PyTorch hands on or shows, and never runs."""
    if key == "metadata" and isinstance(value, dict):
        return all(isinstance(each, str) for each in value.values())
    if key == "as_strings" and isinstance(value, list):
        return all(isinstance(each, str) for each in value)
    return key == "as_string" and isinstance(value, str)


def _tree(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
    except RecursionError:
        raise ValueError(f"{name} is nested too deeply") from None


def _is_allowed(key: str, value: str) -> bool:
    if key in {"target", "as_operator"}:
        return _OPERATOR.fullmatch(value) is not None
    if key in {"expr_str", "guards_code"}:
        return _is_expression(value, guard=key == "guards_code")
    return _WORD.fullmatch(value) is not None


def _is_expression(text: str, *, guard: bool) -> bool:
    """One of numbers, in which nothing is called but what PyTorch calls there."""
    if len(text) > MAX_EXPRESSION or not _EXPRESSION.fullmatch(text):
        return False
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(isinstance(node, _SHAPE) and _is_harmless(node, guard) for node in ast.walk(tree))


def _is_harmless(node: ast.AST, guard: bool) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name | ast.Attribute)
    if isinstance(node, ast.Attribute):
        return guard and _OF_GUARDS.fullmatch(node.attr) is not None
    if isinstance(node, ast.Subscript):
        return guard and isinstance(node.slice, ast.Constant)
    if isinstance(node, ast.Name):
        return node.id in _OF_SIZES or (
            node.id in {"L", "math", "torch", "inf"}
            if guard
            else _SYMBOL.fullmatch(node.id) is not None
        )
    if isinstance(node, ast.Constant):
        is_text = isinstance(node.value, str) and _TEXT.fullmatch(node.value) is not None
        return is_text or isinstance(node.value, int | float)
    return True
