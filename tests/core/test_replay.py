"""Replay believes only a journal that a ledger could have written."""

from dataclasses import replace
from typing import Any

import pytest

from cluster.codes import CodeCodec
from cluster.types import Epoch, Incarnation, LeaseId, NodeId, Revision, ShardId
from node.entries import Header, MalformedEntry, UnknownFormat, encode
from node.events import (
    CampaignActivated,
    CampaignCancelled,
    CampaignCreated,
    CampaignEnded,
    CampaignPaused,
    CampaignResumed,
    CampaignUpdated,
    CouponsGranted,
    Event,
    LedgerViolation,
)
from node.ledger import Ledger
from node.replay import Replayer
from proto import journal_pb2

SHARD = ShardId(3)
CODEC = CodeCodec({0: bytes(32)})
HEADER = Header(SHARD, Epoch(1, Revision(10)), Incarnation(NodeId("n"), LeaseId(1)))

# A campaign of 4 coupons, at most 2 a user, from 10 to 90; two coupons are granted at 20.
CREATED = CampaignCreated("a", "봄 행사", 4, 2, 10, 90, 5)
ACTIVATED = CampaignActivated("a", 10)


def granted(first: int, *users: str, **other: Any) -> CouponsGranted:
    """A run that continues one of `first` - 1 coupons, at 20; `other` fields are put as given."""
    counters = range(first - 1, first - 1 + len(users))
    run = CouponsGranted(
        "a",
        first,
        first - 1,
        users,
        tuple(f"r{counter}" for counter in counters),
        tuple(CODEC.encode("봄행사", SHARD, counter) for counter in counters),
        (20,) * len(users),
    )
    return replace(run, **other)


BEGUN: list[Event] = [CREATED, ACTIVATED, granted(1, "kim", "lee")]


def updated(**other: Any) -> CampaignUpdated:
    return replace(CampaignUpdated("a", "u", None, 4, 90, 20, None, None, False), **other)


def replay(*events: Event) -> Ledger:
    ledger = Ledger(SHARD, CODEC)
    for event in events:
        ledger.apply(event)
    ledger.check_invariants()
    return ledger


def test_a_good_journal_is_replayed() -> None:
    """The journal that the bad ones below differ from by one fact is good."""
    pause, resume = CampaignPaused("a", "p", 2, 20), CampaignResumed("a", "r", None, 20)
    ledger = replay(*BEGUN, pause, resume, updated(total=5), granted(3, "kim"), CampaignEnded("a", 90))
    assert ledger.coupons == 3


@pytest.mark.parametrize(
    ("rule", "events"),
    [
        ("issued <= total", [*BEGUN, granted(3, "u", "v", "w")]),
        ("sequences have no gaps", [*BEGUN, granted(3, "u", first_sequence=4)]),
        ("sequences have no gaps", [*BEGUN, granted(3, "u", first_sequence=2)]),
        ("the issue counter has no gaps", [*BEGUN, granted(4, "u", first_sequence=3)]),
        ("no grant before the campaign began", [CREATED, granted(1, "u")]),
        ("no grant while paused", [*BEGUN, CampaignPaused("a", "p", None, 20), granted(3, "u")]),
        ("no grant after a cancel", [*BEGUN, CampaignCancelled("a", "c", None, 20), granted(3, "u")]),
        ("no grant after the end", [*BEGUN, CampaignEnded("a", 90), granted(3, "u", times_us=(90,))]),
        ("no grant at or after the end", [*BEGUN, granted(3, "u", times_us=(90,))]),
        ("no grant at or after the end", [*BEGUN, granted(3, "u", "v", times_us=(89, 90))]),
        ("times never fall", [*BEGUN, granted(3, "u", times_us=(19,))]),
        ("times never fall", [*BEGUN, granted(3, "u", "v", times_us=(22, 21))]),
        ("times never fall", [*BEGUN, CampaignPaused("a", "p", None, 19)]),
        ("per_user_limit", [*BEGUN, granted(3, "kim", "kim")]),
        ("a request gets one coupon", [*BEGUN, granted(3, "kim", request_ids=("r0",))]),
        ("a request gets one coupon", [*BEGUN, granted(3, "u", "u", request_ids=("r", "r"))]),
        ("a request has an id", [*BEGUN, granted(3, "u", request_ids=("",))]),
        ("where the limit is 1", [replace(CREATED, per_user_limit=1), ACTIVATED, granted(1, "u", "u")]),
        ("where the limit is 1", [replace(CREATED, per_user_limit=1), *BEGUN[1:], granted(3, "kim")]),
        ("columns of equal length", [*BEGUN, granted(3, "u", request_ids=())]),
        ("columns of equal length", [*BEGUN, granted(3)]),
        ("not a code", [*BEGUN, granted(3, "u", codes=("봄행사0가나다라마",))]),
        ("not a code", [*BEGUN, granted(3, "u", codes=(CODEC.encode("가을", SHARD, 2),))]),
        (
            "not all begin with",
            [*BEGUN, granted(3, "u", "v", codes=(CODEC.encode("봄행사", SHARD, 2), "봄0가나다라마바"))],
        ),
        ("decrypts to its counter", [*BEGUN, granted(3, "u", codes=(CODEC.encode("봄행사", SHARD, 1),))]),
        ("decrypts to its counter", [*BEGUN, granted(3, "u", codes=(CODEC.encode("봄행사", ShardId(4), 2),))]),
        ("has a key", [*BEGUN, granted(3, "u", codes=("봄행사7가나다라마바",))]),
        ("never created", [granted(1, "u")]),
        ("never created", [ACTIVATED]),
        ("created once", [*BEGUN, replace(CREATED, create_us=20)]),
        ("at least one coupon", [replace(CREATED, total=0)]),
        ("at least one coupon", [replace(CREATED, per_user_limit=0)]),
        ("ends after its start", [replace(CREATED, end_us=10)]),
        ("ends after its creation", [replace(CREATED, create_us=90)]),
        ("begins at its start or later", [CREATED, CampaignActivated("a", 9)]),
        ("begins once", [*BEGUN, CampaignActivated("a", 20)]),
        ("does not begin", [CREATED, CampaignCancelled("a", "c", None, 6), ACTIVATED]),
        ("ends at its end or later", [*BEGUN, CampaignEnded("a", 89)]),
        ("ends at its end or later", [replace(CREATED, end_us=None), ACTIVATED, CampaignEnded("a", 90)]),
        ("ends once", [*BEGUN, CampaignEnded("a", 90), CampaignEnded("a", 90)]),
        ("ends once", [*BEGUN, CampaignCancelled("a", "c", None, 20), CampaignEnded("a", 90)]),
        ("total never falls", [*BEGUN, updated(total=3)]),
        ("changes only when asked", [*BEGUN, updated(end_us=99)]),
        ("ends after its start", [CREATED, updated(time_us=6, end_us=10, asked_end_us=10, asked_set_end=True)]),
        ("before it comes", [*BEGUN, updated(end_us=20, asked_end_us=20, asked_set_end=True)]),
        ("nothing but a cancel", [*BEGUN, CampaignEnded("a", 90), updated(time_us=90)]),
        ("nothing but a cancel", [*BEGUN, CampaignCancelled("a", "c", None, 20), CampaignResumed("a", "r", None, 20)]),
        ("used once", [*BEGUN, CampaignPaused("a", "p", None, 20), CampaignResumed("a", "p", None, 20)]),
        ("has a request_id", [*BEGUN, CampaignPaused("a", "", None, 20)]),
        ("expected version", [*BEGUN, CampaignPaused("a", "p", 1, 20)]),
    ],
)
def test_what_no_ledger_decided_is_a_violation(rule: str, events: list[Event]) -> None:
    """An event that breaks a rule stops the replay and names the rule."""
    with pytest.raises(LedgerViolation, match=rule):
        replay(*events)


