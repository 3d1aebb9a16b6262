"""Kills runs of every kind of stage at all their instrumented points, resumes them, and compares the bits.

    python scripts/kill.py --kills 20                               some of every kind
    python scripts/kill.py --kills 250 --seed 1 --out kills.jsonl   a piece; its counts are added to a file
    python scripts/kill.py --sum kills.jsonl                        the table of all pieces

A kind is a tiny run whose stages no other kind has, or a sweep. It is stopped by SIGKILL, SIGTERM or SIGINT at a step,
or before, in or after the writing of a file, the first file included, and resumed, up to four times over. Then its
weights, records and metrics are compared with those of a run that nothing disturbed. No point is drawn twice until all
have had their turn. Exits with 1 if any run differs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from battery.runner import Outcome, furnish, start, warm
from battery.stock import differing

from kdrun.store.faults import planned

DATA = "dataset=synthetic dataset.size=8 dataset.train_count=96 dataset.test_count=32"
RUN = "epochs=2 batch_size=16 device=cpu out=o name=run"
TEACHER = "teacher.recipe.epochs=2 teacher.recipe.batch_size=16"
MLP = f"{DATA} teacher=mlp_32 {TEACHER} student=mlp_16 {RUN}"
NO_TEACHER = f"{DATA} teacher=none student=mlp_16 {RUN}"
RESNETS = f"{DATA} teacher=resnet8 {TEACHER} student=resnet8 {RUN}"
GROWING = f"{DATA} teacher=mlp_100 {TEACHER} student=mlp_32 {RUN}"
LARGER = "dataset.train_count=12 dataset.test_count=4 batch_size=4 baseline=false"
MAPS = f"{RESNETS} {LARGER} teacher.recipe.batch_size=4"
PAIRS = f"dataset=synthetic_pairs dataset.size=64 teacher=none student=ae {RUN} {LARGER}"

FEATURES = "afd at catkd cc ickd irg kdsvd mgd nst ofd pkt reviewkd rkd semckd simkd sp srrl vid".split()
"""Methods of features and relations, which have one stage."""

ONE_STAGE = "logits dkd dist nkd wsld normkd ttm rld mlld_weak logit_std ctkd sum".split()
"""Methods of logits, which are alike but for their loss and for what they learn or remember."""

KINDS = {
    "kd": f"{MLP} method=kd",
    "label-free": f"{MLP} method=kd_soft baseline=false",
    "fitnets": f"{MLP} method=fitnets method.hint_epochs=2",
    "hint_joint": f"{RESNETS} method=hint_joint baseline=false",
    "cosine": f"{MLP} method=cosine",
    "chain of fitnets": f"{MLP} method=takd method.base=fitnets method.base.hint_epochs=1 method.assistants=[mlp_30]",
    "gskd": f"{GROWING} method=gskd method.students=[mlp_16]",
    "gskd, new teacher": f"{GROWING} method=gskd method.students=[mlp_16] method.new_teacher=mlp_100",
    "wskd": f"{MLP} method=wskd method.min_subset=1",
    "wskd, BatchNorm": f"{RESNETS} method=wskd method.buffer=4 baseline=false",
    **{name: f"{MLP} method={name}" for name in ONE_STAGE},
    **{name: f"{MAPS} method={name}" for name in FEATURES},
    **{name: f"{MAPS} method={name} method.init_epochs=1" for name in ("ab", "fsp", "ft")},
    "crd": f"{MAPS} method=crd method.negatives=8",
    "sdd": f"{RESNETS} method=sdd baseline=false",
    "pskd": f"{NO_TEACHER} method=pskd",
    "gan": f"{MLP} method=gan method.discriminator_width=8",
    "cgan": f"{MLP} method=cgan method.discriminator_width=8",
    "wgan": f"{MLP} method=wgan method.critic_width=8 method.critic_steps=2",
    "wgan_gp": f"{MLP} method=wgan_gp method.critic_width=8",
    "adv_basic": f"{MLP} method=adv_basic method.discriminator_width=8 method.discriminator_epochs=2",
    "zskd": f"{MLP} method=zskd method.count=40 method.impression_epochs=2 method.impression_batch=8",
    "self_distill": f"{DATA} dataset.pad_to=32 teacher=none student=selfdistill4 {RUN} {LARGER} method=self_distill",
    "tfkd_reg": f"{NO_TEACHER} method=tfkd_reg",
    "tfkd_self": f"{MLP} teacher=mlp_16 method=tfkd_self seed=1",
    "temperature": f"{NO_TEACHER} method=temperature",
    "scratch": f"{NO_TEACHER} method=scratch",
    "reconstruction": f"{PAIRS} method=reconstruction",
    "ae_cross": f"{PAIRS} method=ae_cross",
    "sweep": f"-m {MLP} method=kd seed=0,1 baseline=false",
}

NO_FAULT = "kill@nothing:1"
ENDED = {"kill": (-9,), "term": (143, -15), "int": (130, -2)}


@dataclass
class Kind:
    """A kind of run: its words, the points of an undisturbed run, and what came of the disturbed ones."""

    name: str
    top: Path
    points: list[tuple[str, int]] = field(default_factory=list)
    left: list[tuple[str, int]] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)
    stages: set[str] = field(default_factory=set)
    runs: int = 0
    identical: int = 0
    seconds: float = 0.0

    @property
    def words(self) -> list[str]:
        return KINDS[self.name].split()

    @property
    def whole(self) -> Path:
        return self.top / "whole" / "box" / "o"

    def prepare(self) -> None:
        """Does the undisturbed run and notes the points that it passes."""
        outcome, passed = attempt(self.top / "whole", self.words, NO_FAULT)
        if outcome.code:
            raise SystemExit(f"{self.name}: exit code {outcome.code}\n{outcome.out}{outcome.err}")
        self.points = [(point, count + 1) for point, most in passed.items() for count in range(most)]

    def point(self, chance: Random) -> tuple[str, int]:
        """Returns the next point: all come once before one comes twice."""
        if not self.left:
            self.left = chance.sample(self.points, len(self.points))
        return self.left.pop()

    def report(self, seed: int) -> dict[str, object]:
        counts = {"kills": dict(self.kills), "runs": self.runs, "identical": self.identical}
        about = {"points": len(self.points), "stages": sorted(self.stages), "seconds": round(self.seconds)}
        return {"kind": self.name, "seed": seed, **counts, **about}


def attempt(top: Path, words: list[str], plan: str, save_seconds: float = 10) -> tuple[Outcome, Counter[str]]:
    """Runs a command with a planned fault; returns its outcome and how often it passed each point, if it ended."""
    if not (top / "box").is_dir():
        furnish(top)
    passed = top / "passed.json"
    passed.unlink(missing_ok=True)

    def note() -> None:
        leave = os._exit

        def noted(code: int) -> None:
            if (fault := planned()) is not None:
                passed.write_text(json.dumps(fault.passed))
            leave(code)

        os._exit = noted  # type: ignore[assignment]

    env = {"KDRUN_TESTING": "1", "KDRUN_FAULT": plan, "KDRUN_SAVE_SECONDS": str(save_seconds)}
    outcome = start(top, ["train", *words], env, note).finish(120)
    return outcome, Counter(json.loads(passed.read_text()) if passed.is_file() else {})


def disturb(kind: Kind, top: Path, chance: Random) -> str:
    """Does a run that is stopped up to four times on the way; returns what is wrong with its end."""
    for number in range(4):
        point, count = kind.point(chance)
        count = count if number == 0 else chance.randint(1, count)
        action = chance.choice(("kill", "kill", "term", "int"))
        outcome, _ = attempt(top, begun(kind, top), f"{action}@{point}:{count}", chance.choice((0, 0.05, 10)))
        if outcome.code not in ENDED[action]:
            break  # the point lay behind: it came to its end
        kind.kills[action] += 1
        kind.stages.add(point)
    else:
        outcome, _ = attempt(top, begun(kind, top), NO_FAULT)
    if outcome.code:
        return f"exit code {outcome.code}: {outcome.err.strip()[-300:]}"
    return ", ".join(differing(top / "box/o", kind.whole))


def begun(kind: Kind, top: Path) -> list[str]:
    """Returns the words with which a run goes on: ``resume``, or the same again where there is no record yet."""
    run = top / "box/o/run"
    if kind.name == "sweep":
        shutil.rmtree(run, ignore_errors=True)  # a sweep begins again; its trained models are in the store
        return kind.words
    whole = all((run / name).is_file() for name in ("config.yaml", "run.json"))
    return ["resume=o/run"] if whole else kind.words


def kill(kinds: list[Kind], kills: int, seed: int) -> Iterator[str]:
    """Does runs of each kind in turn until so many kills are done; yields a line for each that differs."""
    chance = Random(seed)
    while sum(kind.kills.total() for kind in kinds) < kills:
        kind = min(chance.sample(kinds, len(kinds)), key=lambda each: each.kills.total())
        began, top = time.monotonic(), kind.top / "trial"
        if not kind.points:
            kind.prepare()
        wrong = disturb(kind, top, chance)
        kind.runs, kind.identical = kind.runs + 1, kind.identical + (not wrong)
        kind.seconds += time.monotonic() - began
        shutil.rmtree(top)
        if wrong:
            yield f"{kind.name}, run {kind.runs}: {wrong}"


def table(rows: list[dict[str, object]]) -> str:
    """Returns the sum of several pieces as a table in Markdown."""
    lines = [
        "| kind | kills | KILL | TERM | INT | runs | identical | differing | stages |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    total: Counter[str] = Counter()
    for kind in dict.fromkeys(row["kind"] for row in rows):
        counts: Counter[str] = Counter()
        stages: set[str] = set()
        for row in (row for row in rows if row["kind"] == kind):
            counts += Counter({"runs": row["runs"], "identical": row["identical"], **row["kills"]})
            stages |= {stage for stage in row["stages"] if "/" in stage}
        total += counts
        lines.append(f"| {kind} | {numbers(counts)} | {', '.join(sorted(stages))} |")
    return "\n".join([*lines, f"| sum | {numbers(total)} | |"])


def numbers(counts: Counter[str]) -> str:
    kills = [counts[action] for action in ("kill", "term", "int")]
    return " | ".join(
        map(str, [sum(kills), *kills, counts["runs"], counts["identical"], counts["runs"] - counts["identical"]])
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="how many to make (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the points (default: 0)")
    parser.add_argument("--only", nargs="+", choices=list(KINDS), help="the kinds (default: all)")
    parser.add_argument("--out", type=Path, help="a file to which the counts of each kind are added, as JSON lines")
    parser.add_argument("--sum", nargs="+", type=Path, help="print the table of such files, and kill nothing")
    options = parser.parse_args()
    if options.sum:
        print(table([json.loads(line) for path in options.sum for line in path.read_text().splitlines()]))
        return 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        warm(Path(scratch))
        kinds = [Kind(name, Path(scratch) / name.replace(" ", "_")) for name in options.only or KINDS]
        for line in kill(kinds, options.kills, options.seed):
            print(line, flush=True)
    rows = [kind.report(options.seed) for kind in kinds if kind.runs]
    if options.out:
        with options.out.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    kills, runs, same = (
        sum(kind.kills.total() for kind in kinds),
        sum(kind.runs for kind in kinds),
        sum(kind.identical for kind in kinds),
    )
    seconds = time.monotonic() - began
    print(table(rows))
    pace = f"{seconds:.0f} s, {60 * kills / seconds:.0f} a minute"
    print(f"{kills} kills in {runs} runs, {same} of them bit-identical, {pace}")
    return int(same != runs)


if __name__ == "__main__":
    sys.exit(main())
