"""Every rule and refusal of a campaign, by example. Any other order of things is `test_ledger_machine`'s."""

from typing import Any

import pytest

from cluster.codes import CodeCodec
from cluster.types import ShardId
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
    State,
    UpdateCampaign,
)
from node.events import CampaignActivated, CampaignEnded, CampaignPaused, CouponsGranted, Event
from node.ledger import DUE_EVENTS_MAX, Decision, Ledger

SHARD = ShardId(3)
NOON = 1_772_366_400_000_000
SECOND = 1_000_000


class Teller:
    """A ledger with a clock in its hand, which commits after every command unless told not to."""

    def __init__(self) -> None:
        self.ledger = Ledger(SHARD, CodeCodec({0: bytes(32)}))
        self.now_us = NOON
        self.commits = True

    def decide(self, command: Command) -> Decision:
        decision = self.ledger.handle(command, self.now_us)
        if self.commits:
            self.ledger.committed()
        return decision

    def ask(self, command: Command) -> Answer:
        return self.decide(command).answer

    def create(self, campaign_id: str = "a", **other: Any) -> Campaign:
        return self.administer(create(campaign_id, **other))

    def administer(self, command: Command) -> Campaign:
        answer = self.ask(command)
        assert isinstance(answer, CampaignAnswer), answer
        return answer.campaign

    def issue(self, user_id: str, request_id: str = "", campaign_id: str = "a") -> Coupon:
        answer = self.ask(IssueCoupon(campaign_id, user_id, request_id))
        assert isinstance(answer, Issued), answer
        assert not answer.already_issued
        return answer.coupon

    def refusal(self, command: Command) -> Refused:
        answer = self.ask(command)
        assert isinstance(answer, Refused), answer
        return answer

    def reason(self, user_id: str, request_id: str = "", campaign_id: str = "a") -> Reason:
        return self.refusal(IssueCoupon(campaign_id, user_id, request_id)).reason

    def state(self, campaign_id: str = "a") -> State:
        campaign = self.ledger.campaign(campaign_id)
        assert campaign is not None
        return campaign.state


def create(campaign_id: str = "a", **other: Any) -> CreateCampaign:
    content: dict[str, Any] = {"name": "봄맞이 행사", "total": 3, "per_user_limit": 1, "start_us": None, "end_us": None}
    return CreateCampaign(campaign_id, **(content | other))


def update(request_id: str, version: int | None = None, **asked: Any) -> UpdateCampaign:
    set_end = "end_us" in asked
    return UpdateCampaign("a", request_id, version, asked.get("total"), asked.get("end_us"), set_end)


def pause(request_id: str, version: int | None = None) -> PauseCampaign:
    return PauseCampaign("a", request_id, version)


def resume(request_id: str, version: int | None = None) -> ResumeCampaign:
    return ResumeCampaign("a", request_id, version)


def cancel(request_id: str, version: int | None = None) -> CancelCampaign:
    return CancelCampaign("a", request_id, version)


@pytest.fixture
def teller() -> Teller:
    return Teller()


# --- issuing ---------------------------------------------------------------------------------------------------------


def test_exactly_total_coupons_in_order(teller: Teller) -> None:
    """`total` coupons are granted, with sequences 1, 2, ..., and then it is SOLD_OUT and COMPLETED."""
    teller.create(total=3)
    coupons = [teller.issue(f"user-{i}") for i in range(3)]
    assert [coupon.sequence for coupon in coupons] == [1, 2, 3]
    assert len({coupon.code for coupon in coupons}) == 3
    assert all(coupon.code.startswith("봄맞이0") for coupon in coupons)
    assert teller.reason("late") is Reason.SOLD_OUT
    assert teller.state() is State.COMPLETED


def test_repetition_gets_the_same_coupon(teller: Teller) -> None:
    """A repetition, same user and request_id, gets the same coupon and makes no event, in any state of the campaign."""
    teller.create(total=1, end_us=NOON + SECOND)
    coupon = teller.issue("kim", "r")
    again = Decision((), Issued(coupon, True), Proof.NONE)
    request = IssueCoupon("a", "kim", "r")
    assert teller.decide(request) == again
    teller.administer(pause("p"))
    assert teller.decide(request) == again
    teller.now_us += SECOND
    assert teller.decide(request) == again
    teller.administer(cancel("c"))
    assert teller.decide(request) == again


