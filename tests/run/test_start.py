from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

LATER = ("matplotlib", "tensorboard", "torchvision", "sklearn", "scipy", "torch.utils.flop_counter")

FIRST_STEP = f"""
import os, sys
import torch
from kdrun.cli import main

def step(self, closure=None):
    os.write(1, " ".join(name for name in {LATER} if name in sys.modules).encode() + b"the first step")
    os._exit(9)

torch.optim.Adam.step = step
main(["train", "epochs=1", "teacher.recipe.epochs=1", "out=OUT"])
"""


def test_the_first_step_waits_for_no_import_of_the_end(tmp_path: Path) -> None:
    code = FIRST_STEP.replace("OUT", str(tmp_path))
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert (ended.returncode, ended.stdout) == (9, "the first step"), ended.stderr
