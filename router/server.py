"""The public API on sockets of our own: accepts, bounds, watches over its connections, and stops in order.

grpc.aio spends several times as much on a call as the rest of the router does, on one that is refused too; see
router/http2 for what is done instead, and router/aio_server.py for the same API on grpc.aio.
"""

import asyncio
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import structlog

from cluster.audit_log import AuditLog
from cluster.health import SERVING, Health
from cluster.tls import HTTP2, TlsIdentity
from router.access import Access
from router.api import SERVICE_NAME, Method, Streaming, methods
from router.http2.connection import Limits
from router.inbox import Budget
from router.peer import Peer
from router.service import CouponService
from router.unread import Unread

log = structlog.get_logger()

_BACKLOG = 4_096
_CONNECTIONS_MIN = 4
"""So many it takes, at the least, to have all the calls that the server takes."""
_LOOK_S = 1.0
_SERVE_ON_S = 1.0
"""So long a stopping server takes calls on the connections that it has: by then clients know that they should go."""
_LATE_S = 1.0
"""A look that comes so much too late: it was this process that stood still."""
_LINGER_S = 0.2
"""How long a client has to hear that the server has ended, and to close its side."""
_DESCRIPTORS_KEPT = 512
"""For all that is no client: nodes, etcd, the operator's port with its 256 connections, files."""


