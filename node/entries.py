"""Events to journal entries and back: the bytes of proto/journal.proto. Knows no campaign's rules.

An entry is all of one round of the owner's loop. Reading is strict: bytes that this version could not have written are
refused, since an event that is dropped or misread in silence would be a coupon issued twice.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, assert_never

from google.protobuf.message import DecodeError

from cluster.types import Epoch, Incarnation, Revision, ShardId
from cluster.value import value
from node.commands import (
    CancelCampaign,
    Command,
    CreateCampaign,
    GetCampaign,
    GetCouponByCode,
    GetCouponsOfUser,
    IssueCoupon,
    ListCampaigns,
    PauseCampaign,
    ResumeCampaign,
    UpdateCampaign,
)
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
    first_time_us,
    last_time_us,
)
from proto import journal_pb2

FORMAT_VERSION = 1

_EVENT_BYTES_MAX = 128
"""More than an event, or the share of a coupon in a run, takes besides its strings: tags, lengths, numbers, the code
(32 bytes). Room for a start or end that the same command brings about is counted apart."""

_NO_END_ASKED = -1


class UnknownFormat(ValueError):
    """Written by a later version: a format version or a kind of event that this one does not know. Who cannot read it
    must not claim the shard."""


class MalformedEntry(ValueError):
    """Not an entry, or none that an owner could have written."""


@dataclass(frozen=True, slots=True)
class Header:
    """What all entries of one owner have in common."""

    shard: ShardId
    epoch: Epoch
    writer: Incarnation


@value
class Entry:
    position: int
    epoch: Epoch
    shard: ShardId
    writer: Incarnation
    decide_us: int
    events: tuple[Event, ...]


def encode(header: Header, position: int, decide_us: int, events: Sequence[Event]) -> bytes:
    """The entry with these events, at least one. Adjacent grants of one campaign become one run.

    Args:
        decide_us: the owner's clock. Where it is behind the last event, that event's time is written.
    """
    assert events, "an entry without events"
    assert all(last_time_us(a) <= first_time_us(b) for a, b in pairwise(events)), "times fall within an entry"
    entry = journal_pb2.Entry(
        format_version=FORMAT_VERSION,
        shard=header.shard,
        position=position,
        cluster_incarnation=header.epoch.incarnation,
        revision=header.epoch.revision,
        writer=str(header.writer),
        decide_time_us=max(decide_us, last_time_us(events[-1])),
        events=map(_event_to_proto, _coalesce(events)),
    )
    return entry.SerializeToString()


def decode(data: bytes) -> Entry:
    """Raises UnknownFormat or MalformedEntry."""
    try:
        entry = journal_pb2.Entry.FromString(data)
    except DecodeError as error:
        raise MalformedEntry(f"not a protobuf message: {error}") from error
    if entry.format_version != FORMAT_VERSION:
        raise UnknownFormat(f"format version {entry.format_version}; this program knows {FORMAT_VERSION}")
    events = tuple(map(_event_from_proto, entry.events))
    # Protobuf passes over fields that it does not know. A flipped bit can make one of a field that counts.
    entry.DiscardUnknownFields()  # type: ignore[attr-defined]  # the stubs have forgotten it
    if entry.SerializeToString() != data:
        raise MalformedEntry("bytes that mean nothing in this format version")
    if not events:
        raise MalformedEntry("no events")
    if any(last_time_us(a) > first_time_us(b) for a, b in pairwise(events)):
        raise MalformedEntry("times fall within the entry")
    if entry.decide_time_us < last_time_us(events[-1]):
        raise MalformedEntry("decided before its last event")
    return Entry(
        position=entry.position,
        epoch=Epoch(entry.cluster_incarnation, Revision(entry.revision)),
        shard=ShardId(entry.shard),
        writer=_writer(entry.writer),
        decide_us=entry.decide_time_us,
        events=events,
    )


def entry_bytes_max_of(command: Command) -> int:
    """More bytes than this command's events can add to an entry."""
    match command:
        case IssueCoupon():
            strings = 2 * len(command.campaign_id.encode())
            strings += len(command.user_id.encode()) + len(command.request_id.encode())
        case CreateCampaign():
            strings = 2 * len(command.campaign_id.encode()) + len(command.name.encode())
        case UpdateCampaign() | PauseCampaign() | ResumeCampaign() | CancelCampaign():
            strings = 2 * len(command.campaign_id.encode()) + len(command.request_id.encode())
        case GetCampaign():
            strings = len(command.campaign_id.encode())
        case ListCampaigns() | GetCouponByCode() | GetCouponsOfUser():
            return 0
        case _:
            assert_never(command)
    return strings + 2 * _EVENT_BYTES_MAX


def _coalesce(events: Iterable[Event]) -> list[Event]:
    coalesced: list[Event] = []
    run: list[CouponsGranted] = []
    for event in events:
        if run and not (isinstance(event, CouponsGranted) and event.campaign_id == run[0].campaign_id):
            coalesced.append(_join(run))
            run = []
        if isinstance(event, CouponsGranted):
            run.append(event)
        else:
            coalesced.append(event)
    if run:
        coalesced.append(_join(run))
    return coalesced


def _join(run: Sequence[CouponsGranted]) -> CouponsGranted:
    if len(run) == 1:
        return run[0]
    for earlier, later in pairwise(run):
        assert later.first_sequence == earlier.first_sequence + len(earlier.codes), "a gap in the sequence"
        assert later.first_counter == earlier.first_counter + len(earlier.codes), "a gap in the counter"
    return CouponsGranted(
        campaign_id=run[0].campaign_id,
        first_sequence=run[0].first_sequence,
        first_counter=run[0].first_counter,
        user_ids=tuple(user_id for event in run for user_id in event.user_ids),
        request_ids=tuple(request_id for event in run for request_id in event.request_ids),
        codes=tuple(code for event in run for code in event.codes),
        times_us=tuple(time_us for event in run for time_us in event.times_us),
    )


