"""What etcd keeps: keys with revisions, leases' keys, history. One call is one moment; knows no time and no network."""

import bisect
from collections.abc import Callable
from dataclasses import dataclass, replace

from cluster.kv import (
    ANSWER_TOO_LARGE,
    DUPLICATE_KEY,
    LEASE_NOT_FOUND,
    REQUEST_TOO_LARGE,
    TOO_MANY_OPERATIONS,
    Compacted,
    Delete,
    EtcdRefused,
    EtcdUnavailable,
    Event,
    Get,
    Guard,
    KeyValue,
    ModRevisionIs,
    Op,
    Put,
    RangeResult,
    StoreSize,
    Txn,
    TxnResult,
    ValueIs,
)
from cluster.types import LeaseId, Revision

REQUEST_BYTES_MAX = 1_572_864
TXN_OPS_MAX = 128
ANSWER_BYTES_MAX = 4 * 1024 * 1024
"""The limit of etcd's clients, not of etcd: the request was carried out all the same."""
OVERHEAD_BYTES = 32
"""What a key costs on the wire beside its bytes; roughly."""

NO_SPACE = "RESOURCE_EXHAUSTED: etcdserver: mvcc: database space exceeded"
"""Never definite: a Txn that crosses the quota between its admission and its turn is carried out *and* answered so."""


@dataclass(frozen=True, slots=True)
class StoredLease:
    ttl_s: int
    """As granted; how much of it is left is not stored, in etcd neither."""
    keys: frozenset[str] = frozenset()


@dataclass(slots=True)
class _State:
    """All that a snapshot holds. Values in it are never changed in place, so that a snapshot is a shallow copy."""

    revision: Revision
    keys: list[str]
    """Sorted, as etcd sorts bytes: UTF-8 keeps the order of code points. With those deleted since `compacted`."""
    versions: dict[str, tuple[KeyValue, ...]]
    """Of each key, oldest first; a deletion has create_revision 0."""
    leases: dict[LeaseId, StoredLease]
    history: list[tuple[Event, ...]]
    """One entry for each revision from `compacted` on."""
    compacted: Revision
    size_bytes: int

    def copy(self) -> "_State":
        return _State(
            self.revision,
            self.keys.copy(),
            self.versions.copy(),
            self.leases.copy(),
            self.history.copy(),
            self.compacted,
            self.size_bytes,
        )


@dataclass(frozen=True, slots=True)
class Snapshot:
    state: _State


