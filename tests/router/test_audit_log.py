"""The audit log when its file takes nothing: no administrative call has an effect without being on record, and none
that had one is failed for it."""

import errno
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio
import pytest
from structlog.testing import capture_logs

from cluster.audit_log import AuditLog, audit_log
from proto import coupon_pb2 as pb
from proto import node_pb2
from router.access import Access
from router.api import SERVICE_NAME
from router.metrics import RouterView
from tests.metrics.reading import said
from tests.router.fake_node import FakeNode, running_node
from tests.router.rig import KEYS, Client, Details, FedWatches, Rig, listening, rig, run

CREATE = pb.CreateCampaignRequest(campaign_id="c", campaign=pb.Campaign(name="이름있는것", total=3))


@dataclass
class Disk:
    """A file that takes so many bytes, then none."""

    room: int = 1 << 20
    taken: bytearray = field(default_factory=bytearray)

    def write(self, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "no space left")
        took = data[: self.room]
        self.taken += took
        self.room -= len(took)
        return len(took)

    def entries(self) -> list[dict[str, str]]:
        return [json.loads(line) for line in self.taken.splitlines()]


def campaign(call: node_pb2.Call) -> node_pb2.Reply:
    return node_pb2.Reply(call_id=call.call_id, response=pb.Campaign(campaign_id="c").SerializeToString())


@asynccontextmanager
async def place(audit: AuditLog) -> AsyncIterator[tuple[Rig, FakeNode, Client]]:
    async with running_node() as node, rig() as router:
        node.script = campaign
        router.own(node)
        async with (
            listening(router, audit=audit) as (_, address),
            grpc.aio.insecure_channel(address) as channel,
        ):
            yield router, node, Client(channel)


def failures(router: Rig, audit: AuditLog) -> float:
    return said(RouterView(router.dispatcher, audit))["audit_failures_total",]


# --- lines ------------------------------------------------------------------------------------------------------------


def test_an_act_has_two_lines() -> None:
    """Tied together; the second knows all that the first did, and what came of it. Another act has another id."""
    disk = Disk()
    audit = AuditLog(disk.write)
    act = audit.begin(who="me", what="CreateCampaign", request_id="r", note="")
    (begun,) = disk.entries()
    act.end("OK", campaign="봄")
    _, ended = disk.entries()
    assert (begun["answer"], ended["answer"], ended["campaign"]) == ("BEGUN", "OK", "봄")
    assert begun.items() - {("answer", "BEGUN"), ("timestamp", begun["timestamp"])} <= ended.items()
    assert "note" not in begun
    audit.begin(who="me", what="CreateCampaign")
    assert disk.entries()[2]["act"] != begun["act"]
    assert audit.failures == 0


def test_a_line_that_was_cut_off_spoils_no_other() -> None:
    """Whatever fits of it: when there is room again, the next line begins on one of its own."""
    whole = Disk()
    AuditLog(whole.write).refused(who="a", what="b", answer="KEY_INVALID")
    for room in range(len(whole.taken)):
        disk = Disk(room)
        audit = AuditLog(disk.write)
        with pytest.raises(OSError, match="no space"), capture_logs():
            audit.begin(who="lost", what="CreateCampaign")
        disk.room = 1 << 20
        audit.begin(who="kept", what="CreateCampaign").end("OK")
        lines = bytes(disk.taken).splitlines()
        assert [json.loads(line)["answer"] for line in lines[-2:]] == ["BEGUN", "OK"]
        assert len(lines) == 2 + (room > 0)
        assert audit.failures == 1


def test_what_failed_is_not_written_later(tmp_path: Path) -> None:
    """No buffer keeps a line that its caller was told is not there. A full file is no error when it is closed."""
    with capture_logs() as logged, audit_log(Path("/dev/full")) as audit:
        with pytest.raises(OSError, match="No space"):
            audit.begin(who="me", what="CreateCampaign")
        audit.refused(who="me", what="CreateCampaign", answer="KEY_INVALID")
    assert [entry["answer"] for entry in logged] == ["BEGUN", "KEY_INVALID"]
    with audit_log(tmp_path / "log") as audit:
        audit.begin(who="me", what="CreateCampaign")
        assert (tmp_path / "log").read_text().count("\n") == 1, "the kernel has it at once"


