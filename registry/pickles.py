"""What a stream would do to an unpickler, found without unpickling: only its opcodes are read.

Python's unpickler runs whatever a stream names, from whichever kind of file it was handed. So a
file of any kind is looked at from its first byte as an unpickler would: `is_pickle` says whether
one could be made to do anything with it, also where it would fail after that.
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

MAX_OPCODES = 5_000_000
MAX_WORD = 4096
LONG_LINE = 1 << 20
_PREFIXED = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
_TWO_LINES = {"GLOBAL", "INST"}
_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
_BY_NAME = {opcode.name: opcode for opcode in pickletools.opcodes}
_NAMING = frozenset(
    {"GLOBAL", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID"}
)  # these bring an object from outside
_CALLING = frozenset({"REDUCE", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD"})  # these use one


class NotPickleError(ValueError):
    """The bytes are no pickle: an unpickler would stop there with an error."""


@dataclass(frozen=True)
class Opcode:
    name: str
    word: str  # what GLOBAL and INST name: `module name`


def opcodes(stream: BinaryIO, size: int) -> Iterator[Opcode]:
    """The opcodes up to the STOP that ends a pickle; long arguments are stepped over, not read.

    Raises NotPickleError where they are none.
    """
    for _ in range(MAX_OPCODES):
        code = stream.read(1)
        known = _OPCODES.get(code.decode("latin-1")) if code else None
        if known is None:
            raise NotPickleError("not an opcode")
        word = _argument(stream, size, known)
        yield Opcode(known.name, word)
        if known.name == "STOP":
            return
    raise ValueError(f"a pickle of more than {MAX_OPCODES} opcodes")


def _argument(stream: BinaryIO, size: int, opcode: pickletools.OpcodeInfo) -> str:
    argument = opcode.arg
    if argument is None:
        return ""
    if argument.n == pickletools.UP_TO_NEWLINE:
        lines = [_line(stream) for _ in range(2 if opcode.name in _TWO_LINES else 1)]
        return " ".join(lines)
    length = argument.n
    if length < 0:
        prefix = stream.read(_PREFIXED[length])
        length = int.from_bytes(prefix, "little")
    if stream.tell() + length > size:
        raise NotPickleError("an argument reaches over the end")
    stream.seek(length, 1)
    return ""


def _line(stream: BinaryIO) -> str:
    """Up to the next newline, wherever that is: an unpickler reads a line of any length."""
    part = line = stream.readline(MAX_WORD)
    while part and not part.endswith(b"\n"):
        part = stream.readline(LONG_LINE)
    if not part:
        raise NotPickleError("a line without end")
    return line[:-1].decode("latin-1") if part is line else f"{line.decode('latin-1')}…"


def is_pickle(stream: BinaryIO, size: int) -> bool:
    """Whether an unpickler that is handed the file would come to call something, or to its end.

    A text that only begins like a pickle is none: an unpickler's stack is kept count of, and it
    stops where that would. A stream of more opcodes than anybody writes counts as one. What
    follows a pickle's end is looked at in the same way: PyTorch's old format, for one, is several
    pickles in a row, the first of them a mere number.
    """
    stream.seek(0)
    named = proto = False
    seen = 0
    while not (named or proto):
        stack = _Stack()
        try:
            for opcode in opcodes(stream, size):
                stack.apply(_BY_NAME[opcode.name])
                if opcode.name == "INST" or (named and opcode.name in _CALLING):
                    return True
                named = named or opcode.name in _NAMING
                proto = proto or opcode.name == "PROTO"
                seen += 1
                if seen > MAX_OPCODES:
                    return True
        except NotPickleError:
            return False
        except ValueError:
            return True
    return True


class _Stack:
    """How much an unpickler would have on its stack, and where its marks are."""

    def __init__(self) -> None:
        self._marked = [0]  # items above each mark; the first are below all

    def apply(self, opcode: pickletools.OpcodeInfo) -> None:
        """Raises NotPickleError where an unpickler would find too little."""
        if opcode.name == "POP" and len(self._marked) > 1 and not self._marked[-1]:
            self._marked.pop()  # an unpickler then takes the mark itself
            return
        taken = list(opcode.stack_before)
        if pickletools.markobject in taken:
            if len(self._marked) == 1:
                raise NotPickleError("there is no mark")
            self._marked.pop()
            taken = taken[: taken.index(pickletools.markobject)]
        if self._marked[-1] < len(taken):
            raise NotPickleError("the stack is empty")
        self._marked[-1] -= len(taken)
        for item in opcode.stack_after:
            if item is pickletools.markobject:
                self._marked.append(0)
            else:
                self._marked[-1] += 1
