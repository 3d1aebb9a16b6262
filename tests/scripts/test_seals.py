"""Edited records whose digests are made right again, as a hostile folder has them."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from battery.seals import ZEROS, is_sealed, seal


def laid(run: Path) -> None:
    run.mkdir(exist_ok=True)
    (run / "config.yaml").write_text("seed: 1\nout: o\n")
    (run / "metrics.jsonl").write_text('{"epoch": 1}\n')
    (run / "summary.json").write_text(json.dumps({"files": {"metrics.jsonl": ZEROS}, "seal": ZEROS}))
    (run / "run.json").write_text("[1, 2")


def test_a_sealed_config_ends_with_the_digest_of_its_lines(tmp_path: Path) -> None:
    laid(tmp_path)
    assert not is_sealed(tmp_path)
    seal(tmp_path)
    seal(tmp_path)  # again: the old line is replaced
    text = (tmp_path / "config.yaml").read_text()
    lines, _, digest = text.rpartition("# sha256 of the lines above: ")
    assert lines == "seed: 1\nout: o\n"
    assert hashlib.sha256(lines.encode()).hexdigest() == digest.strip()
    assert is_sealed(tmp_path)


def test_a_sealed_json_file_holds_its_own_digest_and_those_beside_it(tmp_path: Path) -> None:
    laid(tmp_path)
    seal(tmp_path)
    text = (tmp_path / "summary.json").read_text()
    digest = re.findall(r'"seal": "(\w{64})"\n}\n\Z', text)[0]
    assert hashlib.sha256(text.replace(digest, ZEROS).encode()).hexdigest() == digest
    assert json.loads(text)["files"] == {
        "metrics.jsonl": hashlib.sha256((tmp_path / "metrics.jsonl").read_bytes()).hexdigest()
    }


def test_what_is_no_json_stays_as_it_is(tmp_path: Path) -> None:
    laid(tmp_path)
    seal(tmp_path)
    assert (tmp_path / "run.json").read_text() == "[1, 2"
