"""`seonchak campaign ...`: make, look at and steer campaigns."""

import json
import uuid
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from ops.cli_common import (
    DEFAULT_ROUTER,
    JsonOption,
    RouterOption,
    TimeoutOption,
    connected,
    console,
    fail,
    print_json,
    print_table,
    show_time,
    timestamp,
)

if TYPE_CHECKING:
    from proto import coupon_pb2

app = typer.Typer(no_args_is_help=True, help="Make, look at and steer campaigns.")

CampaignArgument = Annotated[str, typer.Argument(metavar="CAMPAIGN", help="The campaign's id.")]
RequestIdOption = Annotated[
    str | None, typer.Option(help="Makes the call repeatable: repeat it with the same one. Default: a fresh one.")
]
EtagOption = Annotated[str, typer.Option(help="Only if the campaign's etag is still this one.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What people call it.")],
    total: Annotated[int, typer.Option("--total", "--quantity", help="How many coupons there are.")],
    campaign_id: Annotated[str, typer.Option("--id", help="Its id. Default: the cluster chooses one.")] = "",
    start: Annotated[str | None, typer.Option(help="RFC 3339 or +3s. Default: now.")] = None,
    end: Annotated[str | None, typer.Option(help="RFC 3339 or +2h. Default: no end.")] = None,
    per_user_limit: Annotated[int | None, typer.Option(help="Coupons a user may have. Default: 1.")] = None,
    router: RouterOption = DEFAULT_ROUTER,
    timeout: TimeoutOption = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Create a campaign."""
    from proto import coupon_pb2

    campaign = coupon_pb2.Campaign(
        name=name,
        total=_int32("--total", total),
        per_user_limit=_int32("--per-user-limit", per_user_limit or 0),
        start_time=timestamp("--start", start) if start else None,
        end_time=timestamp("--end", end) if end else None,
    )
    with connected(router, timeout, as_json=as_json) as client:
        request = coupon_pb2.CreateCampaignRequest(campaign_id=campaign_id, campaign=campaign)
        _show(client.create_campaign(request), as_json=as_json)


@app.command()
def get(
    campaign_id: CampaignArgument,
    router: RouterOption = DEFAULT_ROUTER,
    timeout: TimeoutOption = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Show a campaign and its coupons."""
    with connected(router, timeout, as_json=as_json) as client:
        campaign, coupons = client.get_campaign(campaign_id)
    if as_json:
        from ops.client import to_json

        print_json({"campaign": to_json(campaign), "coupons": [to_json(coupon) for coupon in coupons]})
        return
    _show(campaign, as_json=False)
    print_table(
        f"coupons: {len(coupons):,}",
        ["sequence", "code", "user", "issued"],
        [[str(c.sequence), c.code, c.user_id, show_time(c.issue_time)] for c in coupons],
    )


@app.command("list")
def list_(router: RouterOption = DEFAULT_ROUTER, timeout: TimeoutOption = 10.0, as_json: JsonOption = False) -> None:
    """List all campaigns. Shards that did not answer are named on stderr."""
    with connected(router, timeout, as_json=as_json) as client:
        campaigns, unreachable = client.list_campaigns()
    if as_json:
        from ops.client import to_json

        print_json({"campaigns": [to_json(campaign) for campaign in campaigns], "unreachable": unreachable})
    else:
        print_table(
            f"campaigns: {len(campaigns):,}",
            ["id", "name", "state", "issued", "total", "start"],
            [
                [c.campaign_id, c.name, _state(c), f"{c.issued:,}", f"{c.total:,}", show_time(c.start_time)]
                for c in campaigns
            ],
        )
    if unreachable:
        typer.echo(f"warning: no answer from {', '.join(unreachable)}: their campaigns are missing", err=True)


