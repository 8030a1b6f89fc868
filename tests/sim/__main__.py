"""python -m tests.sim: whole clusters from seeds, on virtual time; the first violation fails it.

A failing seed is printed with the command that replays it. The same seed gives the same log.
"""

import argparse
import os
import sys
import time
from collections import Counter

from cluster.config import JournalKind
from tests.sim.plants import PLANTS
from tests.sim.run import Result
from tests.sim.seeds import results

SHOWN_MAX = 12
"""Violations of one seed that are printed."""


def main() -> int:
    args = _parser().parse_args()
    if args.list_plants:
        for name, plant in PLANTS.items():
            _say(f"{name:32} {plant.kind or 'both':5} {plant.seeds_max:4} seeds  {plant.what}")
        return 0
    if args.plants:
        return _hunt_all(args)
    seeds = range(args.first, args.first + args.seeds)
    began_s = time.monotonic()
    totals: Counter[str] = Counter()
    points: Counter[str] = Counter()
    for result in results(seeds, args.journal, args.plant, args.workers, args.log):
        totals += result.totals
        points += result.points
        if args.log:
            _say("\n".join(result.log))
        if result.violations:
            _tell(result, args)
            return 1
    if not args.log:
        _say(summary(totals, points))
        _say(f"{len(seeds):,} seeds from {args.first}, no violation, {time.monotonic() - began_s:.1f} s")
    return 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def summary(totals: Counter[str], points: Counter[str]) -> str:
    lines = [f"  {count:9,}  {name}" for name, count in sorted(totals.items())]
    lines += [f"  {count:9,}  {name}" for name, count in sorted(points.items())]
    return "\n".join(lines)


def _tell(result: Result, args: argparse.Namespace) -> None:
    _say(f"seed {result.seed}, journal {result.kind}: {len(result.violations)} violations")
    for violation in result.violations[:SHOWN_MAX]:
        _say(f"  {violation}")
    _say(f"replay it: {_replay(result.seed, args.journal, args.plant)}")


def _replay(seed: int, kind: JournalKind | None, plant: str) -> str:
    options = (f" --journal {kind}" if kind else "") + (f" --plant {plant}" if plant else "")
    return f"python -m tests.sim --seeds 1 --first {seed}{options} --log"


def _hunt_all(args: argparse.Namespace) -> int:
    """Every planted bug has to be found within its number of seeds."""
    missed = 0
    for name, plant in PLANTS.items():
        found = None
        for result in results(range(args.first, args.first + plant.seeds_max), plant.kind, name, 1):
            if result.violations:
                found = result
                break
        if found is None:
            missed += 1
            _say(f"MISSED {name}: not in {plant.seeds_max} seeds from {args.first}")
        else:
            tried = found.seed - args.first + 1
            _say(f"{name:32} seed {found.seed:4} ({tried} of {plant.seeds_max}): {found.violations[0][:110]}")
    return 1 if missed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, metavar="SEED")
    parser.add_argument("--journal", choices=["file", "etcd"], help="default: the seed picks")
    parser.add_argument("--plant", default="", choices=["", *PLANTS], metavar="NAME", help="with this bug in the code")
    parser.add_argument("--plants", action="store_true", help="hunt every planted bug")
    parser.add_argument("--list-plants", action="store_true", help="name them")
    parser.add_argument("--log", action="store_true", help="print all that happened")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1), help="default: %(default)s")
    return parser


if __name__ == "__main__":
    sys.exit(main())
