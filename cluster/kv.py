"""etcd's RPCs as plain values: the seam behind which the tests and the simulation put a fake etcd.

`cluster.etcd` implements it with grpc, `tests.fakes.etcd` in memory with the same semantics. Nothing here
retries, waits or remembers: that is `cluster.session`'s.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from cluster.types import LeaseId, Revision


class EtcdUnavailable(Exception):
    """No answer: not sent, sent and lost, or answered too late. What a Txn or a lease call did is unknown."""


LEASE_NOT_FOUND = "etcdserver: requested lease not found"
REQUEST_TOO_LARGE = "etcdserver: request is too large"
TOO_MANY_OPERATIONS = "etcdserver: too many operations in txn request"
DUPLICATE_KEY = "etcdserver: duplicate key given in txn request"
ANSWER_TOO_LARGE = "the answer is larger than this client receives"
"""To a Get: it has to ask for less at a time."""
TOO_MANY_REQUESTS = "etcdserver: too many requests"
"""etcd is busy. The only refusal that passes by itself."""


class EtcdRefused(Exception):
    """A definite no: nothing was written. `reason` is etcd's own text.

    Only what is known to be definite: lease not found, request too large, too many operations, duplicate key, too many
    requests, auth; for a Get also an answer that is too large. Everything else is EtcdUnavailable, "database space
    exceeded" too: the request that first crosses the quota is applied *and* answered so (etcd's `quotaApplierV3`).
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Compacted(Exception):
    """A watch, or a Get at a revision, asked for what is compacted away: list again."""


@dataclass(frozen=True, slots=True)
class KeyValue:
    key: str
    value: bytes
    create_revision: Revision
    mod_revision: Revision
    lease_id: LeaseId
    """0: no lease."""


@dataclass(frozen=True, slots=True)
class Get:
    """One key, or with `end` the keys in [key, end), in order of key. Linearizable."""

    key: str
    end: str | None = None
    limit: int = 0
    """At most so many keys; 0: all. Answers over 4 MiB fail: page."""
    keys_only: bool = False
    revision: Revision = Revision(0)
    """What stood at this revision; 0: now. Compacted if it is compacted away. Not inside a Txn."""


@dataclass(frozen=True, slots=True)
class Put:
    key: str
    value: bytes
    lease_id: LeaseId = LeaseId(0)


@dataclass(frozen=True, slots=True)
class Delete:
    """One key, or with `end` the keys in [key, end)."""

    key: str
    end: str | None = None


@dataclass(frozen=True, slots=True)
class ModRevisionIs:
    """Holds if the key's mod_revision is this; 0: if there is no such key."""

    key: str
    revision: Revision


@dataclass(frozen=True, slots=True)
class ValueIs:
    """Holds if the key exists with exactly this value."""

    key: str
    value: bytes


Op = Get | Put | Delete
Guard = ModRevisionIs | ValueIs


@dataclass(frozen=True, slots=True)
class Txn:
    """If all guards hold then `then`, else `otherwise`: atomically, at most 128 operations each."""

    guards: tuple[Guard, ...]
    then: tuple[Op, ...]
    otherwise: tuple[Op, ...] = ()


@dataclass(frozen=True, slots=True)
class RangeResult:
    kvs: tuple[KeyValue, ...]
    more: bool
    """Keys were left off by `limit`."""
    revision: Revision
    """The store's revision when it was read (that of now, also when the Get asked for an older one)."""


@dataclass(frozen=True, slots=True)
class TxnResult:
    succeeded: bool
    """The guards held."""
    revision: Revision
    """The store's revision after it: for a Txn that put, the mod_revision of what it put."""
    ranges: tuple[tuple[KeyValue, ...], ...]
    """For each operation of the branch that ran: what a Get found; () for a Put or Delete."""


@dataclass(frozen=True, slots=True)
class Lease:
    lease_id: LeaseId
    ttl_s: int
    """What etcd granted: may be more than was asked."""


@dataclass(frozen=True, slots=True)
class Event:
    """A key was put, or deleted (`kv.value` is then empty and `kv.mod_revision` the revision of the deletion)."""

    kv: KeyValue
    deleted: bool


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """All events of one or more whole revisions, in order. Empty: a progress notice."""

    events: tuple[Event, ...]
    revision: Revision
    """Everything up to and including it has been delivered."""


@dataclass(frozen=True, slots=True)
class StoreSize:
    """Of one member's database."""

    db_bytes: int
    """Of its file: what the quota is held against."""
    in_use_bytes: int
    """What would be left of it after a defragmentation."""
    quota_bytes: int
    """0: it does not say; before 3.6 none does."""


class EtcdRpc(Protocol):
    """One endpoint of etcd. Every call is sent once. A cancelled call may still take effect.

    Raises:
        EtcdUnavailable, EtcdRefused: from every method. None has a timeout of its own: callers bring asyncio.timeout.
    """

    endpoint: str
    """HOST:PORT"""

    async def get(self, get: Get) -> RangeResult: ...

    async def txn(self, txn: Txn) -> TxnResult: ...

    async def lease_grant(self, ttl_s: int) -> Lease: ...

    async def lease_revoke(self, lease_id: LeaseId) -> None: ...

    def keep_alive(self, lease_ids: AsyncIterator[LeaseId]) -> AsyncGenerator[Lease, None]:
        """One stream: for each id that the iterator yields, one answer in order; ttl_s 0: there is no such lease.

        It ends when the iterator does. Closing the generator (`aclose`) ends the stream.
        """
        ...

    def watch(self, key: str, end: str | None, start: Revision) -> AsyncGenerator[WatchBatch, None]:
        """Events of [key, end) (or of one key) from revision `start` on, whole revisions only, never a gap.

        It ends only by raising, or when the generator is closed (`aclose`).

        Raises:
            Compacted: `start` is compacted.
        """
        ...

    async def size(self) -> StoreSize:
        """Of the member that is asked."""
        ...

    async def close(self) -> None: ...


def prefix_end(prefix: str) -> str:
    """The end of the range of all keys that begin with `prefix` (ASCII, not empty)."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)
