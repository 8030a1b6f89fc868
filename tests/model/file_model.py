"""The file journal, as it is built: openers of several epochs on one machine, in every order of every step.

One shard with one campaign of `total` coupons. Nobody has to act: who is paused or has crashed is one who does not (its
page cache stays). A power cut ends everybody, and leaves of what was not synced anything or nothing. In every
state, what must hold is looked for in what a later opener would read now, and in what one would read after each outcome
of a power cut at this moment.

README.md says which action is which function.
"""

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from itertools import product
from typing import NamedTuple

from tests.model import file_actions as actions
from tests.model.checker import Step
from tests.model.file_rules import Rules, Size
from tests.model.file_state import (
    SOLD_OUT,
    Grant,
    Opened,
    Opener,
    Pending,
    Phase,
    Placed,
    Record,
    Row,
    Seal,
    Segment,
    Stage,
    State,
)
from tests.model.properties import Property


class _Replayed(NamedTuple):
    """What the segments say."""

    journal: tuple[Placed, ...]
    rows: tuple[Row, ...]
    corrupt: bool


_Contents = tuple[tuple[int, tuple[Record, ...]], ...]
"""Records of segments, by epoch."""


class FileModel:
    def __init__(self, size: Size, rules: Rules | None = None) -> None:
        self.size = size
        self.rules = rules or Rules()
        self.initial = State((), (Opener(),) * size.epochs, (0,) * size.users, Opened(0, ()), 0, 0)
        self._replay = lru_cache(maxsize=None)(self._replayed)
        self._futures = lru_cache(maxsize=None)(self._possible_futures)
        self._broken = lru_cache(maxsize=None)(self._find_broken)
        self._copy_is_wrong = lru_cache(maxsize=None)(self._find_copy_is_wrong)

    # --- what must hold -----------------------------------------------------------------------------------------------

    def broken(self, state: State) -> Property | None:
        broken = self._broken(state.segments, state.heard, state.opened)
        if broken is not None or self.size.copy_counts == "no":
            return broken
        copies = (opener.copy for opener in state.openers if opener.copy)
        return Property.COPY if any(self._copy_is_wrong(state.segments, copy) for copy in copies) else None

    def _find_copy_is_wrong(self, segments: tuple[Segment, ...], copy: tuple[Placed, ...]) -> bool:
        if self.size.copy_counts == "as long as it lives":
            futures: tuple[_Replayed, ...] = (self._replay(tuple((s.epoch, s.records) for s in segments)),)
        else:
            futures = self._futures(segments)
        return any(future.journal[: len(copy)] != copy for future in futures)

    def _find_broken(self, segments: tuple[Segment, ...], heard: tuple[int, ...], opened: Opened) -> Property | None:
        for journal, _, corrupt in self._futures(segments):
            grants = [placed.grant for placed in journal]
            coupons = {grant.user: grant.sequence for grant in grants}
            if corrupt:
                return Property.CORRUPT
            if len(grants) > self.size.total:
                return Property.OVER_ISSUE
            if [grant.sequence for grant in grants] != list(range(1, len(grants) + 1)):
                return Property.SEQUENCE
            if len(coupons) < len(grants):
                return Property.DUPLICATE
            for user, answer in enumerate(heard):
                if answer > 0 and coupons.get(user) != answer:
                    return Property.LOST
                if answer == SOLD_OUT and len(grants) < self.size.total:
                    return Property.SOLD_OUT
            if journal[: len(opened.memory)] != opened.memory:
                return Property.DIVERGENCE
            if any(placed.epoch < opened.epoch for placed in journal[len(opened.memory) :]):
                return Property.FENCING
        return None

    def _possible_futures(self, segments: tuple[Segment, ...]) -> tuple[_Replayed, ...]:
        """What may be read from now on: of the segments as they are, and after each outcome of a power cut."""
        contents = {tuple((segment.epoch, segment.records) for segment in segments)}
        contents.update(
            tuple((segment.epoch, segment.records[:kept]) for segment, kept in left) for left in _power_cuts(segments)
        )
        return tuple({self._replay(content) for content in contents})

    def _replayed(self, contents: _Contents) -> _Replayed:
        seals = {epoch: first for epoch, records in contents if records and isinstance(first := records[0], Seal)}
        top = max(seals, default=0)
        journal: list[Placed] = []
        rows: list[Row] = []
        corrupt = False
        for epoch, records in contents:
            length = self._length(epoch, top, seals)
            corrupt |= length is not None and length > len(records)
            grants = [record for record in records[:length] if isinstance(record, Grant)]
            if grants:
                rows.append(Row(epoch, 1 + len(grants)))
            journal += [Placed(grant, epoch) for grant in grants]
        return _Replayed(tuple(journal), tuple(rows), corrupt)

    def _length(self, epoch: int, top: int, seals: dict[int, Seal]) -> int | None:
        """How much of a segment counts; None: all that is there."""
        if self.rules.obeyed_seal == "none" or epoch >= top:
            return None
        if self.rules.obeyed_seal == "any":
            named = [
                row.length
                for sealer, seal in seals.items()
                if sealer > epoch
                for row in seal.rows
                if row.epoch == epoch
            ]
            return min(named, default=None)
        unnamed = 0 if self.rules.obeyed_seal == "the top's" else None
        return next((row.length for row in seals[top].rows if row.epoch == epoch), unnamed)

    # --- what may happen ----------------------------------------------------------------------------------------------

    def steps(self, state: State) -> Iterator[Step[State]]:
        yield from self._disk_steps(state)
        newest = max((segment.epoch for segment in state.segments), default=0)
        users = self._users_in_turn(state)
        for epoch, opener in enumerate(state.openers, start=1):
            if opener.stage is Stage.OPEN:
                yield from self._call_steps(state, epoch, opener, newest, users)
                if opener.pending is not None:
                    yield from self._append_steps(state, epoch, opener, opener.pending, newest)
            elif opener.stage is not Stage.OVER:
                yield from self._opening_steps(state, epoch, opener, newest)

    def _disk_steps(self, state: State) -> Iterator[Step[State]]:
        for segment in state.segments:
            if segment.failed and len(segment.records) > segment.durable:
                forgotten = segment._replace(records=segment.records[: segment.durable])
                yield Step(actions.EVICTED, (segment.epoch,), _with_segment(state, forgotten))
        if state.segments and state.power_cuts < self.size.power_cuts:
            over = tuple(
                Opener() if opener.stage is Stage.NOT_BEGUN else Opener(Stage.OVER) for opener in state.openers
            )
            for left in _power_cuts(state.segments):
                segments = tuple(Segment(s.epoch, True, s.records[:kept], kept) for s, kept in left)
                after = state._replace(segments=segments, openers=over, power_cuts=state.power_cuts + 1)
                yield Step(actions.POWER_CUT, ({segment.epoch: kept for segment, kept in left},), after)

    # --- standby ------------------------------------------------------------------------------------------------------

    def _follows(self, state: State, epoch: int, opener: Opener) -> Iterator[Step[State]]:
        """Any segment with a frame behind its seal: when it was listed, and found to be the last, may be long ago."""
        sealed = [segment for segment in state.segments if segment.records]
        if self.rules.follows == "the last with a seal":
            believed = sealed[-1:]
        else:
            believed = [segment for segment in sealed if len(segment.records) > 1]
        for segment in believed:
            found, corrupt = self._certain(state.segments, segment)
            agree = self._fits(opener.copy, found) or self._fits(found, opener.copy)
            copy = _joined(opener.copy, found)
            if corrupt:
                yield Step(actions.FOLLOWS, (epoch, segment.epoch, len(found)), state, Property.CORRUPT)
            elif not agree:
                thrown_away = _with_opener(state, epoch, opener._replace(copy=()))
                yield Step(actions.COPY_THROWN_AWAY, (epoch, segment.epoch), thrown_away)
            elif copy != opener.copy:
                after = _with_opener(state, epoch, opener._replace(copy=copy))
                yield Step(actions.FOLLOWS, (epoch, segment.epoch, len(copy)), after)

    def _leaves_copy(self, state: State, epoch: int, opener: Opener) -> Iterator[Step[State]]:
        """An owner becomes the standby. It may as well go on: who does not act any more is over."""
        for number, owner in enumerate(state.openers, start=1):
            left = owner.memory
            if owner.pending is not None:
                if self.rules.copy_left == "what is committed":
                    continue
                left += (Placed(owner.pending.grant, number),)
            if owner.stage is Stage.OPEN and len(left) > len(opener.copy):
                after = _with_opener(state, epoch, opener._replace(copy=left))
                yield Step(actions.LEAVES_COPY, (epoch, number, len(left)), after)

    def _certain(self, segments: tuple[Segment, ...], top: Segment) -> tuple[tuple[Placed, ...], bool]:
        """What a standby takes for certain when it believes the segment: what its seal names, and its frames but the
        last. Also, whether that looks corrupt."""
        seal = top.records[0]
        assert isinstance(seal, Seal)
        below = {segment.epoch: segment.records for segment in segments if segment.epoch < top.epoch}
        rows = {row.epoch: row.length for row in seal.rows}
        corrupt = any(length > len(below.get(epoch, ())) for epoch, length in rows.items())
        if self.rules.copies_sealed == "whole":
            rows = {epoch: len(records) for epoch, records in below.items()}
        own = top.records if self.rules.copies_last else top.records[:-1]
        taken = (*((epoch, below.get(epoch, ())[:length]) for epoch, length in rows.items()), (top.epoch, own))
        placed = (Placed(record, epoch) for epoch, records in taken for record in records if isinstance(record, Grant))
        return tuple(placed), corrupt

    def _fits(self, copy: tuple[Placed, ...], journal: tuple[Placed, ...]) -> bool:
        """Whether the journal has as much of each segment as the copy."""
        if not self.rules.copy_compared:
            return True
        return not Counter(placed.epoch for placed in copy) - Counter(placed.epoch for placed in journal)

    # --- opening ------------------------------------------------------------------------------------------------------

    def _opening_steps(self, state: State, epoch: int, opener: Opener, newest: int) -> Iterator[Step[State]]:
        match opener.stage:
            case Stage.NOT_BEGUN:
                if epoch in self.size.standbys:
                    yield from self._follows(state, epoch, opener)
                    yield from self._leaves_copy(state, epoch, opener)
                yield from self._begins(state, epoch, opener)
            case Stage.CREATED:
                yield self._lists(state, epoch, opener, newest)
            case Stage.READING:
                yield self._looks_at_segment(state, epoch, opener)
            case Stage.FOUND:
                yield from self._makes_durable(state, epoch, opener)
            case Stage.READ:
                torn = _segment(state, epoch)._replace(torn=True)
                after = _with_opener(state, epoch, opener._replace(stage=Stage.SEAL_TORN, read=()))
                yield Step(actions.TEARS_SEAL, (epoch,), _with_segment(after, torn))
            case Stage.SEAL_TORN:
                written = _segment(state, epoch)._replace(torn=False, records=(Seal(opener.rows),))
                after = _with_opener(state, epoch, opener._replace(stage=Stage.SEAL_WRITTEN, rows=()))
                yield Step(actions.WRITES_SEAL, (epoch,), _with_segment(after, written))
            case Stage.SEAL_WRITTEN:
                synced = opener._replace(stage=Stage.SEAL_SYNCED)
                yield from self._syncs_own(state, epoch, synced, actions.SYNCS_SEAL)
            case Stage.SEAL_SYNCED if newest > epoch and self.rules.looks_at_open:
                yield _over(state, epoch, actions.FENCED_AT_OPEN)
            case Stage.SEAL_SYNCED:
                after = _with_opener(state, epoch, opener._replace(stage=Stage.OPEN))
                after = after._replace(opened=max(state.opened, Opened(epoch, opener.memory)))
                yield Step(actions.OPENS, (epoch, len(opener.memory)), after)

    def _begins(self, state: State, epoch: int, opener: Opener) -> Iterator[Step[State]]:
        if self.rules.reads == "before creating" and not opener.read:
            # Marked as read even if there is nothing.
            contents = tuple((s.epoch, s.records) for s in state.segments if s.epoch < epoch)
            replayed = self._replay(contents)
            early = opener._replace(read=contents or ((0, ()),), memory=replayed.journal, rows=replayed.rows)
            yield Step(actions.READS_FIRST, (epoch,), _with_opener(state, epoch, early))
            return
        created = _with_opener(state, epoch, opener._replace(stage=Stage.CREATED))
        segments = tuple(sorted((*state.segments, Segment(epoch))))
        yield Step(actions.CREATES, (epoch,), created._replace(segments=segments))

    def _lists(self, state: State, epoch: int, opener: Opener, newest: int) -> Step[State]:
        if self.rules.syncs_directory:
            state = state._replace(segments=tuple(segment._replace(named=True) for segment in state.segments))
        if newest > epoch:
            return _over(state, epoch, actions.FENCED_AT_LIST)
        if self.rules.reads == "before creating":
            return Step(actions.LISTS, (epoch,), _with_opener(state, epoch, opener._replace(stage=Stage.FOUND)))
        lower = tuple(segment.epoch for segment in state.segments if segment.epoch < epoch)
        if self.rules.reads == "highest first":
            lower = lower[::-1]
        listing = opener._replace(stage=Stage.READING, listed=lower)
        return Step(actions.LISTS, (epoch,), _with_opener(state, epoch, listing))

    def _looks_at_segment(self, state: State, epoch: int, opener: Opener) -> Step[State]:
        """The top is the first with a seal, and its rows name the others that count: these are read at the same moment,
        since what a row counts never changes."""
        if not opener.listed:
            replayed = self._replay(tuple(sorted(opener.read)))
            found = self._has_found(opener, replayed)._replace(stage=Stage.FOUND)
            broken = Property.CORRUPT if replayed.corrupt else None
            action = actions.HAS_READ_ON if found.copy else actions.OPENS_COLD if opener.copy else actions.HAS_READ
            args = (epoch, len(found.memory), len(found.copy))
            return Step(action, args, _with_opener(state, epoch, found), broken)
        segment = _segment(state, opener.listed[0])
        read = (*opener.read, (segment.epoch, segment.records))
        listed = opener.listed[1:]
        if segment.records and self.rules.reads == "highest first" and self.rules.obeyed_seal == "the top's":
            read += tuple((s.epoch, s.records) for s in state.segments if s.epoch in listed)
            listed = ()
        after = _with_opener(state, epoch, opener._replace(listed=listed, read=read))
        return Step(actions.LOOKS_AT, (epoch, segment.epoch, len(segment.records)), after)

    def _has_found(self, opener: Opener, replayed: _Replayed) -> Opener:
        copy = opener.copy if self._fits(opener.copy, replayed.journal) else ()
        return opener._replace(copy=copy, memory=_joined(copy, replayed.journal), rows=replayed.rows)

    def _makes_durable(self, state: State, epoch: int, opener: Opener) -> Iterator[Step[State]]:
        """Only the top's last frame may be in the cache alone."""
        top = max((read_epoch for read_epoch, records in opener.read if records), default=0)
        records = dict(opener.read).get(top, ())
        segment = next((s for s in state.segments if s.epoch == top), None)
        if segment is not None and segment.records[: len(records)] == records != segment.records:
            # A long segment is read in pieces, so more may come than there was when the top was found.
            read = tuple((e, segment.records if e == top else r) for e, r in opener.read)
            replayed = self._replay(tuple(sorted(read)))
            on = self._has_found(opener._replace(read=read), replayed)
            yield Step(actions.READS_ON, (epoch,), _with_opener(state, epoch, on))
        done = opener._replace(stage=Stage.READ, copy=())
        syncs = self.rules.syncs_top and (self.rules.warm_open_syncs or not _has_seen_last(opener.copy, top, records))
        if segment is None or len(records) <= 1 or not syncs:
            yield Step(actions.GOES_ON, (epoch,), _with_opener(state, epoch, done))
            return
        if state.sync_failures < self.size.sync_failures and not segment.failed:
            failed = _with_segment(state, segment._replace(failed=True))
            failed = failed._replace(sync_failures=state.sync_failures + 1)
            yield _over(failed, epoch, actions.SYNC_OF_TOP_FAILS)
        synced = _synced(segment)
        if self.rules.rereads_top:
            synced = synced._replace(records=synced.records[: synced.durable])
            if len(records) > len(synced.records):
                assert len(records) == len(synced.records) + 1, "only the last frame may be missing"
                read = tuple((e, r[:-1] if e == top else r) for e, r in opener.read)
                replayed = self._replay(tuple(sorted(read)))
                done = self._has_found(opener, replayed)._replace(stage=Stage.READ, copy=())
        after = _with_segment(_with_opener(state, epoch, done), synced)
        yield Step(actions.SYNCS_TOP, (epoch, len(done.memory)), after)

    # --- serving ------------------------------------------------------------------------------------------------------

    def _users_in_turn(self, state: State) -> int:
        """Users are all alike, so new ones come in order: only those below this number may call."""
        known = {user for user, answer in enumerate(state.heard) if answer}
        for segment in state.segments:
            known.update(record.user for record in segment.records if isinstance(record, Grant))
        for opener in state.openers:
            known.update(placed.grant.user for placed in opener.memory)
            if opener.pending is not None:
                known.add(opener.pending.grant.user)
        return min(max(known, default=-1) + 2, self.size.users)

    def _call_steps(self, state: State, epoch: int, opener: Opener, newest: int, users: int) -> Iterator[Step[State]]:
        coupons = {placed.grant.user: placed.grant.sequence for placed in opener.memory}
        stands = newest == epoch or not self.rules.barrier
        for user in range(users):
            if user in coupons:
                yield from _says(state, user, coupons[user], actions.REPEATS, epoch, user, coupons[user])
            elif opener.pending is not None:
                continue
            elif len(opener.memory) < self.size.total:
                yield self._decides(state, epoch, opener, newest, Grant(user, len(opener.memory) + 1))
            elif stands:
                yield from _says(state, user, SOLD_OUT, actions.SAYS_SOLD_OUT, epoch, user)
        if opener.pending is None and stands:
            heard = tuple(coupons.get(user, answer) for user, answer in enumerate(state.heard))
            lacks = any(answer > 0 and user not in coupons for user, answer in enumerate(heard))
            if lacks or heard != state.heard:
                broken = Property.STALE_READ if lacks else None
                yield Step(actions.READ_ANSWERED, (epoch, len(coupons)), state._replace(heard=heard), broken)

    def _decides(self, state: State, epoch: int, opener: Opener, newest: int, grant: Grant) -> Step[State]:
        if self.rules.looks != "before the write":
            return self._tears(state, epoch, opener, grant)
        if newest > epoch:
            return _over(state, epoch, actions.FENCED)
        looked = opener._replace(pending=Pending(grant, Phase.LOOKED))
        return Step(actions.LOOKS_EARLY, (epoch, *grant), _with_opener(state, epoch, looked))

    def _tears(self, state: State, epoch: int, opener: Opener, grant: Grant) -> Step[State]:
        after = _with_opener(state, epoch, opener._replace(pending=Pending(grant, Phase.TORN)))
        return Step(actions.TEARS, (epoch, *grant), _with_segment(after, _segment(state, epoch)._replace(torn=True)))

    def _append_steps(
        self, state: State, epoch: int, opener: Opener, pending: Pending, newest: int
    ) -> Iterator[Step[State]]:
        rules, grant, segment = self.rules, pending.grant, _segment(state, epoch)
        unlooked = rules.looks in ("before the write", "never")
        match pending.phase:
            case Phase.LOOKED:
                yield self._tears(state, epoch, opener, grant)
            case Phase.TORN:
                after = _with_opener(state, epoch, opener._replace(pending=Pending(grant, Phase.WRITTEN)))
                written = segment._replace(torn=False, records=(*segment.records, grant))
                yield Step(actions.WRITES, (epoch, *grant), _with_segment(after, written))
            case Phase.WRITTEN if rules.answers_after == "write" and newest == epoch:
                yield _commits(state, epoch, opener, grant, actions.ACKNOWLEDGED_UNSYNCED)
            case Phase.WRITTEN if rules.looks == "before the sync" and newest > epoch:
                yield _over(state, epoch, actions.FENCED)
            case Phase.WRITTEN if rules.looks == "before the sync":
                looked = opener._replace(pending=Pending(grant, Phase.LOOKED_WRITTEN))
                yield Step(actions.LOOKS_BETWEEN, (epoch,), _with_opener(state, epoch, looked))
            case Phase.WRITTEN | Phase.LOOKED_WRITTEN:
                synced = opener._replace(pending=Pending(grant, Phase.SYNCED))
                yield from self._syncs_own(state, epoch, synced, actions.SYNCS)
            case Phase.SYNCED if newest == epoch or unlooked or rules.looks == "before the sync":
                yield _commits(state, epoch, opener, grant, actions.COMMITTED)
            case Phase.SYNCED:
                yield _over(state, epoch, actions.FENCED)

    def _syncs_own(self, state: State, epoch: int, synced: Opener, action: str) -> Iterator[Step[State]]:
        segment = _segment(state, epoch)
        after = _with_opener(state, epoch, synced)
        yield Step(action, (epoch,), _with_segment(after, _synced(segment)))
        if state.sync_failures < self.size.sync_failures and not segment.failed:
            failed = state._replace(sync_failures=state.sync_failures + 1)
            if len(segment.records) > segment.durable:
                failed = _with_segment(failed, segment._replace(failed=True))
            if self.rules.failed_sync == "finishes":
                yield _over(failed, epoch, actions.SYNC_FAILS)
            else:
                yield Step(actions.SYNC_FAILS_AGAIN, (epoch,), _with_opener(failed, epoch, synced))