def _event_to_proto(event: Event) -> journal_pb2.Event:
    match event:
        case CampaignCreated():
            return journal_pb2.Event(
                created=journal_pb2.CampaignCreated(
                    campaign_id=event.campaign_id,
                    name=event.name,
                    total=event.total,
                    per_user_limit=event.per_user_limit,
                    start_time_us=event.start_us,
                    end_time_us=event.end_us or 0,
                    create_time_us=event.create_us,
                )
            )
        case CampaignActivated():
            activated = journal_pb2.CampaignActivated(campaign_id=event.campaign_id, time_us=event.time_us)
            return journal_pb2.Event(activated=activated)
        case CampaignEnded():
            ended = journal_pb2.CampaignEnded(campaign_id=event.campaign_id, time_us=event.time_us)
            return journal_pb2.Event(ended=ended)
        case CampaignUpdated():
            return journal_pb2.Event(
                updated=journal_pb2.CampaignUpdated(
                    campaign_id=event.campaign_id,
                    request_id=event.request_id,
                    expected_version=event.expected_version or 0,
                    total=event.total,
                    end_time_us=event.end_us or 0,
                    time_us=event.time_us,
                    asked_total=event.asked_total or 0,
                    asked_end_time_us=(event.asked_end_us or 0) if event.asked_set_end else _NO_END_ASKED,
                )
            )
        case CampaignPaused():
            return journal_pb2.Event(paused=journal_pb2.CampaignPaused(**_call_to_proto(event)))
        case CampaignResumed():
            return journal_pb2.Event(resumed=journal_pb2.CampaignResumed(**_call_to_proto(event)))
        case CampaignCancelled():
            return journal_pb2.Event(cancelled=journal_pb2.CampaignCancelled(**_call_to_proto(event)))
        case CouponsGranted():
            return journal_pb2.Event(
                granted=journal_pb2.CouponsGranted(
                    campaign_id=event.campaign_id,
                    first_sequence=event.first_sequence,
                    first_counter=event.first_counter,
                    user_ids=event.user_ids,
                    request_ids=event.request_ids if any(event.request_ids) else (),
                    codes=event.codes,
                    time_deltas_us=(event.times_us[0], *(b - a for a, b in pairwise(event.times_us))),
                )
            )
        case _:
            assert_never(event)


def _call_to_proto(event: CampaignPaused | CampaignResumed | CampaignCancelled) -> dict[str, Any]:
    return {
        "campaign_id": event.campaign_id,
        "request_id": event.request_id,
        "expected_version": event.expected_version or 0,
        "time_us": event.time_us,
    }


def _event_from_proto(event: journal_pb2.Event) -> Event:
    match event.WhichOneof("kind"):
        case "created":
            created = event.created
            return CampaignCreated(
                campaign_id=created.campaign_id,
                name=created.name,
                total=created.total,
                per_user_limit=created.per_user_limit,
                start_us=created.start_time_us,
                end_us=created.end_time_us or None,
                create_us=created.create_time_us,
            )
        case "activated":
            return CampaignActivated(event.activated.campaign_id, event.activated.time_us)
        case "ended":
            return CampaignEnded(event.ended.campaign_id, event.ended.time_us)
        case "updated":
            updated = event.updated
            return CampaignUpdated(
                campaign_id=updated.campaign_id,
                request_id=updated.request_id,
                expected_version=updated.expected_version or None,
                total=updated.total,
                end_us=updated.end_time_us or None,
                time_us=updated.time_us,
                asked_total=updated.asked_total or None,
                asked_end_us=updated.asked_end_time_us if updated.asked_end_time_us not in (0, _NO_END_ASKED) else None,
                asked_set_end=updated.asked_end_time_us != _NO_END_ASKED,
            )
        case "paused":
            return CampaignPaused(*_call_from_proto(event.paused))
        case "resumed":
            return CampaignResumed(*_call_from_proto(event.resumed))
        case "cancelled":
            return CampaignCancelled(*_call_from_proto(event.cancelled))
        case "granted":
            return _granted_from_proto(event.granted)
        case unknown:
            raise UnknownFormat(f"a kind of event that this program does not know: {unknown}")


def _call_from_proto(
    call: journal_pb2.CampaignPaused | journal_pb2.CampaignResumed | journal_pb2.CampaignCancelled,
) -> tuple[str, str, int | None, int]:
    return call.campaign_id, call.request_id, call.expected_version or None, call.time_us


def _granted_from_proto(granted: journal_pb2.CouponsGranted) -> CouponsGranted:
    codes = tuple(granted.codes)
    count = len(codes)
    user_ids = tuple(granted.user_ids)
    request_ids = tuple(granted.request_ids) or ("",) * count
    times_us = tuple(accumulate(granted.time_deltas_us))
    if not count or not count == len(user_ids) == len(request_ids) == len(times_us):
        raise MalformedEntry("a run of grants whose columns differ in length, or are empty")
    if min(granted.time_deltas_us[1:], default=0) < 0:
        raise MalformedEntry("times fall within a run of grants")
    return CouponsGranted(
        campaign_id=granted.campaign_id,
        first_sequence=granted.first_sequence,
        first_counter=granted.first_counter,
        user_ids=user_ids,
        request_ids=request_ids,
        codes=codes,
        times_us=times_us,
    )


def _writer(text: str) -> Incarnation:
    try:
        writer = Incarnation.parse(text)
    except ValueError as error:
        raise MalformedEntry(str(error)) from error
    if str(writer) != text:
        raise MalformedEntry(f"not an incarnation: {text!r}")
    return writer
