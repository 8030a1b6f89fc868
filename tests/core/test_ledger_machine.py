"""The ledger against the model: any commands, any clock, any crash."""

from dataclasses import replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cluster.codes import CodeCodec, Home, code_prefix
from cluster.types import Epoch, Incarnation, LeaseId, NodeId, Revision, ShardId
from node.commands import (
    Answer,
    CampaignList,
    CampaignPage,
    CancelCampaign,
    Command,
    CreateCampaign,
    GetCampaign,
    GetCouponByCode,
    GetCouponsOfUser,
    IssueCoupon,
    Issued,
    ListCampaigns,
    PauseCampaign,
    Proof,
    Refused,
    ResumeCampaign,
    UpdateCampaign,
)
from node.entries import Header, encode
from node.events import Event, first_time_us
from node.ledger import Ledger
from node.replay import Replayer
from tests.core.model import Model

SHARD = ShardId(9)
BEGIN_US = 1_000
CODEC = CodeCodec({2: bytes(32)})

campaign_ids = st.sampled_from(["spring", "autumn", "winter"])
user_ids = st.sampled_from(["kim", "이", "park"])
request_ids = st.sampled_from(["", "r1", "r2", "요청"])
calls = st.sampled_from(["q1", "q2", "q3", "q4"])
versions = st.none() | st.integers(1, 5)
limits = st.sampled_from([1, 1, 2, 3])
totals = st.integers(1, 4)
# From now, in microseconds: most mistakes are made at the edges.
starts = st.none() | st.sampled_from([-5, 0, 1, 5, 20])
ends = st.none() | st.sampled_from([-5, 0, 1, 2, 6, 30])


def observe(ledger: Ledger) -> dict[Any, Any]:
    """Everything that a caller can learn of the ledger. Looks inside where asking could begin or end a campaign."""
    listed = ledger.handle(ListCampaigns("", 100), 0).answer
    assert isinstance(listed, CampaignList)
    seen: dict[Any, Any] = {"campaigns": listed, "counts": (ledger.campaigns, ledger.coupons)}
    seen["due"] = ledger.next_due_us()
    for campaign in listed.campaigns:
        campaign_id = campaign.campaign_id
        inside = ledger._campaigns[campaign_id]
        coupons = [inside.coupon(sequence) for sequence in range(1, campaign.issued + 1)]
        seen[campaign_id] = (ledger.campaign(campaign_id), coupons, inside._recorded, inside._as_created)
        seen[campaign_id, "by code"] = [ledger.handle(GetCouponByCode(coupon.code), 0).answer for coupon in coupons]
        users = {coupon.user_id for coupon in coupons}
        seen[campaign_id, "by user"] = {user: inside.coupons_of(user) for user in users}
    return seen