@pytest.mark.parametrize(("first", "second"), [("", "r"), ("r", ""), ("r", "s"), ("r", "R")])
def test_one_coupon_for_a_user(teller: Teller, first: str, second: str) -> None:
    """Where the limit is 1, a user's second request is LIMIT_REACHED; request ids compare exactly, and the empty one
    is one of them."""
    teller.create()
    teller.issue("kim", first)
    assert teller.reason("kim", second) is Reason.LIMIT_REACHED


def test_per_user_limit(teller: Teller) -> None:
    """A user gets per_user_limit coupons, one for each request_id, and repetitions of each get each again."""
    teller.create(total=10, per_user_limit=2)
    one, two = teller.issue("kim", "r1"), teller.issue("kim", "r2")
    assert teller.reason("kim", "r3") is Reason.LIMIT_REACHED
    assert teller.ask(IssueCoupon("a", "kim", "r1")) == Issued(one, True)
    assert teller.ask(IssueCoupon("a", "kim", "r2")) == Issued(two, True)
    assert teller.issue("lee", "r1") not in (one, two)


def test_request_id_is_required_where_a_user_may_have_several(teller: Teller) -> None:
    """Without a request_id a repetition could not be told from a second request."""
    teller.create(per_user_limit=2)
    refused = teller.refusal(IssueCoupon("a", "kim", ""))
    assert (refused.reason, refused.field) == (Reason.INVALID_FIELD, "request_id")


def test_unknown_campaign(teller: Teller) -> None:
    """Whatever is asked of a campaign that was never created: CAMPAIGN_NOT_FOUND."""
    commands: tuple[Command, ...] = (
        IssueCoupon("a", "kim", ""),
        update("u", total=9),
        pause("p"),
        resume("r"),
        cancel("c"),
        GetCampaign("a", 0, 10),
        GetCouponsOfUser("a", "kim"),
    )
    assert {teller.refusal(command).reason for command in commands} == {Reason.CAMPAIGN_NOT_FOUND}


def test_refusals_in_order(teller: Teller) -> None:
    """Of several reasons the one that outlasts the others is told: CANCELLED, ENDED, PAUSED, NOT_STARTED, a missing
    request_id, LIMIT_REACHED, SOLD_OUT."""
    teller.create(total=1, per_user_limit=2, start_us=NOON + SECOND, end_us=NOON + 2 * SECOND)
    assert teller.reason("kim") is Reason.NOT_STARTED
    teller.administer(pause("p"))
    assert teller.reason("kim") is Reason.PAUSED
    teller.administer(resume("r"))
    teller.now_us = NOON + SECOND
    teller.issue("kim", "1")
    assert teller.reason("kim") is Reason.INVALID_FIELD
    assert teller.reason("kim", "2") is Reason.SOLD_OUT
    teller.administer(update("u", total=2))
    teller.issue("kim", "2")
    assert teller.reason("kim", "3") is Reason.LIMIT_REACHED
    teller.administer(pause("p2"))
    teller.now_us = NOON + 2 * SECOND
    assert teller.reason("kim", "3") is Reason.ENDED
    teller.administer(cancel("c"))
    assert teller.reason("kim", "3") is Reason.CANCELLED


# --- time ------------------------------------------------------------------------------------------------------------


def test_no_grant_before_the_start(teller: Teller) -> None:
    """Up to the last microsecond before its start a campaign is NOT_STARTED and says when it starts; from the start
    on it grants, with the beginning journaled in front of the first grant."""
    teller.create(start_us=NOON + SECOND)
    teller.now_us = NOON + SECOND - 1
    refused = teller.refusal(IssueCoupon("a", "kim", ""))
    assert refused.reason is Reason.NOT_STARTED
    assert refused.metadata == (("start_time", "2026-03-01T12:00:01Z"),)
    teller.now_us += 1
    decision = teller.decide(IssueCoupon("a", "kim", ""))
    assert [type(event) for event in decision.events] == [CampaignActivated, CouponsGranted]


