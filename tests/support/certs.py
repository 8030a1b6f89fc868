"""Certificates for a test, in a directory of its own."""

from pathlib import Path

from cluster.tls import TlsIdentity
from ops.certs import make_certs


def certs_in(directory: Path) -> Path:
    make_certs(directory)
    return directory


def identity(directory: Path, name: str) -> TlsIdentity:
    return TlsIdentity(directory / "ca.crt", directory / f"{name}.crt", directory / f"{name}.key")
