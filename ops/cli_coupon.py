"""`seonchak issue` and `seonchak coupon`: one coupon for one user, and what is known of it."""

from typing import TYPE_CHECKING, Annotated

import typer

from ops.cli_common import (
    DEFAULT_ROUTER,
    JsonOption,
    RouterOption,
    TimeoutOption,
    connected,
    print_json,
    print_table,
    show_time,
)

if TYPE_CHECKING:
    from proto import coupon_pb2


def issue(
    campaign_id: Annotated[str, typer.Argument(metavar="CAMPAIGN", help="The campaign's id.")],
    user_id: Annotated[str, typer.Argument(metavar="USER", help="Who gets it.")],
    request_id: Annotated[str, typer.Option(help="Required where a user may have several coupons.")] = "",
    router: RouterOption = DEFAULT_ROUTER,
    timeout: TimeoutOption = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Ask for a coupon for a user."""
    from proto import coupon_pb2

    request = coupon_pb2.IssueCouponRequest(campaign_id=campaign_id, user_id=user_id, request_id=request_id)
    with connected(router, timeout, as_json=as_json) as client:
        response = client.issue_coupon(request)
    if as_json:
        from ops.client import to_json

        print_json(to_json(response))
        return
    coupon, again = response.coupon, " (issued before)" if response.already_issued else ""
    typer.echo(f"{coupon.code}  number {coupon.sequence:,} of {coupon.campaign_id}, for {coupon.user_id}{again}")


def coupon(
    code: Annotated[str | None, typer.Argument(metavar="CODE", help="The coupon's code.")] = None,
    campaign_id: Annotated[str, typer.Option("--campaign", help="With --user, instead of CODE.")] = "",
    user_id: Annotated[str, typer.Option("--user", help="All coupons of this user in the campaign.")] = "",
    router: RouterOption = DEFAULT_ROUTER,
    timeout: TimeoutOption = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Look a coupon up by its code, or by campaign and user."""
    from proto import coupon_pb2

    if (code is None) != bool(campaign_id and user_id):
        raise typer.BadParameter("give CODE, or --campaign and --user")
    request = (
        coupon_pb2.GetCouponRequest(code=code)
        if code is not None
        else coupon_pb2.GetCouponRequest(
            campaign_user=coupon_pb2.GetCouponRequest.CampaignUser(campaign_id=campaign_id, user_id=user_id)
        )
    )
    with connected(router, timeout, as_json=as_json) as client:
        response = client.get_coupon(request)
    if as_json:
        from ops.client import to_json

        print_json(to_json(response))
        return
    print_table(
        f"coupons: {len(response.coupons)}",
        ["code", "campaign", "sequence", "user", "issued", "request"],
        [_row(found) for found in response.coupons],
    )


def _row(coupon: "coupon_pb2.Coupon") -> list[str]:
    return [
        coupon.code,
        coupon.campaign_id,
        str(coupon.sequence),
        coupon.user_id,
        show_time(coupon.issue_time),
        coupon.request_id,
    ]