def test_no_grant_from_the_end_on(teller: Teller) -> None:
    """In the last microsecond before its end a campaign grants, at its end it has ended, journaled before anybody
    hears of it."""
    teller.create(end_us=NOON + SECOND)
    teller.now_us = NOON + SECOND - 1
    teller.issue("kim")
    teller.now_us += 1
    decision = teller.decide(IssueCoupon("a", "lee", ""))
    assert decision.events == (CampaignEnded("a", NOON + SECOND),)
    assert isinstance(decision.answer, Refused)
    assert (decision.answer.reason, decision.proof) == (Reason.ENDED, Proof.ENTRY)


def test_tick_begins_and_ends_campaigns(teller: Teller) -> None:
    """The owner begins and ends campaigns by itself, not before it is time, in order, and says when to come again."""
    teller.create("a", start_us=NOON + 3 * SECOND, end_us=NOON + 5 * SECOND)
    teller.create("b", start_us=NOON + 2 * SECOND)
    ledger = teller.ledger
    assert ledger.next_due_us() == NOON + 2 * SECOND
    assert ledger.tick(NOON + 2 * SECOND - 1) == ()
    assert ledger.tick(NOON + 4 * SECOND) == (
        CampaignActivated("b", NOON + 4 * SECOND),
        CampaignActivated("a", NOON + 4 * SECOND),
    )
    assert ledger.next_due_us() == NOON + 5 * SECOND
    assert ledger.tick(NOON + 5 * SECOND) == (CampaignEnded("a", NOON + 5 * SECOND),)
    assert ledger.next_due_us() is None


def test_tick_is_bounded(teller: Teller) -> None:
    """However many campaigns start at one instant, one tick's events fit in an entry, and the rest is due at once."""
    for index in range(DUE_EVENTS_MAX + 5):
        teller.create(f"c{index}", start_us=NOON + SECOND)
    assert len(teller.ledger.tick(NOON + SECOND)) == DUE_EVENTS_MAX
    assert teller.ledger.next_due_us() == NOON + SECOND
    assert len(teller.ledger.tick(NOON + SECOND)) == 5
    assert teller.ledger.next_due_us() is None


def test_a_paused_campaign_begins_in_time(teller: Teller) -> None:
    """Start and end go on while a campaign is paused."""
    teller.create(start_us=NOON + SECOND, end_us=NOON + 2 * SECOND)
    teller.administer(pause("p"))
    assert teller.ledger.tick(NOON + SECOND) == (CampaignActivated("a", NOON + SECOND),)
    assert teller.state() is State.PAUSED
    assert teller.ledger.tick(NOON + 2 * SECOND) == (CampaignEnded("a", NOON + 2 * SECOND),)
    assert teller.state() is State.ENDED


def test_a_campaign_whose_time_passed_unseen_never_begins(teller: Teller) -> None:
    """Where nobody owned the shard from before the start until after the end, the campaign ends without beginning."""
    teller.create(start_us=NOON + SECOND, end_us=NOON + 2 * SECOND)
    assert teller.ledger.tick(NOON + 9 * SECOND) == (CampaignEnded("a", NOON + 9 * SECOND),)
    campaign = teller.ledger.campaign("a")
    assert campaign is not None
    assert campaign.activate_us is None


def test_nothing_is_due_of_a_campaign_that_is_over(teller: Teller) -> None:
    """A cancelled campaign neither begins nor ends."""
    teller.create(start_us=NOON + SECOND, end_us=NOON + 2 * SECOND)
    teller.administer(cancel("c"))
    assert teller.ledger.next_due_us() is None
    assert teller.ledger.tick(NOON + 9 * SECOND) == ()


def test_times_never_fall(teller: Teller) -> None:
    """Where the clock is behind the last event, what is decided bears that event's time: a campaign that began stays
    begun."""
    teller.create(start_us=NOON + SECOND)
    assert teller.ledger.tick(NOON + 2 * SECOND)
    teller.now_us = NOON
    assert teller.issue("kim").issue_us == NOON + 2 * SECOND


