"""Ownership and the etcd journal, as they are built, in every order of every step.

One shard with one campaign of `total` coupons. What etcd executes is atomic. Three things keep the model small, and
none takes a behaviour away:

- Nobody has to act: who is paused, cut off, crashed or slow is one who does not. A process that begins again is
  another life.
- Reads repeat until they are answered, and a Txn on the owner key compares the revision that its sender saw; so asking
  early and being executed late is the same as asking late, and both are one step. Only appends are messages: they
  are executed at any time, or never.
- What the answer to an append says holds for ever (committed, or fenced), and a read-back finds it at any later time.
  So hearing the answer and reading back, after no answer came, are the same step.

README.md says which action is which function.
"""

from collections.abc import Iterator
from functools import lru_cache

from tests.model import etcd_actions as actions
from tests.model.checker import Step
from tests.model.etcd_rules import Rules, Size
from tests.model.etcd_state import (
    SOLD_OUT,
    Append,
    Copy,
    Entry,
    Life,
    Mode,
    Opened,
    Owner,
    Pending,
    State,
    Store,
    Stored,
)
from tests.model.properties import Property


class EtcdModel:
    def __init__(self, size: Size, rules: Rules | None = None) -> None:
        self.size = size
        self.rules = rules or Rules()
        self.initial = State(Store(0, 1, None, ()), (), frozenset(), (0,) * size.users, None, 0, None, False)
        self._journal_broken = lru_cache(maxsize=None)(self._find_journal_broken)

    # --- what must hold -----------------------------------------------------------------------------------------------

    def broken(self, state: State) -> Property | None:
        journal = state.store.journal
        broken = self._journal_broken(journal, state.heard)
        if broken is not None:
            return broken
        for life in state.lives:
            if life.memory and not life.outdated and life.memory != _entries(journal[: len(life.memory)]):
                return Property.DIVERGENCE
        copy = state.copy
        if not copy.outdated and copy.entries != _entries(journal[: len(copy.entries)]):
            return Property.COPY
        return None

    def _find_journal_broken(self, journal: tuple[Stored | None, ...], heard: tuple[int, ...]) -> Property | None:
        if None in journal:
            return Property.GAP
        entries = _entries(journal)
        if len(entries) > self.size.total:
            return Property.OVER_ISSUE
        if [entry.sequence for entry in entries] != list(range(1, len(entries) + 1)):
            return Property.SEQUENCE
        coupons = {entry.user: entry.sequence for entry in entries}
        if len(coupons) < len(entries):
            return Property.DUPLICATE
        for user, answer in enumerate(heard):
            if answer > 0 and coupons.get(user) != answer:
                return Property.LOST
            if answer == SOLD_OUT and len(entries) < self.size.total:
                return Property.SOLD_OUT
        return None

    # --- what may happen ----------------------------------------------------------------------------------------------

    def steps(self, state: State) -> Iterator[Step[State]]:
        yield from self._etcd_steps(state)
        if self.size.restore and not state.restored:
            yield from self._restore_steps(state)
        if self.size.standby:
            yield from self._follower_steps(state)
        users = self._users_in_turn(state)
        for number, life in enumerate(state.lives):
            yield from self._owning_steps(state, number, life)
            if life.mode is Mode.OPENING:
                yield from self._opening_steps(state, number, life)
            elif life.mode is Mode.OPEN:
                if self.size.standby:
                    yield from self._leaves_copy(state, number, life)
                yield from self._call_steps(state, number, life, users)
                yield from self._pending_steps(state, number, life)
        if len(state.lives) < self.size.lives:
            with_newcomer = _with_newcomer(state)
            yield from self._claims(with_newcomer, len(state.lives), with_newcomer.lives[-1])

    # --- ownership ----------------------------------------------------------------------------------------------------

    def _owning_steps(self, state: State, number: int, life: Life) -> Iterator[Step[State]]:
        """What a life does that has not got the shard in hand. Who has it may let go of it at any time, for many
        reasons, and does so here at the moment when it matters."""
        yield from self._claims(state, number, life)
        owner = state.store.owner
        if owner is None:
            return
        yield from self._hands_over(state, number, life, owner)
        fence = self._fence(owner)
        if owner.life == number or self.rules.adopts == "node id":
            in_hand = life.mode is not Mode.IDLE and life.revision == fence
            again = in_hand or life.spent == fence
            if again and self.rules.epoch_opens_once:
                return
            learnt = _let_go(life)._replace(mode=Mode.OPENING, revision=fence, reopened=again, outdated=False)
            yield Step(actions.LEARNS, (number, learnt.epoch), self._with_life(state, number, learnt))

    def _claims(self, state: State, number: int, life: Life) -> Iterator[Step[State]]:
        owner = state.store.owner
        may_own = life.registered and life.incarnation == state.store.incarnation
        if not may_own or state.owner_puts == self.size.owner_puts:
            return
        closed = self._with_life(state, number, _let_go(life))
        if owner is None:
            yield self._owns(closed, number, actions.CLAIMS)
            if life.mode is not Mode.IDLE:
                # It was sent long ago, its answer was awaited in vain, and another claim has succeeded since.
                yield self._owns(state, number, actions.CLAIMS)
        elif owner.life != number:
            buried = closed.lives[owner.life]._replace(registered=False)
            yield self._owns(self._with_life(closed, owner.life, buried), number, actions.TAKES_FROM_CORPSE, owner.life)
        elif self._fence(owner) in (life.spent, life.revision):
            yield self._owns(closed, number, actions.RECLAIMS)

    def _hands_over(self, state: State, number: int, life: Life, owner: Owner) -> Iterator[Step[State]]:
        """To anybody: the giver knows from its watch who is registered, so it may be wrong."""
        if state.owner_puts == self.size.owner_puts:
            return
        fence, closed = self._fence(owner), _let_go(life)
        in_hand = life.mode is not Mode.IDLE and life.revision == fence
        broken = None
        if in_hand and not (self.rules.handover_finishes and self.rules.giving_away_spends):
            action, giver = (
                actions.HANDS_OVER_UNFINISHED if self.rules.giving_away_spends else actions.HANDS_OVER_LATE,
                life,
            )
            if life.pending and not life.outdated and not _written(state.store, life.pending[0].entry.position):
                broken = Property.HANDOVER
        elif closed.spent == fence:
            # Whoever the owner is now: the Txn compares nothing but the revision.
            action, giver = actions.HANDS_OVER, closed
        elif owner.life == number:
            action, giver = actions.HANDS_OVER_UNOPENED, closed._replace(spent=fence)
        else:
            return
        given = self._with_life(state, number, giver)
        for successor in range(len(state.lives)):
            if successor != number:
                yield self._owns(given, successor, action, number, broken=broken)
        if len(state.lives) < self.size.lives:
            yield self._owns(_with_newcomer(given), len(state.lives), action, number, broken=broken)

    def _owns(
        self, state: State, number: int, action: str, other: int | None = None, broken: Property | None = None
    ) -> Step[State]:
        """etcd puts the owner key for the life `number`."""
        store = state.store
        revision = store.revision + 1
        owner = Owner(number, revision, store.owner.created if store.owner else revision)
        owned = state._replace(store=store._replace(revision=revision, owner=owner), owner_puts=state.owner_puts + 1)
        return Step(action, (number, revision, other), self._swept(owned), broken)

    # --- etcd ---------------------------------------------------------------------------------------------------------

    def _etcd_steps(self, state: State) -> Iterator[Step[State]]:
        store = state.store
        if store.owner is not None:
            gone = store._replace(revision=self._next_revision(store), owner=None)
            yield Step(actions.LEASE_RUNS_OUT, (store.owner.life,), self._swept(state._replace(store=gone)))
        for append in state.network:
            if self._guards_hold(store, append):
                yield self._lands(state, append)
        if state.restored and self.rules.incarnation_raised == "after" and store.incarnation == 1:
            raised = store._replace(revision=self._next_revision(store), incarnation=2)
            yield Step(actions.INCARNATION_RAISED, (), self._swept(state._replace(store=raised)))

    def _next_revision(self, store: Store) -> int:
        """After a write elsewhere than to the owner key."""
        return store.revision + 1 if self.size.restore else store.revision

    def _guards_hold(self, store: Store, append: Append) -> bool:
        entry, rules = append.entry, self.rules
        return (
            not _written(store, entry.position)
            and (rules.fenced_by == "nothing" or self._fence(store.owner) == entry.epoch.revision)
            and (not rules.compares_incarnation or store.incarnation == entry.epoch.incarnation)
            and (
                not rules.compares_previous
                or entry.position == 0
                or _mod_revision(store, entry.position - 1) == append.previous
            )
        )

    def _lands(self, state: State, append: Append) -> Step[State]:
        entry, store = append.entry, state.store
        revision = self._next_revision(store)
        journal = list(store.journal) + [None] * (entry.position + 1 - len(store.journal))
        journal[entry.position] = Stored(entry, revision)
        landed = state._replace(
            store=store._replace(revision=revision, journal=tuple(journal)), network=state.network - {append}
        )
        broken = self._broken_by_landing(state, append)
        return Step(actions.LANDS, (append.life, entry.epoch, entry.position), self._swept(landed), broken)

    def _broken_by_landing(self, state: State, append: Append) -> Property | None:
        if append.denied:
            return Property.DENIED
        if not self.size.fencing_counts:
            return None
        opened = state.opened
        mine = (append.entry.epoch, append.life, append.reopened)
        # Who writes from before the restore is another writer, even with the same epoch.
        if opened is not None and (opened != mine or append.outdated) and opened.epoch >= append.entry.epoch:
            return Property.FENCING
        return None

    def _restore_steps(self, state: State) -> Iterator[Step[State]]:
        store, snapshot = state.store, state.snapshot
        if snapshot is None:
            yield Step(actions.SNAPSHOT, (store.revision,), state._replace(snapshot=store))
            return
        if self.rules.incarnation_raised == "before":
            snapshot = snapshot._replace(revision=snapshot.revision + 1, incarnation=2)
        kept = {entry.user: entry.sequence for entry in _entries(snapshot.journal)}
        # What was acknowledged after the snapshot is lost with it: that is what a restore is.
        heard = tuple(answer if kept.get(user) == answer else 0 for user, answer in enumerate(state.heard))
        restored = State(
            store=snapshot,
            lives=tuple(life._replace(outdated=life.mode is not Mode.IDLE) for life in state.lives),
            network=frozenset(append._replace(outdated=True) for append in state.network),
            heard=heard,
            opened=None,
            owner_puts=state.owner_puts,
            snapshot=None,
            restored=True,
            # Otherwise it has no effect any more: its life is of an incarnation that never opens again.
            copy=state.copy._replace(outdated=bool(state.copy.entries))
            if self.rules.copy_outlives_incarnation
            else Copy(),
        )
        yield Step(actions.RESTORED, (snapshot.revision, snapshot.incarnation), self._swept(restored))

    # --- standby ------------------------------------------------------------------------------------------------------

    def _follower_steps(self, state: State) -> Iterator[Step[State]]:
        """To anywhere: it reads in pages, perhaps at a member that is behind, and stops when it likes."""
        store, copy = state.store, state.copy
        if self.rules.copy_compared != "never" and not _goes_on(store, copy):
            yield Step(actions.COPY_THROWN_AWAY, (), state._replace(copy=Copy()))
            return
        begin = len(copy.entries)
        # Also one that has nothing to read has now seen that it may go on.
        for end in range(begin if copy.outdated else begin + 1, max(begin, len(store.journal)) + 1):
            read = Copy(
                copy.entries + _entries(store.journal[begin:end]),
                _mod_revision(store, end - 1) if end > begin else copy.last_revision,
            )
            yield Step(actions.FOLLOWS, (end,), state._replace(copy=read))

    def _leaves_copy(self, state: State, number: int, life: Life) -> Iterator[Step[State]]:
        """It may as well go on: who does not act any more has let go."""
        entries = life.memory
        if self.rules.copy_left == "what was decided":
            entries += tuple(pending.entry for pending in life.pending)
        elif life.pending:
            return
        if len(entries) > len(state.copy.entries) and (not life.outdated or self.rules.copy_outlives_incarnation):
            left = state._replace(copy=Copy(entries, life.last_revision, life.outdated))
            yield Step(actions.LEAVES_COPY, (number, len(entries)), left)

    # --- opening ------------------------------------------------------------------------------------------------------

    def _opening_steps(self, state: State, number: int, life: Life) -> Iterator[Step[State]]:
        journal = state.store.journal
        if self.rules.open_confirms and not self._stands(state.store, life):
            yield Step(actions.OPEN_FENCED, (number, life.epoch), self._with_life(state, number, _let_go(life)))
            return
        if self.size.pages and not life.memory and len(journal) > 1:
            yield Step(actions.READS_PAGE, (number,), self._with_life(state, number, _read(life, journal[:1])))
        first = 0 if self.rules.replay == "serializable" else len(journal)
        for end in range(first, len(journal) + 1):
            opened = _read(life, journal[len(life.memory) : end])._replace(mode=Mode.OPEN)
            after = self._with_life(state, number, opened)
            yield Step(actions.OPENS, (number, end, life.epoch), _with_opened(after, number, opened))
        if state.copy.entries and not life.memory:
            yield self._opens_warm(state, number, life, state.copy)

    def _opens_warm(self, state: State, number: int, life: Life, copy: Copy) -> Step[State]:
        """One Txn compares the copy's last entry and reads owner key and last page. Pages before that, with which an
        opener goes on behind the copy, are a standby's."""
        store = state.store
        if self.rules.copy_compared == "at every reading" and not _goes_on(store, copy):
            return Step(actions.WARM_OPEN_FAILS, (number,), self._with_life(state, number, _let_go(life)))
        warm = life._replace(memory=copy.entries, last_revision=copy.last_revision)
        opened = _read(warm, store.journal[len(copy.entries) :])._replace(mode=Mode.OPEN)
        after = _with_opened(self._with_life(state, number, opened), number, opened)
        return Step(actions.OPENS_WARM, (number, len(opened.memory), life.epoch, len(copy.entries)), after)

    # --- serving ------------------------------------------------------------------------------------------------------

    def _users_in_turn(self, state: State) -> int:
        """Users are all alike, so new ones come in order: only those below this number may call."""
        known = {user for user, answer in enumerate(state.heard) if answer}
        known.update(stored.entry.user for stored in state.store.journal if stored is not None)
        known.update(append.entry.user for append in state.network)
        known.update(entry.user for entry in state.copy.entries)
        for life in state.lives:
            known.update(entry.user for entry in life.memory)
            known.update(pending.entry.user for pending in life.pending)
            known |= life.refused
        return min(max(known, default=-1) + 2, self.size.users)

    def _call_steps(self, state: State, number: int, life: Life, users: int) -> Iterator[Step[State]]:
        rules = self.rules
        coupons = {entry.user: entry.sequence for entry in life.memory}
        in_flight = {pending.entry.user for pending in life.pending}
        stands = self._stands(state.store, life)
        for user in range(users):
            if user in coupons:
                yield from self._says(state, life, user, coupons[user], actions.REPEATS, number, user, coupons[user])
            elif user in life.refused or user in in_flight:
                continue
            elif len(life.memory) + len(life.pending) < self.size.total:
                if len(life.pending) < rules.in_flight_max:
                    yield self._decides(state, number, life, user)
            elif life.pending and rules.refusal_waits:
                waiting = life._replace(refused=life.refused | {user})
                yield Step(actions.REFUSAL_WAITS, (number, user), self._with_life(state, number, waiting))
            elif life.pending or stands or rules.barrier == "none":
                yield from self._says(state, life, user, SOLD_OUT, actions.SAYS_SOLD_OUT, number, user)
        if life.pending and rules.reads_wait:
            return
        if rules.barrier == "joined" and stands and not life.barrier:
            yield Step(actions.BARRIER_PASSES, (number,), self._with_life(state, number, life._replace(barrier=True)))
        if stands or rules.barrier == "none" or life.barrier:
            yield from self._reads(state, number, life, coupons)

    def _says(
        self, state: State, life: Life, user: int, answer: int, action: str, *args: object
    ) -> Iterator[Step[State]]:
        heard, broken = _hear(state.heard, user, answer, life)
        if heard != state.heard:
            yield Step(action, args, state._replace(heard=heard), broken)

    def _reads(self, state: State, number: int, life: Life, coupons: dict[int, int]) -> Iterator[Step[State]]:
        """Barrier and answer are one step: that leaves the answer no excuse."""
        heard = state.heard
        for user, sequence in coupons.items():
            heard, _ = _hear(heard, user, sequence, life)
        lacks = any(answer > 0 and user not in coupons for user, answer in enumerate(heard))
        broken = Property.STALE_READ if lacks and not life.outdated else None
        if heard != state.heard or broken:
            yield Step(actions.READ_ANSWERED, (number, len(coupons)), state._replace(heard=heard), broken)

    def _decides(self, state: State, number: int, life: Life, user: int) -> Step[State]:
        position = len(life.memory) + len(life.pending)
        sequence = position + 1
        if self.rules.no_answer == "next position":
            position += sum(append.life == number and append.entry.position == position for append in state.network)
        entry = Entry(user, sequence, position, life.epoch, number)
        pending = Pending(entry, life.last_revision)
        sent = Append(number, life.reopened, entry, life.last_revision, outdated=life.outdated)
        after = self._with_life(
            state._replace(network=state.network | {sent}), number, life._replace(pending=(*life.pending, pending))
        )
        if self.rules.answers_after == "commit":
            return Step(actions.DECIDES, (number, user, sequence, position), after)
        heard, broken = _hear(state.heard, user, sequence, life)
        return Step(actions.DECIDES_AND_SAYS, (number, user, sequence, position), after._replace(heard=heard), broken)

    # --- the entry in flight ------------------------------------------------------------------------------------------

    def _pending_steps(self, state: State, number: int, life: Life) -> Iterator[Step[State]]:
        rules = self.rules
        for index, pending in enumerate(life.pending):
            if pending.durable:
                continue
            entry = pending.entry
            found = _found(state.store, entry.position)
            if found == entry or (found is not None and rules.presence == "mine"):
                yield self._commits(state, number, life, index)
                continue
            if found is not None or not self._stands(state.store, life):
                yield Step(actions.FENCED, (number, entry.position), self._with_life(state, number, _let_go(life)))
            else:
                yield Step(actions.SENDS_AGAIN, (number, entry.position), state)
            yield from self._gives_up(state, number, life, pending)

    def _gives_up(self, state: State, number: int, life: Life, pending: Pending) -> Iterator[Step[State]]:
        """What is not in the journal now is given up: rightly, after a definite no of etcd; otherwise planted."""
        rules, entry = self.rules, pending.entry
        closed, args = _let_go(life), (number, entry.position)
        sent = next((append for append in state.network if append.entry == entry), None)
        if sent is not None:
            # Sent once, and not executed: refused, whatever etcd's reason.
            dropped = state._replace(network=state.network - {sent})
            yield Step(actions.REFUSED, args, self._with_life(dropped, number, closed))
        if rules.definite_no == "of a repetition":
            yield Step(actions.REFUSED, args, self._with_life(_denied(state, pending), number, closed))
        if rules.no_answer == "failed":
            yield Step(actions.TAKEN_FOR_FAILED, args, self._with_life(_denied(state, pending), number, closed))
        elif rules.no_answer == "next position":
            yield Step(actions.GOES_ON, args, self._with_life(state, number, life._replace(pending=())))
        if rules.absence == "not written" and _found(state.store, entry.position) is None:
            yield Step(actions.ABSENCE_BELIEVED, args, self._with_life(_denied(state, pending), number, closed))

    def _commits(self, state: State, number: int, life: Life, index: int) -> Step[State]:
        """What is known to be durable, from the first pending entry on, goes into memory and is answered."""
        entry = life.pending[index].entry
        known = life.pending[index]._replace(durable=True)
        life = life._replace(pending=(*life.pending[:index], known, *life.pending[index + 1 :]))
        heard, broken = state.heard, None
        while life.pending and life.pending[0].durable:
            first = life.pending[0].entry
            life = life._replace(
                memory=(*life.memory, first),
                last_revision=_mod_revision(state.store, first.position),
                pending=life.pending[1:],
            )
            heard, retry = _hear(heard, first.user, first.sequence, life)
            broken = broken or retry
        if not life.pending:
            for user in life.refused:
                heard, retry = _hear(heard, user, SOLD_OUT, life)
                broken = broken or retry
            life = life._replace(refused=frozenset())
        after = self._with_life(state._replace(heard=heard), number, life)
        return Step(actions.COMMITTED, (number, entry.position, entry.user, entry.sequence), after, broken)

    # --- common -------------------------------------------------------------------------------------------------------

    def _fence(self, owner: Owner | None) -> int:
        """The number in the owner key that makes the epoch."""
        if owner is None:
            return 0
        return owner.created if self.rules.fenced_by == "create_revision" else owner.revision

    def _stands(self, store: Store, life: Life) -> bool:
        return self._fence(store.owner) == life.revision and store.incarnation == life.incarnation

    def _with_life(self, state: State, number: int, life: Life) -> State:
        return self._swept(state._replace(lives=(*state.lives[:number], life, *state.lives[number + 1 :])))

    def _swept(self, state: State) -> State:
        """Without what can have no effect any more, so that states which differ in nothing else are one."""
        if not self._returns(state):
            fence = self._fence(state.store.owner)
            if any(life.spent not in (0, fence) for life in state.lives):
                state = state._replace(
                    lives=tuple(life if life.spent == fence else life._replace(spent=0) for life in state.lives)
                )
        kept = frozenset(append for append in state.network if self._may_land(state, append))
        return state if len(kept) == len(state.network) else state._replace(network=kept)

    def _returns(self, state: State) -> bool:
        """The store may yet return to an earlier one, with its revisions."""
        return self.size.restore and not state.restored

    def _may_land(self, state: State, append: Append) -> bool:
        store, rules, epoch = state.store, self.rules, append.entry.epoch
        if self._returns(state) and not (rules.compares_incarnation and rules.incarnation_raised == "before"):
            return True
        if rules.compares_incarnation and store.incarnation != epoch.incarnation:
            return False
        if rules.fenced_by == "mod_revision" and self._fence(store.owner) != epoch.revision:
            return False
        return not _written(store, append.entry.position)