def test_a_wrong_key_stops_the_replay() -> None:
    """A ledger whose key is not the one that the codes were made with does not replay them."""
    ledger = Ledger(SHARD, CodeCodec({0: bytes(31) + b"\x01"}))
    ledger.apply(CREATED)
    ledger.apply(ACTIVATED)
    with pytest.raises(LedgerViolation, match="decrypts"):
        ledger.apply(granted(1, "u"))


def entry(position: int, *events: Event, header: Header = HEADER) -> bytes:
    return encode(header, position, 0, events)


def test_entries_are_replayed_in_order() -> None:
    """Entries from position 0 on, of epochs that do not fall, make the ledger; `position` counts them."""
    later = replace(HEADER, epoch=Epoch(1, Revision(11)), writer=Incarnation(NodeId("m"), LeaseId(2)))
    replayer = Replayer(Ledger(SHARD, CODEC))
    replayer.feed(entry(0, CREATED))
    replayer.feed(entry(1, ACTIVATED))
    replayer.feed(entry(2, granted(1, "kim", "lee"), header=later))
    assert (replayer.position, replayer.epoch, replayer.ledger.coupons) == (3, later.epoch, 2)


@pytest.mark.parametrize(
    "second",
    [
        entry(0, ACTIVATED),
        entry(2, ACTIVATED),
        entry(1, ACTIVATED, header=replace(HEADER, shard=ShardId(4))),
        entry(1, ACTIVATED, header=replace(HEADER, epoch=Epoch(1, Revision(9)))),
        entry(1, ACTIVATED, header=replace(HEADER, epoch=Epoch(0, Revision(99)))),
        entry(1, ACTIVATED, header=replace(HEADER, writer=Incarnation(NodeId("n"), LeaseId(2)))),
        encode(HEADER, 1, 0, [CampaignActivated("a", 9)]),
    ],
)
def test_entries_that_do_not_belong_here(second: bytes) -> None:
    """A position again or left out, another shard, a falling epoch, two writers in one epoch, a falling time of
    decision: MalformedEntry."""
    replayer = Replayer(Ledger(SHARD, CODEC))
    replayer.feed(encode(HEADER, 0, 10, [CREATED]))
    with pytest.raises(MalformedEntry):
        replayer.feed(second)


def test_an_unknown_format_is_not_replayed() -> None:
    """An entry of a later version says so, and is not taken for a corrupt one."""
    later = journal_pb2.Entry.FromString(entry(0, CREATED))
    later.format_version = 2
    with pytest.raises(UnknownFormat):
        Replayer(Ledger(SHARD, CODEC)).feed(later.SerializeToString())
