"""TCP ports on loopback for servers that are about to be started, reserved among all processes that ask here.

That nobody listens on a port says nothing of the next moment: a server needs a second until it listens, and one that
was killed does not until it is started again. So a port is reserved by a name of which a machine has one, for as long
as the cluster lives. They lie outside the range from which the kernel takes the ports of outgoing connections.
"""

import socket
from random import Random
from types import TracebackType

_FIRST, _LAST = 20_000, 32_000
_TRIES = 500


def is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


class ReservedPorts:
    """The ports of one cluster; let go of with `close`, at the end of `with`, or when the process ends in any way."""

    def __init__(self) -> None:
        # Never a run's seed: two runs with the same one may run side by side.
        self._rng = Random()
        self._reservations: list[socket.socket] = []

    def reserve(self, port: int) -> bool:
        """Whether it is this object's from now on. False: it is reserved already, here or anywhere on the machine.

        Source: unix(7): a socket in the abstract namespace has no file, and is gone with its last descriptor; names are
        per network namespace, as ports are.
        """
        reservation = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            reservation.bind(f"\0seonchak-port-{port}")
        except OSError:
            reservation.close()
            return False
        self._reservations.append(reservation)
        return True

    def take(self) -> int:
        """Another port, on which nobody listens.

        Raises:
            OSError: the machine has none left.
        """
        for _ in range(_TRIES):
            port = self._rng.randint(_FIRST, _LAST)
            if self.reserve(port) and is_free(port):
                return port
        raise OSError(f"no free ports between {_FIRST} and {_LAST} on 127.0.0.1")

    def close(self) -> None:
        while self._reservations:
            self._reservations.pop().close()

    def __enter__(self) -> "ReservedPorts":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
