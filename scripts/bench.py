"""Measures what kdrun costs beside the loop everyone writes, and beside its own bare step.

    python scripts/bench.py                     all sections; for an idle machine
    python scripts/bench.py --write             and writes their tables into docs/performance.md
    python scripts/bench.py --quick             a look: fewer pairs and images, one round, less than a minute
    python scripts/bench.py --only start sweep  some sections
    python scripts/bench.py --methods           what a step of each method costs beside one of KD

Sections: ``throughput`` of the loop, live and with a full teacher table; ``start``, to the first step; ``sweep`` of
eight jobs; ``memory``; ``methods``; ``gpu``, where there is one. Loops are timed in turn, in rounds whose order is
reversed, by the CPU time of one thread; a ratio is the median over the rounds, with its least and its largest value.
Everyone's loop is a DataLoader of PIL images with torchvision's transforms and ``.item()`` in every step. It has a
process of its own, so that what kdrun sets for its process does not make it faster. Images are random, since nothing
depends on what is in them; the first sweep takes those of MNIST where ``KDRUN_DATA`` is set. Teachers are untrained.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator

from benching import page
from benching.methods import classifying, methods
from benching.page import table
from benching.processes import memory, start_up, sweep
from benching.throughput import HEAD, throughput
from benching.worker import Worker

ROUNDS = 5


def throughput_section(rounds: int, quick: bool) -> Iterator[str]:
    yield table(HEAD, throughput(rounds, quick))


def start_section(rounds: int, quick: bool) -> Iterator[str]:
    yield table(["import torch, one step of Adam", "kdrun train, to its first step", "ratio"], start_up(rounds, quick))


def sweep_section(rounds: int, quick: bool) -> Iterator[str]:
    head = ["sweep", "launcher", "kdrun", "everyone's loop, a process a job", "ratio"]
    yield table(head, sweep(quick))


def memory_section(rounds: int, quick: bool) -> Iterator[str]:
    yield table(["training", "kdrun, peak", "everyone's loop, peak", "ratio"], memory(quick))


def methods_section(rounds: int, quick: bool) -> Iterator[str]:
    yield table(["method", "time / KD", "memory / KD", "stage"], methods(rounds, quick))


def gpu_section(rounds: int, quick: bool) -> Iterator[str]:
    with Worker("benching.gpu", "Gpu", quick=quick) as gpu:
        if (name := gpu("name")) is None:
            yield "Not run: this machine has no GPU."
            return
        yield f"On one {name}, fp32."
        for title, head, rows in gpu("tables", ["kd", "wskd"] if quick else classifying()):
            yield f"{title}:\n\n{table(head, rows)}"


SECTIONS: dict[str, Callable[[int, bool], Iterator[str]]] = {
    "throughput": throughput_section,
    "start": start_section,
    "sweep": sweep_section,
    "memory": memory_section,
    "methods": methods_section,
    "gpu": gpu_section,
}


def main() -> int:
    """Measures, prints, and writes what is asked for; returns the exit code."""
    options = parsed()
    os.environ["OMP_NUM_THREADS"] = "1"
    began = time.monotonic()
    for name in options.only:
        before = page.load()
        print(f"## {name} (load {before})\n", flush=True)
        parts = []
        for part in SECTIONS[name](options.rounds or (1 if options.quick else ROUNDS), options.quick):
            print(f"{part}\n", flush=True)
            parts.append(part)
        if options.write:
            text = page.block("\n\n".join(parts), command(name, options), before)
            page.PAGE.write_text(page.replaced(page.PAGE.read_text("utf-8"), name, text), "utf-8")
    print(f"{time.monotonic() - began:.0f} s, load {page.load()}")
    return 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS), help="(default: all)")
    parser.add_argument("--methods", action="store_const", dest="only", const=["methods"], help="--only methods")
    parser.add_argument("--quick", action="store_true", help="fewer pairs, images and jobs, one round")
    parser.add_argument("--rounds", type=int, help=f"how often each loop is timed (default: {ROUNDS})")
    parser.add_argument("--write", action="store_true", help="write the tables into docs/performance.md")
    options = parser.parse_args()
    if options.write and options.quick:
        parser.error("--write takes no figures of a quick look; leave one of them out")
    return options


def command(name: str, options: argparse.Namespace) -> str:
    """Returns the command that measures one section in the same way."""
    rounds = f" --rounds {options.rounds}" if options.rounds else ""
    return f"python scripts/bench.py --only {name}{rounds}"


if __name__ == "__main__":
    sys.exit(main())
