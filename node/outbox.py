"""Replies on their way to one router: they gather, as frames, while an earlier frame is being written. No I/O."""

import asyncio
from collections.abc import AsyncIterator

from proto import node_pb2

PING_S = 0.25
"""A side that was silent for so long says that it lives."""
FRAME_BYTES_MAX = 1 << 20
"""Give or take one reply."""
FRAMES_MAX = 16
"""So many frames gather; then nothing more is asked for a router that does not take its replies."""
_REPLY_BYTES = 64
"""Of a reply, beside its response."""


class Outbox:
    def __init__(self) -> None:
        self._frames: list[list[node_pb2.Reply]] = []
        self._left = 0
        """Bytes that the last frame still has room for."""
        self._ready = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._closed = False

    def put(self, reply: node_pb2.Reply) -> None:
        if self._closed:
            return
        size = len(reply.response) + _REPLY_BYTES
        if size > self._left:
            self._begin_frame()
        self._left -= size
        self._frames[-1].append(reply)

    def _begin_frame(self) -> None:
        self._frames.append([])
        self._left = FRAME_BYTES_MAX
        self._ready.set()
        if len(self._frames) >= FRAMES_MAX:
            self._room.clear()

    async def room(self) -> None:
        """Returns when calls may be taken whose replies will come here."""
        await self._room.wait()

    def close(self) -> None:
        """The stream has ended: nobody reads what comes now."""
        self._closed = True
        self._ready.set()

    async def frames(self) -> AsyncIterator[node_pb2.NodeFrame]:
        """Frames of replies, or pings while there are none, until it is closed."""
        while not self._closed:
            try:
                async with asyncio.timeout(PING_S):
                    await self._ready.wait()
            except TimeoutError:
                yield node_pb2.NodeFrame(ping=node_pb2.Ping())
                continue
            frames, self._frames, self._left = self._frames, [], 0
            self._ready.clear()
            self._room.set()
            for replies in frames:
                yield node_pb2.NodeFrame(replies=node_pb2.Replies(replies=replies))
