"""Buggy versions of production functions: what `tests.sim.plants` puts in their place. One small change each."""

import asyncio
from collections.abc import Callable
from typing import Any

from cluster.kv import EtcdRefused, EtcdUnavailable, ModRevisionIs, Put, Txn, TxnResult, ValueIs
from cluster.lease import LeaseKeeper
from node.calls import End, Held, Outcome
from node.campaign import CampaignLedger
from node.commands import IssueCoupon
from node.coupons import CouponTable
from node.entries import encode
from node.journal.base import AppendRefused, Fenced, OutcomeUnknown
from node.journal.etcd import EtcdShardJournal
from node.journal.file import FileJournal, FileShardJournal, _write_whole
from node.journal.frames import encode_frame
from node.journal.segment_reader import SegmentReader
from node.keeper import Keeper
from node.shard import Shard
from proto import coupon_pb2, journal_pb2, node_pb2
from router.dispatch import Dispatcher

# --- the journal in etcd ----------------------------------------------------------------------------------------------


async def no_barrier(self: Any) -> None:
    """The file journal's and etcd's look alike from here."""


def guards_without(kind: Callable[[EtcdShardJournal, Any], bool]) -> Any:
    built = EtcdShardJournal._guards

    def guards(self: EtcdShardJournal) -> Any:
        return tuple(guard for guard in built(self) if not kind(self, guard))

    return guards


def is_epoch(self: EtcdShardJournal, guard: Any) -> bool:
    return isinstance(guard, ModRevisionIs) and guard.key == self._keys.owner(self._shard)


def is_incarnation(self: EtcdShardJournal, guard: Any) -> bool:
    return isinstance(guard, ValueIs)


def is_absence(self: EtcdShardJournal, guard: Any) -> bool:
    return isinstance(guard, ModRevisionIs) and guard.key == self._key


async def absence_proves(self: EtcdShardJournal, entry: bytes) -> Any:
    """An outcome that is unknown, and nothing found: so it was not written."""
    try:
        result = await self._client.txn(Txn(self._guards(), (Put(self._key, entry),), self._look()))
    except (EtcdUnavailable, EtcdRefused):
        landed = await self._read_back(entry)
        if landed is None:
            raise AppendRefused("not found, so not written") from None
        return landed
    return result.revision if result.succeeded else judged(self, entry, result)


async def sends_other_bytes(self: EtcdShardJournal, entry: bytes) -> Any:
    """When the outcome is unknown the entry is made anew, with what has come meanwhile (here: with less)."""
    sent = entry
    while True:
        look = self._look()
        try:
            result = await self._client.txn(Txn(self._guards(), (Put(self._key, sent),), look))
        except (EtcdUnavailable, EtcdRefused):
            landed = await self._read_back(sent)
        else:
            if result.succeeded:
                return result.revision
            landed = judged(self, sent, result)
        if landed is not None:
            return landed
        anew = journal_pb2.Entry.FromString(entry)
        del anew.events[-1:]
        sent = anew.SerializeToString()


def presence_is_mine(self: EtcdShardJournal, entry: bytes, found: Any, owner: Any, incarnation: Any) -> Any:
    """Whatever is at the position is taken for this owner's entry."""
    if found:
        return found[0].mod_revision
    if not self._stands(owner, incarnation):
        raise Fenced("the epoch is gone")
    return None


async def unknown_is_done(self: EtcdShardJournal, entry: bytes) -> Any:
    """No answer: it will have been written."""
    try:
        result = await self._client.txn(Txn(self._guards(), (Put(self._key, entry),), self._look()))
    except (EtcdUnavailable, EtcdRefused):
        return self._cursor.last_revision + 1
    return result.revision if result.succeeded else judged(self, entry, result)


def judged(self: EtcdShardJournal, entry: bytes, result: TxnResult) -> Any:
    landed = self._judge(entry, *result.ranges)
    if landed is None:
        raise Fenced("a guard failed")
    return landed


# --- the journal in files ---------------------------------------------------------------------------------------------


async def never_looks(self: FileShardJournal) -> None:
    """No look for a higher epoch, neither after the sync nor for a barrier."""


