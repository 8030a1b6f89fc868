"""How a caller enters a router: the CA that it believes, and its API key."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc
import grpc.aio

Options = Sequence[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Credentials:
    ca: bytes | None = None
    """PEM; None: without TLS."""
    api_key: str = field(default="", repr=False)
    """Empty: none."""

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Of every call. gRPC's own call credentials need TLS, which a router on loopback may do without."""
        return (("authorization", f"Bearer {self.api_key}"),) if self.api_key else ()

    def channel(self, router: str, options: Options = ()) -> grpc.Channel:
        if self.ca is None:
            return grpc.insecure_channel(router, options=options)
        return grpc.secure_channel(router, grpc.ssl_channel_credentials(self.ca), options=options)

    def aio_channel(self, router: str, options: Options = ()) -> grpc.aio.Channel:
        if self.ca is None:
            return grpc.aio.insecure_channel(router, options=options)
        return grpc.aio.secure_channel(router, grpc.ssl_channel_credentials(self.ca), options=options)


ANYBODY = Credentials()
"""No TLS, no key: what a router on loopback takes."""
