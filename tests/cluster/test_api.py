"""The public API against a real cluster, as any gRPC client sees it: every answer, every refusal, all bad input."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from ops import errors
from ops.errors import ApiError
from proto import coupon_pb2 as pb
from proto.coupon_pb2_grpc import CouponServiceStub

pytestmark = pytest.mark.cluster

State = pb.Campaign.State
TIMEOUT_S = 10


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """HOST:PORT of `seonchak up`."""
    directory = tmp_path_factory.mktemp("api")
    command = [sys.executable, "-m", "ops", "up", "--data-dir", str(directory), "--port", "0", "--journal", "file"]
    with (
        (directory / "up.log").open("wb") as log,
        subprocess.Popen([*command, "--nodes", "2", "--shards", "8"], stdout=subprocess.PIPE, stderr=log) as up,
    ):
        assert up.stdout is not None
        line = up.stdout.readline().decode().strip()
        assert line.startswith("ready router="), (directory / "up.log").read_text()
        yield line.removeprefix("ready router=")
        up.send_signal(signal.SIGTERM)
        assert up.wait(30) == 0


@pytest.fixture(scope="module")
def channel(router: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(router) as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> CouponServiceStub:
    return CouponServiceStub(channel)


def in_s(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMicroseconds(int((time.time() + seconds) * 1e6))
    return stamp


@dataclass(frozen=True)
class Api:
    """The calls, short."""

    stub: CouponServiceStub

    def create(self, campaign_id: str, total: int = 10, **fields: Any) -> pb.Campaign:
        campaign = pb.Campaign(name="여름쿠폰", total=total, **fields)
        request = pb.CreateCampaignRequest(campaign_id=campaign_id, campaign=campaign)
        return self.stub.CreateCampaign(request, timeout=TIMEOUT_S)  # type: ignore[no-any-return]

    def issue(self, campaign_id: str, user_id: str, request_id: str = "") -> pb.IssueCouponResponse:
        request = pb.IssueCouponRequest(campaign_id=campaign_id, user_id=user_id, request_id=request_id)
        return self.stub.IssueCoupon(request, timeout=TIMEOUT_S)  # type: ignore[no-any-return]

    def get(self, campaign_id: str, **fields: Any) -> pb.GetCampaignResponse:
        request = pb.GetCampaignRequest(campaign_id=campaign_id, **fields)
        return self.stub.GetCampaign(request, timeout=TIMEOUT_S)  # type: ignore[no-any-return]

    def administer(self, verb: str, campaign_id: str, request_id: str, etag: str = "") -> pb.Campaign:
        request = getattr(pb, f"{verb}CampaignRequest")(campaign_id=campaign_id, request_id=request_id, etag=etag)
        return getattr(self.stub, f"{verb}Campaign")(request, timeout=TIMEOUT_S)  # type: ignore[no-any-return]

    def update(self, campaign_id: str, request_id: str, etag: str = "", **fields: Any) -> pb.Campaign:
        request = pb.UpdateCampaignRequest(
            campaign=pb.Campaign(campaign_id=campaign_id, **fields), request_id=request_id, etag=etag
        )
        request.update_mask.paths.extend(fields)
        return self.stub.UpdateCampaign(request, timeout=TIMEOUT_S)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def api(stub: CouponServiceStub) -> Api:
    return Api(stub)


def refusal(call: Callable[[], object]) -> ApiError:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    return errors.of_call(raised.value)


def said(call: Callable[[], object]) -> tuple[str, str]:
    error = refusal(call)
    return error.status, error.reason


# --- a campaign's life ------------------------------------------------------------------------------------------------


def test_a_campaign_from_its_creation_to_the_last_coupon(api: Api) -> None:
    """Create, issue, repeat, sell out, raise, sell out again: states, sequences and codes as promised."""
    created = api.create("life", total=2)
    assert created.state == State.ACTIVE
    assert created.activate_time == created.start_time == created.create_time
    first = api.issue("life", "홍길동")
    assert first.coupon.sequence == 1
    assert not first.already_issued
    assert first.coupon.code[:3] == "여름쿠"
    assert len(first.coupon.code) == 10
    again = api.issue("life", "홍길동")
    assert again.already_issued
    assert again.coupon == first.coupon
    api.issue("life", "b")
    assert said(lambda: api.issue("life", "c")) == ("FAILED_PRECONDITION", "SOLD_OUT")
    assert api.get("life").campaign.state == State.COMPLETED
    assert api.get("life").campaign.HasField("complete_time")
    raised = api.update("life", "r1", total=3)
    assert (raised.state, raised.total) == (State.ACTIVE, 3)
    assert api.issue("life", "c").coupon.sequence == 3
    assert said(lambda: api.issue("life", "d")) == ("FAILED_PRECONDITION", "SOLD_OUT")
    assert api.issue("life", "홍길동").coupon == first.coupon, "a repetition gets its coupon whatever the state is"


def test_creation_is_idempotent(api: Api) -> None:
    """The same id and content: the campaign as it was created. Other content: ALREADY_EXISTS."""
    created = api.create("twice", total=5)
    api.issue("twice", "u")
    assert api.create("twice", total=5) == created
    assert said(lambda: api.create("twice", total=6)) == ("ALREADY_EXISTS", "CAMPAIGN_EXISTS")
    chosen = api.create("")
    assert chosen.campaign_id
    assert api.get(chosen.campaign_id).campaign.total == 10


def test_not_started_then_started_by_itself(api: Api) -> None:
    """Before its start nobody gets a coupon, and hears when it will be; the start needs nobody's asking."""
    start = in_s(1.0)
    assert api.create("later", start_time=start).state == State.WAITING
    error = refusal(lambda: api.issue("later", "u"))
    assert (error.status, error.reason) == ("FAILED_PRECONDITION", "NOT_STARTED")
    assert error.metadata["start_time"] == start.ToJsonString()
    states: list[pb.Campaign] = []
    for news in api.stub.WatchCampaign(pb.WatchCampaignRequest(campaign_id="later"), timeout=TIMEOUT_S):
        states.append(news.campaign)
        if news.campaign.state == State.ACTIVE:
            break
    assert [campaign.state for campaign in states] == [State.WAITING, State.ACTIVE]
    assert states[-1].activate_time.ToMicroseconds() >= start.ToMicroseconds()
    coupon = api.issue("later", "u").coupon
    assert coupon.issue_time.ToMicroseconds() >= start.ToMicroseconds()