def append_in(order: str) -> Any:
    """FileShardJournal.append with its steps in another order: w(rite), s(ync), l(ook)."""

    async def append(self: FileShardJournal, entry: bytes) -> None:
        with self._finished_unless_it_returns():
            frame = encode_frame(self._segment, self._offset, entry)
            try:
                for step in order:
                    match step:
                        case "w":
                            await _write_whole(self._file, frame)
                        case "s":
                            await self._file.sync()
                        case "S":
                            try:
                                await self._file.sync()
                            except OSError:
                                await self._file.sync()
                        case "l":
                            await self._look()
            except OSError as error:
                raise OutcomeUnknown(str(error)) from error
            self._offset += len(frame)
            self._reader.went_on(self._segment.epoch, self._offset, entry)

    return append


async def last_believed(self: SegmentReader, payload: bytes) -> bool:
    return True


async def last_synced_and_believed(self: SegmentReader, payload: bytes) -> bool:
    await self._file.sync()
    return True


async def create_without_sync(self: FileJournal, directory: Any, segment: Any) -> Any:
    for made in (self._root, directory.path):
        await self._disk.make_directory(made)
        await self._disk.sync_directory(made.parent)
    try:
        return await self._disk.create(directory.path_of(segment))
    except FileExistsError as error:
        raise Fenced("this epoch was used before") from error


# --- the shard's loop and the ledger ----------------------------------------------------------------------------------


async def answers_first(self: Shard, calls: Any, now_us: int, began_s: float) -> Any:
    """The answers leave before the entry is durable."""
    events = list(self.ledger.tick(now_us))
    for call in calls:
        if call.deadline_s <= began_s:
            call.reply(Outcome.EXPIRED)
            continue
        decision = self.ledger.handle(call.command, now_us)
        events += decision.events
        call.reply(decision.answer)
    try:
        if events:
            await self.journal.append(encode(self.header, self.journal.position, now_us, events))
    except Exception:  # noqa: BLE001 (a planted bug)
        return End.FENCED
    self.ledger.committed()
    self._publish(events)
    return None


def fenced_answers(self: Shard, held: list[Held], end: End) -> End:
    for item in held:
        item.call.reply(item.answer)
    return end


_find = CouponTable.find


def forgets_repetitions(self: CouponTable, user_id: str, request_id: str) -> tuple[int, int]:
    """A request is not known again once its user has another coupon."""
    sequence, held = _find(self, user_id, request_id)
    if sequence and len(self) - sequence > 2:
        return 0, 1
    return sequence, held


def counts_none(self: CampaignLedger, command: IssueCoupon) -> tuple[int, int]:
    """The limit is checked against what is not committed yet: against nothing, mostly."""
    sequence, _ = self._coupons.find(command.user_id, command.request_id)
    return sequence, 0


def forgets_administration(self: CampaignLedger, command: Any) -> None:
    """A repetition of an administrative call is another call."""


# --- ownership --------------------------------------------------------------------------------------------------------


async def gives_away_at_once(self: Keeper, shard: Any, revision: Any, successor: Any) -> Any:
    """The key is given away while an entry is in flight."""
    given = await self._give_away(shard, revision, successor)
    return given, await self._finish(shard, revision)


async def counts_from_the_answer(self: LeaseKeeper, questions: Any, answers: Any) -> None:
    self._require_time()
    asked_s = self._asked_s = self._clock.boottime_s()
    questions.ask(self.lease_id)
    try:
        async with asyncio.timeout(min(self._endpoints.answer_max_s, self._deadline_s - asked_s)):
            lease = await anext(answers)
    except TimeoutError:
        self._require_time()
        raise EtcdUnavailable("no keepalive answer") from None
    if lease.ttl_s <= 0:
        self._deadline_s = float("-inf")
        raise self._lost("etcd knows no such lease")
    self._deadline_s = self._clock.boottime_s() + lease.ttl_s


# --- the router -------------------------------------------------------------------------------------------------------

_link_down = Dispatcher.link_down


def broken_is_undone(self: Dispatcher, link: Any, in_flight: Any) -> None:
    """What was on a stream that broke counts as not done."""
    _link_down(self, link, in_flight)
    for call in in_flight:
        call.maybe_done = False


_send_back = Dispatcher._send_back


def new_request_id(self: Dispatcher, call: Any, delay_s: float | None = None) -> None:
    """A call that is sent again is another request."""
    if call.method == node_pb2.ISSUE_COUPON:
        request = coupon_pb2.IssueCouponRequest.FromString(call.request)
        request.request_id += "+"
        self._bytes += request.ByteSize() - len(call.request)
        call.request = request.SerializeToString()
    _send_back(self, call, delay_s)
