"""What a process says of its certificates: until when they are good, and whether it takes those that its files hold."""

from collections.abc import Iterator

from prometheus_client.metrics_core import Metric

from cluster.metrics import counter, gauge
from cluster.tls import TlsIdentity

OWN, PUBLIC, CA = "own", "public", "ca"


class Certificates:
    """Implements cluster.metrics.Source. Says nothing where there is no TLS."""

    def __init__(self, own: TlsIdentity | None, public: TlsIdentity | None = None) -> None:
        """
        Args:
            public: a router's towards its clients; None: the same as its own.
        """
        given = {(OWN,): own, (PUBLIC,): public}
        self._identities = {name: identity for name, identity in given.items() if identity is not None}

    def families(self) -> Iterator[Metric]:
        if not self._identities:
            return
        states = {name: identity.state() for name, identity in self._identities.items()}
        ca = {(CA,): min(state.ca_not_after_s for state in states.values())}
        yield gauge(
            "certificate_not_after_timestamp_seconds",
            "When the certificate that is in use ends, or what stands between it and the CA; of the CA the earliest.",
            ("certificate",),
            {name: state.not_after_s for name, state in states.items()} | ca,
        )
        yield gauge(
            "certificate_refused",
            "1: the files hold something else than what is in use, and it cannot be used.",
            ("certificate",),
            {name: state.refused for name, state in states.items()},
        )
        yield counter(
            "certificate_reloads_refused",
            "How often the files had changed and could not be used.",
            ("certificate",),
            {name: state.reloads_refused for name, state in states.items()},
        )