def test_ended(api: Api) -> None:
    """From its end_time on nobody gets a coupon, and the state says so without anybody asking."""
    api.create("short", end_time=in_s(0.7))
    api.issue("short", "u")
    for news in api.stub.WatchCampaign(pb.WatchCampaignRequest(campaign_id="short"), timeout=TIMEOUT_S):
        if news.campaign.state == State.ENDED:
            break
    assert said(lambda: api.issue("short", "v")) == ("FAILED_PRECONDITION", "ENDED")
    assert said(lambda: api.update("short", "r", total=100)) == ("FAILED_PRECONDITION", "ENDED")


def test_pause_resume_cancel(api: Api) -> None:
    """From the answer of a pause or a cancel on nobody gets a coupon."""
    api.create("brake")
    assert api.administer("Pause", "brake", "p1").state == State.PAUSED
    assert said(lambda: api.issue("brake", "u")) == ("FAILED_PRECONDITION", "PAUSED")
    assert api.administer("Resume", "brake", "p2").state == State.ACTIVE
    assert api.issue("brake", "u").coupon.sequence == 1
    assert api.administer("Cancel", "brake", "p3").state == State.CANCELLED
    assert said(lambda: api.issue("brake", "v")) == ("FAILED_PRECONDITION", "CANCELLED")
    assert said(lambda: api.administer("Resume", "brake", "p4")) == ("FAILED_PRECONDITION", "CANCELLED")
    assert api.issue("brake", "u").already_issued


def test_administrative_calls_are_repeatable_and_conditional(api: Api) -> None:
    """A delayed duplicate returns the recorded answer and changes nothing; an outdated etag changes nothing."""
    created = api.create("admin")
    paused = api.administer("Pause", "admin", "a", created.etag)
    resumed = api.administer("Resume", "admin", "b", paused.etag)
    assert api.administer("Pause", "admin", "a", created.etag) == paused
    assert api.get("admin").campaign.state == State.ACTIVE
    assert api.get("admin").campaign.etag == resumed.etag
    assert said(lambda: api.administer("Pause", "admin", "c", created.etag)) == ("ABORTED", "ETAG_MISMATCH")
    assert said(lambda: api.administer("Cancel", "admin", "a")) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")
    error = refusal(lambda: api.administer("Pause", "admin", ""))
    assert error.status == "INVALID_ARGUMENT"
    assert "request_id" in error.fields
    assert "campaign.total" in refusal(lambda: api.update("admin", "d", total=9)).fields


