"""`python -m chaos`: breaks a cluster of its own and judges what it did meanwhile.

On asyncio's own loop: uvloop starts children with a fork that runs gRPC's fork handlers, and now and then one crashes
in them before it has become another program.
"""

import asyncio
import logging
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ops.cli_cluster import JournalChoice, JournalOption
from ops.cli_common import JsonOption, fail, print_json, print_table
from ops.cli_process import configure_logging

if TYPE_CHECKING:
    from chaos.suite import Row

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.callback()
def chaos() -> None:
    """See the README's section Chaos."""


@app.command(name="list")
def list_scenarios() -> None:
    """Every scenario, and what it does."""
    from chaos.scenarios import SCENARIOS

    print_table("Scenarios", ["name", "what happens"], [[each.name, each.about] for each in SCENARIOS.values()])


@app.command()
def run(
    scenario: Annotated[str, typer.Argument(help="Its name, as `list` shows it.")],
    journal: JournalOption = JournalChoice.ETCD,
    seed: Annotated[int, typer.Option(help="Of the load and of the faults.")] = 0,
    seconds: Annotated[float, typer.Option(min=5.0, help="Of load.")] = 30.0,
    out: Annotated[Path | None, typer.Option(help="An empty folder for what it leaves. Default: a new one.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Start a cluster, load it, break it, heal it, judge it. Exit code 0 only for a clean verdict."""
    from chaos.run import Refused, RunSpec
    from chaos.run import run as run_scenario
    from chaos.scenarios import SCENARIOS

    configure_logging(as_json=False, level=logging.WARNING)
    if (chosen := SCENARIOS.get(scenario)) is None:
        raise typer.BadParameter(f"no such scenario: {scenario}; there are {', '.join(SCENARIOS)}")
    out = out or Path(tempfile.mkdtemp(prefix=f"seonchak-chaos-{scenario}-"))
    try:
        result = asyncio.run(run_scenario(RunSpec(chosen, journal.kind, seed, seconds, out)))
    except Refused as refused:
        fail(f"refused: {refused}", as_json=as_json)
    if as_json:
        print_json(result.as_json())
    else:
        typer.echo((out / "report.txt").read_text())
        typer.echo(f"left in {out}")
    raise typer.Exit(0 if result.verdict.clean else 1)


@app.command(name="all")
def run_all(
    journal: Annotated[JournalChoice | None, typer.Option(help="Only on this journal. Default: on both.")] = None,
    seed: Annotated[int, typer.Option(help="Of the load and of the faults.")] = 0,
    seconds: Annotated[float, typer.Option(min=5.0, help="Of load, each.")] = 20.0,
    out: Annotated[Path | None, typer.Option(help="A folder for theirs. Default: a new one.")] = None,
) -> None:
    """Run every scenario once on each journal, and end with a table. Exit code 0 only if all are clean or refused."""
    from chaos.scenarios import SCENARIOS
    from chaos.suite import Row, run_suite

    out = out or Path(tempfile.mkdtemp(prefix="seonchak-chaos-"))
    chosen = [journal.kind] if journal else [each.kind for each in JournalChoice]
    rows: list[Row] = []
    for row in run_suite(SCENARIOS, chosen, seed=seed, seconds=seconds, out=out):
        typer.echo(f"{row.verdict:9} {row.scenario} on {row.journal} {row.note}".rstrip())
        rows.append(row)
    columns = ["scenario", "journal", "verdict", "etcd", "faults", "calls", "grants", "unknown", "took s"]
    print_table("Chaos", columns, [_cells(row) for row in rows])
    typer.echo(f"left in {out}")
    raise typer.Exit(0 if all(row.good for row in rows) else 1)


def _cells(row: "Row") -> list[str]:
    counts = row.document.get("counts", {})
    figures = [row.document.get("etcd"), row.document.get("faults"), counts.get("calls"), counts.get("grants")]
    figures += [counts.get("of unknown outcome"), row.document.get("took_s")]
    return [row.scenario, row.journal, row.verdict, *("" if figure is None else str(figure) for figure in figures)]


@app.command()
def failover(
    kills: Annotated[int, typer.Option(min=1, help="Owners to end, one after another.")] = 20,
    journal: JournalOption = JournalChoice.ETCD,
    coupons: Annotated[int, typer.Option(min=0, help="Coupons in the owner's shard before the first kill.")] = 0,
    standby: Annotated[bool, typer.Option(help="Warm standbys.")] = True,
    planned: Annotated[bool, typer.Option("--planned", help="SIGTERM instead of kill -9, and the way back.")] = False,
    frozen: Annotated[bool, typer.Option("--frozen", help="SIGSTOP instead of kill -9, past the lease.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure the gap that the end of a campaign's owner leaves. SEONCHAK_* variables reach the processes."""
    from chaos.failover import Ending, FailoverSpec, measure

    if planned and frozen:
        raise typer.BadParameter("either --planned or --frozen")
    ending = Ending.PLANNED if planned else Ending.FROZEN if frozen else Ending.KILLED

    configure_logging(as_json=False, level=logging.WARNING)
    data_dir = Path(tempfile.mkdtemp(prefix="seonchak-failover-"))
    result = asyncio.run(measure(data_dir, FailoverSpec(journal.kind, kills, coupons, ending, standby)))
    shutil.rmtree(data_dir)
    figures = result.as_json()
    if as_json:
        print_json(figures)
        return
    columns = ["journal", "etcd", "signal", "standby", "coupons", "kills", "p50_ms", "p95_ms", "max_ms", "longest_ms"]
    columns += ["calls", "failed_calls"]
    print_table("From the end of the owner to the next grant", columns, [[str(figures[name]) for name in columns]])


if __name__ == "__main__":
    app()
