"""The command: what it prints, where, and how it ends. The service behind it is scripted."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from ops.command import app
from tests.ops.scripted import Scripted, refusal, serving_beside


class Terminal:
    """Runs the command against a scripted service."""

    def __init__(self, service: Scripted, router: str) -> None:
        self.service = service
        self._router = router

    def __call__(self, *args: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        result = CliRunner().invoke(app, args, env={"SEONCHAK_ROUTER": self._router})
        return result.exit_code, result.stdout, result.stderr

    def json(self, *args: str) -> Any:
        """The one document on stdout of a call that succeeds and says nothing else."""
        code, out, err = self(*args, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)


@pytest.fixture
def run() -> Iterator[Terminal]:
    service = Scripted()
    with serving_beside(service) as router:
        yield Terminal(service, router)


def test_create_shows_the_campaign_id_at_the_top(run: Terminal) -> None:
    """And the request has what the flags say; --quantity is --total; an unset start is unset on the wire."""
    document = run.json(
        "campaign", "create", "봄날", "--quantity", "50", "--id", "spring", "--end", "2030-01-01T00:00:00Z"
    )
    assert document["campaign_id"] == "spring"
    assert document["issued"] == 0
    request = run.service.requests[0]
    assert (request.campaign.name, request.campaign.total) == ("봄날", 50)
    assert not request.campaign.HasField("start_time")
    assert request.campaign.end_time.seconds == 1_893_456_000


def test_get_follows_the_pages(run: Terminal) -> None:
    """All coupons in one document, though the service gives two a page."""
    for user in ("ann", "bob", "cho"):
        run.json("issue", "spring", user)
    document = run.json("campaign", "get", "spring")
    assert document["campaign"]["state"] == "ACTIVE"
    assert [coupon["user_id"] for coupon in document["coupons"]] == ["ann", "bob", "cho"]
    code, out, _ = run("campaign", "get", "spring")
    assert code == 0
    assert "coupons: 3" in out
    assert "[bold]봄" in out, "a name in brackets is text, not markup"


def test_list_names_what_is_missing(run: Terminal) -> None:
    """Shards that did not answer are in the document, and on stderr for people."""
    code, out, err = run("campaign", "list", "--json")
    assert code == 0
    assert json.loads(out)["unreachable"] == ["shards/7"]
    assert [campaign["campaign_id"] for campaign in json.loads(out)["campaigns"]] == ["spring"]
    assert "shards/7" in err
    assert "[bold]봄" in run("campaign", "list")[1], "a name in brackets is text, not markup"


def test_issue_and_coupon_use_the_protos_names(run: Terminal) -> None:
    """Protobuf's JSON mapping with the proto's field names; false and empty fields are shown."""
    document = run.json("issue", "spring", "ann", "--request-id", "r1")
    assert document["already_issued"] is False
    assert document["coupon"]["request_id"] == "r1"
    assert document["coupon"]["issue_time"] == "1970-01-01T00:16:40Z"
    assert run.json("issue", "spring", "ann")["already_issued"] is True
    found = run.json("coupon", "--campaign", "spring", "--user", "ann")
    assert found == {"coupons": [document["coupon"]]}
    assert run.json("coupon", document["coupon"]["code"]) == found
    assert run.service.requests[-1].code == document["coupon"]["code"]


@pytest.mark.parametrize("verb", ["pause", "resume", "cancel"])
def test_administrative_calls_carry_a_request_id(run: Terminal, verb: str) -> None:
    """A fresh one each time unless it is given; the expected etag goes along."""
    run.json("campaign", verb, "spring")
    run.json("campaign", verb, "spring", "--request-id", "mine", "--etag", "7")
    first, second = run.service.requests
    assert first.request_id
    assert (second.request_id, second.etag) == ("mine", "7")


def test_update_names_what_it_changes(run: Terminal) -> None:
    """--end never removes the end: named in the mask and unset."""
    run.json("campaign", "update", "spring", "--total", "9")
    run.json("campaign", "update", "spring", "--end", "never")
    total, end = run.service.requests
    assert (list(total.update_mask.paths), total.campaign.total) == (["total"], 9)
    assert list(end.update_mask.paths) == ["end_time"]
    assert not end.campaign.HasField("end_time")
    assert run("campaign", "update", "spring")[0] == 2


def test_watch_prints_a_line_a_change_until_told(run: Terminal) -> None:
    """One JSON document a line; it ends at the state that was waited for, and fails if the router ends it first."""
    code, out, _ = run("campaign", "watch", "spring", "--until", "active", "--json")
    assert code == 0
    assert [json.loads(line)["state"] for line in out.splitlines()] == ["WAITING", "ACTIVE"]
    code, out, err = run("campaign", "watch", "spring")
    assert (code, len(out.splitlines())) == (1, 3)
    assert "ended the watch" in err


def test_load_reports_outcomes(run: Terminal) -> None:
    """Every request is in exactly one outcome."""
    document = run.json("load", "spring", "--requests", "20", "--concurrency", "4")
    assert document["outcomes"] == {"SOLD_OUT": 17, "ISSUED": 3}
    assert (document["requests"], document["issued"]) == (20, 3)


def test_a_refusal_is_one_line_and_exit_code_1(run: Terminal) -> None:
    """The reason first, the field and when to try again where they are known; stdout stays empty."""
    run.service.refuse = refusal("SOLD_OUT", "all 3 coupons are issued")
    assert run("issue", "spring", "ann") == (1, "", "error: SOLD_OUT: all 3 coupons are issued\n")
    run.service.refuse = refusal("INVALID_FIELD", "bad", field_name="user_id")
    assert run("issue", "spring", "") == (1, "", "error: INVALID_FIELD: bad; user_id: must be better\n")
    run.service.refuse = refusal("OVERLOADED", "too much", retry_s=2)
    assert run("issue", "spring", "ann") == (1, "", "error: OVERLOADED: too much; try again in 2 s\n")


def test_a_refusal_with_json_is_a_document_on_stderr(run: Terminal) -> None:
    """Reason, status, metadata, fields: for scripts. stdout stays empty."""
    run.service.refuse = refusal("INVALID_FIELD", "bad", field_name="user_id")
    code, out, err = run("issue", "spring", "ann", "--json")
    assert (code, out) == (1, "")
    error = json.loads(err)["error"]
    assert (error["reason"], error["status"]) == ("INVALID_FIELD", "INVALID_ARGUMENT")
    assert (error["metadata"], error["fields"]) == ({"k": "v"}, {"user_id": "must be better"})


def test_an_unreachable_router_is_named(run: Terminal) -> None:
    """UNAVAILABLE, and which address did not answer."""
    code, out, err = run("issue", "spring", "ann", "--router", "127.0.0.1:1", "--timeout", "5")
    assert (code, out) == (1, "")
    assert err.startswith("error: UNAVAILABLE: no answer from the router 127.0.0.1:1")


@pytest.mark.parametrize(
    "args",
    [
        ("campaign", "create", "x"),
        ("campaign", "create", "x", "--total", "many"),
        ("campaign", "create", "x", "--total", str(2**31)),
        ("campaign", "create", "x", "--total", "5", "--start", "tomorrow"),
        ("campaign", "watch", "spring", "--until", "HAPPY"),
        ("coupon",),
        ("coupon", "CODE", "--campaign", "spring", "--user", "ann"),
        ("load", "spring", "--requests", "0"),
        ("load", "spring", "--stream", "--knock", "0.1"),
        ("verify", "--etcd", "x:1", "--data-dir", "d"),
        ("up", "--journal", "tape"),
        ("up", "--shards", "5000"),
        ("node", "--lease-ttl-s", "soon", "--node-id", "n"),
        ("node", "--node-id", ""),
        ("router", "--no-such-flag"),
        ("nonsense",),
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2_and_asks_nobody(run: Terminal, args: tuple[str, ...]) -> None:
    """Exit code 2, a word on stderr, no call, no traceback."""
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert err
    assert "Traceback" not in err
    assert run.service.requests == []


def test_status_and_verify_need_a_cluster(run: Terminal, tmp_path: Any) -> None:
    """A directory without a cluster is an error that says so, with --json a document on stderr."""
    for command in ("status", "verify"):
        code, out, err = run(command, "--data-dir", str(tmp_path))
        assert (code, out) == (1, "")
        assert "holds no cluster" in err
        assert (
            "holds no cluster" in json.loads(run(command, "--data-dir", str(tmp_path), "--json")[2])["error"]["message"]
        )