# --- creating --------------------------------------------------------------------------------------------------------


def test_created_at_once_is_active(teller: Teller) -> None:
    """A campaign without a start, or with one in the past, is answered as begun."""
    assert teller.create("a") == Campaign("a", "봄맞이 행사", 3, 0, 1, NOON, None, State.ACTIVE, 2, NOON, NOON, None)
    assert teller.create("b", start_us=NOON - SECOND).activate_us == NOON
    waiting = teller.create("c", start_us=NOON + 1)
    assert (waiting.state, waiting.version, waiting.activate_us) == (State.WAITING, 1, None)


def test_create_again(teller: Teller) -> None:
    """The same id with the same content returns the campaign as it was created, whatever became of it; other content
    is CAMPAIGN_EXISTS."""
    created = teller.create(start_us=NOON + SECOND, end_us=NOON + 9 * SECOND)
    teller.administer(update("u", total=8, end_us=None))
    teller.now_us += 2 * SECOND
    teller.issue("kim")
    same: dict[str, Any] = {"start_us": NOON + SECOND, "end_us": NOON + 9 * SECOND}
    assert teller.decide(create(**same)) == Decision((), CampaignAnswer(created), Proof.BARRIER)
    others: tuple[dict[str, Any], ...] = (
        {"name": "다른"},
        {"total": 8},
        {"per_user_limit": 2},
        {"start_us": None},
        {"start_us": NOON},
        {"end_us": None},
    )
    assert {teller.refusal(create(**(same | other))).reason for other in others} == {Reason.CAMPAIGN_EXISTS}


def test_no_room_for_another_campaign(teller: Teller) -> None:
    """Without room a new campaign is refused, behind a barrier like any refusal. One that exists is answered as ever,
    and its coupons are granted."""
    created = teller.create("a")
    refused = teller.ledger.handle(create("b"), teller.now_us, room=False)
    assert isinstance(refused.answer, Refused)
    assert (refused.answer.reason, refused.events, refused.proof) == (Reason.STORAGE_NEARLY_FULL, (), Proof.BARRIER)
    assert teller.ledger.handle(create("a"), teller.now_us, room=False).answer == CampaignAnswer(created)
    assert isinstance(teller.ledger.handle(IssueCoupon("a", "u", "r"), teller.now_us, room=False).answer, Issued)


def test_create_again_without_a_start(teller: Teller) -> None:
    """A start that was not given is no other start the second time."""
    created = teller.create()
    teller.now_us += SECOND
    assert teller.create() == created
    assert teller.refusal(create(start_us=NOON + SECOND)).reason is Reason.CAMPAIGN_EXISTS


@pytest.mark.parametrize(
    ("start_us", "end_us"),
    [
        (None, NOON),
        (None, NOON - 1),
        (NOON - 9, NOON),
        (NOON + 2, NOON + 2),
        (NOON + 2, NOON + 1),
        (NOON - 9, NOON - 1),
    ],
)
def test_end_is_after_start_and_now(teller: Teller, start_us: int | None, end_us: int) -> None:
    """A campaign is not created with an end that is past, or not after its start."""
    refused = teller.refusal(create(start_us=start_us, end_us=end_us))
    assert (refused.reason, refused.field) == (Reason.INVALID_FIELD, "campaign.end_time")
    assert teller.ledger.campaigns == 0


# --- administration --------------------------------------------------------------------------------------------------


def test_total_is_raised(teller: Teller) -> None:
    """A raised total makes a campaign that was sold out ACTIVE again, and its complete_time unset until it is again."""
    teller.create(total=1)
    teller.issue("kim")
    campaign = teller.administer(update("u", total=2))
    assert (campaign.state, campaign.total, campaign.issued, campaign.complete_us) == (State.ACTIVE, 2, 1, None)
    teller.now_us += SECOND
    teller.issue("lee")
    completed = teller.ledger.campaign("a")
    assert completed is not None
    assert (completed.state, completed.complete_us) == (State.COMPLETED, NOON + SECOND)


