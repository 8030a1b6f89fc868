"""Many seeds, several at a time. Not in __main__, which the processes of a pool do not see."""

import multiprocessing
from collections.abc import Iterable, Iterator
from functools import partial

from cluster.config import JournalKind
from tests.sim.run import Result, simulate

CHUNK = 4
"""Seeds that a worker takes at a time."""


def results(
    seeds: Iterable[int], kind: JournalKind | None, plant: str, workers: int, with_log: bool = False
) -> Iterator[Result]:
    """Of each seed, in order."""
    work = partial(_work, kind, plant, with_log)
    if workers == 1:
        yield from map(work, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap(work, seeds, CHUNK)


def _work(kind: JournalKind | None, plant: str, with_log: bool, seed: int) -> Result:
    return simulate(seed, kind, plant, with_log=with_log)
