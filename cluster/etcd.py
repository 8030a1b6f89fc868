"""etcd's RPCs over gRPC: one endpoint, plain values in and out. The only module that knows the package etcd3aio.

Only its stubs and messages are used, never its calls: those retry by themselves, a Txn too. Every RPC here is sent
once, has no timeout of its own, and is released when the task that waits for it is cancelled (but for a Txn that only
reads). Choosing endpoints, repeating, resuming a watch and counting a lease's time are done elsewhere: see
`cluster.session`.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, assert_never

# etcd3aio puts a folder with its own copies of google.api first in sys.path. Loaded before it, the real ones stay.
import google.api.annotations_pb2  # type: ignore[import-untyped]  # the package has no types
import google.api.http_pb2  # type: ignore[import-untyped]  # the package has no types
import google.rpc.error_details_pb2  # noqa: F401
import grpc
import grpc.aio
from etcd3aio import _protobuf as pb

from cluster.kv import (
    ANSWER_TOO_LARGE,
    DUPLICATE_KEY,
    LEASE_NOT_FOUND,
    REQUEST_TOO_LARGE,
    TOO_MANY_OPERATIONS,
    TOO_MANY_REQUESTS,
    Compacted,
    Delete,
    EtcdRefused,
    EtcdUnavailable,
    Event,
    Get,
    Guard,
    KeyValue,
    Lease,
    ModRevisionIs,
    Op,
    Put,
    RangeResult,
    StoreSize,
    Txn,
    TxnResult,
    ValueIs,
    WatchBatch,
)
from cluster.tls import TlsIdentity
from cluster.types import LeaseId, Revision

RECEIVE_BYTES_MAX = 16 << 20
"""Of one message. No caller needs more than 4 MiB; the rest is room for etcd's own overhead."""

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.enable_retries", 0),  # a library that repeats a Txn makes its outcome unknowable
    ("grpc.max_receive_message_length", RECEIVE_BYTES_MAX),
    # etcd closes a connection that is pinged more often than every 5 s, or at all while no call is open. What has to be
    # noticed faster, the session notices by asking.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
    # An endpoint that comes back is noticed soon: gRPC's own pauses grow to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    ("grpc.use_local_subchannel_pool", 1),  # one connection for each object, with a fate of its own
    ("grpc.enable_http_proxy", 0),
)

REFUSALS = frozenset(
    {
        LEASE_NOT_FOUND,
        REQUEST_TOO_LARGE,
        TOO_MANY_OPERATIONS,
        DUPLICATE_KEY,
        TOO_MANY_REQUESTS,
        "etcdserver: permission denied",
        "etcdserver: invalid auth token",
        "etcdserver: user name is empty",
    }
)
"""The answers that etcd gives only where it has written nothing."""

REQUEST_OVER_GRPC_LIMIT = "grpc: received message larger than max"
"""How etcd's gRPC server, before etcd sees it, refuses a request beyond etcd's own limit plus 512 KiB."""

ANSWER_OVER_GRPC_LIMIT = "CLIENT: Received message larger than max"

UNREADABLE_REVISIONS = frozenset(
    {
        "etcdserver: mvcc: required revision has been compacted",
        # A listing that began before this etcd was restored from a snapshot.
        "etcdserver: mvcc: required revision is a future revision",
    }
)

REQUIRE_LEADER = (("hasleader", "true"),)
"""A stream's metadata: a member that has lost its leader ends the stream instead of staying silent."""