def _with_newcomer(state: State) -> State:
    return state._replace(lives=(*state.lives, Life(Mode.IDLE, state.store.incarnation)))


def _entries(journal: tuple[Stored | None, ...]) -> tuple[Entry, ...]:
    return tuple(stored.entry for stored in journal if stored is not None)


def _found(store: Store, position: int) -> Entry | None:
    stored = store.journal[position] if position < len(store.journal) else None
    return stored.entry if stored is not None else None


def _written(store: Store, position: int) -> bool:
    return _found(store, position) is not None


def _mod_revision(store: Store, position: int) -> int:
    stored = store.journal[position] if position < len(store.journal) else None
    return stored.revision if stored is not None else 0


def _hear(heard: tuple[int, ...], user: int, answer: int, life: Life) -> tuple[tuple[int, ...], Property | None]:
    """A user gets an answer."""
    if life.outdated or heard[user] == answer:
        return heard, None
    return (*heard[:user], answer, *heard[user + 1 :]), Property.RETRY if heard[user] else None


def _let_go(life: Life) -> Life:
    """The shard is not in hand any more, and its epoch is spent."""
    if life.mode is Mode.IDLE:
        return life
    return Life(Mode.IDLE, life.incarnation, life.registered, spent=life.revision, reopened=life.reopened)


def _read(life: Life, page: tuple[Stored | None, ...]) -> Life:
    if not page:
        return life
    last = page[-1]
    revision = last.revision if last is not None else 0
    return life._replace(memory=life.memory + _entries(page), last_revision=revision)


def _goes_on(store: Store, copy: Copy) -> bool:
    """The last entry of the copy is where it was."""
    last = len(copy.entries) - 1
    return last < 0 or (_written(store, last) and _mod_revision(store, last) == copy.last_revision)


def _with_opened(state: State, number: int, opened: Life) -> State:
    """The open of the life has returned."""
    if opened.outdated:
        return state
    this = Opened(opened.epoch, number, opened.reopened)
    return state._replace(opened=max(state.opened or this, this))


def _denied(state: State, pending: Pending) -> State:
    """The callers of what is in flight hear that it certainly was not done."""
    network = frozenset(
        append._replace(denied=True) if append.entry == pending.entry else append for append in state.network
    )
    return state._replace(network=network)
