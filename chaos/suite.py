"""Every scenario, one after another, each in a process of its own; a row of the table for each."""

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.config import JournalKind

RUN_S_MAX = 600.0


@dataclass(frozen=True, slots=True)
class Row:
    scenario: str
    journal: JournalKind
    verdict: str
    """clean, violated, invalid; refused where this machine's etcd does not do; failed for a run without a verdict."""
    document: dict[str, Any]
    """As RunResult.as_json, where there is a verdict."""
    note: str
    """Why it is not clean, in one line."""

    @property
    def good(self) -> bool:
        return self.verdict in ("clean", "refused")


def run_suite(
    names: Iterable[str], journals: Iterable[JournalKind], *, seed: int, seconds: float, out: Path
) -> Iterator[Row]:
    """Each run's folder is OUT/SCENARIO-JOURNAL; a row as soon as a run has ended."""
    journals = tuple(journals)
    for name in names:
        for journal in journals:
            yield _run(name, journal, seed, seconds, out / f"{name}-{journal}")


def _run(name: str, journal: JournalKind, seed: int, seconds: float, out: Path) -> Row:
    command = [sys.executable, "-m", "chaos", "run", name, "--journal", journal, "--json"]
    command += ["--seed", str(seed), "--seconds", str(seconds), "--out", str(out)]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S_MAX, check=False)
    except subprocess.TimeoutExpired:
        return Row(name, journal, "failed", {}, f"no verdict after {RUN_S_MAX:g} s")
    if ended.stdout:
        document = json.loads(ended.stdout)
        violations = [violation["what"] for violation in document["violations"]]
        return Row(name, journal, document["verdict"], document, "; ".join(violations + document["invalid_because"]))
    last = last_words(ended.stderr)
    if "refused: " in last:
        return Row(name, journal, "refused", {}, json.loads(last)["error"]["message"].removeprefix("refused: "))
    out.mkdir(parents=True, exist_ok=True)
    (out / "stderr.txt").write_text(ended.stderr)
    return Row(name, journal, "failed", {}, last)


def last_words(stderr: str) -> str:
    """The last line that the run itself wrote: its processes log to the same place, an event a line."""
    lines = stderr.strip().splitlines()
    own = [line for line in lines if not (line.startswith("{") and '"event": ' in line)]
    return own[-1] if own else "it said nothing"
