"""Every process's settings for TLS, and the rule that without it nobody listens to the network by accident."""

from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import model_validator
from pydantic_settings import BaseSettings

if TYPE_CHECKING:
    from cluster.tls import TlsIdentity


class TlsSettings(BaseSettings):
    tls_ca: Path | None = None
    """The CA, PEM: its certificates are trusted, among ourselves and of etcd. All three or none: without them there is
    no TLS, and the process listens on loopback only."""
    tls_cert: Path | None = None
    """This process's certificate, PEM, with what stands between it and the CA. Read again when it changes."""
    tls_key: Path | None = None
    """Its private key, PEM, without a password."""
    insecure: bool = False
    """Listen without TLS on any address: everybody on the network reads along."""

    @model_validator(mode="after")
    def _whole_identity(self) -> Self:
        given = [self.tls_ca, self.tls_cert, self.tls_key]
        if any(given) and not all(given):
            raise ValueError("tls_ca, tls_cert and tls_key are given together or not at all")
        return self

    @property
    def tls(self) -> bool:
        return self.tls_cert is not None

    def tls_identity(self) -> "TlsIdentity | None":
        """Raises TlsUnusable."""
        if self.tls_ca is None or self.tls_cert is None or self.tls_key is None:
            return None
        # Not before the settings are good: it takes grpc's import.
        from cluster.tls import TlsIdentity

        return TlsIdentity(self.tls_ca, self.tls_cert, self.tls_key)

    def require_private(self, name: str, address: str) -> None:
        """Raises ValueError: `address` (HOST:PORT), the setting `name`, can be reached from elsewhere without TLS."""
        if not (self.tls or self.insecure or is_loopback(address)):
            raise ValueError(
                f"{name} is {address}, which others can reach, and there is no TLS: give tls_ca, tls_cert and tls_key "
                "(`seonchak certs` makes some), or say insecure"
            )


def is_loopback(address: str) -> bool:
    """Whether HOST:PORT is reached from this machine alone. A name other than localhost may mean anything."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
