"""`seonchak load`: a crowd for a campaign, with a live line while it runs."""

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from ops.cli_common import DEFAULT_ROUTER, JsonOption, RouterOption, TimeoutOption, console, print_json
from ops.cli_identity import credentials

if TYPE_CHECKING:
    from ops.load import LoadSpec
    from ops.load_stats import LoadResult, Tally

_ERASE_LINE = "\r\x1b[2K"
_LINE_EVERY_S = 0.2
_LINE_EVERY_S_PLAIN = 1.0


def load(
    campaign_id: Annotated[str, typer.Argument(metavar="CAMPAIGN", help="The campaign's id.")],
    requests: Annotated[int, typer.Option(min=1, help="Requests in all.")] = 1_000,
    concurrency: Annotated[int, typer.Option(min=1, help="Closed loop: requests in flight.")] = 100,
    rate: Annotated[float | None, typer.Option(min=0.001, help="Open loop: requests a second, come what may.")] = None,
    users: Annotated[int | None, typer.Option(min=1, help="Users who ask in turn. Default: one a request.")] = None,
    user_prefix: Annotated[str, typer.Option(help="User ids are this and a number.")] = "user-",
    stream: Annotated[bool, typer.Option("--stream", help="Through IssueCoupons, not IssueCoupon.")] = False,
    channels: Annotated[int, typer.Option(min=1, help="Connections to the router.")] = 4,
    knock: Annotated[float | None, typer.Option(help="Seconds until a NOT_STARTED is asked again.")] = None,
    router: RouterOption = DEFAULT_ROUTER,
    timeout: TimeoutOption = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Send many requests and say what became of them."""
    from ops.load import LoadSpec

    if stream and knock is not None:
        raise typer.BadParameter("--stream and --knock exclude each other")
    spec = LoadSpec(
        router=router,
        campaign_id=campaign_id,
        requests=requests,
        concurrency=concurrency,
        rate=rate,
        users=users,
        user_prefix=user_prefix,
        stream=stream,
        channels=channels,
        timeout_s=timeout,
        knock_s=knock,
        credentials=credentials(),
    )
    result = asyncio.run(_run(spec))
    if as_json:
        print_json(result.as_json())
    else:
        show_result(result)


async def _run(spec: "LoadSpec") -> "LoadResult":
    from ops.load import run_load
    from ops.load_stats import Tally

    tally = Tally(time.monotonic())
    progress = asyncio.create_task(show_progress(tally, spec.requests))
    try:
        return await run_load(spec, tally)
    finally:
        progress.cancel()
        await asyncio.gather(progress, return_exceptions=True)


async def show_progress(tally: "Tally", requests: int) -> None:
    """A line on stderr that is written over on a terminal, and a line a second elsewhere, until cancelled."""
    terminal = sys.stderr.isatty()
    before, before_s = 0, tally.began_s
    try:
        while True:
            await asyncio.sleep(_LINE_EVERY_S if terminal else _LINE_EVERY_S_PLAIN)
            now_s = time.monotonic()
            rate = (tally.answered - before) / (now_s - before_s)
            before, before_s = tally.answered, now_s
            outcomes = "  ".join(f"{reason} {count:,}" for reason, count in tally.outcomes.most_common(4))
            line = f"{tally.answered:,} of {requests:,}  {rate:,.0f}/s  {outcomes}"
            if tally.knocks:
                line += f"  knocks {tally.knocks:,}"
            typer.echo(f"{_ERASE_LINE}{line}" if terminal else line, nl=not terminal, err=True)
    finally:
        if terminal:
            typer.echo(_ERASE_LINE, nl=False, err=True)


def show_result(result: "LoadResult") -> None:
    out, latency = console(), result.latency
    out.print(
        f"{result.requests:,} requests in {result.elapsed_s:.2f} s  [bold]{result.requests_per_s:,.0f}/s[/bold]"
        f"  issued {result.issued:,} ({result.issued_per_s:,.0f}/s)"
    )
    for reason, count in result.outcomes.items():
        out.print(f"  {reason:<20} {count:>10,}")
    if result.knocks:
        out.print(f"  {'(knocks too early)':<20} {result.knocks:>10,}")
    out.print(
        f"latency  p50 {latency.p50_ms:.1f} ms  p90 {latency.p90_ms:.1f} ms  "
        f"p99 {latency.p99_ms:.1f} ms  max {latency.max_ms:.1f} ms"
    )