def _joined(copy: tuple[Placed, ...], journal: tuple[Placed, ...]) -> tuple[Placed, ...]:
    """The copy, and what it lacks of the journal: it notes how much of each segment it holds, and reads on there."""
    held = Counter(placed.epoch for placed in copy)
    joined = list(copy)
    for placed in journal:
        if held[placed.epoch]:
            held[placed.epoch] -= 1
        else:
            joined.append(placed)
    return tuple(joined)


def _has_seen_last(copy: tuple[Placed, ...], top: int, records: tuple[Record, ...]) -> bool:
    """Whether who holds the copy has seen the top's last frame: to take one, it has to see the next."""
    held = sum(placed.epoch == top for placed in copy)
    return held > 0 and len(records) <= 1 + held + 1


def _power_cuts(segments: tuple[Segment, ...]) -> Iterator[tuple[tuple[Segment, int], ...]]:
    """Every outcome: the segments whose names are left, each with the number of its records that are left."""
    outcomes = [
        [*([] if segment.named else [None]), *range(segment.durable, len(segment.records) + 1)] for segment in segments
    ]
    for left in product(*outcomes):
        yield tuple((segment, kept) for segment, kept in zip(segments, left, strict=True) if kept is not None)


def _synced(segment: Segment) -> Segment:
    return segment if segment.failed else segment._replace(durable=len(segment.records))