def test_per_user_limit(api: Api) -> None:
    """A user gets as many as the limit, each request_id one, and one more is LIMIT_REACHED."""
    api.create("pair", per_user_limit=2)
    error = refusal(lambda: api.issue("pair", "u"))
    assert (error.status, list(error.fields)) == ("INVALID_ARGUMENT", ["request_id"])
    one, two = api.issue("pair", "u", "1").coupon, api.issue("pair", "u", "2").coupon
    assert one.code != two.code
    assert api.issue("pair", "u", "1").coupon == one
    assert said(lambda: api.issue("pair", "u", "3")) == ("FAILED_PRECONDITION", "LIMIT_REACHED")
    key = pb.GetCouponRequest.CampaignUser(campaign_id="pair", user_id="u")
    assert list(api.stub.GetCoupon(pb.GetCouponRequest(campaign_user=key)).coupons) == [one, two]


def test_get_coupon(api: Api) -> None:
    """By code from anywhere in the cluster, by campaign and user; what is not there is NOT_FOUND."""
    api.create("find")
    coupon = api.issue("find", "u").coupon
    assert list(api.stub.GetCoupon(pb.GetCouponRequest(code=coupon.code)).coupons) == [coupon]
    forged = coupon.code[:-1] + ("가" if coupon.code[-1] != "가" else "나")
    for code in (forged, "여름쿠" + coupon.code[3:-2] + "가가", coupon.code[1:]):
        assert said(lambda code=code: api.stub.GetCoupon(pb.GetCouponRequest(code=code)))[0] in (  # type: ignore[misc]
            "NOT_FOUND",
            "INVALID_ARGUMENT",
        )
    other = pb.GetCouponRequest(campaign_user=pb.GetCouponRequest.CampaignUser(campaign_id="find", user_id="nobody"))
    assert said(lambda: api.stub.GetCoupon(other)) == ("NOT_FOUND", "COUPON_NOT_FOUND")


def test_pages(api: Api) -> None:
    """Pages of a campaign's coupons, and of all campaigns, leave nothing out and show nothing twice."""
    api.create("pages", total=25)
    codes = [api.issue("pages", f"u{n}").coupon.code for n in range(25)]
    seen: list[str] = []
    token = ""
    while True:
        page = api.get("pages", page_size=10, page_token=token)
        seen += [coupon.code for coupon in page.coupons]
        token = page.next_page_token
        if not token:
            break
    assert seen == codes
    listed: list[str] = []
    while True:
        listing = api.stub.ListCampaigns(pb.ListCampaignsRequest(page_size=3, page_token=token))
        assert not listing.unreachable
        listed += [campaign.campaign_id for campaign in listing.campaigns]
        token = listing.next_page_token
        if not token:
            break
    assert "pages" in listed
    assert len(listed) == len(set(listed))


def test_issue_coupons_streams(api: Api) -> None:
    """Many users on one stream: every item is answered once, with its index and a status of its own."""
    api.create("stream", total=30)

    def batches() -> Iterator[pb.IssueCouponsRequest]:
        for start in range(0, 50, 10):
            yield pb.IssueCouponsRequest(
                items=[
                    pb.IssueCouponsRequest.Item(
                        index=n, request=pb.IssueCouponRequest(campaign_id="stream", user_id=f"u{n}")
                    )
                    for n in range(start, start + 10)
                ]
            )
        bad = pb.IssueCouponRequest(campaign_id="stream", user_id="")
        yield pb.IssueCouponsRequest(items=[pb.IssueCouponsRequest.Item(index=99, request=bad)])

    results = [r for answer in api.stub.IssueCoupons(batches(), timeout=TIMEOUT_S) for r in answer.results]
    assert sorted(result.index for result in results) == [*range(50), 99]
    granted = [result for result in results if result.WhichOneof("outcome") == "response"]
    assert sorted(result.response.coupon.sequence for result in granted) == list(range(1, 31))
    reasons = [errors.of_status(r.status).reason for r in results if r.WhichOneof("outcome") == "status"]
    assert sorted(reasons) == ["INVALID_FIELD", *["SOLD_OUT"] * 20]


def test_watch_hears_of_grants_and_of_the_end_of_stock(api: Api) -> None:
    """Watchers see the issued count grow, and COMPLETED in the end."""
    api.create("watched", total=5)
    seen: list[pb.Campaign] = []
    begun = threading.Event()

    def watch() -> None:
        for news in api.stub.WatchCampaign(pb.WatchCampaignRequest(campaign_id="watched"), timeout=TIMEOUT_S):
            seen.append(news.campaign)
            begun.set()
            if news.campaign.state == State.COMPLETED:
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert begun.wait(TIMEOUT_S)
    for number in range(5):
        api.issue("watched", f"u{number}")
    watcher.join(TIMEOUT_S)
    assert seen[-1].issued == 5
    counts = [campaign.issued for campaign in seen]
    assert counts == sorted(counts)


# --- bad input --------------------------------------------------------------------------------------------------------


