"""Who may call what: API keys as etcd has them, and what each method asks for.

A header block that comes again and again is looked at once and becomes a `Permit`; a permit is asked with every call,
and looks again when any key has changed. So a key that is revoked is refused as soon as etcd's watch has told, and
whoever cannot hear from etcd lets nobody in after a while: it would not hear of a revocation either. A stream that is
open ends for the same reasons, and as soon.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Protocol

import structlog
from grpc_reflection.v1alpha import reflection

from cluster import health
from cluster.audit_log import AuditLog
from cluster.keys import KeyRecord, KeyRole, ShownKey
from cluster.kv import KeyValue, prefix_end
from cluster.records import Keyspace
from cluster.watch import Changes, Snapshot
from proto import coupon_pb2
from router import errors
from router.errors import ApiError, reason_name
from router.interrupt import Interrupt, Interrupted
from router.limits import Buckets, Rate
from router.observer import UNOBSERVED, Observer

log = structlog.get_logger()

_SERVICE = coupon_pb2.DESCRIPTOR.services_by_name["CouponService"].full_name
_ADMIN = frozenset((KeyRole.ADMIN,))
_READ = frozenset((KeyRole.READ, KeyRole.ADMIN))
_ISSUE = frozenset((KeyRole.ISSUE,))

ROLES: Mapping[str, frozenset[KeyRole]] = {
    f"/{_SERVICE}/CreateCampaign": _ADMIN,
    f"/{_SERVICE}/UpdateCampaign": _ADMIN,
    f"/{_SERVICE}/PauseCampaign": _ADMIN,
    f"/{_SERVICE}/ResumeCampaign": _ADMIN,
    f"/{_SERVICE}/CancelCampaign": _ADMIN,
    f"/{_SERVICE}/GetCampaign": _READ,
    f"/{_SERVICE}/ListCampaigns": _READ,
    f"/{_SERVICE}/WatchCampaign": _READ,
    f"/{_SERVICE}/IssueCoupon": _ISSUE,
    f"/{_SERVICE}/IssueCoupons": _ISSUE,
    f"/{_SERVICE}/GetCoupon": frozenset((KeyRole.ISSUE, KeyRole.READ)),
    f"/{reflection.SERVICE_NAME}/ServerReflectionInfo": frozenset(KeyRole),
}
"""By path: one of them is enough. What stands neither here nor in OPEN, nobody may call."""
OPEN = frozenset((f"/{health.SERVICE_NAME}/Check", f"/{health.SERVICE_NAME}/Watch"))
"""Without a key: whoever balances the load has none."""

_KEYS_MAX = 100_000
_REFUSALS_AUDITED = Rate(10, 100)
"""Anybody may be refused as often as he likes: not all of it is written down."""
_STALE_LOOK_S = 1.0
"""So much later, at the worst, than calls are refused, open streams end when etcd is silent."""


class Etcd(Protocol):
    """The part of `cluster.session.EtcdClient` that is needed here."""

    @property
    def proved_s(self) -> float: ...

    def watch(self, start: str, end: str) -> AsyncGenerator[Snapshot | Changes, None]: ...


class Access:
    def __init__(
        self,
        etcd: Etcd,
        keys: Keyspace,
        *,
        age_s_max: float,
        clock: Callable[[], float],
        audit: AuditLog,
        rate: Rate | None = None,
        observer: Observer = UNOBSERVED,
    ) -> None:
        """
        Args:
            age_s_max: so long what etcd said last is believed.
            clock: loop.time
            rate: of the calls with one key; None: no limit.
        """
        self.generation = 0
        """Of what is known of the keys."""
        self.ready = asyncio.Event()
        """Set when all keys are known."""
        self._records: dict[str, KeyRecord] = {}
        self._lasting: dict[Interrupt, Permit] = {}
        """What goes on for as long as its permit holds, in the order in which it began."""
        self._etcd = etcd
        self._keys = keys
        self._age_s_max = age_s_max
        self._clock = clock
        self._audit = audit
        self._observer = observer
        self._audited = Buckets(_REFUSALS_AUDITED, 1)
        self._buckets = Buckets(rate, _KEYS_MAX) if rate is not None else None
        self._unknown = errors.keys_unknown()
        self._invalid = errors.key_invalid()

    async def run(self) -> None:
        """Follows the keys for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(), name="access-keys")
            tasks.create_task(self._notice_silence(), name="access-silence")

    async def _follow(self) -> None:
        start = self._keys.api_keys
        async with aclosing(self._etcd.watch(start, prefix_end(start))) as updates:
            async for update in updates:
                if isinstance(update, Snapshot):
                    self._records.clear()
                    for kv in update.kvs:
                        self._learn(kv)
                else:
                    for event in update.events:
                        if event.deleted:
                            self._records.pop(self._keys.id_of_api_key(event.kv.key), None)
                        else:
                            self._learn(event.kv)
                self.generation += 1
                self.ready.set()
                self._end_what_is_refused()

    async def _notice_silence(self) -> None:
        """Nothing comes from an etcd that is silent: this alone is found out by looking."""
        while True:
            left_s = self._etcd.proved_s + self._age_s_max - self._clock()
            await asyncio.sleep(max(left_s, _STALE_LOOK_S))
            if self.stale():
                self._end_what_is_refused()

    def _end_what_is_refused(self) -> None:
        for end, permit in tuple(self._lasting.items()):
            if permit.refusal() is not None:
                end.fire()

    def permit(self, path: str, authorization: bytes, peer: str) -> "Permit | None":
        """What a call with these header fields may do; None: whatever it likes."""
        return None if path in OPEN else Permit(self, path, authorization, peer)

    def _learn(self, kv: KeyValue) -> None:
        key_id = self._keys.id_of_api_key(kv.key)
        try:
            self._records[key_id] = KeyRecord.decode(kv.value)
        except (ValueError, KeyError, TypeError):
            # One that cannot be read lets nobody in, and nobody else out.
            self._records.pop(key_id, None)
            log.error("api_key_unreadable", key=key_id)

    # --- for permits --------------------------------------------------------------------------------------------------

    def stale(self) -> bool:
        return self._clock() - self._etcd.proved_s > self._age_s_max

    @property
    def unknown(self) -> ApiError:
        return self._unknown

    def lasts(self, permit: "Permit", end: Interrupt) -> None:
        """From now on `end` is fired when the permit is refused."""
        self._lasting[end] = permit

    def is_over(self, end: Interrupt) -> None:
        del self._lasting[end]

    def judge(self, key: ShownKey | None, path: str) -> ApiError | None:
        """Why this key may not call this method."""
        record = self._records.get(key.id) if key is not None else None
        if key is None or record is None or not record.fits(key.secret):
            return self._invalid
        roles = ROLES.get(path, frozenset())
        return None if record.roles & roles else errors.role_missing(path.rpartition("/")[2], roles)

    def take(self, key_id: str) -> ApiError | None:
        """A token of the key's bucket; why there is none."""
        if self._buckets is None:
            return None
        wait_s = self._buckets.take(key_id, self._clock())
        return errors.rate_limited("key", wait_s) if wait_s else None

    def refused(self, path: str, who: str, peer: str, why: ApiError) -> None:
        """A call was. Whoever tried what is an administrator's is written down."""
        method = path.rpartition("/")[2]
        self._observer.turned_away(method, why)
        if ROLES.get(path) == _ADMIN and not self._audited.take("", self._clock()):
            self._audit.refused(who=who, what=method, answer=reason_name(why.reason), peer=peer)


