"""Waking what waits for something longer than one call: a block is left as soon as somebody fires."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Interrupted(Exception):
    """The block was left because `Interrupt.fire` was called."""


class Interrupt:
    """One kind of news. `fire` ends every block that is inside `scope` at that moment."""

    def __init__(self) -> None:
        self._scopes: dict[asyncio.Timeout, None] = {}  # in the order in which they were entered

    def fire(self) -> None:
        for scope in self._scopes:
            # A timeout that is due at once is how asyncio lets one task end another's block and no more than the block.
            scope.reschedule(asyncio.get_running_loop().time())
        self._scopes.clear()

    @asynccontextmanager
    async def scope(self) -> AsyncIterator[None]:
        """Raises Interrupted at the block's next await after `fire`."""
        scope = asyncio.timeout(None)
        try:
            async with scope:
                self._scopes[scope] = None
                yield
        except TimeoutError as error:
            if scope.expired():
                raise Interrupted from error
            raise
        finally:
            self._scopes.pop(scope, None)
