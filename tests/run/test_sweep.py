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
    rows = list(csv.DictReader((sweep / "leaderboard.csv").read_text().splitlines()))
    return [{key: value for key, value in row.items() if "seconds" not in key} for row in rows]


def test_concurrent_sweeps_train_shared_models_once_and_agree(tmp_path: Path) -> None:
    sweeps = [start(tmp_path, name) for name in ("one", "two")]
    lines = []
    for sweep in sweeps:
        out, err = sweep.communicate(timeout=200)
        assert sweep.returncode == 0, err
        lines += out.splitlines()
    assert sum(line.startswith("mlp_32 by scratch:") for line in lines) == 1
    assert sum(line.startswith("mlp_16 by kd") for line in lines) == 2 * 6
    assert sum(line.startswith("mlp_16 by scratch:") for line in lines) == 3
    manifests = [json.loads(path.read_text()) for path in (tmp_path / "models").glob("*/manifest.json")]
    assert sorted(manifest["fields"]["seed"] for manifest in manifests) == [0, 0, 1, 2]
    one, two = (read(tmp_path / name) for name in ("one", "two"))
    assert one == two
    for rows in (one, two):
        assert {row["setting"] for row in rows} == {"method=kd", "method=kd_soft"}
        assert all(row["n"] == "3" and row["failed"] == "0" for row in rows)


def kdrun(out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kdrun", *words, f"out={out}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=200)


def test_a_job_that_fails_its_rehearsal_refuses_the_sweep(tmp_path: Path) -> None:
    tiny = [word for word in TINY if not word.startswith(("student=", "teacher"))]
    done = kdrun(
        tmp_path, "-m", *tiny, "student=mlp_16,byot_resnet18", "teacher=none", "method=self_distill", "seed=0,1"
    )
    assert done.returncode == 2
    assert done.stderr == (
        "kdrun: error: student: mlp_16 has no classifiers on the way; take selfdistill4 or byot_resnet18 "
        "(in 2 of 4 jobs)\n"
    )
    assert list(tmp_path.iterdir()) == []
