"""One shard's decisions. Never reads a clock, a socket or a file.

Commands in, events and answers out. An event changes memory at once, through the same code live and in a replay, and
is true only when the loop has journaled it: until `committed`, answers say so by their proof. When journaling fails
the ledger is thrown away and the next one replays.
"""

from array import array
from bisect import bisect_right, insort
from collections.abc import Iterable
from heapq import heappop, heappush
from operator import le
from typing import assert_never

from cluster.codes import CodeCodec, Home, code_from_number, code_numbers
from cluster.types import ShardId
from cluster.value import value
from node.campaign import CAMPAIGN_EXISTS, CAMPAIGN_NOT_FOUND, AdministrativeCommand, CampaignLedger, refuse_end
from node.commands import (
    Answer,
    Campaign,
    CampaignAnswer,
    CampaignList,
    CampaignPage,
    CancelCampaign,
    Command,
    Coupon,
    Coupons,
    CreateCampaign,
    GetCampaign,
    GetCouponByCode,
    GetCouponsOfUser,
    IssueCoupon,
    Issued,
    ListCampaigns,
    PauseCampaign,
    Proof,
    Reason,
    Refused,
    ResumeCampaign,
    UpdateCampaign,
)
from node.events import (
    CampaignCreated,
    CouponsGranted,
    Event,
    LedgerViolation,
    require,
)

DUE_EVENTS_MAX = 128
"""Starts and ends that one `tick` brings at most, so that they fit in one entry however many fall on one instant."""

_STORAGE_NEARLY_FULL = Refused(
    Reason.STORAGE_NEARLY_FULL, "the cluster's storage is nearly full: no new campaign until its operator has made room"
)
_COUPON_NOT_FOUND = Refused(Reason.COUPON_NOT_FOUND, "there is no such coupon")


@value
class Decision:
    events: tuple[Event, ...]
    """In memory already; nobody may hear of them before they are in the journal."""
    answer: Answer
    proof: Proof
    """What has to have happened before the answer may leave."""


