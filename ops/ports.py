"""Free TCP ports on loopback, outside the range from which the kernel takes the ports of outgoing connections: so that
a process which is started again finds its port free again."""

import random
import socket

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


def free_ports(count: int, rng: random.Random, taken: frozenset[int] = frozenset()) -> list[int]:
    """`count` different ports that are free now and not in `taken`.

    Raises:
        OSError: the machine has none left.
    """
    found: list[int] = []
    for _ in range(_TRIES):
        if len(found) == count:
            return found
        port = rng.randint(_FIRST, _LAST)
        if port not in taken and port not in found and is_free(port):
            found.append(port)
    raise OSError(f"no free ports between {_FIRST} and {_LAST} on 127.0.0.1")
