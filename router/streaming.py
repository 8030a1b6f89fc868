"""One call with a stream of messages in either direction: its task, and what waits between that and the connection."""

import asyncio
from functools import lru_cache

import structlog
from google.rpc import code_pb2

from router import grpc_wire
from router.api import Streaming
from router.errors import ApiError, Facts, status_of
from router.grpc_wire import Failed
from router.http2.connection import Connection, Stream
from router.inbox import Inbox
from router.service import CallContext

log = structlog.get_logger()

INTERNAL = Failed(code_pb2.INTERNAL, "internal error")
_PENDING_BYTES_MAX = 256 << 10
"""Of the response, waiting for the client to give room: then its sender waits too."""


class StreamingCall:
    def __init__(
        self, connection: Connection, stream: Stream, inbox: Inbox, context: CallContext, writable: asyncio.Event
    ) -> None:
        """
        Args:
            writable: set while the socket takes more.
        """
        self.inbox = inbox
        self.flushed = asyncio.Event()
        """To be set when nothing of the response is pending any more."""
        self._connection = connection
        self._stream = stream
        self._context = context
        self._writable = writable
        self._begun = False
        self._task: asyncio.Task[int] | None = None

    def start(self, method: Streaming) -> asyncio.Task[int]:
        """Its result is the call's status."""
        self._task = asyncio.get_running_loop().create_task(self._run(method))
        return self._task

    def close(self, answered: bool) -> None:
        """The stream is closed; unless it was answered, the task has nobody to work for."""
        self.inbox.close()
        if not answered and self._task is not None:
            self._task.cancel()

    async def _run(self, method: Streaming) -> int:
        try:
            await method.handle(self.inbox.messages(), self._context, self._send)
        except (ApiError, Failed) as error:
            return self._fail(error)
        except Exception:
            # A bug: its trace is for the log, nothing of it for the caller.
            log.exception("call_failed")
            return self._fail(INTERNAL)
        self._begin()
        self._connection.finish(self._stream, grpc_wire.OK)
        return code_pb2.OK

    async def _send(self, message: bytes) -> None:
        """Returns when there is room for more."""
        self._begin()
        self.flushed.clear()
        self._connection.send(self._stream, grpc_wire.written(message))
        if self._stream.pending_bytes > _PENDING_BYTES_MAX:
            await self.flushed.wait()
        await self._writable.wait()

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._connection.begin(self._stream, grpc_wire.HEAD)

    def _fail(self, error: ApiError | Failed) -> int:
        self._connection.finish(self._stream, failure_block(error, only=not self._begun))
        return error.code


def failure_block(error: ApiError | Failed, *, only: bool) -> bytes:
    """
    Args:
        only: nothing was sent before.
    """
    if isinstance(error, ApiError):
        return _detailed(error.facts, only)
    return (grpc_wire.only_trailers if only else grpc_wire.trailers)(error.code, error.message)


@lru_cache(maxsize=1024)
def _detailed(facts: Facts, only: bool) -> bytes:
    """After a launch nearly every answer is the same."""
    write = grpc_wire.only_detailed_trailers if only else grpc_wire.detailed_trailers
    return write(status_of(facts))