class Ledger:
    """The campaigns of one shard and their coupons."""

    def __init__(self, shard: ShardId, codec: CodeCodec) -> None:
        self.shard = shard
        self._codec = codec
        self._campaigns: dict[str, CampaignLedger] = {}
        self._campaign_ids: list[str] = []  # sorted
        self._by_index: list[CampaignLedger] = []  # in order of creation
        self._indexes: dict[str, int] = {}
        # Where the coupon with the shard's issue counter i is: index of its campaign, sequence in it.
        self._campaign_of = array("I")
        self._sequence_of = array("I")
        # (time, index of the campaign). What no longer is a campaign's due_us stays until it comes to the top.
        self._due: list[tuple[int, int]] = []
        self._time_us: int | None = None
        self._uncommitted = False
        # For each campaign with uncommitted coupons, the sequence of the first of them.
        self._first_uncommitted: dict[str, int] = {}

    # --- what the loop calls -----------------------------------------------------------------------------------------

    def handle(self, command: Command, now_us: int, *, room: bool = True) -> Decision:
        """Decide, and remember it at once.

        Args:
            now_us: the owner's clock. Where it is behind the last event it counts as that event's time, so that
                journaled times never fall.
            room: for another campaign, where entries are stored.
        """
        match command:
            case IssueCoupon():
                return self._issue(command, self._not_before_last_event(now_us))
            case CreateCampaign():
                return self._create(command, self._not_before_last_event(now_us), room=room)
            case UpdateCampaign() | PauseCampaign() | ResumeCampaign() | CancelCampaign():
                return self._administer(command, self._not_before_last_event(now_us))
            case GetCampaign():
                return self._get(command, self._not_before_last_event(now_us))
            case ListCampaigns():
                return self._decision((), self._list(command))
            case GetCouponByCode():
                coupon = self._coupon_by_code(command.code)
                return self._decision((), _COUPON_NOT_FOUND if coupon is None else Coupons((coupon,)))
            case GetCouponsOfUser():
                return self._decision((), self._coupons_of_user(command))
            case _:
                assert_never(command)

    def tick(self, now_us: int) -> tuple[Event, ...]:
        """Starts and ends that are due, earliest first; at most DUE_EVENTS_MAX, then `next_due_us` says that there are
        more."""
        now_us = self._not_before_last_event(now_us)
        events: list[Event] = []
        while len(events) < DUE_EVENTS_MAX:
            due_us = self.next_due_us()
            if due_us is None or due_us > now_us:
                break
            _, index = heappop(self._due)
            events += self._advance(self._by_index[index], now_us)
        return tuple(events)

    def next_due_us(self) -> int | None:
        """When `tick` has something to do next, maybe in the past; None: never, as things stand."""
        while self._due:
            due_us, index = self._due[0]
            if self._by_index[index].due_us == due_us:
                return due_us
            heappop(self._due)
        return None

    def committed(self) -> None:
        """All events so far are durable."""
        self._uncommitted = False
        self._first_uncommitted.clear()

    def apply(self, event: Event) -> None:
        """Take over an event that is durable already: replay.

        Raises:
            LedgerViolation: no ledger could have decided it here; throw this one away.
        """
        if not isinstance(event, CouponsGranted):
            self._apply(event)
            return
        campaign = self._existing(event.campaign_id)
        columns = (event.user_ids, event.request_ids, event.codes, event.times_us)
        require(
            len(event.codes) > 0 and len(set(map(len, columns))) == 1, "a run of grants has columns of equal length"
        )
        times_us = event.times_us
        require(all(map(le, times_us, times_us[1:])), "times never fall")
        try:
            numbers = code_numbers(campaign.prefix, event.codes)
        except ValueError as error:
            raise LedgerViolation(str(error)) from error
        # One code of each run: that catches a wrong key, and all of them would take longer than all the rest.
        home = self._codec.decode(event.codes[0])
        require(home is not None, "a code's generation has a key")
        require(home == Home(self.shard, event.first_counter, numbers[0] >> 54), "a code decrypts to its counter")
        self._grant(campaign, event, numbers)

    def items_of(self, command: Command) -> int:
        """How many coupons or campaigns a page would show now, which is what it costs; 0: it is no page."""
        match command:
            case GetCampaign(campaign_id, after_sequence, coupons_max):
                campaign = self._campaigns.get(campaign_id)
                return 0 if campaign is None else max(0, min(coupons_max, campaign.issued - after_sequence))
            case ListCampaigns(after_campaign_id, campaigns_max):
                return min(campaigns_max, self.campaigns - bisect_right(self._campaign_ids, after_campaign_id))
            case _:
                return 0

    # --- what watchers and operators see -----------------------------------------------------------------------------

    def campaign(self, campaign_id: str) -> Campaign | None:
        """As of the last event, durable or not."""
        campaign = self._campaigns.get(campaign_id)
        return None if campaign is None else campaign.view()

    def over_issued(self, campaign_ids: Iterable[str] | None = None) -> dict[str, int]:
        """Campaigns with more coupons than they have, and how many more: there are none. Looks at these campaigns, or
        at all."""
        campaigns = self._by_index if campaign_ids is None else map(self._campaigns.__getitem__, campaign_ids)
        return {campaign.campaign_id: campaign.excess for campaign in campaigns if campaign.excess > 0}

    def recent(self, since_us: int, at_most: int) -> dict[str, int]:
        """Campaigns in which something has happened since, and when. Looks at the `at_most` newest ones only."""
        newest = ((campaign.campaign_id, campaign.last_us) for campaign in self._by_index[-at_most:])
        return {campaign_id: last_us for campaign_id, last_us in newest if last_us >= since_us}

    @property
    def campaigns(self) -> int:
        return len(self._campaigns)

    @property
    def coupons(self) -> int:
        return len(self._sequence_of)

    def check_invariants(self) -> None:
        """Everything that must hold at any time; what is cheap is checked at every event already. Takes time in
        proportion to the coupons."""
        for campaign in self._by_index:
            campaign.check_invariants()
            due_us = campaign.due_us
            assert due_us is None or (due_us, self._indexes[campaign.campaign_id]) in self._due, "a due time forgotten"
        assert self._campaign_ids == sorted(self._campaigns), "campaign ids out of order"
        assert self.coupons == sum(campaign.issued for campaign in self._by_index), "a coupon without a counter"
        sequences = [0] * len(self._by_index)
        for index, sequence in zip(self._campaign_of, self._sequence_of, strict=True):
            sequences[index] += 1
            assert sequence == sequences[index], "a gap in a campaign's sequence"

    # --- commands ----------------------------------------------------------------------------------------------------

    def _issue(self, command: IssueCoupon, now_us: int) -> Decision:
        campaign = self._campaigns.get(command.campaign_id)
        if campaign is None:
            return self._decision((), CAMPAIGN_NOT_FOUND)
        granted, held = campaign.find(command)
        if granted:
            first_uncommitted = self._first_uncommitted.get(command.campaign_id)
            durable = first_uncommitted is None or granted < first_uncommitted
            return Decision((), Issued(campaign.coupon(granted), True), Proof.NONE if durable else Proof.ENTRY)
        events = self._advance(campaign, now_us)
        refused = campaign.decide_issue(command, held)
        if refused is not None:
            return self._decision(events, refused)
        counter, sequence = self.coupons, campaign.issued + 1
        number = self._codec.number(self.shard, counter)
        code = code_from_number(campaign.prefix, number)
        event = CouponsGranted(
            command.campaign_id, sequence, counter, (command.user_id,), (command.request_id,), (code,), (now_us,)
        )
        self._first_uncommitted.setdefault(command.campaign_id, sequence)
        self._uncommitted = True
        self._grant(campaign, event, (number,))
        coupon = Coupon(code, command.campaign_id, command.user_id, command.request_id, sequence, now_us)
        return Decision((*events, event), Issued(coupon, False), Proof.ENTRY)

    def _create(self, command: CreateCampaign, now_us: int, *, room: bool) -> Decision:
        existing = self._campaigns.get(command.campaign_id)
        if existing is not None:
            as_created = existing.created_by(command)
            return self._decision((), CAMPAIGN_EXISTS if as_created is None else CampaignAnswer(as_created))
        if not room:
            return self._decision((), _STORAGE_NEARLY_FULL)
        start_us = now_us if command.start_us is None else command.start_us
        refused = refuse_end(command.end_us, start_us, now_us)
        if refused is not None:
            return self._decision((), refused)
        event = CampaignCreated(
            campaign_id=command.campaign_id,
            name=command.name,
            total=command.total,
            per_user_limit=command.per_user_limit,
            start_us=start_us,
            end_us=command.end_us,
            create_us=now_us,
        )
        self._uncommitted = True
        self._apply(event)
        campaign = self._campaigns[command.campaign_id]
        # One that starts at once is answered as begun: its etag would be out of date otherwise before it arrives.
        begun = self._advance(campaign, now_us)
        return self._decision((event, *begun), CampaignAnswer(campaign.view()))

    def _administer(self, command: AdministrativeCommand, now_us: int) -> Decision:
        campaign = self._campaigns.get(command.campaign_id)
        if campaign is None:
            return self._decision((), CAMPAIGN_NOT_FOUND)
        match campaign.recorded_answer(command):
            case None:
                pass
            case Refused() as refused:
                return self._decision((), refused)
            case Campaign() as answer:
                return self._decision((), CampaignAnswer(answer))
        events = self._advance(campaign, now_us)
        event = campaign.decide_administrative(command, now_us)
        if isinstance(event, Refused):
            return self._decision(events, event)
        self._uncommitted = True
        self._apply(event)
        return self._decision((*events, event), CampaignAnswer(campaign.view()))

    def _get(self, command: GetCampaign, now_us: int) -> Decision:
        campaign = self._campaigns.get(command.campaign_id)
        if campaign is None:
            return self._decision((), CAMPAIGN_NOT_FOUND)
        events = self._advance(campaign, now_us)
        last = min(campaign.issued, command.after_sequence + command.coupons_max)
        coupons = tuple(map(campaign.coupon, range(command.after_sequence + 1, last + 1)))
        return self._decision(events, CampaignPage(campaign.view(), coupons, more=last < campaign.issued))

    def _list(self, command: ListCampaigns) -> CampaignList:
        start = bisect_right(self._campaign_ids, command.after_campaign_id)
        ids = self._campaign_ids[start : start + command.campaigns_max]
        more = start + len(ids) < len(self._campaign_ids)
        return CampaignList(tuple(self._campaigns[campaign_id].view() for campaign_id in ids), more)

    def _coupon_by_code(self, code: str) -> Coupon | None:
        home = self._codec.decode(code)
        if home is None or home.counter >= self.coupons:
            return None
        coupon = self._by_index[self._campaign_of[home.counter]].coupon(self._sequence_of[home.counter])
        return coupon if coupon.code == code else None

    def _coupons_of_user(self, command: GetCouponsOfUser) -> Coupons | Refused:
        campaign = self._campaigns.get(command.campaign_id)
        if campaign is None:
            return CAMPAIGN_NOT_FOUND
        coupons = campaign.coupons_of(command.user_id)
        return Coupons(coupons) if coupons else _COUPON_NOT_FOUND

    def _decision(self, events: tuple[Event, ...], answer: Answer) -> Decision:
        """An answer may rest on anything that happened before it, so it waits for all that is not durable."""
        return Decision(events, answer, Proof.ENTRY if self._uncommitted else Proof.BARRIER)

    # --- events ------------------------------------------------------------------------------------------------------

    def _not_before_last_event(self, now_us: int) -> int:
        return now_us if self._time_us is None or now_us > self._time_us else self._time_us

    def _advance(self, campaign: CampaignLedger, now_us: int) -> tuple[Event, ...]:
        """The start or end that has come, so that it is journaled before anyone hears of what follows from it."""
        event = campaign.decide_time(now_us)
        if event is None:
            return ()
        self._uncommitted = True
        self._apply(event)
        return (event,)

    def _apply(self, event: Event) -> None:
        """Everything but grants."""
        assert not isinstance(event, CouponsGranted), "grants go through _grant"
        if isinstance(event, CampaignCreated):
            require(event.campaign_id not in self._campaigns, "a campaign is created once")
            self._pass_time(event.create_us, event.create_us)
            campaign = CampaignLedger(event)
            self._campaigns[event.campaign_id] = campaign
            insort(self._campaign_ids, event.campaign_id)
            self._indexes[event.campaign_id] = len(self._by_index)
            self._by_index.append(campaign)
            was_due_us = None
        else:
            campaign = self._existing(event.campaign_id)
            self._pass_time(event.time_us, event.time_us)
            was_due_us = campaign.due_us
            campaign.apply(event)
        due_us = campaign.due_us
        if due_us is not None and due_us != was_due_us:
            heappush(self._due, (due_us, self._indexes[event.campaign_id]))

    def _grant(self, campaign: CampaignLedger, event: CouponsGranted, numbers: list[int] | tuple[int, ...]) -> None:
        require(event.first_sequence == campaign.issued + 1, "sequences have no gaps")
        require(event.first_counter == self.coupons, "the issue counter has no gaps")
        self._pass_time(event.times_us[0], event.times_us[-1])
        campaign.grant(event.user_ids, event.request_ids, numbers, event.times_us)
        index = self._indexes[event.campaign_id]
        count = len(event.user_ids)
        self._campaign_of.extend((index,) * count)
        self._sequence_of.extend(range(event.first_sequence, event.first_sequence + count))

    def _existing(self, campaign_id: str) -> CampaignLedger:
        campaign = self._campaigns.get(campaign_id)
        if campaign is None:
            raise LedgerViolation("an event of a campaign that was never created")
        return campaign

    def _pass_time(self, first_us: int, last_us: int) -> None:
        require(self._time_us is None or first_us >= self._time_us, "times never fall")
        self._time_us = last_us