def connections_within(descriptors: int) -> int:
    """How many clients a process may have that is allowed so many descriptors: with none left it would hear no one, and
    reach neither a new node nor etcd. Where they are few, half of them."""
    return descriptors - min(_DESCRIPTORS_KEPT, descriptors // 2)


@dataclass(frozen=True, slots=True)
class ServerSettings:
    rpcs_max: int = 30_000
    """Calls at a time, streams included; beyond it: RESOURCE_EXHAUSTED."""
    drain_s_max: float = 10.0
    """How long a stopping server waits for the calls that it has."""
    connections_max: int = 20_000
    kept_bytes_max: int = 64 << 20
    """Of calls whose messages are not complete, or not taken yet."""
    unread_bytes_max: int = 256 << 20
    """Of answers that clients do not read, on all connections; beyond it, those that hold most are disconnected."""
    greeting_s_max: float = 10.0
    """A client that has not begun to speak HTTP/2 by then is disconnected."""
    ping_s: float = 60.0
    """A client that was silent for so long is asked whether it is there."""
    silence_s_max: float = 90.0
    """One that was silent for so long is disconnected."""
    stalled_s_max: float = 30.0
    """So is one that does not read its answers. A unary call is given up on if its client sends no end of the request
    for so long, or gives no room for the answer."""


class ApiServer:
    """To be made inside the event loop that it runs in."""

    def __init__(
        self,
        service: CouponService,
        settings: ServerSettings,
        tls: TlsIdentity | None = None,
        access: Access | None = None,
        audit: AuditLog | None = None,
    ) -> None:
        self.health = Health()
        self.health.set(SERVICE_NAME, SERVING)
        self.access = access
        self._tls = tls
        self.methods: Mapping[bytes, Method] = {
            path.encode(): method for path, method in methods(service, self.health, audit or AuditLog()).items()
        }
        self.budget = Budget(settings.kept_bytes_max)
        self._unread = Unread(settings.unread_bytes_max)
        self._making_room = False
        self.observer = service.observer
        self._service = service
        self._settings = settings
        limits = Limits()
        self._limits = replace(limits, streams_max=min(limits.streams_max, -(-settings.rpcs_max // _CONNECTIONS_MIN)))
        self._sockets: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []
        self._peers: set[Peer] = set()
        self._calls = 0
        self.full = False
        self._background = 0
        """Of the calls: those for which nobody waits."""
        self._idle = asyncio.Event()
        self._idle.set()
        self._alone = asyncio.Event()
        self._alone.set()
        self._looking: asyncio.Task[None] | None = None
        self._closed = False

    def listen(self, address: str) -> str:
        """Binds HOST:PORT, where port 0 is a free one; returns it with the port that it became.

        Raises:
            RuntimeError: it cannot be bound.
        """
        host, _, port = address.rpartition(":")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            listening = socket.create_server(
                (host.strip("[]"), int(port)),
                family=family,
                backlog=_BACKLOG,
                dualstack_ipv6=host == "[::]" and socket.has_dualstack_ipv6(),
            )
        except OSError as error:
            raise RuntimeError(f"cannot listen on {address}: {error}") from error
        listening.setblocking(False)
        self._sockets.append(listening)
        return f"{host}:{listening.getsockname()[1]}"

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        for listening in self._sockets:
            tls: dict[str, Any] = {}
            if self._tls is not None:
                tls = {
                    "ssl": self._tls.server_context(HTTP2),
                    "ssl_handshake_timeout": self._settings.greeting_s_max,
                    "ssl_shutdown_timeout": _LINGER_S,
                }
            self._servers.append(await loop.create_server(self._accept, sock=listening, backlog=_BACKLOG, **tls))
        self._looking = loop.create_task(self._look_after_peers(), name="server-peers")

    async def stop(self) -> None:
        """Listens no more and says NOT_SERVING, answers what it has (for `drain_s_max` at most), ends.

        Clients are told to go elsewhere. What they send before they have heard that is served like any other call, so
        that none fails for a client that has another router to go to; whoever still sends after that is refused.
        """
        self._closed = True
        for server in self._servers:
            server.close()
        for listening in self._sockets:
            listening.close()
        self.health.shut_down()
        self._service.end_streams()
        for peer in self._peers:
            peer.connection.announce_end()
        refusing = asyncio.get_running_loop().call_later(_SERVE_ON_S, self._service.refuse)
        try:
            async with asyncio.timeout(self._settings.drain_s_max):
                # A turn of the loop for those who watch our health: the end must not come before what is said.
                await asyncio.sleep(0)
                # In the turn in which the last call ended another one may have begun.
                while not self._idle.is_set():
                    await self._idle.wait()
        except TimeoutError:
            log.warning("drain_cut_short", calls=self._calls)
        refusing.cancel()
        self._service.refuse()
        for peer in tuple(self._peers):
            peer.connection.end()
            peer.flush()
        try:
            async with asyncio.timeout(_LINGER_S):
                await self._alone.wait()
        except TimeoutError:
            for peer in tuple(self._peers):
                peer.abort()
            await self._alone.wait()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])

    # --- router.peer.Host ---------------------------------------------------------------------------------------------

    def joined(self, peer: Peer) -> None:
        self._peers.add(peer)
        self._alone.clear()
        if self._closed:
            peer.abort()  # accepted, but not yet seen, when we stopped to listen
        elif len(self._peers) > self._settings.connections_max:
            log.warning("too_many_connections", connections=len(self._peers))
            peer.abort()

    def left(self, peer: Peer) -> None:
        self._peers.discard(peer)
        self._unread.forget(peer)
        if not self._peers:
            self._alone.set()

    def began(self, method: Method | None) -> None:
        self._calls += 1
        self.full = self._calls >= self._settings.rpcs_max
        if _is_background(method):
            self._background += 1
        elif self._calls - self._background == 1:
            self._idle.clear()

    def done(self, method: Method | None) -> None:
        self._calls -= 1
        self.full = self._calls >= self._settings.rpcs_max
        if _is_background(method):
            self._background -= 1
        elif self._calls == self._background:
            self._idle.set()

    def behind(self, peer: Peer) -> None:
        if peer.connection.ended:
            return  # it has been told to go, and is gone in a moment
        if self._unread.look(peer) and not self._making_room:
            self._making_room = True
            # Not at once: it may be this very peer that has to go, in the middle of what it does.
            asyncio.get_running_loop().call_soon(self._make_room)

    # --- connections --------------------------------------------------------------------------------------------------

    def _accept(self) -> Peer:
        return Peer(self, self._limits)

    def _make_room(self) -> None:
        self._making_room = False
        self._unread.make_room()

    async def _look_after_peers(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due_s = loop.time() + _LOOK_S
            await asyncio.sleep(_LOOK_S)
            now_s = loop.time()
            if now_s - due_s > _LATE_S:
                log.warning("stood_still", seconds=round(now_s - due_s, 3))
                for peer in self._peers:
                    peer.excuse(now_s - due_s)
            for peer in tuple(self._peers):
                self._look_after(peer, now_s)

    def _look_after(self, peer: Peer, now_s: float) -> None:
        settings, connection = self._settings, peer.connection
        connection.forgive()
        self.behind(peer)  # what a socket does not take is a little for each before anybody is told
        peer.give_up_since(now_s - settings.stalled_s_max)
        silent_s = now_s - peer.heard_s
        if peer.stalled_s is not None and now_s - peer.stalled_s > settings.stalled_s_max:
            log.info("client_disconnected", why="it does not read its answers")
            peer.abort()
        elif (
            (peer.said_all_s is not None and now_s - peer.said_all_s > _LINGER_S)
            or silent_s > settings.silence_s_max
            or (not connection.greeted and now_s - peer.opened_s > settings.greeting_s_max)
        ):
            peer.abort()
        elif connection.greeted and silent_s > settings.ping_s:
            connection.ping()


def _is_background(method: Method | None) -> bool:
    return isinstance(method, Streaming) and method.background
