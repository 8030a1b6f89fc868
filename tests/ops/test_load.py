"""The load generator, against a scripted service."""

import asyncio
from collections.abc import Callable

import pytest

from ops.load import NOT_SENT, LoadSpec, run_load
from ops.load_stats import ISSUED, NOT_STARTED, Call, LoadResult
from tests.ops.scripted import Scripted, serving


def load(service: Scripted, on_call: Callable[[Call], None] | None = None, **wanted: object) -> LoadResult:
    async def main() -> LoadResult:
        async with asyncio.timeout(30), serving(service) as router:
            return await run_load(LoadSpec(router, "spring", **wanted), on_call=on_call)  # type: ignore[arg-type]

    return asyncio.run(main())


@pytest.mark.parametrize(
    "wanted",
    [
        {"concurrency": 7},
        {"concurrency": 500},
        {"rate": 2_000.0},
        {"concurrency": 7, "stream": True},
        {"concurrency": 1, "stream": True},
        {"rate": 2_000.0, "stream": True},
    ],
    ids=str,
)
def test_every_request_gets_one_answer(wanted: dict[str, object]) -> None:
    """Closed or open loop, unary or stream: each index once, each from a user of its own, every outcome counted."""
    calls: list[Call] = []
    service = Scripted(total=5)
    result = load(service, calls.append, requests=100, **wanted)
    assert sorted(call.index for call in calls) == list(range(100))
    assert len({call.user_id for call in calls}) == len({call.request_id for call in calls}) == 100
    assert result.outcomes == {"SOLD_OUT": 95, ISSUED: 5}
    granted = [call.grant for call in calls if call.grant is not None]
    assert sorted(grant.user_id for grant in granted) == sorted(service.granted)
    assert all(call.answered_s >= call.sent_s for call in calls)


def test_users_take_turns() -> None:
    """With `users`, requests come from so many users; the second request of a user is ALREADY_ISSUED here."""
    result = load(Scripted(total=4), requests=12, concurrency=1, users=4)
    assert result.outcomes == {"ALREADY_ISSUED": 8, ISSUED: 4}


def test_knocking_repeats_the_same_request_until_the_start() -> None:
    """Refusals NOT_STARTED are counted apart, told to `on_call`, and followed by the same request."""
    calls: list[Call] = []
    service = Scripted(total=3, early=10)
    result = load(service, calls.append, requests=6, concurrency=3, knock_s=0.001)
    assert (result.knocks, result.outcomes) == (10, {ISSUED: 3, "SOLD_OUT": 3})
    assert sum(call.reason == NOT_STARTED for call in calls) == 10
    assert {request.request_id for request in service.requests} == {call.request_id for call in calls}
    assert len(service.requests) == 16


def test_without_knocking_a_refusal_is_the_answer() -> None:
    """NOT_STARTED is an outcome like any other."""
    assert load(Scripted(early=4), requests=4).outcomes == {NOT_STARTED: 4}


def test_a_broken_stream_costs_what_was_in_flight_and_no_more() -> None:
    """Its unanswered requests count as UNAVAILABLE; the rest goes out on a new stream."""
    result = load(Scripted(total=1_000, break_stream_after=2), requests=50, concurrency=10, channels=1, stream=True)
    # Two were answered at once and made room for two more.
    assert result.outcomes == {"ISSUED": 40, "UNAVAILABLE": 10}


def test_a_streams_requests_travel_together() -> None:
    """What finds room at one moment is one message: 10 requests in flight on one stream begin as one message of 10."""
    service = Scripted(total=1_000)
    load(service, requests=30, concurrency=10, channels=1, stream=True)
    assert service.messages[0] == 10


def test_an_open_loop_does_not_pile_up_without_bound() -> None:
    """What finds `in_flight_max` calls in flight is not sent, and says so."""
    result = load(Scripted(total=1_000), requests=200, rate=1e6, in_flight_max=5)
    assert result.outcomes[NOT_SENT] > 0
    assert sum(result.outcomes.values()) == 200


def test_a_dead_router_is_an_outcome() -> None:
    """Nobody listens: every request is counted as UNAVAILABLE, nothing is raised."""

    async def main() -> LoadResult:
        return await run_load(LoadSpec("127.0.0.1:1", "spring", 5, timeout_s=5.0))

    assert asyncio.run(main()).outcomes == {"UNAVAILABLE": 5}


@pytest.mark.parametrize("wanted", [{"requests": 0}, {"rate": 0.0}, {"stream": True, "knock_s": 1.0}, {"users": 0}])
def test_a_spec_that_makes_no_sense_is_refused(wanted: dict[str, object]) -> None:
    """Before anything is sent."""
    with pytest.raises(ValueError, match=r"must|does not"):
        LoadSpec(**({"router": "x:1", "campaign_id": "c", "requests": 1} | wanted))  # type: ignore[arg-type]
