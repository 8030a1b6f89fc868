"""The rules that a journal has to obey, as a second opinion: entries in, violations out.

Pure, and written from proto/journal.proto and docs/ alone: it shares no line with the node, so that a mistake there is
not repeated here. It believes nothing that an entry does not say, and goes on after a violation.
"""

import re
import unicodedata
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate
from typing import NamedTuple

from cluster.codes import CodeCodec
from cluster.config import shard_of
from proto import journal_pb2

FORMAT_VERSION = 1
VIOLATIONS_MAX = 1_000
"""So many are kept; the rest is counted."""

_CODE = re.compile(r"([가-힣]{0,3})([0-9])[가-힣]{6}")


class Kind(StrEnum):
    """What can be wrong."""

    UNREADABLE = "unreadable"
    """The bytes are not a journal: nothing after that place in its shard was judged."""
    BAD_ENTRY = "bad_entry"
    """Another shard or position than its place, an unknown format, columns of different lengths, ..."""
    EPOCH_FELL = "epoch_fell"
    TWO_WRITERS = "two_writers"
    """Two incarnations wrote under one epoch."""
    TIME_FELL = "time_fell"
    WRONG_SHARD = "wrong_shard"
    """The campaign's id hashes to another shard."""
    CREATED_TWICE = "created_twice"
    UNKNOWN_CAMPAIGN = "unknown_campaign"
    TOTAL_LOWERED = "total_lowered"
    ACTIVATED_EARLY = "activated_early"
    ENDED_EARLY = "ended_early"
    OVER_ISSUED = "over_issued"
    SEQUENCE_GAP = "sequence_gap"
    COUNTER_GAP = "counter_gap"
    DUPLICATE_CODE = "duplicate_code"
    CODE_FORM = "code_form"
    CODE_KEY = "code_key"
    """The cluster's key decrypts the code to another shard or counter."""
    USER_LIMIT = "user_limit"
    REQUEST_TWICE = "request_twice"
    """One (campaign, user, request_id) was granted two coupons."""
    GRANT_BEFORE_START = "grant_before_start"
    GRANT_AFTER_END = "grant_after_end"
    GRANT_WHILE_PAUSED = "grant_while_paused"
    GRANT_AFTER_CANCEL = "grant_after_cancel"


@dataclass(frozen=True, slots=True)
class Violation:
    kind: Kind
    place: str
    """The key, or the file and offset, of the entry."""
    campaign_id: str
    """Empty: of no single campaign."""
    what: str


class AuditedCoupon(NamedTuple):
    """A coupon as the journal has it."""

    code: str
    user_id: str
    sequence: int
    issue_time_us: int


@dataclass(slots=True)
class AuditedCampaign:
    """What the journal says of one campaign."""

    campaign_id: str
    name: str
    shard: int
    total: int
    per_user_limit: int
    start_time_us: int
    end_time_us: int
    """0: no end."""
    issued: int = 0
    activated: bool = False
    ended: bool = False
    paused: bool = False
    cancelled: bool = False
    last_time_us: int = 0
    first_grant_us: int = 0
    """0: none yet."""
    user_counts: dict[str, int] = field(default_factory=dict, repr=False)
    requests: set[tuple[str, str]] = field(default_factory=set, repr=False)
    """(user_id, request_id); kept only where a user may have several."""
    coupons: list[AuditedCoupon] = field(default_factory=list, repr=False)
    """Kept only if asked for."""

    @property
    def state(self) -> str:
        """As coupon.v1 calls it."""
        if self.cancelled:
            return "CANCELLED"
        if self.issued >= self.total:
            return "COMPLETED"
        if self.ended:
            return "ENDED"
        if self.paused:
            return "PAUSED"
        return "ACTIVE" if self.activated else "WAITING"


