"""`python -m tests.model`: every run, as a table. `--trace NAME`: the shortest way to what a planted bug breaks."""

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields

from tests.model.catalogue import Kind, Run, runs
from tests.model.checker import Result


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--trace", metavar="NAME", help="print the shortest trace of one run, or all the actions taken")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="processes side by side")
    arguments = parser.parse_args()
    if arguments.trace is None:
        return _table(arguments.jobs)
    named = [run for run in runs() if run.name == arguments.trace]
    if not named:
        parser.error(f"no run is named {arguments.trace}: {', '.join(run.name for run in runs())}")
    _trace(named[0])
    return 0


def _table(jobs: int) -> int:
    began_s = time.perf_counter()
    # The long ones first, so that no process is left with one at the end.
    order = sorted(runs(), key=lambda run: not run.slow)
    with ProcessPoolExecutor(jobs) as pool:
        results = dict(zip((run.name for run in order), pool.map(Run.search, order), strict=True))
    wrong = 0
    _say(f"{'run':44} {'kind':12} {'states':>9} {'steps':>10} {'cpu s':>8}  verdict")
    for run in runs():
        result = results[run.name]
        wrong += result.broken is not run.breaks
        _say(
            f"{run.name:44} {run.kind:12} {result.states:9,} {result.steps:10,} {result.cpu_s:8.1f}  "
            f"{_verdict(run, result)}"
        )
    _say("\nsizes")
    for run in runs():
        if run.kind is not Kind.BUG:
            _say(f"{run.name:44} {_size(run)}")
    bugs = sum(run.kind is Kind.BUG for run in runs())
    _say(f"\n{len(order)} runs, {bugs} planted bugs, {wrong} wrong verdicts, {time.perf_counter() - began_s:.0f} s")
    return 1 if wrong else 0


def _verdict(run: Run, result: Result) -> str:
    verdict = "holds" if result.broken is None else f"{result.broken.name} after {len(result.trace)} steps"
    if result.broken is run.breaks:
        return verdict
    return f"{verdict}  WRONG: expected {run.breaks.name if run.breaks else 'that it holds'}"


def _size(run: Run) -> str:
    return ", ".join(f"{field.name} {getattr(run.size, field.name)}" for field in fields(run.size))


def _trace(run: Run) -> None:
    result = run.search()
    _say(f"{run.name} ({run.kind}): {_verdict(run, result)}; {result.states:,} states, {result.cpu_s:.1f} s of CPU")
    _say(_size(run))
    for number, description in enumerate(result.trace, start=1):
        _say(f"{number:4} {description}")
    if result.broken is not None:
        _say(f"     {result.broken.value}")
        return
    _say("How often each action was taken:")
    for action, times in result.actions.most_common():
        _say(f"{times:10,} {action}")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