class Permit:
    """What one header block of one connection may do, as long as it is asked anew with every call."""

    __slots__ = ("_access", "_generation", "_key", "_path", "_peer", "_refusal")

    def __init__(self, access: Access, path: str, authorization: bytes, peer: str) -> None:
        self._access = access
        self._path = path
        self._peer = peer
        self._key = _shown(authorization)
        self._generation = access.generation
        self._refusal = access.judge(self._key, path)

    @property
    def key_id(self) -> str:
        """As the caller claims it, until `refusal` says nothing against it."""
        return self._key.id if self._key is not None else ""

    def refusal(self) -> ApiError | None:
        """Why this call, or the rest of a stream, is not allowed, now. The error may be shared."""
        access = self._access
        if access.stale():
            return access.unknown
        if self._generation != access.generation:
            self._generation = access.generation
            self._refusal = access.judge(self._key, self._path)
        return self._refusal

    @asynccontextmanager
    async def lasting(self) -> AsyncIterator[None]:
        """Around what goes on for longer than one call: it is left as soon as the router has heard of a refusal.

        Raises:
            ApiError: the refusal. It may be shared.
        """
        if (refusal := self.refusal()) is not None:
            raise refusal.with_traceback(None)  # it came between `admit` and here
        end = Interrupt()
        self._access.lasts(self, end)
        try:
            async with end.scope():
                yield
        except Interrupted:
            # If all is well again since, a caller that asks again is let in: that is what this says, too.
            raise (self.refusal() or self._access.unknown).with_traceback(None) from None
        finally:
            self._access.is_over(end)

    def admit(self) -> ApiError | None:
        """For a call that begins: as `refusal`, and it counts."""
        refusal = self.refusal() or self.take()
        if refusal is not None:
            self._access.refused(self._path, self.key_id or self._peer, self._peer, refusal)
        return refusal

    def take(self) -> ApiError | None:
        """For what counts like a call: an item of a stream."""
        return self._access.take(self.key_id)


def _shown(authorization: bytes) -> ShownKey | None:
    scheme, _, token = authorization.partition(b" ")
    if scheme.lower() != b"bearer":
        return None
    try:
        return ShownKey.parse(token.strip().decode("ascii"))
    except UnicodeDecodeError:
        return None