class GrpcEtcd:
    """`cluster.kv.EtcdRpc` for one endpoint. To be made inside the event loop that uses it; connects when needed."""

    def __init__(self, endpoint: str, tls: TlsIdentity | None = None) -> None:
        """
        Args:
            endpoint: HOST:PORT; with TLS its certificate has to name HOST.
            tls: shown to etcd, too. When its files change, later calls go over a new connection.
        """
        self.endpoint = endpoint
        self._tls = tls
        self._wires = [_Wire(endpoint, tls)]
        """The newest is the last; those before it still have calls."""
        self._unheard: set[asyncio.Task[Any]] = set()
        """Calls that go on though nobody may wait for them."""

    async def get(self, get: Get) -> RangeResult:
        try:
            answer = await self._ask(lambda wire: wire.kv.Range(_range_request(get)))
        except EtcdUnavailable as error:
            if ANSWER_OVER_GRPC_LIMIT in str(error):
                raise EtcdRefused(ANSWER_TOO_LARGE) from error  # asking again would bring the same
            raise
        return RangeResult(_key_values(answer.kvs), answer.more, Revision(answer.header.revision))

    async def txn(self, txn: Txn) -> TxnResult:
        request = pb.TxnRequest(
            compare=[_compare(guard) for guard in txn.guards],
            success=[_request_op(op) for op in txn.then],
            failure=[_request_op(op) for op in txn.otherwise],
        )
        call = self._ask(lambda wire: wire.kv.Txn(request))
        only_reads = all(isinstance(op, Get) for op in txn.then + txn.otherwise)
        answer = await (self._to_its_end(call) if only_reads else call)
        ranges = tuple(_key_values(response.response_range.kvs) for response in answer.responses)
        return TxnResult(answer.succeeded, Revision(answer.header.revision), ranges)

    async def _to_its_end(self, call: Coroutine[Any, Any, Any]) -> Any:
        """Wait for a call that goes on when whoever waits is cancelled: before 3.5.7 etcd ends itself when the caller
        of a Txn that only reads has gone (etcd-io/etcd#14110)."""
        task = asyncio.create_task(call)
        self._unheard.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._unheard.discard(task)
        if not task.cancelled():
            task.exception()  # heard by who waits, if anybody still does

    async def lease_grant(self, ttl_s: int) -> Lease:
        answer = await self._ask(lambda wire: wire.lease.LeaseGrant(pb.LeaseGrantRequest(TTL=ttl_s)))
        return Lease(LeaseId(answer.ID), answer.TTL)

    async def lease_revoke(self, lease_id: LeaseId) -> None:
        await self._ask(lambda wire: wire.lease.LeaseRevoke(pb.LeaseRevokeRequest(ID=lease_id)))

    async def keep_alive(self, lease_ids: AsyncIterator[LeaseId]) -> AsyncGenerator[Lease, None]:
        async with self._wired() as wire:
            call = wire.lease.LeaseKeepAlive(metadata=REQUIRE_LEADER)
            try:
                async for lease_id in lease_ids:
                    with _translated():
                        await call.write(pb.LeaseKeepAliveRequest(ID=lease_id))
                        answer = await _read(call)
                    yield Lease(LeaseId(answer.ID), answer.TTL)
            finally:
                call.cancel()

    async def watch(self, key: str, end: str | None, start: Revision) -> AsyncGenerator[WatchBatch, None]:
        request = pb.WatchCreateRequest(
            key=key.encode(),
            range_end=_range_end(end),
            start_revision=start,
            progress_notify=True,
            fragment=True,
        )
        async with self._wired() as wire:
            call = wire.watch.Watch(metadata=REQUIRE_LEADER)
            fragments = Fragments()
            try:
                with _translated():
                    await call.write(pb.WatchRequest(create_request=request))
                while True:
                    with _translated():
                        response = await _read(call)
                    if response.compact_revision:
                        raise Compacted(f"compacted up to revision {response.compact_revision}")
                    if response.canceled:
                        raise EtcdUnavailable(f"etcd ended the watch: {response.cancel_reason}")
                    if response.created:
                        continue
                    if response.events:
                        events = fragments.join([_event(event) for event in response.events], more=response.fragment)
                        if events:
                            yield WatchBatch(events, events[-1].kv.mod_revision)
                    elif not fragments.waiting:
                        # Only etcd's periodic notices come here. Those that a client asks for are not to be trusted
                        # before 3.4.25 and 3.5.8: they overtake events.
                        yield WatchBatch((), Revision(response.header.revision))
            finally:
                call.cancel()

    async def _ask(self, ask: Callable[["_Wire"], Awaitable[Any]]) -> Any:
        async with self._wired() as wire:
            with _translated():
                return await ask(wire)

    @asynccontextmanager
    async def _wired(self) -> AsyncIterator["_Wire"]:
        """Around a call: the newest connection. The last call on an older one closes it."""
        wire = self._wires[-1]
        if self._tls is not None and self._tls.pem() is not wire.pem:
            wire = _Wire(self.endpoint, self._tls)
            self._wires.append(wire)
        wire.calls += 1
        try:
            yield wire
        finally:
            wire.calls -= 1
            await self._close_spent()

    async def _close_spent(self) -> None:
        for wire in self._wires[:-1]:
            if not wire.calls and wire in self._wires:
                self._wires.remove(wire)
                await wire.channel.close(None)

    async def size(self) -> StoreSize:
        answer = await self._ask(lambda wire: wire.maintenance.Status(pb.StatusRequest()))
        return StoreSize(answer.dbSize, answer.dbSizeInUse, answer.dbSizeQuota)

    async def close(self) -> None:
        """To be called when nobody waits for an answer any more: gRPC does not wake whoever still does."""
        for task in self._unheard:
            task.cancel()
        for wire in self._wires:
            await wire.channel.close(None)


