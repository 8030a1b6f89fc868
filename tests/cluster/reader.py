"""`python -m tests.cluster.reader ROUTER CALLS COUPONS CAMPAIGN...`: somebody who reads as much as he can.

Keeps so many GetCampaign calls outstanding, each for so many coupons: whatever one comes to, the next one follows at
once. Reads what he is sent, and looks at none of it. Says "reading" on stdout when the first page has come, and reads
until his stdin ends; then says how many pages came, and how many calls were refused.
"""

import asyncio
import sys

from proto import coupon_pb2
from router.grpc_wire import written
from router.http2 import frames
from tests.router.http2.talk import END_HEADERS, HELLO, block, data, whole_frames

CONNECTIONS = 4
ROOM_BYTES = 1 << 30
"""For pages: of a connection, given anew whenever a part of it is used."""
HEAD = block(
    "/coupon.v1.CouponService/GetCampaign",
    (b":authority", b"localhost"),
    (b"content-type", b"application/grpc"),
    (b"te", b"trailers"),
)


class Reader(asyncio.Protocol):
    def __init__(self, requests: list[bytes], calls: int, first_page: asyncio.Event, lost: asyncio.Event) -> None:
        self.pages = self.refused = 0
        self._requests = requests
        self._calls = calls
        self._first_page = first_page
        self._lost = lost
        self._number = 1
        self._heard = bytearray()
        self._used = 0
        self._shown: set[int] = set()
        """Streams on which a page has begun."""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        wide = frames.settings({frames.INITIAL_WINDOW_SIZE: ROOM_BYTES}) + frames.window_update(0, ROOM_BYTES)
        transport.write(HELLO + wide + b"".join(self._call() for _ in range(self._calls)))

    def connection_lost(self, error: Exception | None) -> None:
        self._lost.set()

    def data_received(self, piece: bytes) -> None:
        self._heard += piece
        self._used += len(piece)
        whole, size = whole_frames(self._heard)
        del self._heard[:size]
        said = []
        for frame in whole:
            if frame.kind == frames.DATA:
                self._shown.add(frame.stream)
            elif frame.kind == frames.HEADERS and frame.end:
                self._ended(frame.stream)
                said.append(self._call())
            elif frame.kind == frames.PING and not frame.flags & frames.ACK:
                said.append(frames.frame(frames.PING, frames.ACK, 0, frame.payload))
        if self._used > ROOM_BYTES // 2:
            said.append(frames.window_update(0, self._used))
            self._used = 0
        self._transport.write(b"".join(said))

    def _ended(self, number: int) -> None:
        if number in self._shown:
            self._shown.remove(number)
            self.pages += 1
            self._first_page.set()
        else:
            self.refused += 1

    def _call(self) -> bytes:
        number, self._number = self._number, self._number + 2
        request = self._requests[number // 2 % len(self._requests)]
        return frames.frame(frames.HEADERS, END_HEADERS, number, HEAD) + data(number, written(request), end=True)


async def main(router: str, calls: int, coupons: int, campaigns: list[str]) -> None:
    requests = [
        coupon_pb2.GetCampaignRequest(campaign_id=campaign_id, page_size=coupons).SerializeToString()
        for campaign_id in campaigns
    ]
    host, _, port = router.rpartition(":")
    loop = asyncio.get_running_loop()
    first_page, lost = asyncio.Event(), asyncio.Event()
    readers = []
    for _ in range(CONNECTIONS):
        _, reader = await loop.create_connection(
            lambda: Reader(requests, calls // CONNECTIONS, first_page, lost), host, int(port)
        )
        readers.append(reader)
    await first_page.wait()
    say("reading")
    await loop.run_in_executor(None, sys.stdin.read)
    assert not lost.is_set(), "the router has closed a connection"
    say(f"{sum(reader.pages for reader in readers)} {sum(reader.refused for reader in readers)}")


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]))