def test_total_is_never_lowered(teller: Teller) -> None:
    """A total below the present one is INVALID_FIELD, even if fewer are issued."""
    teller.create(total=3)
    refused = teller.refusal(update("u", total=2))
    assert (refused.reason, refused.field) == (Reason.INVALID_FIELD, "campaign.total")


def test_end_is_set_moved_and_removed(teller: Teller) -> None:
    """An end may be set, moved and removed while the campaign lives; the latest one counts."""
    teller.create()
    assert teller.administer(update("1", end_us=NOON + 5)).end_us == NOON + 5
    assert teller.administer(update("2", end_us=NOON + 9)).end_us == NOON + 9
    assert teller.ledger.tick(NOON + 5) == ()
    assert teller.administer(update("3", total=5)).end_us == NOON + 9
    assert teller.administer(update("4", end_us=None)).end_us is None
    assert teller.ledger.next_due_us() is None
    assert teller.administer(update("5", end_us=NOON + 7)).end_us == NOON + 7
    assert teller.ledger.tick(NOON + 7) == (CampaignEnded("a", NOON + 7),)


def test_end_cannot_be_set_into_the_past(teller: Teller) -> None:
    """An end that has passed, or is not after the start, is INVALID_FIELD."""
    teller.create("a", start_us=NOON - 5)
    teller.create("b", start_us=NOON + 5)
    for campaign_id, end_us in (("a", NOON - 1), ("a", NOON), ("b", NOON), ("b", NOON + 5)):
        refused = teller.refusal(UpdateCampaign(campaign_id, "u", None, None, end_us, True))
        assert (refused.reason, refused.field) == (Reason.INVALID_FIELD, "campaign.end_time")


def test_pause_and_resume(teller: Teller) -> None:
    """From the pause on nothing is granted, from the resume on it is."""
    teller.create()
    assert teller.administer(pause("p")).state is State.PAUSED
    assert teller.reason("kim") is Reason.PAUSED
    assert teller.administer(resume("r")).state is State.ACTIVE
    teller.issue("kim")


def test_what_is_over_is_not_changed(teller: Teller) -> None:
    """Of a campaign that has ended or is cancelled nothing changes but that it may be cancelled."""
    teller.create(end_us=NOON + 1)
    teller.now_us += 1
    changes: tuple[Command, ...] = (update("u", total=9), pause("p"), resume("r"))
    assert {teller.refusal(command).reason for command in changes} == {Reason.ENDED}
    assert teller.administer(cancel("c")).state is State.CANCELLED
    assert {teller.refusal(command).reason for command in changes} == {Reason.CANCELLED}


def test_idempotent_by_state(teller: Teller) -> None:
    """Pausing what is paused, resuming what is not, cancelling what is cancelled and raising to the same total change
    nothing, not even the version, but are journaled, so that their request_ids have a recorded answer."""
    version = teller.create().version
    commands: tuple[Command, ...] = (
        resume("1"),
        pause("2"),
        pause("3"),
        update("4", total=3),
        cancel("5"),
        cancel("6"),
    )
    decisions = [teller.decide(command) for command in commands]
    assert all(len(decision.events) == 1 for decision in decisions)
    versions = [d.answer.campaign.version - version for d in decisions if isinstance(d.answer, CampaignAnswer)]
    assert versions == [0, 1, 1, 1, 2, 2]


def test_recorded_answer(teller: Teller) -> None:
    """A repetition of an administrative call returns what was answered then and changes nothing: a delayed duplicate
    of a pause does not pause again what was resumed."""
    teller.create()
    paused = teller.decide(pause("p", 2))
    teller.administer(resume("r"))
    assert teller.decide(pause("p", 2)) == Decision((), paused.answer, Proof.BARRIER)
    assert teller.state() is State.ACTIVE
    assert teller.ask(resume("r")) != paused.answer


def test_an_end_that_does_not_count_makes_no_other_call(teller: Teller) -> None:
    """An end_us without `set_end` is nothing that the call asked for: not changed, and not compared."""
    teller.create()
    campaign = teller.administer(UpdateCampaign("a", "u", None, 9, NOON + 5, False))
    assert campaign.end_us is None
    assert teller.administer(UpdateCampaign("a", "u", None, 9, NOON + 5, False)) == campaign
    assert teller.administer(UpdateCampaign("a", "u", None, 9, None, False)) == campaign


