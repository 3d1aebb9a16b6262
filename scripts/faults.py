"""Does to kdrun what disks, people and strangers do to it, and writes docs/reliability.md: what passed, by kind.

    python scripts/faults.py                      all kinds, and docs/reliability.md
    python scripts/faults.py --quick              a sample of each kind
    python scripts/faults.py --only words yaml --save results.jsonl
                                                  some kinds, a piece; its results are added to a file
    python scripts/faults.py --sum results.jsonl  the page of all pieces
    python scripts/faults.py --only yaml --case "3,000 deep" --keep /tmp/box
                                                  one case, with what it printed and wrote

Each case runs ``kdrun`` in a process forked after the imports, in a box of its own, under limits of time and memory,
and says what must hold. The choices are seeded. Exits with 1 if anything failed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from random import Random

from battery.cases import Battery, Case, Result, run_case, run_trial
from battery.page import KINDS, page, table

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reliability.md"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(KINDS), help="the kinds (default: all)")
    parser.add_argument("--case", default="", help="only cases whose name contains this; failures are printed whole")
    parser.add_argument("--quick", action="store_true", help="a sample of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of all choices (default: 0)")
    parser.add_argument("--out", type=Path, help="the page (default: docs/reliability.md where all kinds are run)")
    parser.add_argument("--save", type=Path, help="a file to which the results are added, as JSON lines")
    parser.add_argument("--sum", nargs="+", type=Path, help="write the page from such files, and run nothing")
    parser.add_argument("--keep", type=Path, help="a new folder that gets the box of every failed case")
    options = parser.parse_args()
    began = time.monotonic()
    if options.sum:
        results, seconds = saved(options.sum)
    else:
        results = run_kinds(options)
        seconds = time.monotonic() - began
    if options.save:
        with options.save.open("a") as file:
            file.writelines(json.dumps({**asdict(result), "seconds": 0}) + "\n" for result in results)
            file.write(json.dumps({"seconds": seconds}) + "\n")
    print(f"{table(results)}\n{seconds:.0f} s")
    whole = options.sum or not (options.only or options.case or options.quick)
    if out := options.out or (PAGE if whole else None):
        out.write_text(page(results, options.seed, seconds))
    return int(any(result.status == "failed" for result in results))


def saved(paths: list[Path]) -> tuple[list[Result], float]:
    """Returns the results of all pieces, in the order of the kinds, and how long they took together."""
    rows = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    seconds = sum(row.pop("seconds") for row in rows)
    order = list(KINDS)
    return sorted((Result(**row) for row in rows if row), key=lambda result: order.index(result.kind)), seconds


def run_kinds(options: argparse.Namespace) -> list[Result]:
    scratch, results = Path(tempfile.mkdtemp(prefix="battery-stock-")), list[Result]()
    try:
        import_module("battery.runner").warm(scratch)
        import_module("battery.stock").build(scratch / "stock")
        for kind in options.only or KINDS:
            battery = Battery(scratch / "stock", Random(f"{options.seed} {kind}"), options.quick)
            results += run_kind(kind, battery, options)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return results


def run_kind(kind: str, battery: Battery, options: argparse.Namespace) -> list[Result]:
    """Runs the cases of a kind and prints each failure when it is known."""
    began, results = time.monotonic(), list[Result]()
    for each in import_module(f"battery.{KINDS[kind].module}").cases(battery):
        if options.case not in each.name and isinstance(each, Case):
            continue
        keep = options.keep / kind / str(len(results)) if options.keep else None
        ended = [run_case(kind, each, keep)] if isinstance(each, Case) else run_trial(kind, each)
        for result in ended:
            if result.status != "passed":
                print(f"{result.status}  {kind}  {result.name}: {result.why}", flush=True)
        results += ended
    print(f"{kind}: {len(results)} in {time.monotonic() - began:.0f} s", flush=True)
    return results


if __name__ == "__main__":
    sys.exit(main())
