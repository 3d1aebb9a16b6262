"""Checks a PyTorch file before it is loaded, so that loading it runs no code and takes no more memory than the file."""

from __future__ import annotations

import re
import warnings
import zipfile
from pickletools import OpcodeInfo, genops, markobject
from typing import BinaryIO

from kdrun.errors import InputError

ZIP = b"PK\x03\x04"

ZIP_END = b"PK\x05\x06"
"""The beginning of the last 22 bytes of a zip without a comment, as torch writes it."""

MOST = 1 << 16
"""The most parts of a file; each takes memory and time, however small it is. The largest nets have thousands."""

STEPS = 1 << 20
"""The most operations of a pickle: one tensor takes about 30, so they are enough for some 30,000."""

LEGACY_PICKLES = 5
"""The pickles before the storages of a file that is no zip: magic number, protocol, machine, content, storages."""

SHARED = object()
"""Stands for a value from the pickle's memo: a call that copies it, repeated, takes any amount of memory."""

TYPES = re.compile(r"torch(\.storage)?\.\w*Storage|torch\.(q?u?int|float|bfloat|complex)\w+|torch\.bool|torch\.per_\w+")
"""The names of classes and values that a state_dict mentions without calling them."""

CALLS = re.compile(
    r"collections\.OrderedDict|torch\.(Size|device)|torch\.serialization\._get_layout"
    r"|torch\._utils\._rebuild_\w+|torch\.nn\.parameter\.Parameter"
)
"""The functions that a state_dict calls; none of them takes memory of its own when its operands are not shared."""


def check(file: BinaryIO, where: str) -> None:
    """Refuses a file that ``torch.load`` should not be given; the check reads its pickles, not its tensors.

    Torch's ``weights_only`` runs no code, but it builds what a pickle asks for, such as a bytearray of 2 GB from a file
    of 1 kB, and it unpacks compressed or shared parts.

    Args:
        file: the file, open for reading, at its start.
        where: the file, for the error.

    Raises:
        InputError: if it holds code, or asks for more than the file holds.
        Exception: of any kind, if it is no PyTorch file or damaged.
    """
    head = file.read(len(ZIP))
    file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes in a text of the file, which would stand beside the error
        if head == ZIP:
            _check_zip(file, where)
        else:
            for _ in range(LEGACY_PICKLES):
                _check_pickle(file, where)


def has_both_ends(file: BinaryIO) -> bool:
    """Returns whether ``file`` begins at its current place, and ends, as torch's files do; reads 26 bytes."""
    begins = file.read(len(ZIP)) == ZIP
    file.seek(max(0, file.seek(0, 2) - 22))
    return begins and file.read(len(ZIP_END)) == ZIP_END


def _check_zip(file: BinaryIO, where: str) -> None:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise InputError(where, "is not a checkpoint (its parts are compressed)")
        size = file.seek(0, 2)
        if sum(max(member.file_size, member.compress_size) for member in members) > size:
            raise InputError(where, "is not a checkpoint (its parts are larger than the file)")
        if len(members) > MOST:
            raise InputError(where, f"holds {len(members)} parts; {MOST} are the most that are read")
        # torch reads zips by other code: it must see the same parts under the same names
        names = [member.filename for member in members]
        if archive.comment or len({name.casefold() for name in names}) < len(names):
            raise InputError(where, "is not a checkpoint (two of its parts have one name)")
        with archive.open(f"{names[0].partition('/')[0]}/data.pkl") as pickled:
            _check_pickle(pickled, where)  # type: ignore[arg-type]


def _check_pickle(file: BinaryIO, where: str) -> None:
    """Follows a pickle on a stack of what its operations leave there: a name, an empty tuple, ``SHARED`` or None."""
    stack: list[object] = []
    memo: dict[object, object] = {}
    for count, (opcode, argument, _) in enumerate(genops(file)):
        if count >= STEPS:
            raise InputError(where, f"describes its parts in more than {STEPS} steps, too many for weights")
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if opcode.name == "MEMOIZE" else argument] = stack[-1]
            continue
        operands = _popped(stack, opcode)
        if opcode.name in ("REDUCE", "NEWOBJ", "BUILD"):
            _check_call(opcode.name, operands[0], operands[1], where)
        if opcode.name.startswith("TUPLE") and SHARED in operands:
            stack.append(SHARED)
        else:
            stack += _pushed(opcode, argument, memo, where)


def _popped(stack: list[object], opcode: OpcodeInfo) -> list[object]:
    """Takes the operands of an operation off the stack; those up to a mark come in any order."""
    before = list(opcode.stack_before)
    if markobject in before:
        items = list(iter(stack.pop, markobject))
        before = before[: before.index(markobject)]
        return items + [stack.pop() for _ in before]
    if opcode.name == "POP" and stack[-1] is markobject:
        return [stack.pop()]
    return [stack.pop() for _ in before][::-1]


def _pushed(opcode: OpcodeInfo, argument: object, memo: dict[object, object], where: str) -> list[object]:
    """Returns what an operation puts on the stack."""
    match opcode.name:
        case "GLOBAL":
            return [_allowed(str(argument).replace(" ", "."), where)]
        case "STACK_GLOBAL" | "INST" | "OBJ" | "NEWOBJ_EX" | "EXT1" | "EXT2" | "EXT4":
            raise InputError(where, "refused: it holds code, not only weights")
        case "EMPTY_TUPLE":
            return [()]
        case "GET" | "BINGET" | "LONG_BINGET":
            value = memo.get(argument)
            return [value if isinstance(value, str) else SHARED]
        case "DUP":
            return [SHARED, SHARED]
        case _:
            return [markobject if each is markobject else None for each in opcode.stack_after]


def _allowed(name: str, where: str) -> str:
    if TYPES.fullmatch(name) or CALLS.fullmatch(name):
        return name
    culprit = name.removeprefix("__builtin__.").removeprefix("builtins.")
    raise InputError(where, f"refused: it holds code ({culprit}), not only weights")


def _check_call(kind: str, target: object, operand: object, where: str) -> None:
    called = "BUILD" if kind == "BUILD" else str(target)
    plain = operand == () if called == "collections.OrderedDict" else operand is not SHARED
    if not (plain or called.startswith("torch._utils.")) or not (called == "BUILD" or CALLS.fullmatch(called)):
        name = called.rpartition(".")[2] if isinstance(target, str) or kind == "BUILD" else "what it does not name"
        raise InputError(where, f"refused: it calls {name} in a way that weights do not need")