@pytest.mark.parametrize(
    "command",
    [
        resume("x"),
        cancel("x"),
        pause("x"),
        update("x", 2, total=8),
        update("x", 2, total=9, end_us=None),
        update("x", 2),
        update("x", total=9),
        update("x", 3, total=9),
    ],
)
def test_request_id_reused(teller: Teller, command: Command) -> None:
    """A request_id that was used for one administrative call is REQUEST_ID_REUSED for any other on the campaign."""
    teller.create()
    teller.administer(update("x", 2, total=9))
    assert teller.refusal(command).reason is Reason.REQUEST_ID_REUSED


def test_request_ids_of_administrators_are_of_one_campaign(teller: Teller) -> None:
    """The same request_id on another campaign is another call."""
    teller.create("a")
    teller.create("b")
    teller.administer(PauseCampaign("a", "x", None))
    teller.administer(CancelCampaign("b", "x", None))


def test_request_id_is_required_of_administrators(teller: Teller) -> None:
    """An administrative call without a request_id is INVALID_FIELD."""
    teller.create()
    assert teller.refusal(pause("")).field == "request_id"


def test_expected_version(teller: Teller) -> None:
    """A call that expects another version is ETAG_MISMATCH, and leaves its request_id unused; a start or end by time
    makes another version, a grant does not."""
    assert teller.create(start_us=NOON + SECOND).version == 1
    teller.now_us = NOON + SECOND
    assert teller.refusal(pause("p", 1)).reason is Reason.ETAG_MISMATCH
    teller.issue("kim")
    assert teller.administer(pause("p", 2)).version == 3


# --- what an answer rests on -----------------------------------------------------------------------------------------


def test_proofs(teller: Teller) -> None:
    """What rests on an event that is not durable waits for the entry, reads and refusals that rest on durable state
    wait for the barrier, and a repetition with a durable coupon waits for nothing."""
    teller.commits = False
    request = IssueCoupon("a", "kim", "")
    asks: tuple[Command, ...] = (
        IssueCoupon("a", "lee", ""),
        GetCampaign("a", 0, 1),
        ListCampaigns("", 1),
        GetCouponsOfUser("a", "kim"),
        GetCouponByCode("봄"),
        create(),
        pause(""),
    )
    assert teller.decide(create(total=1)).proof is Proof.ENTRY
    assert teller.decide(request).proof is Proof.ENTRY
    assert teller.decide(request).proof is Proof.ENTRY
    assert {teller.decide(ask).proof for ask in asks} == {Proof.ENTRY}
    teller.ledger.committed()
    assert teller.decide(request).proof is Proof.NONE
    assert {teller.decide(ask).proof for ask in asks} == {Proof.BARRIER}
    assert teller.decide(pause("p")).proof is Proof.ENTRY
    assert {teller.decide(ask).proof for ask in asks} == {Proof.ENTRY}
    assert teller.decide(request).proof is Proof.NONE


def test_a_repetition_waits_only_for_its_own_coupon(teller: Teller) -> None:
    """Of two coupons of a campaign, one durable and one not, only the other's repetition waits."""
    teller.create()
    teller.issue("kim")
    teller.commits = False
    teller.issue("lee")
    assert teller.decide(IssueCoupon("a", "kim", "")).proof is Proof.NONE
    assert teller.decide(IssueCoupon("a", "lee", "")).proof is Proof.ENTRY


# --- reading ---------------------------------------------------------------------------------------------------------


def test_get_campaign_in_pages(teller: Teller) -> None:
    """Pages of coupons in order of sequence, the last one without more."""
    teller.create(total=5)
    coupons = tuple(teller.issue(f"user-{i}") for i in range(5))
    asked = [GetCampaign("a", after, 2) for after in (0, 2, 4, 5, 9)]
    assert [teller.ledger.items_of(command) for command in asked] == [2, 2, 1, 0, 0]
    assert teller.ledger.items_of(GetCampaign("b", 0, 2)) == 0
    pages = [teller.ask(command) for command in asked]
    assert all(isinstance(page, CampaignPage) for page in pages)
    shown = [(page.coupons, page.more) for page in pages if isinstance(page, CampaignPage)]
    assert shown == [(coupons[:2], True), (coupons[2:4], True), (coupons[4:], False), ((), False), ((), False)]