@app.command()
def update(
    campaign_id: CampaignArgument,
    total: Annotated[int | None, typer.Option("--total", "--quantity", help="Raise the total to this.")] = None,
    end: Annotated[str | None, typer.Option(help='RFC 3339 or +2h; "never" removes the end.')] = None,
    request_id: RequestIdOption = None,
    etag: EtagOption = "",
    router: RouterOption = DEFAULT_ROUTER,
    timeout: TimeoutOption = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Raise a campaign's total, or set its end."""
    from proto import coupon_pb2

    if total is None and end is None:
        raise typer.BadParameter("nothing to change: give --total, --end or both")
    request = coupon_pb2.UpdateCampaignRequest(
        campaign=coupon_pb2.Campaign(campaign_id=campaign_id), request_id=request_id or _fresh_id(), etag=etag
    )
    if total is not None:
        request.update_mask.paths.append("total")
        request.campaign.total = _int32("--total", total)
    if end is not None:
        request.update_mask.paths.append("end_time")
        if end != "never":
            request.campaign.end_time.CopyFrom(timestamp("--end", end))
    with connected(router, timeout, as_json=as_json) as client:
        _show(client.update_campaign(request), as_json=as_json)


@app.command()
def watch(
    campaign_id: CampaignArgument,
    until: Annotated[str | None, typer.Option(metavar="STATE", help="End when it is so, as COMPLETED.")] = None,
    router: RouterOption = DEFAULT_ROUTER,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a line.")] = False,
) -> None:
    """Follow a campaign: a line now, and one at every change, until Ctrl-C."""
    from ops.client import to_json
    from proto import coupon_pb2

    try:
        wanted = None if until is None else coupon_pb2.Campaign.State.Value(until.upper())
    except ValueError:
        raise typer.BadParameter(f"{until!r} is not a state", param_hint="--until") from None
    with connected(router, 10.0, as_json=as_json) as client:
        try:
            for campaign in client.watch_campaign(campaign_id):
                if as_json:
                    typer.echo(json.dumps(to_json(campaign), ensure_ascii=False))
                else:
                    typer.echo(
                        f"{campaign.campaign_id}  {_state(campaign):9}  {campaign.issued:,} of {campaign.total:,}"
                    )
                if campaign.state == wanted:
                    return
        except KeyboardInterrupt:
            return
    fail("the router ended the watch", as_json=as_json)


@app.command()
def pause(
    campaign_id: CampaignArgument,
    request_id: RequestIdOption = None,
    etag: EtagOption = "",
    router: RouterOption = DEFAULT_ROUTER,
    timeout: TimeoutOption = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Grant nothing until `resume`."""
    from proto import coupon_pb2

    request = coupon_pb2.PauseCampaignRequest(campaign_id=campaign_id, request_id=request_id or _fresh_id(), etag=etag)
    with connected(router, timeout, as_json=as_json) as client:
        _show(client.pause_campaign(request), as_json=as_json)


@app.command()
def resume(
    campaign_id: CampaignArgument,
    request_id: RequestIdOption = None,
    etag: EtagOption = "",
    router: RouterOption = DEFAULT_ROUTER,
    timeout: TimeoutOption = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Let a paused campaign go on."""
    from proto import coupon_pb2

    request = coupon_pb2.ResumeCampaignRequest(campaign_id=campaign_id, request_id=request_id or _fresh_id(), etag=etag)
    with connected(router, timeout, as_json=as_json) as client:
        _show(client.resume_campaign(request), as_json=as_json)


@app.command()
def cancel(
    campaign_id: CampaignArgument,
    request_id: RequestIdOption = None,
    etag: EtagOption = "",
    router: RouterOption = DEFAULT_ROUTER,
    timeout: TimeoutOption = 10.0,
    as_json: JsonOption = False,
) -> None:
    """End a campaign for ever; issued coupons stay valid."""
    from proto import coupon_pb2

    request = coupon_pb2.CancelCampaignRequest(campaign_id=campaign_id, request_id=request_id or _fresh_id(), etag=etag)
    with connected(router, timeout, as_json=as_json) as client:
        _show(client.cancel_campaign(request), as_json=as_json)


def _fresh_id() -> str:
    return f"cli-{uuid.uuid4()}"


def _int32(option: str, value: int) -> int:
    """What fits the wire goes to the server, which knows the rules; what does not is a usage error."""
    if not -(2**31) <= value < 2**31:
        raise typer.BadParameter(f"{value} is out of range", param_hint=option)
    return value


def _state(campaign: "coupon_pb2.Campaign") -> str:
    from proto import coupon_pb2

    return coupon_pb2.Campaign.State.Name(campaign.state)


def _show(campaign: "coupon_pb2.Campaign", *, as_json: bool) -> None:
    if as_json:
        from ops.client import to_json

        print_json(to_json(campaign))
        return
    lines = {
        "campaign": campaign.campaign_id,
        "name": campaign.name,
        "state": _state(campaign),
        "issued": f"{campaign.issued:,} of {campaign.total:,}",
        "per user": str(campaign.per_user_limit),
        "start": show_time(campaign.start_time),
        "end": show_time(campaign.end_time),
        "created": show_time(campaign.create_time),
        "activated": show_time(campaign.activate_time),
        "completed": show_time(campaign.complete_time),
        "etag": campaign.etag,
    }
    for label, text in lines.items():
        console().print(f"[dim]{label:>10}[/]  {escape(text)}")