def without_words(answer: Answer) -> Answer:
    """Refusals are compared by reason and field; how they put it is the ledger's."""
    return replace(answer, message="", metadata=()) if isinstance(answer, Refused) else answer


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(SHARD, CODEC)
        self.model = Model()
        self.clock_us = BEGIN_US
        self.lives = 1
        self.round: list[Event] = []
        self.journal: list[bytes] = []
        self.codes: dict[str, tuple[str, int]] = {}
        """Every code that was ever durable, and whose it is."""

    def ask(self, command: Command) -> Answer:
        decision = self.ledger.handle(command, self.clock_us)
        code = decision.answer.coupon.code if isinstance(decision.answer, Issued) else ""
        expected, proof = self.model.handle(command, self.clock_us, code)
        assert without_words(decision.answer) == expected
        assert decision.proof is proof
        self.happened(decision.events)
        assert bool(self.round) == self.model.uncommitted
        return decision.answer

    def happened(self, events: tuple[Event, ...]) -> None:
        for event in events:
            assert not self.round or first_time_us(event) >= first_time_us(self.round[-1])
            self.round.append(event)

    # --- commands ----------------------------------------------------------------------------------------------------

    @initialize(total=totals, limit=limits, start=st.none() | st.integers(BEGIN_US, BEGIN_US + 5))
    def begin(self, total: int, limit: int, start: int | None) -> None:
        self.ask(CreateCampaign("spring", "봄 맞이 행사", total, limit, start, None))

    @rule(
        campaign_id=campaign_ids,
        name=st.sampled_from(["봄 행사", "Sale", "한"]),
        total=totals,
        limit=limits,
        start=starts,
        end=ends,
    )
    def create(self, campaign_id: str, name: str, total: int, limit: int, start: int | None, end: int | None) -> None:
        start_us = None if start is None else self.clock_us + start
        end_us = None if end is None else self.clock_us + end
        self.ask(CreateCampaign(campaign_id, name, total, limit, start_us, end_us))

    @rule(campaign_id=campaign_ids, given=st.booleans())
    def create_again(self, campaign_id: str, given: bool) -> None:
        """The same content again; with or without a start where the campaign began at its creation."""
        campaign = self.model.campaigns.get(campaign_id)
        if campaign is not None and campaign.as_created is not None:
            start_us = campaign.as_created.start_us if given else campaign.created.start_us
            self.ask(replace(campaign.created, start_us=start_us))

    @rule(campaign_id=campaign_ids, user_id=user_ids, request_id=request_ids)
    def issue(self, campaign_id: str, user_id: str, request_id: str) -> None:
        self.ask(IssueCoupon(campaign_id, user_id, request_id))

    @rule(user_id=user_ids, request_id=st.sampled_from(["r1", "r2"]))
    def issue_of_spring(self, user_id: str, request_id: str) -> None:
        self.ask(IssueCoupon("spring", user_id, request_id))

    @rule(
        campaign_id=campaign_ids,
        request_id=calls,
        version=versions,
        total=st.none() | st.integers(1, 6),
        end=ends,
        set_end=st.booleans(),
    )
    def update(
        self, campaign_id: str, request_id: str, version: int | None, total: int | None, end: int | None, set_end: bool
    ) -> None:
        end_us = None if end is None else self.clock_us + end
        self.ask(UpdateCampaign(campaign_id, request_id, version, total, end_us, set_end))

    @rule(request_id=calls, end=ends)
    def end_spring(self, request_id: str, end: int | None) -> None:
        end_us = None if end is None else self.clock_us + end
        self.ask(UpdateCampaign("spring", request_id, None, None, end_us, True))

    @rule(campaign_id=campaign_ids, request_id=calls, version=versions)
    def pause(self, campaign_id: str, request_id: str, version: int | None) -> None:
        self.ask(PauseCampaign(campaign_id, request_id, version))

    @rule(campaign_id=campaign_ids, request_id=calls, version=versions)
    def resume(self, campaign_id: str, request_id: str, version: int | None) -> None:
        self.ask(ResumeCampaign(campaign_id, request_id, version))

    @rule(campaign_id=campaign_ids, request_id=calls, version=versions)
    def cancel(self, campaign_id: str, request_id: str, version: int | None) -> None:
        self.ask(CancelCampaign(campaign_id, request_id, version))

    @precondition(lambda self: any(campaign.answered for campaign in self.model.campaigns.values()))
    @rule(data=st.data())
    def administer_again(self, data: st.DataObject) -> None:
        answered = [command for campaign in self.model.campaigns.values() for command, _ in campaign.answered.values()]
        self.ask(data.draw(st.sampled_from(answered)))

    @rule(campaign_id=campaign_ids, after=st.integers(0, 4), most=st.integers(1, 3))
    def get(self, campaign_id: str, after: int, most: int) -> None:
        answer = self.ask(GetCampaign(campaign_id, after, most))
        if isinstance(answer, CampaignPage):
            assert [coupon.sequence for coupon in answer.coupons] == list(
                range(after + 1, after + 1 + len(answer.coupons))
            )

    @rule(after=st.sampled_from(["", "spring", "summer"]), most=st.integers(1, 3))
    def list_campaigns(self, after: str, most: int) -> None:
        self.ask(ListCampaigns(after, most))

    @rule(campaign_id=campaign_ids, user_id=user_ids)
    def coupons_of_user(self, campaign_id: str, user_id: str) -> None:
        self.ask(GetCouponsOfUser(campaign_id, user_id))

    @rule(
        shard=st.sampled_from([SHARD, ShardId(8)]),
        counter=st.integers(0, 5),
        prefix=st.sampled_from(["", "봄맞이", "한"]),
    )
    def coupon_by_code(self, shard: ShardId, counter: int, prefix: str) -> None:
        """Well-formed codes: of coupons that exist, of ones that do not, and with another campaign's prefix."""
        self.ask(GetCouponByCode(CODEC.encode(prefix, shard, counter)))

    # --- time, durability, death -------------------------------------------------------------------------------------

    @rule(step=st.sampled_from([-8, -1, 1, 2, 5, 15]))
    def time_passes(self, step: int) -> None:
        self.clock_us += step

    @rule(early=st.sampled_from([0, 0, 1]), campaign_id=campaign_ids, user_id=user_ids)
    def time_comes(self, early: int, campaign_id: str, user_id: str) -> None:
        """A request in the very microsecond of a start or end, or in the last one before it."""
        due_us = self.model.next_due_us()
        if due_us is not None:
            self.clock_us = due_us - early
            self.ask(IssueCoupon(campaign_id, user_id, "r1"))

    @rule()
    def tick(self) -> None:
        events = self.ledger.tick(self.clock_us)
        assert len(events) == self.model.tick(self.clock_us)
        self.happened(events)
        due_us = self.ledger.next_due_us()
        assert due_us is None or due_us > max(self.clock_us, self.model.last_event_us)

    @rule()
    def commit(self) -> None:
        if self.round:
            header = Header(SHARD, Epoch(1, Revision(self.lives)), Incarnation(NodeId("n"), LeaseId(self.lives)))
            self.journal.append(encode(header, len(self.journal), 0, self.round))
            self.round = []
        self.ledger.committed()
        self.model.commit()
        for campaign in self.model.campaigns.values():
            for coupon in campaign.coupons:
                self.check_code(coupon.code, campaign.now.name, (coupon.campaign_id, coupon.sequence))

    @rule()
    def commit_and_replay(self) -> None:
        """Replay equals memory."""
        self.commit()
        memory = observe(self.ledger)
        self.crash()
        assert observe(self.ledger) == memory

    @rule()
    def crash(self) -> None:
        """What was not committed is gone; everything else is there."""
        replayer = Replayer(Ledger(SHARD, CODEC))
        for entry in self.journal:
            replayer.feed(entry)
        self.ledger = replayer.ledger
        self.lives += 1
        self.round = []
        self.model.crash()

    # --- what always holds -------------------------------------------------------------------------------------------

    def check_code(self, code: str, name: str, whose: tuple[str, int]) -> None:
        """A code exists once, begins with its campaign's syllables, and leads to its shard."""
        assert self.codes.setdefault(code, whose) == whose
        assert code[:-7] == code_prefix(name)
        home = CODEC.decode(code)
        assert home == Home(SHARD, home.counter if home else -1, 2)

    @invariant()
    def rules_hold(self) -> None:
        self.ledger.check_invariants()
        assert self.ledger.next_due_us() == self.model.next_due_us()
        assert self.ledger.campaigns == len(self.model.campaigns)
        for campaign_id, expected in self.model.campaigns.items():
            campaign = self.ledger.campaign(campaign_id)
            assert campaign == expected.seen()
            assert campaign.issued <= campaign.total
            for coupon in expected.coupons:
                assert self.ledger._campaigns[campaign_id].coupon(coupon.sequence) == coupon
                assert campaign.activate_us is not None
                assert campaign.start_us <= campaign.activate_us <= coupon.issue_us
                assert campaign.end_us is None or coupon.issue_us < campaign.end_us

    @invariant()
    def proofs_hold(self) -> None:
        """A repetition needs no proof exactly when its coupon is durable."""
        for campaign in self.model.campaigns.values():
            for coupon in campaign.coupons[-2:]:
                again = IssueCoupon(coupon.campaign_id, coupon.user_id, coupon.request_id)
                decision = self.ledger.handle(again, self.clock_us)
                assert decision.answer == Issued(coupon, True)
                assert decision.events == ()
                durable = coupon.code not in self.model.uncommitted_codes
                assert decision.proof is (Proof.NONE if durable else Proof.ENTRY)


LedgerMachine.TestCase.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestLedgerMachine = LedgerMachine.TestCase
