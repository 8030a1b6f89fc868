"""A process's TLS identity: the files of its certificate, its key and the CA that it trusts.

Whoever begins a connection, or wants to know when a certificate ends, asks for what the files say then, so that a new
certificate needs no restart: connections that are open stay as they are, later ones use the new one. Files that do not
fit together, as while they are being replaced one after the other, are not taken: what was good before stays. Who the
other side is, `cluster.roles` reads.
"""

import math
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import grpc
import grpc.aio
import structlog
from cryptography import x509

log = structlog.get_logger()

NODE_NAME = "node.seonchak"
"""The name in every node's certificate. Nodes are found by addresses out of etcd, which change with every container
and say nothing about who listens there; that it is a node, this name proves."""

HTTP2, HTTP1 = "h2", "http/1.1"
"""What is spoken within TLS, by its name in ALPN."""

_TAKEN_UP_S = 0.05
"""So long gRPC may take to make its own of a new certificate, or to begin a handshake: it needs about a millisecond."""

_Signature: TypeAlias = tuple[tuple[int, int, int], ...]
"""Of each file: inode, size, time of its last change."""


class TlsUnusable(Exception):
    """The files of a TLS identity are missing, not readable, or do not fit together."""


@dataclass(frozen=True, slots=True)
class Pem:
    ca: bytes
    cert: bytes
    """With what stands between it and the CA behind it."""
    key: bytes = field(repr=False)

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """For a client that shows this certificate. A channel keeps them: later ones ask again."""
        return grpc.ssl_channel_credentials(self.ca, self.key, self.cert)


@dataclass(frozen=True, slots=True)
class _Loaded:
    signature: _Signature
    pem: Pem
    contexts: Mapping[str, ssl.SSLContext]
    """A server's, by what is spoken."""
    not_after_s: float
    ca_not_after_s: float


@dataclass(frozen=True, slots=True)
class TlsState:
    """What is in use. Times in seconds since the epoch: the earliest end of a file's certificates."""

    not_after_s: float
    ca_not_after_s: float
    refused: bool
    """The files hold something else, which cannot be used."""
    reloads_refused: int


class _Begun(ssl.SSLContext):
    """Begins each connection with the context of that moment.

    To load a chain into a context that is in use could leave it with a certificate and another one's key; to choose by
    its sni_callback lets a client whose SNI is no ASCII write on our stderr.
    """

    current: Callable[[], ssl.SSLContext]

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        # What asyncio and uvloop ask a context for, and nothing else.
        return self.current().wrap_bio(incoming, outgoing, server_side, server_hostname, session)


class TlsIdentity:
    def __init__(self, ca: Path, cert: Path, key: Path) -> None:
        """
        Raises:
            TlsUnusable
        """
        self._ca, self._cert, self._key = ca, cert, key
        self._refused: _Signature | None = None
        """Of the files, while they cannot be used."""
        self._reloads_refused = 0
        self._loaded = self._load(self._signature())

    def pem(self) -> Pem:
        """What the files say now."""
        return self._current().pem

    def state(self) -> TlsState:
        """With what the files say now."""
        loaded = self._current()
        return TlsState(loaded.not_after_s, loaded.ca_not_after_s, self._refused is not None, self._reloads_refused)

    def server_credentials(self, *, mutual: bool) -> grpc.ServerCredentials:
        """
        Args:
            mutual: clients without a certificate of our CA are not let in.
        """

        given = self._current()
        given_s = -math.inf
        turn = threading.Lock()

        def news() -> grpc.ServerCertificateConfiguration | None:
            nonlocal given, given_s
            with turn:
                current = self._current()
                if current is given:
                    # Not the same again, which gRPC would take for new.
                    time.sleep(max(0.0, given_s + _TAKEN_UP_S - time.monotonic()))
                    return None
                # gRPC frees the old one, without a lock, under handshakes that others of its threads begin. Those that
                # have asked before have begun by the end of this pause; those that ask after it wait for the other.
                time.sleep(_TAKEN_UP_S)
                given, given_s = current, time.monotonic()
                return _configuration(current.pem)

        # gRPC calls it for every handshake, from threads of its own, never from the event loop's.
        first = _configuration(given.pem)
        return grpc.dynamic_ssl_server_credentials(first, news, mutual)  # type: ignore[arg-type]  # the stubs lack None

    def server_context(self, protocol: str) -> ssl.SSLContext:
        """For a server of our own, as for one on asyncio: it takes what the files say with every connection.

        Args:
            protocol: HTTP2 or HTTP1.
        """
        context = _Begun(ssl.PROTOCOL_TLS_SERVER)
        context.current = lambda: self._current().contexts[protocol]
        return context

    def _current(self) -> _Loaded:
        signature = self._signature()
        if signature == self._loaded.signature:
            self._refused = None
        elif signature != self._refused:
            try:
                self._loaded = self._load(signature)
                self._refused = None
                log.info("certificate_reloaded", cert=str(self._cert))
            except TlsUnusable as error:
                self._refused = signature
                self._reloads_refused += 1
                log.error("certificate_not_reloaded", cert=str(self._cert), why=str(error))
        return self._loaded

    def _signature(self) -> _Signature:
        return tuple(map(_signature, (self._ca, self._cert, self._key)))

    def _load(self, signature: _Signature) -> _Loaded:
        contexts = {protocol: _context(protocol) for protocol in (HTTP2, HTTP1)}
        try:
            pem = Pem(self._ca.read_bytes(), self._cert.read_bytes(), self._key.read_bytes())
            for context in contexts.values():
                context.load_cert_chain(self._cert, self._key, _no_password)
                context.load_verify_locations(cadata=pem.ca.decode("ascii"))
            ends = _not_after_s(pem.cert), _not_after_s(pem.ca)
        except (OSError, ValueError) as error:  # an ssl.SSLError is an OSError; neither says what is in the files
            raise TlsUnusable(f"{self._cert}, {self._key} and {self._ca}: {error}") from error
        if self._signature() != signature:
            raise TlsUnusable("the files changed while they were read")
        return _Loaded(signature, pem, contexts, *ends)


def _configuration(pem: Pem) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.cert)], pem.ca)


def _not_after_s(pem: bytes) -> float:
    """Raises ValueError: there is no certificate in it, or one that cannot be read."""
    return min(certificate.not_valid_after_utc.timestamp() for certificate in x509.load_pem_x509_certificates(pem))


def _signature(path: Path) -> tuple[int, int, int]:
    try:
        stat = path.stat()
    except OSError:
        return (0, 0, 0)  # to read it fails, too, and says why
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _context(protocol: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([protocol])
    return context


def _no_password() -> str:
    """A key that asks for one would otherwise ask the terminal."""
    return ""


def node_channel(address: str, tls: TlsIdentity | None, options: Sequence[tuple[str, int]] = ()) -> grpc.aio.Channel:
    """To the node at HOST:PORT, and to nobody else who may listen there. For one connection, as its credentials are."""
    if tls is None:
        return grpc.aio.insecure_channel(address, options=options)
    named = (*options, ("grpc.ssl_target_name_override", NODE_NAME))
    return grpc.aio.secure_channel(address, tls.pem().channel_credentials(), options=named)
