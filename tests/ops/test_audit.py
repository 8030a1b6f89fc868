"""The rules of a journal: each kind of violation is planted once, and is what the audit finds."""

from collections.abc import Callable

import pytest

from cluster.codes import CodeCodec
from ops.audit import VIOLATIONS_MAX, Audit, Kind
from tests.ops.entries import CODEC, SHARDS, START_US, Writer, campaign_in, good


def judge(*writers: Writer, codec: CodeCodec | None = CODEC) -> Audit:
    audit = Audit(SHARDS, codec, collect={writer.campaign_id for writer in writers})
    for writer in writers:
        for position, entry in enumerate(writer.entries):
            audit.entry(writer.shard, f"{writer.shard}@{position}", entry)
    return audit


def test_a_good_journal_is_clean() -> None:
    """Grants, a pause, a raised total and a change of owner, all in order: no violation, and every coupon counted."""
    audit = judge(good(0), good(2))
    assert audit.violations == []
    assert (audit.entries, audit.coupons) == (16, 8)
    campaign = audit.campaigns[campaign_in(2)]
    assert (campaign.state, campaign.issued, campaign.total) == ("COMPLETED", 4, 4)
    assert [(coupon.user_id, coupon.sequence) for coupon in campaign.coupons] == [
        ("ann", 1),
        ("bob", 2),
        ("cho", 3),
        ("dan", 4),
    ]


def _wrong_shard_number(w: Writer) -> None:
    w.entries[3].shard = 1


def _position_skipped(w: Writer) -> None:
    del w.entries[3]


def _unknown_format(w: Writer) -> None:
    w.entries[0].format_version = 2


def _unknown_event(w: Writer) -> None:
    w.entries[3].events[0].ClearField("paused")


def _columns_differ(w: Writer) -> None:
    w.entries[2].events[0].granted.user_ids.append("eve")


def _epoch_fell(w: Writer) -> None:
    w.entries[7].revision = 7
    w.entries[7].writer = "node-0/1f"


def _two_writers(w: Writer) -> None:
    w.entries[7].writer = "node-2/3f"


def _decide_time_fell(w: Writer) -> None:
    w.entries[3].decide_time_us = START_US


def _grant_time_fell(w: Writer) -> None:
    w.entries[7].events[0].granted.time_deltas_us[0] = w.entries[2].events[0].granted.time_deltas_us[0]


def _delta_negative(w: Writer) -> None:
    w.entries[2].events[0].granted.time_deltas_us[1] = -1


def _created_twice(w: Writer) -> None:
    w.create()


def _unknown_campaign(w: Writer) -> None:
    w.entries[3].events[0].paused.campaign_id = "nobody"


def _total_lowered(w: Writer) -> None:
    w.entries[5].events[0].updated.total = 2


def _activated_early(w: Writer) -> None:
    created = w.entries[0].events[0].created
    created.create_time_us -= 5_000_000
    created.start_time_us = w.entries[1].events[0].activated.time_us + 1


def _ended_early(w: Writer) -> None:
    w.entries[0].events[0].created.end_time_us = w.now_us + 10_000_000
    w.entries[5].events[0].updated.end_time_us = w.now_us + 10_000_000
    w.happens("ended")


def _over_issued(w: Writer) -> None:
    w.grant("eve")


def _sequence_gap(w: Writer) -> None:
    w.entries[7].events[0].granted.first_sequence += 1


def _counter_gap(w: Writer) -> None:
    w.counter += 1
    w.happens("updated", total=9)
    w.grant("eve")


def _duplicate_code(w: Writer) -> None:
    codes = w.entries[2].events[0].granted.codes
    w.entries[7].events[0].granted.codes[0] = codes[0]


def _code_without_digit(w: Writer) -> None:
    w.entries[7].events[0].granted.codes[0] = "봄날가나다라마바사아"


def _code_of_another_name(w: Writer) -> None:
    codes = w.entries[7].events[0].granted.codes
    codes[0] = "겨울" + codes[0][2:]


def _code_made_up(w: Writer) -> None:
    w.entries[7].events[0].granted.codes[0] = "봄날0가나다라마바"


def _user_over_limit(w: Writer) -> None:
    w.entries[7].events[0].granted.user_ids[0] = "ann"


def _granted_before_start(w: Writer) -> None:
    w.entries[2].events[0].granted.time_deltas_us[0] = START_US - 1


def _granted_before_activation(w: Writer) -> None:
    w.entries[1].events[0].activated.campaign_id = campaign_in(2, 1)


def _granted_after_end_time(w: Writer) -> None:
    w.entries[5].events[0].updated.end_time_us = w.now_us - 500


def _granted_after_ended(w: Writer) -> None:
    w.happens("updated", total=9, end_time_us=w.now_us + 1_500)
    w.now_us += 5_000
    w.happens("ended")
    w.entries[-2].events[0].updated.end_time_us = w.now_us
    w.grant("eve")


def _granted_while_paused(w: Writer) -> None:
    del w.entries[4].events[:]


