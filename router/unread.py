"""Answers that clients do not read, of all connections together. No I/O.

A connection has a bound of its own, and there may be many connections. When all of them together hold too much, those
that hold most have to go, and whoever reads what he asks for goes on.
"""

from typing import Protocol


class Holder(Protocol):
    @property
    def unread_bytes(self) -> int: ...

    def dismiss(self) -> None:
        """It holds more than others, and there is no room for all."""
        ...


class Unread:
    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._held: dict[Holder, int] = {}
        """As it was when somebody looked."""
        self.bytes = 0

    def look(self, holder: Holder) -> bool:
        """At how much it holds now. Returns whether all together may hold too much: then `make_room`."""
        now, before = holder.unread_bytes, self._held.get(holder, 0)
        if now:
            self._held[holder] = now
        elif before:
            del self._held[holder]
        self.bytes += now - before
        return self.bytes > self._bytes_max

    def forget(self, holder: Holder) -> None:
        self.bytes -= self._held.pop(holder, 0)

    def make_room(self) -> None:
        """Dismisses those that hold most, one after the other, until an eighth is free: to look through all of them
        again with the next byte would cost more than they do."""
        for holder in tuple(self._held):
            self.look(holder)  # it may have read since
        if self.bytes <= self._bytes_max:
            return
        for holder in sorted(self._held, key=self._held.__getitem__, reverse=True):
            if self.bytes <= self._bytes_max - self._bytes_max // 8:
                break
            holder.dismiss()
            self.forget(holder)  # not before: somebody may look while it goes
