"""Mutated inputs are taken or refused in one line; the quick part of scripts/fuzz.py."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from random import Random

import pytest
from battery.mutate import SEAL, WAYS, container, inside_safetensors, inside_seal, inside_zip, mutated

ROOT = Path(__file__).parents[2]


def test_no_mutated_input_raises_anything_raw() -> None:
    # In a process of its own: it forks, under limits of memory.
    command = [sys.executable, "scripts/fuzz.py", "--inputs", "32", "--seed", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 kinds of failures" in done.stdout


def test_the_same_seed_mutates_in_the_same_way() -> None:
    content = bytes(range(256))
    results = [[mutated(content, [content], Random(f"3 {number}")) for number in range(50)] for _ in range(2)]
    assert results[0] == results[1]
    assert len(set(results[0])) > 40


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_each_way_takes_empty_and_short_inputs(way: object) -> None:
    for number in range(20):
        for content in (b"", b"x", b"ab: c"):
            assert isinstance(way(bytearray(content), [b"other"], Random(number)), bytearray)  # type: ignore[operator]


def archive(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


def test_a_member_of_a_zip_is_mutated_with_right_checksums() -> None:
    content = archive(data=b"a" * 100, more=b"b" * 100)
    results = [inside_zip(content, [], Random(number)) for number in range(20)]
    assert all(zipfile.ZipFile(io.BytesIO(result)).testzip() is None for result in results)
    assert any(result != content for result in results)


def test_a_mutated_stage_has_the_right_seal() -> None:
    import hashlib

    payload = archive(data=b"a" * 100)
    result = inside_seal(SEAL + bytes(32) + payload, [], Random(0))
    assert hashlib.sha256(result[len(SEAL) + 32 :]).digest() == result[len(SEAL) : len(SEAL) + 32]


def test_a_mutated_header_of_safetensors_has_the_right_length() -> None:
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    content = struct.pack("<Q", len(header)) + header + bytes(4)
    result = inside_safetensors(content, [], Random(1))
    assert struct.unpack("<Q", result[:8])[0] == len(result) - 8 - 4


def test_a_container_is_mutated_outside_too() -> None:
    content = archive(data=b"a" * 100)
    results = [container(content, [], Random(number)) for number in range(40)]
    assert any(result[:2] != b"PK" or len(result) < len(content) // 2 for result in results)