class Store:
    def __init__(self, *, quota_bytes: int | None = None) -> None:
        self.quota_bytes = quota_bytes
        self.no_space = False
        """etcd's NOSPACE alarm: raised by itself, lowered by the operator (`disarm`)."""
        self.on_revision: Callable[[tuple[Event, ...]], None] = lambda events: None
        """Called with the events of each new revision."""
        self._state = _State(Revision(1), [], {}, {}, [()], Revision(1), 0)

    @property
    def revision(self) -> Revision:
        return self._state.revision

    @property
    def size(self) -> StoreSize:
        """Never in need of a defragmentation, and as silent on its quota as etcd before 3.6."""
        return StoreSize(self._state.size_bytes, self._state.size_bytes, 0)

    @property
    def leases(self) -> dict[LeaseId, StoredLease]:
        return self._state.leases.copy()

    def get(self, get: Get) -> RangeResult:
        """
        Raises:
            EtcdRefused: the answer is larger than a client takes.
            Compacted: `get.revision` is compacted away, or not yet there.
        """
        if get.revision and not self._state.compacted <= get.revision <= self._state.revision:
            raise Compacted(f"revision {get.revision} cannot be read")
        kvs, more = self._range(get)
        if _answer_bytes(kvs) > ANSWER_BYTES_MAX:
            raise EtcdRefused(ANSWER_TOO_LARGE)
        return RangeResult(kvs, more, self._state.revision)

    def admit(self, txn: Txn) -> None:
        """What etcd looks at before it proposes the Txn to its members.

        Raises:
            EtcdRefused: nothing was or will be written.
            EtcdUnavailable: no space; the same here, but its caller cannot know.
        """
        if max(len(txn.guards), len(txn.then), len(txn.otherwise)) > TXN_OPS_MAX:
            raise EtcdRefused(TOO_MANY_OPERATIONS)
        if _puts_a_key_twice(txn.then) or _puts_a_key_twice(txn.otherwise):
            raise EtcdRefused(DUPLICATE_KEY)
        cost = _cost(txn)
        if cost > REQUEST_BYTES_MAX:
            raise EtcdRefused(REQUEST_TOO_LARGE)
        if cost:
            self.admit_bytes(cost)

    def admit_bytes(self, count: int) -> None:
        if self.quota_bytes is not None and self._state.size_bytes + count > self.quota_bytes:
            self.no_space = True
        if self.no_space:
            raise EtcdUnavailable(NO_SPACE)

    def txn(self, txn: Txn) -> TxnResult:
        """Carry out an admitted Txn.

        Raises:
            EtcdRefused: it puts with a lease that does not exist; nothing was written.
            EtcdUnavailable: it was carried out, and the answer is larger than a client takes.
        """
        succeeded = all(self._holds(guard) for guard in txn.guards)
        ops = txn.then if succeeded else txn.otherwise
        if any(isinstance(op, Put) and op.lease_id and op.lease_id not in self._state.leases for op in ops):
            raise EtcdRefused(LEASE_NOT_FOUND)
        revision = Revision(self._state.revision + 1)
        events: list[Event] = []
        ranges: list[tuple[KeyValue, ...]] = []
        for op in ops:
            found: tuple[KeyValue, ...] = ()
            match op:
                case Get():
                    assert op.revision == 0, "a Txn reads what stands now"
                    found, _ = self._range(op)
                case Put():
                    events.append(self._put(op, revision))
                case Delete():
                    events.extend(self._delete(op, revision))
            ranges.append(found)
        self._commit(revision, tuple(events))
        if sum(map(_answer_bytes, ranges)) > ANSWER_BYTES_MAX:
            raise EtcdUnavailable("RESOURCE_EXHAUSTED: " + ANSWER_TOO_LARGE)
        return TxnResult(succeeded, self._state.revision, tuple(ranges))

    def grant(self, lease_id: LeaseId, ttl_s: int) -> None:
        assert lease_id not in self._state.leases, "a lease id is used once"
        self._state.leases[lease_id] = StoredLease(ttl_s)

    def revoke(self, lease_id: LeaseId) -> None:
        """Forget the lease and delete its keys, in one revision.

        Raises:
            EtcdRefused: there is no such lease.
        """
        if lease_id not in self._state.leases:
            raise EtcdRefused(LEASE_NOT_FOUND)
        revision = Revision(self._state.revision + 1)
        keys = sorted(self._state.leases[lease_id].keys)
        events = [event for key in keys for event in self._delete(Delete(key), revision)]
        del self._state.leases[lease_id]
        self._commit(revision, tuple(events))

    def past(self, start: Revision) -> tuple[Event, ...]:
        """All events from revision `start` until now.

        Raises:
            Compacted
        """
        state = self._state
        if start < state.compacted:
            raise Compacted(f"revision {start}, compacted up to {state.compacted}")
        return tuple(event for events in state.history[start - state.compacted :] for event in events)

    def compact(self, revision: Revision) -> None:
        """Forget what happened before `revision`, and, as etcd did until 3.5.17, deletions at it."""
        state = self._state
        assert state.compacted <= revision <= state.revision
        del state.history[: revision - state.compacted]
        state.history[0] = tuple(event for event in state.history[0] if not event.deleted)
        state.compacted = revision
        for key, versions in tuple(state.versions.items()):
            standing = self._kv(key, revision)
            later = tuple(kv for kv in versions if kv.mod_revision > revision)
            state.versions[key] = (standing, *later) if standing else later
            if not state.versions[key]:
                del state.versions[key]
                del state.keys[bisect.bisect_left(state.keys, key)]
        state.size_bytes = sum(_kv_bytes(kv) for versions in state.versions.values() for kv in versions)

    def disarm(self) -> None:
        self.no_space = False

    def snapshot(self) -> Snapshot:
        return Snapshot(self._state.copy())

    def restore(self, snapshot: Snapshot) -> None:
        self._state = snapshot.state.copy()

    def _holds(self, guard: Guard) -> bool:
        kv = self._kv(guard.key)
        match guard:
            case ModRevisionIs():
                return (kv.mod_revision if kv else 0) == guard.revision
            case ValueIs():
                return kv is not None and kv.value == guard.value

    def _kv(self, key: str, revision: Revision | None = None) -> KeyValue | None:
        """What the key held at `revision`; None: what it holds now."""
        for kv in reversed(self._state.versions.get(key, ())):
            if revision is None or kv.mod_revision <= revision:
                return None if _is_deletion(kv) else kv
        return None

    def _range(self, get: Get) -> tuple[tuple[KeyValue, ...], bool]:
        keys = self._state.keys
        if get.end is None:
            candidates = [get.key]
        else:
            candidates = keys[bisect.bisect_left(keys, get.key) : bisect.bisect_left(keys, get.end)]
        found: list[KeyValue] = []
        for key in candidates:
            kv = self._kv(key, get.revision or None)
            if kv is None:
                continue
            if get.limit and len(found) == get.limit:
                return tuple(found), True
            found.append(replace(kv, value=b"") if get.keys_only else kv)
        return tuple(found), False

    def _put(self, put: Put, revision: Revision) -> Event:
        old = self._kv(put.key)
        if old is not None:
            self._detach(old)
        if put.lease_id:
            lease = self._state.leases[put.lease_id]
            self._state.leases[put.lease_id] = replace(lease, keys=lease.keys | {put.key})
        created = old.create_revision if old else revision
        kv = KeyValue(put.key, put.value, created, revision, put.lease_id)
        self._add_version(kv)
        return Event(kv, deleted=False)

    def _delete(self, delete: Delete, revision: Revision) -> list[Event]:
        gone, _ = self._range(Get(delete.key, delete.end))
        deletions = [KeyValue(kv.key, b"", Revision(0), revision, LeaseId(0)) for kv in gone]
        for kv, deletion in zip(gone, deletions, strict=True):
            self._detach(kv)
            self._add_version(deletion)
        return [Event(deletion, deleted=True) for deletion in deletions]

    def _add_version(self, kv: KeyValue) -> None:
        state = self._state
        if kv.key not in state.versions:
            bisect.insort(state.keys, kv.key)
        state.versions[kv.key] = (*state.versions.get(kv.key, ()), kv)
        state.size_bytes += _kv_bytes(kv)

    def _detach(self, kv: KeyValue) -> None:
        if kv.lease_id:
            lease = self._state.leases[kv.lease_id]
            self._state.leases[kv.lease_id] = replace(lease, keys=lease.keys - {kv.key})

    def _commit(self, revision: Revision, events: tuple[Event, ...]) -> None:
        """What changed nothing makes no revision."""
        if events:
            self._state.revision = revision
            self._state.history.append(events)
            self.on_revision(events)


def _kv_bytes(kv: KeyValue) -> int:
    return len(kv.key) + len(kv.value) + OVERHEAD_BYTES


def _cost(txn: Txn) -> int:
    """Bytes that the dearer branch writes; 0: it writes nothing, so neither quota nor request limit counts."""
    return max(
        sum(len(op.key) + len(op.value) + OVERHEAD_BYTES for op in ops if isinstance(op, Put))
        for ops in (txn.then, txn.otherwise)
    )


def _answer_bytes(kvs: tuple[KeyValue, ...]) -> int:
    return sum(map(_kv_bytes, kvs))


def _is_deletion(kv: KeyValue) -> bool:
    return kv.create_revision == 0


def _puts_a_key_twice(ops: tuple[Op, ...]) -> bool:
    """Or puts one that it also deletes."""
    puts = [op.key for op in ops if isinstance(op, Put)]
    return len(set(puts)) < len(puts) or any(
        (op.key == key if op.end is None else op.key <= key < op.end)
        for op in ops
        if isinstance(op, Delete)
        for key in puts
    )