def _granted_after_cancel(w: Writer) -> None:
    w.happens("updated", total=9)
    w.happens("cancelled", request_id="c")
    w.grant("eve")


BAD: list[tuple[Callable[[Writer], None], Kind]] = [
    (_wrong_shard_number, Kind.BAD_ENTRY),
    (_position_skipped, Kind.BAD_ENTRY),
    (_unknown_format, Kind.BAD_ENTRY),
    (_unknown_event, Kind.BAD_ENTRY),
    (_columns_differ, Kind.BAD_ENTRY),
    (_epoch_fell, Kind.EPOCH_FELL),
    (_two_writers, Kind.TWO_WRITERS),
    (_decide_time_fell, Kind.TIME_FELL),
    (_grant_time_fell, Kind.TIME_FELL),
    (_delta_negative, Kind.TIME_FELL),
    (_created_twice, Kind.CREATED_TWICE),
    (_unknown_campaign, Kind.UNKNOWN_CAMPAIGN),
    (_total_lowered, Kind.TOTAL_LOWERED),
    (_activated_early, Kind.ACTIVATED_EARLY),
    (_ended_early, Kind.ENDED_EARLY),
    (_over_issued, Kind.OVER_ISSUED),
    (_sequence_gap, Kind.SEQUENCE_GAP),
    (_counter_gap, Kind.COUNTER_GAP),
    (_duplicate_code, Kind.DUPLICATE_CODE),
    (_code_without_digit, Kind.CODE_FORM),
    (_code_of_another_name, Kind.CODE_FORM),
    (_code_made_up, Kind.CODE_KEY),
    (_user_over_limit, Kind.USER_LIMIT),
    (_granted_before_start, Kind.GRANT_BEFORE_START),
    (_granted_before_activation, Kind.GRANT_BEFORE_START),
    (_granted_after_end_time, Kind.GRANT_AFTER_END),
    (_granted_after_ended, Kind.GRANT_AFTER_END),
    (_granted_while_paused, Kind.GRANT_WHILE_PAUSED),
    (_granted_after_cancel, Kind.GRANT_AFTER_CANCEL),
]


@pytest.mark.parametrize(("plant", "kind"), BAD, ids=[plant.__name__.strip("_") for plant, _ in BAD])
def test_a_planted_violation_is_found(plant: Callable[[Writer], None], kind: Kind) -> None:
    """One thing is wrong in an otherwise good journal: its kind is reported, at an entry of that shard."""
    writer = good()
    plant(writer)
    found = judge(writer).violations
    assert kind in {violation.kind for violation in found}
    assert all(violation.place.startswith("2@") for violation in found)


def test_every_kind_of_violation_is_planted_somewhere() -> None:
    """No kind exists that no test has seen caught."""
    elsewhere = {Kind.UNREADABLE, Kind.WRONG_SHARD, Kind.REQUEST_TWICE}
    assert {kind for _, kind in BAD} | elsewhere == set(Kind)


def test_a_campaign_in_a_foreign_shard_is_found() -> None:
    """A campaign lives in the shard that its id hashes to."""
    writer = Writer(1, campaign_in(2))
    writer.create()
    assert [violation.kind for violation in judge(writer).violations] == [Kind.WRONG_SHARD]


def test_one_request_is_granted_one_coupon() -> None:
    """Where a user may have several coupons, each request_id gets one: a retry that got a second is found."""
    writer = Writer(2, campaign_in(2))
    writer.create(per_user_limit=3)
    writer.activate()
    writer.grant("ann", "ann", requests=("r1", "r2"))
    assert judge(writer).violations == []
    writer.grant("ann", requests=("r1",))
    assert [violation.kind for violation in judge(writer).violations] == [Kind.REQUEST_TWICE]


def test_a_gap_is_reported_once() -> None:
    """What follows a gap is judged from there on: one lost counter is not a complaint about every later coupon."""
    writer = Writer(2, campaign_in(2))
    writer.create()
    writer.activate()
    writer.counter += 1
    writer.grant("ann")
    writer.grant("bob")
    assert [violation.kind for violation in judge(writer).violations] == [Kind.COUNTER_GAP]


def test_a_code_is_unique_across_shards() -> None:
    """The same code in two shards' journals is one violation too many."""
    first, second = good(0), good(2)
    second.entries[2].events[0].granted.codes[0] = first.entries[2].events[0].granted.codes[0]
    assert Kind.DUPLICATE_CODE in {violation.kind for violation in judge(first, second).violations}


def test_codes_are_judged_by_their_form_without_the_key() -> None:
    """Without the cluster's key a made-up code of the right form passes; with it, it does not."""
    writer = good()
    _code_made_up(writer)
    assert judge(writer, codec=None).violations == []


def test_violations_are_kept_up_to_a_bound_and_counted_beyond() -> None:
    """A thoroughly broken journal does not fill the memory with complaints."""
    audit = Audit(SHARDS, None)
    for _ in range(VIOLATIONS_MAX + 5):
        audit.violated(Kind.BAD_ENTRY, "x", "y")
    assert (len(audit.violations), audit.violations_left_out) == (VIOLATIONS_MAX, 5)
