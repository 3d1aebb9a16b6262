"""Mutates bytes, as a fuzzer does: blindly, by words that mean something, and inside of containers."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import zipfile
from random import Random

TOKENS = [
    token.encode()
    for token in (
        *(
            "&a ",
            "*a",
            "<<: *a\n",
            "!!python/object/apply:os.system [x]",
            "!!binary x",
            "${",
            "${seed}",
            "${oc.env:HOME}",
            "---\n",
            "\t",
            "? ",
        ),
        *(
            "[" * 200,
            "{" * 200,
            "]",
            "}",
            "[]",
            "{}",
            "null",
            "true",
            "NaN",
            "Infinity",
            "-1",
            "0",
            "1e400",
            "9" * 400,
            "-0",
            "''",
            '"',
        ),
        *(
            "_target_: os.system\n",
            "defaults:\n  - m\n",
            "hydra:\n  mode: MULTIRUN\n",
            "trust: [os]\n",
            "\x00",
            "\x1b]0;x\x07",
            "\u202e",
            "\ud7ff",
            "=",
            ",",
            "~",
            "+",
        ),
    )
]
NUMBERS = [
    struct.pack(form, value)
    for form, value in (
        ("<I", 0xFFFFFFFF),
        ("<I", 0x7FFFFFFF),
        (">I", 0xFFFFFFFF),
        (">I", 1 << 20),
        ("<Q", 1 << 62),
        ("<H", 0xFFFF),
        ("<I", 0),
    )
]


def mutated(content: bytes, others: list[bytes], chance: Random) -> bytes:
    """Returns ``content`` after one to four mutations; ``others`` lend parts of themselves."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 4))):
        data = bytearray(chance.choice(WAYS)(data, others, chance))
    return bytes(data)


def flip(data: bytearray, others: list[bytes], chance: Random) -> bytearray:
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return data


def overwrite(data: bytearray, others: list[bytes], chance: Random) -> bytearray:
    at, piece = chance.randrange(len(data) + 1), chance.choice(NUMBERS)
    data[at : at + len(piece)] = piece
    return data


def insert(data: bytearray, others: list[bytes], chance: Random) -> bytearray:
    at = chance.randrange(len(data) + 1)
    data[at:at] = chance.choice(TOKENS)
    return data


def replace_word(data: bytearray, others: list[bytes], chance: Random) -> bytearray:
    """Replaces what lies between two separators by a token."""
    at = chance.randrange(len(data) + 1)
    begin = max(data.rfind(mark, 0, at) for mark in (b" ", b":", b"=", b"[", b"\n")) + 1
    ends = [end for mark in (b" ", b":", b",", b"]", b"\n") if (end := data.find(mark, at)) >= 0]
    data[begin : min(ends, default=len(data))] = chance.choice(TOKENS)
    return data


def cut(data: bytearray, others: list[bytes], chance: Random) -> bytearray:
    return data[: chance.randrange(len(data) + 1)]


def remove(data: bytearray, others: list[bytes], chance: Random) -> bytearray:
    at = chance.randrange(len(data) + 1)
    del data[at : at + chance.choice((1, 2, 4, 16, 100))]
    return data


def repeat(data: bytearray, others: list[bytes], chance: Random) -> bytearray:
    at = chance.randrange(len(data) + 1)
    piece = data[at : at + chance.choice((1, 8, 64))]
    data[at:at] = piece * chance.choice((1, 3, 50))
    return data


def splice(data: bytearray, others: list[bytes], chance: Random) -> bytearray:
    other = chance.choice(others) if others else b""
    at, start = chance.randrange(len(data) + 1), chance.randrange(len(other) + 1)
    data[at : at + chance.randrange(1, 200)] = other[start : start + chance.randrange(1, 200)]
    return data


WAYS = (flip, flip, overwrite, insert, replace_word, replace_word, cut, remove, repeat, splice)


def inside_zip(content: bytes, others: list[bytes], chance: Random) -> bytes:
    """Mutates one member of a zip, so that its checksums are right."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as new:
        names = old.namelist()
        chosen = next((name for name in names if name.endswith("data.pkl")), names[0])
        if chance.random() < 0.3:
            chosen = chance.choice(names)
        for name in names:
            data = old.read(name)
            new.writestr(name, mutated(data, others, chance) if name == chosen else data)
    return buffer.getvalue()


def inside_safetensors(content: bytes, others: list[bytes], chance: Random) -> bytes:
    """Mutates the header of a safetensors file, its length set right."""
    length = struct.unpack("<Q", content[:8])[0]
    header = mutated(content[8 : 8 + length], [], chance)
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def inside_gzip(content: bytes, others: list[bytes], chance: Random) -> bytes:
    return gzip.compress(mutated(gzip.decompress(content), others, chance), 1)


SEAL = b"kdrun1\n"


def inside_seal(content: bytes, others: list[bytes], chance: Random) -> bytes:
    """Mutates a checkpoint of a stage and seals it again."""
    payload = inside_zip(content[len(SEAL) + 32 :], others, chance)
    return SEAL + hashlib.sha256(payload).digest() + payload


def container(content: bytes, others: list[bytes], chance: Random) -> bytes:
    """Mutates ``content``, half of the time inside of the container that it is."""
    if chance.random() < 0.5:
        if content[:2] == b"PK":
            return inside_zip(content, others, chance)
        if content[:2] == b"\x1f\x8b":
            return inside_gzip(content, others, chance)
        if content.startswith(SEAL):
            return inside_seal(content, others, chance)
        if content[8:9] == b"{":
            return inside_safetensors(content, others, chance)
    return mutated(content, others, chance)