BAD_INPUT: dict[str, tuple[Callable[[Api], object], str]] = {
    "no user": (lambda api: api.issue("any", ""), "user_id"),
    "a long user": (lambda api: api.issue("any", "u" * 129), "user_id"),
    "a control character": (lambda api: api.issue("any", "a\nb"), "user_id"),
    "not NFC": (lambda api: api.issue("any", "\u1112\u1161\u11ab"), "user_id"),
    "a bad campaign id": (lambda api: api.issue("Any!", "u"), "campaign_id"),
    "total 0": (lambda api: api.create("bad", total=0), "campaign.total"),
    "total too large": (lambda api: api.create("bad", total=100_000_001), "campaign.total"),
    "no name": (
        lambda api: api.stub.CreateCampaign(pb.CreateCampaignRequest(campaign=pb.Campaign(total=1))),
        "campaign.name",
    ),
    "a long name": (
        lambda api: api.stub.CreateCampaign(pb.CreateCampaignRequest(campaign=pb.Campaign(name="가" * 201, total=1))),
        "campaign.name",
    ),
    "end before start": (
        lambda api: api.create("bad", start_time=in_s(20), end_time=in_s(10)),
        "campaign.end_time",
    ),
    "end in the past": (lambda api: api.create("bad", end_time=in_s(-10)), "campaign.end_time"),
    "a malformed page token": (lambda api: api.get("any", page_token="x"), "page_token"),
    "a negative page size": (lambda api: api.get("any", page_size=-1), "page_size"),
    "an unknown path": (
        lambda api: api.stub.UpdateCampaign(
            pb.UpdateCampaignRequest(
                campaign=pb.Campaign(campaign_id="any"), request_id="r", update_mask={"paths": ["name"]}
            )
        ),
        "update_mask",
    ),
    "no key": (lambda api: api.stub.GetCoupon(pb.GetCouponRequest()), "key"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_named(api: Api, case: str) -> None:
    """INVALID_ARGUMENT, with a BadRequest that names the field, and nothing of the inside of the server."""
    call, field = BAD_INPUT[case]
    error = refusal(lambda: call(api))
    assert (error.status, error.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert field in error.fields
    assert "Traceback" not in error.message


def test_an_unknown_campaign_is_not_found(api: Api) -> None:
    """In every call that names one."""
    calls: list[Callable[[], object]] = [
        lambda: api.issue("nowhere", "u"),
        lambda: api.get("nowhere"),
        lambda: api.administer("Pause", "nowhere", "r"),
        lambda: api.update("nowhere", "r", total=5),
        lambda: list(api.stub.WatchCampaign(pb.WatchCampaignRequest(campaign_id="nowhere"), timeout=TIMEOUT_S)),
    ]
    for call in calls:
        assert said(call) == ("NOT_FOUND", "CAMPAIGN_NOT_FOUND")


@pytest.mark.parametrize("method", ["IssueCoupon", "CreateCampaign", "GetCampaign", "WatchCampaign"])
@pytest.mark.parametrize(
    "body", [b"\xff" * 100, b"\x0a\xff\xff\xff\x7f", b"x" * (2 << 20)], ids=["0xff", "cut", "2 MiB"]
)
def test_garbage_and_oversize_are_invalid_arguments(channel: grpc.Channel, method: str, body: bytes) -> None:
    """Bytes that are no message, or more than 1 MiB: INVALID_ARGUMENT, never INTERNAL."""
    path = f"/coupon.v1.CouponService/{method}"
    if method == "WatchCampaign":
        stream = channel.unary_stream(path, bytes, bytes)
        assert said(lambda: list(stream(body, timeout=TIMEOUT_S)))[0] == "INVALID_ARGUMENT"
    else:
        unary = channel.unary_unary(path, bytes, bytes)
        assert said(lambda: unary(body, timeout=TIMEOUT_S))[0] == "INVALID_ARGUMENT"


# --- standard services ------------------------------------------------------------------------------------------------


def test_health_and_reflection(channel: grpc.Channel) -> None:
    """Standard health says SERVING; reflection describes the service to clients that have no proto file."""
    health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    assert "coupon.v1.CouponService" in ProtoReflectionDescriptorDatabase(channel).get_services()


def test_a_second_up_on_the_same_directory_refuses(router: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Two clusters on one data directory would be one too many: the second says so and ends."""
    directory = next(Path(tmp_path_factory.getbasetemp()).glob("api*"))
    second = subprocess.run(
        [sys.executable, "-m", "ops", "up", "--data-dir", str(directory), "--port", "0", "--journal", "file"],
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert second.returncode != 0
    assert b"in use" in second.stderr
    assert not second.stdout