class _Wire:
    """One connection with its stubs."""

    def __init__(self, endpoint: str, tls: TlsIdentity | None) -> None:
        self.calls = 0
        self.pem = None if tls is None else tls.pem()
        """What it was made with."""
        if self.pem is None:
            self.channel = grpc.aio.insecure_channel(endpoint, options=CHANNEL_OPTIONS)
        else:
            self.channel = grpc.aio.secure_channel(endpoint, self.pem.channel_credentials(), options=CHANNEL_OPTIONS)
        self.kv = pb.KVStub(self.channel)
        self.lease = pb.LeaseStub(self.channel)
        self.watch = pb.WatchStub(self.channel)
        self.maintenance = pb.MaintenanceStub(self.channel)


class Fragments:
    """Joins the parts into which etcd cuts large watch responses. Gives out whole revisions, as soon as they are."""

    def __init__(self) -> None:
        self._events: list[Event] = []

    @property
    def waiting(self) -> bool:
        """A revision has begun and not ended."""
        return bool(self._events)

    def join(self, events: Sequence[Event], *, more: bool) -> tuple[Event, ...]:
        """`more`: further parts of the same response follow, so that the last revision may be unfinished."""
        self._events += events
        whole = len(self._events)
        if more:
            last = self._events[-1].kv.mod_revision
            while whole and self._events[whole - 1].kv.mod_revision == last:
                whole -= 1
        ready = tuple(self._events[:whole])
        del self._events[:whole]
        return ready


@contextmanager
def _translated() -> Iterator[None]:
    """Turns gRPC's errors into those of `cluster.kv`."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise _meaning(error.code(), error.details() or "") from error
    except asyncio.InvalidStateError as error:
        raise EtcdUnavailable("the stream had ended") from error


async def _read(call: Any) -> Any:
    response = await call.read()
    if response is grpc.aio.EOF:  # type: ignore[attr-defined]  # the stubs do not have it
        raise EtcdUnavailable("etcd ended the stream")
    return response


def _meaning(code: grpc.StatusCode, details: str) -> Exception:
    if details in UNREADABLE_REVISIONS:
        return Compacted(details)
    if details in REFUSALS:
        return EtcdRefused(details)
    if details.startswith(REQUEST_OVER_GRPC_LIMIT):
        return EtcdRefused(REQUEST_TOO_LARGE)
    return EtcdUnavailable(f"{code.name}: {details}")


def _range_end(end: str | None) -> bytes:
    return b"" if end is None else end.encode()


def _range_request(get: Get) -> Any:
    return pb.RangeRequest(
        key=get.key.encode(),
        range_end=_range_end(get.end),
        limit=get.limit,
        keys_only=get.keys_only,
        revision=get.revision,
    )


def _compare(guard: Guard) -> Any:
    match guard:
        case ModRevisionIs(key, revision):
            return pb.Compare(
                result=pb.Compare.EQUAL, target=pb.Compare.MOD, key=key.encode(), mod_revision=int(revision)
            )
        case ValueIs(key, value):
            return pb.Compare(result=pb.Compare.EQUAL, target=pb.Compare.VALUE, key=key.encode(), value=value)
        case _:
            assert_never(guard)


def _request_op(op: Op) -> Any:
    match op:
        case Get():
            assert op.revision == 0, "a Txn reads what stands now"
            return pb.RequestOp(request_range=_range_request(op))
        case Put(key, value, lease_id):
            return pb.RequestOp(request_put=pb.PutRequest(key=key.encode(), value=value, lease=lease_id))
        case Delete(key, end):
            request = pb.DeleteRangeRequest(key=key.encode(), range_end=_range_end(end))
            return pb.RequestOp(request_delete_range=request)
        case _:
            assert_never(op)


def _key_value(kv: Any) -> KeyValue:
    return KeyValue(
        kv.key.decode(), kv.value, Revision(kv.create_revision), Revision(kv.mod_revision), LeaseId(kv.lease)
    )


def _key_values(kvs: Any) -> tuple[KeyValue, ...]:
    return tuple(map(_key_value, kvs))


def _event(event: Any) -> Event:
    return Event(_key_value(event.kv), deleted=event.type == event.DELETE)