def test_a_process_s_own_log_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rule where the audit log has no file: nothing is begun, what was done is answered, all of it counts."""

    class Full:
        def info(self, *_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, "no space left")

        error = info

    audit = AuditLog()
    act = audit.begin(who="me", what="CreateCampaign")
    monkeypatch.setattr("cluster.audit_log.log", Full())
    act.end("OK")
    with pytest.raises(OSError, match="no space"):
        audit.begin(who="me", what="CreateCampaign")
    assert audit.failures == 2


# --- calls ------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_put_on_record_is_not_begun(on_every_server: None) -> None:
    """UNAVAILABLE, with a reason of its own and a time to come again; no node hears of it, the process's log does, and
    it counts. When there is room again it is done."""

    async def test() -> None:
        disk = Disk(room=0)
        audit = AuditLog(disk.write)
        async with place(audit) as (router, node, client):
            with capture_logs() as logged, pytest.raises(grpc.aio.AioRpcError) as error:
                await client.unary("CreateCampaign", CREATE)
            details = Details.of_rpc(error.value)
            assert (details.code, details.reason) == (grpc.StatusCode.UNAVAILABLE.value[0], "AUDIT_UNWRITABLE")
            assert details.retry_s
            assert not node.calls
            (entry,) = [one for one in logged if one["event"] == "audit_unwritable"]
            assert (entry["log_level"], entry["answer"], entry["campaign"]) == ("error", "BEGUN", "c")
            assert failures(router, audit) == 1
            disk.room = 1 << 20
            await client.unary("CreateCampaign", CREATE)
            assert [entry["answer"] for entry in disk.entries()] == ["BEGUN", "OK"]
            assert failures(router, audit) == 1

    run(test())


def test_what_was_done_is_answered(on_every_server: None) -> None:
    """The disk is full when the answer is there: the caller has it as it is, and the whole entry is in the process's
    own log, as an error that counts."""

    async def test() -> None:
        disk = Disk()
        audit = AuditLog(disk.write)

        def fill(call: node_pb2.Call) -> node_pb2.Reply:
            disk.room = 0
            return campaign(call)

        async with place(audit) as (router, node, client):
            node.script = fill
            with capture_logs() as logged:
                answer = await client.unary("CreateCampaign", CREATE)
            assert pb.Campaign.FromString(answer).campaign_id == "c"
            (begun,) = disk.entries()
            (entry,) = [one for one in logged if one["event"] == "audit_unwritable"]
            assert entry["log_level"] == "error"
            assert {**begun, "answer": "OK"}.items() - {("event", "audit"), ("timestamp", begun["timestamp"])} <= (
                entry.items()
            )
            assert failures(router, audit) == 1

    run(test())


def test_a_full_device(on_every_server: None) -> None:
    """A real one: whatever an administrator asks for is refused, coupons and questions are not."""

    async def test() -> None:
        with audit_log(Path("/dev/full")) as audit:
            async with place(audit) as (_, node, client):
                requests = {
                    "CreateCampaign": CREATE,
                    "PauseCampaign": pb.PauseCampaignRequest(campaign_id="c", request_id="r"),
                    "ResumeCampaign": pb.ResumeCampaignRequest(campaign_id="c", request_id="r"),
                    "CancelCampaign": pb.CancelCampaignRequest(campaign_id="c", request_id="r"),
                }
                for method, request in requests.items():
                    with pytest.raises(grpc.aio.AioRpcError) as error:
                        await client.unary(method, request)
                    assert Details.of_rpc(error.value).reason == "AUDIT_UNWRITABLE", method
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await client.unary("CreateCampaign", b"\xff")
                assert Details.of_rpc(error.value).reason == "INVALID_FIELD", "it is nothing to begin with"
                assert not node.calls
                await client.unary("IssueCoupon", pb.IssueCouponRequest(campaign_id="c", user_id="u"))
                assert audit.failures == len(requests) + 1

    run(test())


def test_who_is_refused_at_the_door_hears_why() -> None:
    """Though that cannot be written down: nothing was to be done."""

    async def test() -> None:
        audit = AuditLog(Disk(room=0).write)
        access = Access(_Etcd(), KEYS, age_s_max=5.0, clock=float, audit=audit)
        permit = access.permit(f"/{SERVICE_NAME}/CreateCampaign", b"", "10.0.0.1:1")
        assert permit is not None
        refusal = permit.admit()
        assert refusal is not None
        assert refusal.reason == pb.KEY_INVALID
        assert audit.failures == 1

    run(test())


class _Etcd(FedWatches):
    proved_s = 0.0