class Audit:
    """All shards' journals, entry by entry: `entry` for each in order of position, shards in any order."""

    def __init__(self, shards: int, codec: CodeCodec | None, collect: Collection[str] = ()) -> None:
        """
        Args:
            codec: with the cluster's keys; None: codes are judged by their form alone.
            collect: the campaigns whose coupons are kept.
        """
        self.campaigns: dict[str, AuditedCampaign] = {}
        self.violations: list[Violation] = []
        self.violations_left_out = 0
        self.entries = 0
        self.shards = shards
        self._codec = codec
        self._collect = frozenset(collect)
        self._heads: dict[int, _Head] = {}
        self._codes: set[str] = set()
        self._place = ""

    @property
    def coupons(self) -> int:
        return sum(campaign.issued for campaign in self.campaigns.values())

    def violated(self, kind: Kind, place: str, what: str, campaign_id: str = "") -> None:
        if len(self.violations) < VIOLATIONS_MAX:
            self.violations.append(Violation(kind, place, campaign_id, what))
        else:
            self.violations_left_out += 1

    def entry(self, shard: int, place: str, entry: journal_pb2.Entry) -> None:
        """The next entry of `shard`, which stands at `place`."""
        self._place = place
        self.entries += 1
        head = self._heads.setdefault(shard, _Head())
        self._check_head(shard, head, entry)
        for event in entry.events:
            self._event(shard, head, event)

    # --- the entry itself ------------------------------------------------------------------------------------------

    def _check_head(self, shard: int, head: "_Head", entry: journal_pb2.Entry) -> None:
        if entry.format_version != FORMAT_VERSION:
            self._bad(f"format version {entry.format_version}")
        if entry.shard != shard:
            self._bad(f"says it is of shard {entry.shard}, stands in shard {shard}")
        if entry.position != head.position:
            self._bad(f"has position {entry.position}, not {head.position}")
        head.position += 1
        epoch = (entry.cluster_incarnation, entry.revision)
        if epoch < head.epoch:
            self.violated(Kind.EPOCH_FELL, self._place, f"epoch {epoch} after {head.epoch}")
        elif epoch == head.epoch and entry.writer != head.writer:
            self.violated(Kind.TWO_WRITERS, self._place, f"{entry.writer} and {head.writer} wrote under epoch {epoch}")
        head.epoch, head.writer = epoch, entry.writer
        if entry.decide_time_us < head.decide_time_us:
            self.violated(Kind.TIME_FELL, self._place, f"decided at {entry.decide_time_us}, before the entry before it")
        head.decide_time_us = max(head.decide_time_us, entry.decide_time_us)

    def _bad(self, what: str, campaign_id: str = "") -> None:
        self.violated(Kind.BAD_ENTRY, self._place, what, campaign_id)

    # --- campaigns -------------------------------------------------------------------------------------------------

    def _event(self, shard: int, head: "_Head", event: journal_pb2.Event) -> None:
        kind = event.WhichOneof("kind")
        if kind is None:
            self._bad("holds an event of a kind that this reader does not know")
            return
        if kind == "created":
            self._created(shard, event.created)
            return
        campaign_id = getattr(event, kind).campaign_id
        campaign = self.campaigns.get(campaign_id)
        if campaign is None or campaign.shard != shard:
            self.violated(Kind.UNKNOWN_CAMPAIGN, self._place, f"{kind}, but it was never created here", campaign_id)
        if kind == "granted":
            self._check_counters(head, event.granted)
            if campaign is not None:
                self._granted(shard, campaign, event.granted)
        elif campaign is not None:
            self._changed(campaign, event)

    def _created(self, shard: int, created: journal_pb2.CampaignCreated) -> None:
        campaign_id = created.campaign_id
        if campaign_id in self.campaigns:
            self.violated(Kind.CREATED_TWICE, self._place, "created again", campaign_id)
            return
        if shard_of(campaign_id, self.shards) != shard:
            what = f"stands in shard {shard}, belongs to shard {shard_of(campaign_id, self.shards)}"
            self.violated(Kind.WRONG_SHARD, self._place, what, campaign_id)
        self.campaigns[campaign_id] = AuditedCampaign(
            campaign_id,
            created.name,
            shard,
            created.total,
            created.per_user_limit,
            created.start_time_us,
            created.end_time_us,
            last_time_us=created.create_time_us,
        )

    def _changed(self, campaign: AuditedCampaign, event: journal_pb2.Event) -> None:
        match event.WhichOneof("kind"):
            case "activated":
                self._advance(campaign, event.activated.time_us)
                if event.activated.time_us < campaign.start_time_us:
                    what = f"activated at {event.activated.time_us}, starts at {campaign.start_time_us}"
                    self._of(campaign, Kind.ACTIVATED_EARLY, what)
                campaign.activated = True
            case "ended":
                self._advance(campaign, event.ended.time_us)
                if not campaign.end_time_us or event.ended.time_us < campaign.end_time_us:
                    what = f"ended at {event.ended.time_us}, its end is {campaign.end_time_us or 'never'}"
                    self._of(campaign, Kind.ENDED_EARLY, what)
                campaign.ended = True
            case "updated":
                self._advance(campaign, event.updated.time_us)
                if event.updated.total < campaign.total:
                    self._of(campaign, Kind.TOTAL_LOWERED, f"from {campaign.total} to {event.updated.total}")
                campaign.total, campaign.end_time_us = event.updated.total, event.updated.end_time_us
            case "paused":
                self._advance(campaign, event.paused.time_us)
                campaign.paused = True
            case "resumed":
                self._advance(campaign, event.resumed.time_us)
                campaign.paused = False
            case "cancelled":
                self._advance(campaign, event.cancelled.time_us)
                campaign.cancelled = True

    def _advance(self, campaign: AuditedCampaign, time_us: int) -> None:
        """What happens to a campaign happens in the order of the journal."""
        if time_us < campaign.last_time_us:
            self._of(campaign, Kind.TIME_FELL, f"at {time_us}, after something at {campaign.last_time_us}")
        campaign.last_time_us = max(campaign.last_time_us, time_us)

    def _of(self, campaign: AuditedCampaign, kind: Kind, what: str) -> None:
        self.violated(kind, self._place, what, campaign.campaign_id)

    # --- coupons ---------------------------------------------------------------------------------------------------

    def _check_counters(self, head: "_Head", granted: journal_pb2.CouponsGranted) -> None:
        if granted.first_counter != head.counter:
            what = f"issue counter {granted.first_counter}, expected {head.counter}"
            self.violated(Kind.COUNTER_GAP, self._place, what, granted.campaign_id)
        head.counter = granted.first_counter + len(granted.codes)

    def _granted(self, shard: int, campaign: AuditedCampaign, granted: journal_pb2.CouponsGranted) -> None:
        count = len(granted.codes)
        columns = (len(granted.user_ids), len(granted.time_deltas_us), len(granted.request_ids) or count)
        if count == 0 or columns != (count, count, count):
            self._bad(f"a run of {count} codes whose other columns have lengths {columns}", campaign.campaign_id)
        self._check_window(campaign, granted)
        if granted.first_sequence != campaign.issued + 1:
            what = f"sequence {granted.first_sequence} after {campaign.issued}"
            self._of(campaign, Kind.SEQUENCE_GAP, what)
        campaign.issued += count
        if campaign.issued > campaign.total:
            self._of(campaign, Kind.OVER_ISSUED, f"{campaign.issued} issued of {campaign.total}")
        for offset, code in enumerate(granted.codes):
            self._check_code(shard, granted.first_counter + offset, code, campaign)
        self._check_users(campaign, granted)
        if campaign.campaign_id in self._collect:
            campaign.coupons.extend(_coupons(granted))

    def _check_window(self, campaign: AuditedCampaign, granted: journal_pb2.CouponsGranted) -> None:
        """May anything be granted now, by the events before and by the grants' own times?"""
        if not campaign.activated:
            self._of(campaign, Kind.GRANT_BEFORE_START, "granted before the campaign was activated")
        if campaign.ended:
            self._of(campaign, Kind.GRANT_AFTER_END, "granted after the campaign ended")
        if campaign.paused:
            self._of(campaign, Kind.GRANT_WHILE_PAUSED, "granted while the campaign was paused")
        if campaign.cancelled:
            self._of(campaign, Kind.GRANT_AFTER_CANCEL, "granted after the campaign was cancelled")
        times = list(accumulate(granted.time_deltas_us))
        if not times:
            return
        if min(times) < campaign.start_time_us:
            what = f"granted at {min(times)}, starts at {campaign.start_time_us}"
            self._of(campaign, Kind.GRANT_BEFORE_START, what)
        if campaign.end_time_us and max(times) >= campaign.end_time_us:
            self._of(campaign, Kind.GRANT_AFTER_END, f"granted at {max(times)}, ends at {campaign.end_time_us}")
        if any(delta < 0 for delta in granted.time_deltas_us[1:]):
            self._of(campaign, Kind.TIME_FELL, "times of a run of grants fall")
        self._advance(campaign, times[0])
        campaign.last_time_us = max(campaign.last_time_us, times[-1])
        campaign.first_grant_us = campaign.first_grant_us or times[0]

    def _check_code(self, shard: int, counter: int, code: str, campaign: AuditedCampaign) -> None:
        if code in self._codes:
            self._of(campaign, Kind.DUPLICATE_CODE, f"{code} was granted before")
        self._codes.add(code)
        found = _CODE.fullmatch(code)
        if found is None or not unicodedata.is_normalized("NFC", code):
            self._of(campaign, Kind.CODE_FORM, f"{code!r} does not have the form of a code")
            return
        if found[1] != _prefix(campaign.name):
            what = f"{code} does not begin as the name {campaign.name!r} says"
            self._of(campaign, Kind.CODE_FORM, what)
        if self._codec is None:
            return
        home = self._codec.decode(code)
        if home is None or (home.shard, home.counter) != (shard, counter):
            self._of(campaign, Kind.CODE_KEY, f"{code} decrypts to {home}, not to shard {shard}, counter {counter}")

    def _check_users(self, campaign: AuditedCampaign, granted: journal_pb2.CouponsGranted) -> None:
        limit, counts = campaign.per_user_limit, campaign.user_counts
        for index, user_id in enumerate(granted.user_ids):
            counts[user_id] = counts.get(user_id, 0) + 1
            if counts[user_id] > limit:
                what = f"user {user_id!r} has {counts[user_id]} coupons, may have {limit}"
                self._of(campaign, Kind.USER_LIMIT, what)
            if limit == 1:
                continue
            request = (user_id, granted.request_ids[index] if index < len(granted.request_ids) else "")
            if request in campaign.requests:
                self._of(campaign, Kind.REQUEST_TWICE, f"user {user_id!r}, request {request[1]!r}")
            campaign.requests.add(request)


@dataclass(slots=True)
class _Head:
    """How far a shard's journal has been read."""

    position: int = 0
    epoch: tuple[int, int] = (0, 0)
    writer: str = ""
    decide_time_us: int = 0
    counter: int = 0


def _coupons(granted: journal_pb2.CouponsGranted) -> Iterator[AuditedCoupon]:
    times = accumulate(granted.time_deltas_us)
    for offset, (code, user_id, time_us) in enumerate(zip(granted.codes, granted.user_ids, times, strict=False)):
        yield AuditedCoupon(code, user_id, granted.first_sequence + offset, time_us)


def _prefix(name: str) -> str:
    """The first Hangul syllables of a name, at most 3."""
    return "".join(re.findall("[가-힣]", unicodedata.normalize("NFC", name))[:3])
