"""Journal entries: events and bytes, there and back, and nothing misread in silence."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.codes import CodeCodec
from cluster.types import Epoch, Incarnation, LeaseId, NodeId, Revision, ShardId
from node.commands import (
    CancelCampaign,
    Command,
    CreateCampaign,
    GetCampaign,
    IssueCoupon,
    PauseCampaign,
    ResumeCampaign,
    UpdateCampaign,
)
from node.entries import Entry, Header, MalformedEntry, UnknownFormat, decode, encode, entry_bytes_max_of
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
    last_time_us,
)
from node.ledger import Ledger
from proto import journal_pb2

HEADER = Header(ShardId(7), Epoch(2, Revision(99)), Incarnation(NodeId("node-1"), LeaseId(0xABC)))
NOW_US = 1_800_000_000_000_000

ids = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
request_ids = st.text(st.characters(codec="utf-8"), max_size=20)
totals = st.integers(1, 2**31 - 1)
times = st.integers(1, 2**62)
versions = st.none() | st.integers(1, 2**62)


@st.composite
def grants(draw: st.DrawFn, time_us: int) -> CouponsGranted:
    steps = draw(st.lists(st.integers(0, 2**40), min_size=1, max_size=5))
    count = len(steps)
    columns = [tuple(draw(st.lists(kind, min_size=count, max_size=count))) for kind in (ids, request_ids, ids)]
    times_us = tuple(time_us + sum(steps[: i + 1]) for i in range(count))
    return CouponsGranted(
        draw(ids), draw(totals), draw(st.integers(0, 2**42)), columns[0], columns[1], columns[2], times_us
    )


@st.composite
def event_at(draw: st.DrawFn, time_us: int) -> Event:
    """Any event, at this time or, for a run of grants, from then on."""
    campaign_id, request_id, version = draw(ids), draw(ids), draw(versions)
    kind = draw(st.integers(0, 7))
    if kind == 0:
        end_us = draw(st.none() | times)
        return CampaignCreated(campaign_id, draw(ids), draw(totals), draw(totals), draw(times), end_us, time_us)
    if kind == 1:
        return CampaignActivated(campaign_id, time_us)
    if kind == 2:
        return CampaignEnded(campaign_id, time_us)
    if kind == 3:
        set_end, end_us = draw(st.booleans()), draw(st.none() | times)
        asked_end_us = draw(st.none() | times) if set_end else None
        asked_total = draw(st.none() | totals)
        return CampaignUpdated(
            campaign_id, request_id, version, draw(totals), end_us, time_us, asked_total, asked_end_us, set_end
        )
    if kind == 4:
        return CampaignPaused(campaign_id, request_id, version, time_us)
    if kind == 5:
        return CampaignResumed(campaign_id, request_id, version, time_us)
    if kind == 6:
        return CampaignCancelled(campaign_id, request_id, version, time_us)
    return draw(grants(time_us))


@st.composite
def rounds(draw: st.DrawFn) -> list[Event]:
    """Events whose times do not fall; no two neighbours are grants of one campaign."""
    events: list[Event] = []
    time_us = draw(times)
    for _ in range(draw(st.integers(1, 5))):
        event = draw(event_at(time_us))
        before = events[-1] if events else None
        if isinstance(before, CouponsGranted) and before.campaign_id == event.campaign_id:
            continue
        events.append(event)
        time_us = last_time_us(event) + draw(st.integers(0, 100))
    return events


def run(sequence: int, count: int, campaign_id: str = "a") -> CouponsGranted:
    """A run of grants that continues one that ended before `sequence`."""
    numbers = range(sequence, sequence + count)
    return CouponsGranted(
        campaign_id,
        sequence,
        sequence + 100,
        tuple(f"user-{number}" for number in numbers),
        tuple("r" * (number % 3) for number in numbers),
        tuple(f"code-{number}" for number in numbers),
        tuple(NOW_US + number * 1_000 for number in numbers),
    )


@given(rounds(), st.integers(0, 2**63), st.integers(0, 4095), st.integers(0, 2**40), st.integers(0, 2**62))
@settings(deadline=None, max_examples=300)
def test_round_trip(events: list[Event], position: int, shard: int, incarnation: int, revision: int) -> None:
    """What is decoded is what was encoded, whatever the events."""
    header = Header(ShardId(shard), Epoch(incarnation, Revision(revision)), HEADER.writer)
    decide_us = last_time_us(events[-1])
    entry = decode(encode(header, position, decide_us, events))
    assert entry == Entry(position, header.epoch, header.shard, header.writer, decide_us, tuple(events))


def test_adjacent_grants_become_one_run() -> None:
    """Grants of one campaign that follow each other are one run; another event or another campaign begins a new one."""
    other, ended = run(5, 1, "b"), CampaignEnded("b", NOW_US + 6_000)
    events: list[Event] = [run(1, 1), run(2, 2), run(4, 1), other, ended, run(7, 1, "b"), run(8, 1, "b")]
    assert decode(encode(HEADER, 0, NOW_US, events)).events == (run(1, 4), other, ended, run(7, 2, "b"))


def test_a_gap_between_grants_is_not_written() -> None:
    """Grants that cannot follow each other are never joined: that is a bug, and stops here."""
    with pytest.raises(AssertionError, match="gap"):
        encode(HEADER, 0, NOW_US, [run(1, 1), run(3, 1)])


def test_request_ids_that_are_all_empty_take_no_bytes() -> None:
    """A run without any request id has no such column; one with a single id has the whole."""
    bare = CouponsGranted("a", 1, 0, ("u", "v"), ("", ""), ("c", "d"), (1, 2))
    one = CouponsGranted("a", 1, 0, ("u", "v"), ("", "r"), ("c", "d"), (1, 2))
    assert not journal_pb2.Entry.FromString(encode(HEADER, 0, 2, [bare])).events[0].granted.request_ids
    assert decode(encode(HEADER, 0, 2, [bare])).events == (bare,)
    assert decode(encode(HEADER, 0, 2, [one])).events == (one,)


def test_decide_time_is_never_before_its_events() -> None:
    """Where the owner's clock is behind the last event, the entry carries the event's time."""
    assert decode(encode(HEADER, 0, NOW_US - 5, [CampaignActivated("a", NOW_US)])).decide_us == NOW_US
    assert decode(encode(HEADER, 0, NOW_US + 5, [CampaignActivated("a", NOW_US)])).decide_us == NOW_US + 5


def entry_with(**fields: object) -> journal_pb2.Entry:
    entry = journal_pb2.Entry.FromString(encode(HEADER, 3, NOW_US, [CampaignActivated("a", NOW_US)]))
    for name, value in fields.items():
        setattr(entry, name, value)
    return entry


@pytest.mark.parametrize("version", [0, 2, 7])
def test_other_format_versions_are_unknown(version: int) -> None:
    """An entry of another format version is UnknownFormat, whatever else it holds."""
    with pytest.raises(UnknownFormat):
        decode(entry_with(format_version=version).SerializeToString())


def test_unknown_kind_of_event() -> None:
    """An event of a kind that this program does not know is UnknownFormat, not skipped."""
    voided = b"\xa2\x01\x00"  # field 20, reserved for void
    entry = entry_with()
    entry.events.add().MergeFromString(voided)
    with pytest.raises(UnknownFormat):
        decode(entry.SerializeToString())


def granted_with(**columns: object) -> bytes:
    entry = journal_pb2.Entry.FromString(encode(HEADER, 0, NOW_US, [run(1, 3)]))
    granted = entry.events[0].granted
    for name, values in columns.items():
        granted.ClearField(name)
        getattr(granted, name).extend(values)
    return entry.SerializeToString()


@pytest.mark.parametrize(
    "data",
    [
        b"\xff",
        encode(HEADER, 0, NOW_US, [run(1, 3)])[:-1],
        encode(HEADER, 0, NOW_US, [run(1, 3)]) + b"\x48\x01",
        entry_with(writer="node-1").SerializeToString(),
        entry_with(writer="node-1/0ABC").SerializeToString(),
        entry_with(decide_time_us=NOW_US - 1).SerializeToString(),
        journal_pb2.Entry(format_version=1, writer="n/1").SerializeToString(),
        granted_with(user_ids=["u", "v"]),
        granted_with(codes=[]),
        granted_with(request_ids=["r"]),
        granted_with(time_deltas_us=[NOW_US]),
        granted_with(time_deltas_us=[NOW_US, 5, -1]),
    ],
)
def test_malformed(data: bytes) -> None:
    """Garbage, a cut entry, bytes that mean nothing, a writer that is none, an entry without events, a decision before
    its events, columns that differ in length, times that fall: MalformedEntry."""
    with pytest.raises(MalformedEntry):
        decode(data)


def test_a_flipped_bit_is_refused_or_shows() -> None:
    """No flipped bit is passed over: the entry is refused, or what is read differs from what was written."""
    events: list[Event] = [CampaignActivated("a", NOW_US), run(1, 3), CampaignPaused("a", "r", 3, NOW_US + 9_000)]
    data = encode(HEADER, 3, NOW_US, events)
    written = decode(data)
    refused = 0
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            assert decode(bytes(flipped)) != written
        except (UnknownFormat, MalformedEntry):
            refused += 1
    assert refused > 100


@given(st.binary(max_size=60))
@settings(deadline=None, max_examples=300)
def test_garbage_is_refused(data: bytes) -> None:
    """Random bytes are no entry, and nothing but UnknownFormat and MalformedEntry says so."""
    with pytest.raises((UnknownFormat, MalformedEntry)):
        decode(data)


long_ids = st.text("aé가😀", min_size=1, max_size=64)
commands: st.SearchStrategy[Command] = st.one_of(
    st.builds(IssueCoupon, st.just("c" * 64), long_ids, st.text("aé가", max_size=64)),
    st.builds(PauseCampaign, st.just("c" * 64), long_ids, st.none()),
    st.builds(ResumeCampaign, st.just("c" * 64), long_ids, st.none()),
    st.builds(CancelCampaign, st.just("c" * 64), long_ids, st.none()),
    st.builds(UpdateCampaign, st.just("c" * 64), long_ids, st.none(), st.none(), st.none(), st.just(True)),
    st.builds(GetCampaign, st.just("c" * 64), st.just(0), st.just(1)),
    st.builds(CreateCampaign, st.text("abc", min_size=64, max_size=64), long_ids, totals, totals, st.none(), st.none()),
)


@given(st.lists(commands, min_size=1, max_size=20), st.booleans())
@settings(deadline=None, max_examples=200)
def test_entry_bytes_max_of(commands: list[Command], waiting: bool) -> None:
    """A round's entry is never longer than its header and the bounds of its commands together, with the start that a
    command brings about."""
    ledger = Ledger(HEADER.shard, CodeCodec({9: bytes(32)}))
    start_us = NOW_US + 1 if waiting else None
    ledger.handle(CreateCampaign("c" * 64, "행사날", 100_000_000, 2**31 - 1, start_us, None), NOW_US)
    header_bytes = 100
    bound = header_bytes
    events: list[Event] = []
    for command in commands:
        bound += entry_bytes_max_of(command)
        events += ledger.handle(command, NOW_US + 1).events
    if events:
        assert len(encode(HEADER, 2**40, NOW_US + 1, events)) <= bound
