"""What a compiled program does, read from XLA's text of it: kernels, bytes moved, collectives.

Only what is in one round of the training loop counts. Loops within it count as often as they run
if the compiler says how often, and once if it doesn't.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

ITEM_BITS = {
    **dict.fromkeys(("pred", "s8", "u8"), 8),
    **dict.fromkeys(("s16", "u16", "f16", "bf16"), 16),
    **dict.fromkeys(("s32", "u32", "f32"), 32),
    **dict.fromkeys(("s64", "u64", "f64", "c64"), 64),
    **dict.fromkeys(("s4", "u4"), 4),
    "c128": 128,
}
COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
# They move no bytes, or another instruction counts for them.
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota"),
    *("partition-id", "replica-id", "opt-barrier", "optimization-barrier", "get-dimension-size"),
    *("while", "conditional", "call", "add-dependency", "domain"),
}
_TAKES_A_PART = {"dynamic-slice", "gather", "slice"}


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]  # their names; of a parameter its number
    rest: str  # its attributes


Computations = dict[str, list[Instruction]]


class Moved(NamedTuple):
    """What one round of the loop does on one device."""

    kernels: int
    bytes: int  # read from and written to its memory
    collectives: dict[str, tuple[int, int]]  # how many of each kind, and the bytes they combine


def read(program: str) -> Moved:
    """Returns what one round of the outermost loop does; of all, if there is no loop.

    Args:
      program: the text of a compiled executable, `compiled.as_text()`.
    """
    computations, entry = parse(program)
    body = next(
        (
            _called(line, "body")
            for line in _reachable(computations, entry)
            if line.opcode == "while" and _called(line, "body") in computations
        ),
        entry,
    )
    kernels, moved = 0, 0
    collectives: dict[str, tuple[int, int]] = {}
    for line, times, lines in _walk(computations, body, 1):
        kind = line.opcode.removesuffix("-start")
        if line.opcode in _FREE or line.opcode.endswith(("-done", "-update")):
            continue
        kernels += times
        moved += times * _traffic(line, lines, computations)
        if kind in COLLECTIVES:
            count, size = collectives.get(kind, (0, 0))
            payload = sum(size_of(lines[name].shape) for name in line.operands if name in lines)
            if kind == "all-gather":  # the bytes gathered; a -start has its operand there too
                payload = size_of(line.shape) - payload * line.opcode.endswith("-start")
            collectives[kind] = (count + times, size + times * payload)
    return Moved(kernels, moved, collectives)


def parse(program: str) -> tuple[Computations, str]:
    """Returns the computations by their names, and the name of the one that is run."""
    computations: Computations = {}
    entry, lines = "", None
    for row in program.splitlines():
        if row.startswith(("%", "ENTRY")) and row.endswith("{"):
            name = re.match(r"(?:ENTRY )?%?([\w.\-]+)", row)
            lines = computations.setdefault(name[1] if name else "", [])
            entry = name[1] if name and row.startswith("ENTRY") else entry
        elif row.startswith("}"):
            lines = None
        elif lines is not None and (line := _parse_line(row)):
            lines.append(line)
    return computations, entry


def _parse_line(row: str) -> Instruction | None:
    found = re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = ", row)
    if not found:
        return None
    start = found.end()
    end = _closing(row, start) if row[start] == "(" else row.index(" ", start)
    opens = row.find("(", end)
    if opens < 0:
        return None
    closes = _closing(row, opens)
    opcode = row[end:opens].strip()
    names = r"\d+" if opcode == "parameter" else r"%([\w.\-]+)"
    operands = tuple(re.findall(names, row[opens:closes]))
    return Instruction(found[1], row[start:end], opcode, operands, row[closes:].lstrip(", "))


def _closing(row: str, start: int) -> int:
    """Where the parenthesis that opens at `start` has been closed."""
    depth = 0
    for place in range(start, len(row)):
        depth += (row[place] == "(") - (row[place] == ")")
        if not depth:
            return place + 1
    return len(row)


def size_of(shape: str, everywhere: bool = True) -> int:
    """Bytes of a shape such as `(f32[8,3]{1,0}, s32[])`.

    `everywhere` counts arrays too that the layout puts into a TPU's fast memory, `S(1)`.

    >>> size_of("(f32[8,3]{1,0}, s32[])"), size_of("bf16[2]{0:T(256)S(1)}", everywhere=False)
    (100, 0)
    """
    bits = 0
    for kind, sizes, layout in re.findall(r"(\w+)\[([\d,]*)\](\{[^}]*\})?", shape):
        if everywhere or "S(" not in layout:
            bits += ITEM_BITS.get(kind, 8 if kind.startswith("f8") else 0) * math.prod(
                int(size) for size in sizes.split(",") if size
            )
    return bits // 8


def _called(line: Instruction, attribute: str) -> str:
    found = re.search(rf"\b{attribute}=%?([\w.\-]+)", line.rest)
    return found[1] if found else ""


def _reachable(computations: Computations, name: str) -> Iterator[Instruction]:
    """The instructions of a computation, and of those that it calls, loops left out."""
    for line in computations.get(name, ()):
        yield line
        if line.opcode == "call":
            yield from _reachable(computations, _called(line, "to_apply"))


def _walk(
    computations: Computations, name: str, times: int
) -> Iterator[tuple[Instruction, int, dict[str, Instruction]]]:
    """All instructions that a computation runs, how often, and their neighbors by name."""
    rows = computations.get(name, [])
    lines = {line.name: line for line in rows}
    for line in rows:
        yield line, times, lines
        if line.opcode == "while":
            trips = re.search(r'known_trip_count":\{"n":"(\d+)"', line.rest)
            rounds = int(trips[1]) if trips else 1
            yield from _walk(computations, _called(line, "body"), times * rounds)
        elif line.opcode == "call":
            yield from _walk(computations, _called(line, "to_apply"), times)
        elif line.opcode == "conditional":
            branch = _called(line, "true_computation") or _first_branch(line)
            yield from _walk(computations, branch, times)


def _first_branch(line: Instruction) -> str:
    found = re.search(r"branch_computations=\{%?([\w.\-]+)", line.rest)
    return found[1] if found else ""


def _traffic(line: Instruction, lines: dict[str, Instruction], computations: Computations) -> int:
    """Bytes that an instruction reads and writes."""
    if line.opcode.endswith("-start"):  # the result repeats the operands
        return 2 * sum(_stored(lines, name) for name in line.operands)
    written = size_of(line.shape, everywhere=False)
    if line.opcode in _TAKES_A_PART:
        return 2 * written
    if line.opcode == "dynamic-update-slice" and len(line.operands) > 1:
        return 2 * _stored(lines, line.operands[1])
    body = computations.get(_called(line, "calls"), [])
    parts = _parts(body)
    updated = _updated(body)
    read = 0
    for index, name in enumerate(line.operands):
        whole = _stored(lines, name)
        read += min(whole, parts[index]) if index in parts else whole
    if updated is not None and updated < written:  # in place: only the part is written
        return read + updated
    return read + written


def _stored(lines: dict[str, Instruction], name: str) -> int:
    return size_of(lines[name].shape, everywhere=False) if name in lines else 0


def _parts(body: list[Instruction]) -> dict[int, int]:
    """Bytes that a fusion reads of those of its parameters from which it only takes a part."""
    sizes: dict[int, int] = {}
    lines = {line.name: line for line in body}
    for parameter in body:
        if parameter.opcode == "parameter":
            size = _part(parameter.name, body, lines)
            if size is not None:
                sizes[int(parameter.operands[0])] = size
    return sizes


def _part(name: str, body: list[Instruction], lines: dict[str, Instruction]) -> int | None:
    """Bytes that are read of a value of which only parts are taken; None if it is read whole."""
    total = 0
    users = [line for line in body if name in line.operands]
    for line in users:
        first = line.operands[0] == name
        if line.opcode in _TAKES_A_PART and first:
            size: int | None = size_of(line.shape)
        elif line.opcode == "dynamic-update-slice" and first:
            size = size_of(lines[line.operands[1]].shape)
        elif line.opcode in ("bitcast", "reshape"):
            size = _part(line.name, body, lines)
        else:
            size = None
        if size is None:
            return None
        total += size
    return total if users else None


def _updated(body: list[Instruction]) -> int | None:
    """Bytes that a fusion writes if its result is an array updated in place."""
    if not body or body[-1].opcode != "dynamic-update-slice":
        return None
    lines = {line.name: line for line in body}
    return size_of(lines[body[-1].operands[1]].shape)
