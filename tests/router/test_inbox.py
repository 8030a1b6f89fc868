"""What waits between a client and a call: bounded, counted, given back."""

import asyncio
import gzip
import tracemalloc

import pytest
from google.rpc import code_pb2

from router.errors import ApiError
from router.grpc_wire import Failed, written
from router.inbox import MESSAGE_BYTES, Budget, Inbox
from tests.router.rig import run


class Kept:
    """An inbox, and what was given back of it."""

    def __init__(self, bytes_max: int = 1 << 20, encoding: bytes | None = None) -> None:
        self.given_back = 0
        self.budget = Budget(bytes_max)
        self.inbox = Inbox(encoding, self.budget, self._consumed)

    def _consumed(self, count: int) -> None:
        assert count >= 0
        self.given_back += count

    async def all(self) -> list[bytes]:
        return [message async for message in self.inbox.messages()]


def compressed(message: bytes) -> bytes:
    packed = gzip.compress(message, mtime=0)
    return b"\x01" + len(packed).to_bytes(4, "big") + packed


def test_what_is_taken_is_given_back() -> None:
    """All of it, once, when the last message that has come is taken; half a message is kept."""

    async def test() -> None:
        kept = Kept()
        both = written(b"one") + written(b"two")
        kept.inbox.put(both + written(b"three")[:-1], ended=False)
        messages = kept.inbox.messages()
        assert await anext(messages) == b"one"
        assert await anext(messages) == b"two"
        half = len(written(b"three")) - 1
        assert (kept.given_back, kept.budget.kept) == (len(both), half)
        kept.inbox.put(written(b"three")[-1:], ended=True)
        assert [message async for message in messages] == [b"three"]
        assert (kept.given_back, kept.budget.kept) == (len(both) + half + 1, 0)
        kept.inbox.close()
        kept.inbox.close()
        assert (kept.given_back, kept.budget.kept) == (len(both) + half + 1, 0)

    run(test())


def test_whoever_waits_gets_the_next_message() -> None:
    """A message that comes while somebody waits for it, and the end in the same way."""

    async def test() -> None:
        kept = Kept()
        waiting = asyncio.create_task(kept.all())
        for piece in (written(b"one")[:3], written(b"one")[3:], written(b"two")):
            await asyncio.sleep(0)
            kept.inbox.put(piece, ended=False)
        await asyncio.sleep(0)
        assert not waiting.done()
        kept.inbox.put(b"", ended=True)
        assert await waiting == [b"one", b"two"]

    run(test())


@pytest.mark.parametrize(
    "data", [b"", written(b"one") + written(b"two"), written(b"one")[:-1], written(b"a") + b"\x00"]
)
def test_a_unary_call_has_one_message(data: bytes) -> None:
    """None, two, half of one or one and a half: INVALID_ARGUMENT."""

    async def test() -> None:
        kept = Kept()
        kept.inbox.put(data, ended=True)
        with pytest.raises(Failed) as caught:
            kept.inbox.only()
        assert caught.value.code == code_pb2.INVALID_ARGUMENT
        kept.inbox.close()
        assert kept.budget.kept == 0

    run(test())


def test_an_end_in_the_middle_of_a_message() -> None:
    """What was whole is told, then INVALID_ARGUMENT."""

    async def test() -> None:
        kept = Kept()
        kept.inbox.put(written(b"one") + written(b"two")[:-1], ended=True)
        messages = kept.inbox.messages()
        assert await anext(messages) == b"one"
        with pytest.raises(Failed) as caught:
            await anext(messages)
        assert caught.value.code == code_pb2.INVALID_ARGUMENT

    run(test())


@pytest.mark.parametrize("packed", [False, True])
def test_a_message_that_is_too_large_fails_by_name(packed: bool) -> None:
    """The API's own INVALID_FIELD; what was before it is told first."""

    async def test() -> None:
        kept = Kept(8 << 20, b"gzip")
        large = compressed(bytes((1 << 20) + 1)) if packed else written(bytes((1 << 20) + 1))
        kept.inbox.put(written(b"one") + large, ended=True)
        messages = kept.inbox.messages()
        assert await anext(messages) == b"one"
        with pytest.raises(ApiError):
            await anext(messages)
        kept.inbox.close()
        assert (kept.given_back, kept.budget.kept) == (len(written(b"one")) + len(large), 0)

    run(test())


def test_all_together_are_bounded() -> None:
    """Beyond the budget RESOURCE_EXHAUSTED for whoever came last; what it had brought counts until it is closed."""

    async def test() -> None:
        kept = Kept(380)
        other = Inbox(None, kept.budget, lambda _: None)
        kept.inbox.put(written(bytes(300))[:200], ended=False)
        other.put(written(bytes(300))[:200], ended=False)
        assert kept.inbox.failure is None
        assert isinstance(other.failure, Failed)
        assert other.failure.code == code_pb2.RESOURCE_EXHAUSTED
        other.close()
        assert kept.budget.kept == 200
        third = Inbox(None, kept.budget, lambda _: None)
        third.put(written(bytes(35)), ended=True)
        assert third.only() == bytes(35)

    run(test())


def test_thousands_of_empty_messages_cost_more_than_their_bytes() -> None:
    """What each costs us counts in the budget, not in the client's window; all of it is given back."""

    async def test() -> None:
        kept = Kept(1_000 * MESSAGE_BYTES)
        empty = written(b"")
        kept.inbox.put(empty * 900, ended=False)
        assert kept.inbox.failure is None
        assert kept.budget.kept == 900 * (len(empty) + MESSAGE_BYTES)
        messages = kept.inbox.messages()
        assert [await anext(messages) for _ in range(900)] == [b""] * 900
        assert (kept.given_back, kept.budget.kept) == (900 * len(empty), 0)
        kept.inbox.put(empty * 1_000, ended=False)
        assert isinstance(kept.inbox.failure, Failed)
        kept.inbox.close()
        assert (kept.given_back, kept.budget.kept) == (1_900 * len(empty), 0)

    run(test())


def test_what_waits_compressed_stays_small() -> None:
    """A client must not make us keep 1,000 times what the budget counts: 1 MiB of gzip may say 1 GiB."""

    async def test() -> None:
        kept = Kept(8 << 20, b"gzip")
        bombs = compressed(bytes(1 << 20)) * 50
        tracemalloc.start()
        try:
            kept.inbox.put(bombs, ended=True)
            assert tracemalloc.get_traced_memory()[1] < 4 << 20
        finally:
            tracemalloc.stop()
        assert [len(message) for message in await kept.all()] == [1 << 20] * 50
        assert kept.budget.kept == 0

    run(test())