def test_list_campaigns_in_pages(teller: Teller) -> None:
    """Campaigns in order of their ids, after the given one, whether or not there is one of that id."""
    for campaign_id in ("c", "a", "d", "b"):
        teller.create(campaign_id)

    def listed(after: str, most: int) -> tuple[str, bool]:
        page = teller.ask(ListCampaigns(after, most))
        assert isinstance(page, CampaignList)
        assert teller.ledger.items_of(ListCampaigns(after, most)) == len(page.campaigns)
        return "".join(campaign.campaign_id for campaign in page.campaigns), page.more

    assert listed("", 3) == ("abc", True)
    assert listed("c", 3) == ("d", False)
    assert listed("bb", 3) == ("cd", False)
    assert listed("z", 3) == ("", False)


def test_coupons_by_code(teller: Teller) -> None:
    """A code finds its coupon among several campaigns; only the whole code, prefix and digit included, does."""
    teller.create("a", total=2)
    teller.create("b", total=2, name="가을")
    spring, autumn, late = teller.issue("kim"), teller.issue("kim", campaign_id="b"), teller.issue("lee")
    for coupon in (spring, autumn, late):
        assert teller.ask(GetCouponByCode(coupon.code)) == Coupons((coupon,))
    tail = spring.code[-6:]
    elsewhere = CodeCodec({0: bytes(32)}).encode("봄맞이", ShardId(4), 0)
    for code in ("", "봄", tail, "0" + tail, "가을0" + tail, "봄맞이1" + tail, "봄맞이0가가가가가가", elsewhere):
        assert teller.refusal(GetCouponByCode(code)).reason is Reason.COUPON_NOT_FOUND


def test_coupons_of_a_user(teller: Teller) -> None:
    """All coupons of a user in order of sequence; none is COUPON_NOT_FOUND."""
    teller.create(total=9, per_user_limit=3)
    coupons = (teller.issue("kim", "1"), teller.issue("kim", "2"))
    teller.issue("lee", "1")
    assert teller.ask(GetCouponsOfUser("a", "kim")) == Coupons(coupons)
    assert teller.refusal(GetCouponsOfUser("a", "park")).reason is Reason.COUPON_NOT_FOUND


def test_ids_of_any_script(teller: Teller) -> None:
    """User and request ids come back as they were given, byte for byte."""
    teller.create(total=9, per_user_limit=9)
    for user_id, request_id in (("김철수", "요청-1"), ("kim", "é"), ("😀", "a"), ("kim", "요청-1")):
        coupon = teller.issue(user_id, request_id)
        assert (coupon.user_id, coupon.request_id) == (user_id, request_id)
        assert teller.ask(GetCouponByCode(coupon.code)) == Coupons((coupon,))


def test_counts(teller: Teller) -> None:
    """The ledger counts its campaigns and its coupons."""
    teller.create("a")
    teller.create("b")
    teller.issue("kim")
    teller.issue("kim", campaign_id="b")
    assert (teller.ledger.campaigns, teller.ledger.coupons) == (2, 2)


def test_events_carry_the_facts(teller: Teller) -> None:
    """A grant's event says to whom, which code, when, and where in campaign and shard it stands."""
    teller.create("b")
    teller.issue("x", campaign_id="b")
    teller.create()
    decision = teller.decide(IssueCoupon("a", "kim", "r"))
    assert isinstance(decision.answer, Issued)
    code = decision.answer.coupon.code
    expected: tuple[Event, ...] = (CouponsGranted("a", 1, 1, ("kim",), ("r",), (code,), (NOON,)),)
    assert decision.events == expected
    assert teller.decide(pause("p", 2)).events == (CampaignPaused("a", "p", 2, NOON),)