def _segment(state: State, epoch: int) -> Segment:
    return next(segment for segment in state.segments if segment.epoch == epoch)


def _with_segment(state: State, segment: Segment) -> State:
    segments = tuple(segment if there.epoch == segment.epoch else there for there in state.segments)
    return state._replace(segments=segments)


def _with_opener(state: State, epoch: int, opener: Opener) -> State:
    return state._replace(openers=(*state.openers[: epoch - 1], opener, *state.openers[epoch:]))


def _over(state: State, epoch: int, action: str) -> Step[State]:
    return Step(action, (epoch,), _with_opener(state, epoch, Opener(Stage.OVER)))


def _says(state: State, user: int, answer: int, action: str, *args: object) -> Iterator[Step[State]]:
    heard = state.heard
    if heard[user] != answer:
        after = state._replace(heard=(*heard[:user], answer, *heard[user + 1 :]))
        yield Step(action, args, after, Property.RETRY if heard[user] else None)


def _commits(state: State, epoch: int, opener: Opener, grant: Grant, action: str) -> Step[State]:
    committed = opener._replace(memory=(*opener.memory, Placed(grant, epoch)), pending=None)
    heard = state.heard
    broken = Property.RETRY if heard[grant.user] not in (0, grant.sequence) else None
    after = _with_opener(state, epoch, committed)
    heard = (*heard[: grant.user], grant.sequence, *heard[grant.user + 1 :])
    return Step(action, (epoch, *grant), after._replace(heard=heard), broken)
