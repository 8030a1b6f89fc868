"""Bugs that are planted in production code to see that the simulation finds them.

A plant puts `tests.sim.bugs`'s version of a function in its place for the time of a run. What each breaks is said in
docs/design.md, or shown by a model under tests/model.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cluster.config import JournalKind
from cluster.lease import LeaseKeeper
from node.campaign import CampaignLedger
from node.coupons import CouponTable
from node.journal.etcd import EtcdShardJournal
from node.journal.file import FileJournal, FileShardJournal
from node.journal.segment_reader import SegmentReader
from node.keeper import Keeper
from node.shard import Shard
from router.dispatch import Dispatcher
from tests.sim import bugs
from tests.sim.trouble import Focus

Replacement = tuple[Any, str, Any]
"""Of what, its attribute, and what stands there instead."""


@dataclass(frozen=True, slots=True)
class Plant:
    what: str
    kind: JournalKind | None
    """Of the journal where it is; None: both."""
    seeds_max: int
    """It is found within so many seeds from 0."""
    focus: Focus
    """What the runs are about that are to find it: else most of them would be about something else."""
    replacements: tuple[Replacement, ...]

    @contextmanager
    def planted(self) -> Iterator[None]:
        before = [(of, name, of.__dict__[name]) for of, name, _ in self.replacements]
        try:
            for of, name, instead in self.replacements:
                setattr(of, name, instead)
            yield
        finally:
            for of, name, what in before:
                setattr(of, name, what)


STOP, KILL = "stop at point", "kill at point"


def _etcd() -> Iterator[tuple[str, Plant]]:
    def plant(what: str, seeds_max: int, focus: Focus, name: str, bug: Any, of: type = EtcdShardJournal) -> Plant:
        return Plant(what, "etcd", seeds_max, focus, ((of, name, bug),))

    late = Focus(("late answers", "late answers", "usurp"))
    yield (
        "etcd-no-barrier",
        plant(
            "reads and refusals are answered without a look at the epoch",
            40,
            Focus((STOP, "usurp"), ("barrier.before",)),
            "barrier",
            bugs.no_barrier,
        ),
    )
    yield (
        "etcd-no-epoch",
        plant(
            "an append does not compare the epoch",
            30,
            Focus((STOP, "usurp"), ("append.before",)),
            "_guards",
            bugs.guards_without(bugs.is_epoch),
        ),
    )
    yield (
        "etcd-no-incarnation",
        plant(
            "the epoch is without the cluster incarnation",
            10,
            Focus(("raise incarnation", "late answers")),
            "_guards",
            bugs.guards_without(bugs.is_incarnation),
        ),
    )
    yield (
        "etcd-overwrites",
        plant(
            "an append does not compare that its position is free",
            40,
            late,
            "_guards",
            bugs.guards_without(bugs.is_absence),
        ),
    )
    yield (
        "etcd-absence-proves",
        plant(
            "an entry that is not found after no answer counts as not written", 40, late, "_commit", bugs.absence_proves
        ),
    )
    yield (
        "etcd-sends-other-bytes",
        plant("after no answer other bytes are sent for the position", 40, late, "_commit", bugs.sends_other_bytes),
    )
    yield (
        "etcd-presence-is-mine",
        plant(
            "another owner's entry is taken for one's own",
            60,
            Focus((STOP, "usurp"), ("append.before",)),
            "_judge",
            bugs.presence_is_mine,
        ),
    )
    yield ("etcd-unknown-is-done", plant("no answer counts as written", 20, late, "_commit", bugs.unknown_is_done))


def _file() -> Iterator[tuple[str, Plant]]:
    def plant(what: str, seeds_max: int, focus: Focus, name: str, bug: Any, of: type = FileShardJournal) -> Plant:
        return Plant(what, "file", seeds_max, focus, ((of, name, bug),))

    yield (
        "file-no-barrier",
        plant(
            "reads and refusals are answered without a look for a higher epoch",
            40,
            Focus((STOP, "usurp"), ("barrier.before",)),
            "barrier",
            bugs.no_barrier,
        ),
    )
    yield (
        "file-never-looks",
        plant(
            "nobody looks for a higher epoch after a sync",
            40,
            Focus((STOP, "usurp"), ("write.before", "sync.before")),
            "_look",
            bugs.never_looks,
        ),
    )
    yield (
        "file-looks-before-the-write",
        plant(
            "the look for a higher epoch comes before the write",
            60,
            Focus((STOP,), ("write.before",)),
            "append",
            bugs.append_in("lws"),
        ),
    )
    yield (
        "file-answers-before-the-sync",
        plant("an append returns unsynced", 10, Focus(("cut power",)), "append", bugs.append_in("wl")),
    )
    yield (
        "file-syncs-again",
        plant(
            "a sync that failed is tried again, and believed",
            60,
            Focus(("bad disk", "cut power", "bad disk")),
            "append",
            bugs.append_in("wSl"),
        ),
    )
    yield (
        "file-last-frame-not-synced",
        plant(
            "a successor does not sync the last frame that it has read",
            60,
            Focus((KILL, "slow disk", KILL), ("sync.before", "write.after")),
            "make_last_durable",
            bugs.last_believed,
            SegmentReader,
        ),
    )
    yield (
        "file-cache-believed",
        plant(
            "a successor believes the page cache after its sync",
            60,
            Focus(("bad disk", "kill", "bad disk")),
            "make_last_durable",
            bugs.last_synced_and_believed,
            SegmentReader,
        ),
    )
    yield (
        "file-name-not-synced",
        plant(
            "a segment's name is not made durable",
            10,
            Focus(("cut power", "kill")),
            "_create",
            bugs.create_without_sync,
            FileJournal,
        ),
    )


def _node() -> Iterator[tuple[str, Plant]]:
    def plant(what: str, seeds_max: int, focus: Focus, of: type, name: str, bug: Any) -> Plant:
        return Plant(what, None, seeds_max, focus, ((of, name, bug),))

    unclear = Focus(("late answers", "usurp", "bad disk", "slow disk", "storm"))
    yield (
        "answers-before-durable",
        plant("answers leave before their entry is durable", 20, unclear, Shard, "_round", bugs.answers_first),
    )
    yield (
        "fenced-answers",
        plant(
            "the answers of an entry that was fenced leave all the same",
            20,
            unclear,
            Shard,
            "_fail",
            bugs.fenced_answers,
        ),
    )
    yield (
        "repetition-forgotten",
        plant("a request is not known again for long", 20, Focus(), CouponTable, "find", bugs.forgets_repetitions),
    )
    yield (
        "limit-of-uncommitted-only",
        plant(
            "the limit is checked against uncommitted coupons only",
            5,
            Focus(),
            CampaignLedger,
            "find",
            bugs.counts_none,
        ),
    )
    yield (
        "administration-twice",
        plant(
            "a repeated administrative call counts again",
            40,
            unclear,
            CampaignLedger,
            "recorded_answer",
            bugs.forgets_administration,
        ),
    )
    yield (
        "handover-does-not-wait",
        plant(
            "the key is given away while an entry is in flight",
            10,
            Focus(("drain",)),
            Keeper,
            "hand_over",
            bugs.gives_away_at_once,
        ),
    )
    yield (
        "lease-from-the-answer",
        plant(
            "a lease's deadline counts from its answer",
            20,
            Focus(("cut from etcd", "stop")),
            LeaseKeeper,
            "_renew",
            bugs.counts_from_the_answer,
        ),
    )


def _router() -> Iterator[tuple[str, Plant]]:
    def plant(what: str, seeds_max: int, focus: Focus, name: str, bug: Any) -> Plant:
        return Plant(what, None, seeds_max, focus, ((Dispatcher, name, bug),))

    broken = Focus((KILL, "break calls", "part", KILL), ("reply.before", "append.after", "sync.after"))
    yield (
        "router-new-request-id",
        plant("a call that is sent again is another request", 20, broken, "_send_back", bugs.new_request_id),
    )
    yield (
        "router-broken-is-undone",
        plant("what was on a broken stream counts as not done", 60, broken, "link_down", bugs.broken_is_undone),
    )


PLANTS: dict[str, Plant] = dict((*_etcd(), *_file(), *_node(), *_router()))
