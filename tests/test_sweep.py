"""A sweep trains every model that its jobs share exactly once, also beside another sweep."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

TINY = ["dataset=synthetic", "teacher=mlp_32", "teacher.recipe.epochs=2", "student=mlp_16", "epochs=2", "device=cpu"]
SWEEP = ["-m", *TINY, "method=kd,kd_soft", "seed=0,1,2"]


def start(out: Path, name: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "kdrun", *SWEEP, f"out={out}", f"name={name}"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def read(sweep: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((sweep / "leaderboard.csv").read_text().splitlines()))


def test_two_sweeps_at_once_train_the_teacher_and_each_student_alone_exactly_once(tmp_path: Path) -> None:
    sweeps = [start(tmp_path, name) for name in ("one", "two")]
    told = []
    for sweep in sweeps:
        out, err = sweep.communicate(timeout=200)
        assert sweep.returncode == 0, err
        told += out.splitlines()
    assert sum(line.startswith("mlp_32 by scratch:") for line in told) == 1
    assert sum(line.startswith("mlp_16 by kd") for line in told) == 2 * 6
    assert sum(line.startswith("mlp_16 by scratch:") for line in told) == 3
    manifests = [json.loads(path.read_text()) for path in (tmp_path / "models").glob("*/manifest.json")]
    assert sorted(manifest["fields"]["seed"] for manifest in manifests) == [0, 0, 1, 2]
    for name in ("one", "two"):
        rows = read(tmp_path / name)
        assert {row["setting"] for row in rows} == {"method=kd", "method=kd_soft"}
        assert all(row["n"] == "3" and row["failed"] == "0" for row in rows)


def test_both_sweeps_of_one_config_print_the_same_scores(tmp_path: Path) -> None:
    for name in ("one", "two"):
        out, err = start(tmp_path, name).communicate(timeout=200)
        assert "difference to alone" in out, err
    one, two = (
        [{key: value for key, value in row.items() if "seconds" not in key} for row in read(tmp_path / name)]
        for name in ("one", "two")
    )
    assert one == two
