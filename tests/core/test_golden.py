"""A tiny teacher with known numbers: when they move, models in old stores are no longer what their keys say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdrun.config.compose import compose
from kdrun.run.run import run
from kdrun.store.format import FORMAT

# Trained once with: kdrun train dataset=digits student=cnn method=scratch teacher=none epochs=2 device=cpu
GOLDEN = {2: {"loss/ce": (1.49992, 0.57400), "val/loss": (1.68950, 0.54826)}}


def test_a_tiny_teachers_numbers_change_only_with_the_format(tmp_path: Path) -> None:
    words = ["dataset=digits", "student=cnn", "method=scratch", "teacher=none", "epochs=2", "device=cpu"]
    run(compose([*words, f"out={tmp_path}"]), tmp_path / "run", words)
    epochs = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert FORMAT in GOLDEN, "write down the new numbers beside the new format number"
    for name, values in GOLDEN[FORMAT].items():
        # Threads, instruction sets and torch's versions move the fifth digit; a change of meaning moves the second.
        measured = [row[name] for row in epochs]
        assert measured == pytest.approx(values, rel=2e-3), f"{name} moved: raise FORMAT in kdrun/store/format.py"
