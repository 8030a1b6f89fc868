"""How a router is told what to do: SEONCHAK_* variables, or the flags of `seonchak router`."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from cluster.tls_settings import TlsSettings, is_loopback
from router.limits import Rate

if TYPE_CHECKING:
    from cluster.tls import TlsIdentity


class RouterSettings(TlsSettings):
    """One router. Frozen; built once, in the entry point."""

    model_config = SettingsConfigDict(env_prefix="SEONCHAK_", frozen=True, extra="ignore")

    router_id: str = Field(default="router", min_length=1, max_length=64)
    """What nodes call it in their logs."""
    listen: str = "127.0.0.1:50051"
    """HOST:PORT of the public API; port 0: a free one."""
    server: Literal["http2", "grpcio"] = "http2"
    """What serves the public API: our own transport, or grpc.aio's, to compare with. The latter keeps some 10 KB for
    each call that its client resets at once, without a bound: it is not for a network."""
    public_tls_cert: Path | None = None
    """The certificate for the public API, if it is another one than tls_cert; with public_tls_key."""
    public_tls_key: Path | None = None
    etcd_endpoints: str = "127.0.0.1:2379"
    """HOST:PORT, several with commas."""
    key_prefix: str = "seonchak/"
    """Of everything in etcd."""
    auth: Literal["auto", "on", "off"] = "auto"
    """Whether callers need an API key; auto: unless it listens on loopback only. Off elsewhere takes insecure, too."""
    key_cache_max_age_s: float = Field(default=5.0, gt=0)
    """A router that has not heard from etcd for longer refuses every key: one may have been revoked."""
    key_rate_per_s: float = Field(default=0.0, ge=0)
    """Calls with one API key, items of streams included, at this router; beyond: RATE_LIMITED. 0: no limit."""
    key_burst: int = Field(default=0, ge=0)
    """So many of them at once; 0: those of a second."""
    user_rate_per_s: float = Field(default=0.0, ge=0)
    """IssueCoupon for one user, items of IssueCoupons included, at this router; beyond: RATE_LIMITED. 0: no limit."""
    user_burst: int = Field(default=0, ge=0)
    """So many of them at once; 0: those of a second."""
    audit_log: Path | None = None
    """A file to which every administrative call is appended; none: it is an event `audit` among the other events."""
    default_timeout_s: float = Field(default=10.0, gt=0)
    """For calls whose client set no deadline, and for one item of a stream."""
    calls_max: int = Field(default=20_000, ge=1)
    """Calls accepted and not yet answered; beyond it: RESOURCE_EXHAUSTED."""
    node_calls_max: int = Field(default=2_500, ge=1)
    """Calls with one node, not yet answered; beyond it IssueCoupon is RESOURCE_EXHAUSTED. Some half a second of what a
    node can do: who has more before him gives up before it is his turn."""
    call_bytes_max: int = Field(default=64 << 20, ge=1 << 20)
    """The same in bytes of requests."""
    rpcs_max: int = Field(default=30_000, ge=1)
    """RPCs at a time, open streams included."""
    stream_items_max: int = Field(default=1_000, ge=1)
    """Items of one IssueCoupons stream in flight; beyond it the stream is not read."""
    drain_s_max: float = Field(default=10.0, ge=0)
    """How long SIGTERM waits for the calls that are in flight."""
    etcd_answer_s_max: float = Field(default=0.7, gt=0)
    """An answer of etcd missing for longer changes the endpoint."""
    expect_cluster_id: str = ""
    """If set, the cluster has to have this id."""
    expect_shards: int = 0
    """If set, the cluster has to have so many shards."""
    expect_code_key_fingerprint: str = ""
    """If set, the cluster's code key has to have this fingerprint."""
    metrics_listen: str = ""
    """HOST:PORT of /metrics, /healthz and /readyz, for operators; port 0: a free one; empty: none.
    With TLS where the process has it; clients need no certificate."""
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    """The same as metrics_listen 127.0.0.1:PORT."""
    log_json: bool = True

    @model_validator(mode="after")
    def _listens_in_private(self) -> Self:
        self.require_private("listen", self.listen)
        if self.metrics_address():
            self.require_private("metrics_listen", self.metrics_address())
        if self.auth == "off" and not (self.insecure or is_loopback(self.listen)):
            raise ValueError(f"auth is off and listen is {self.listen}, which others can reach: say insecure, too")
        if self.server == "grpcio" and not (self.insecure or is_loopback(self.listen)):
            raise ValueError("server grpcio is for comparisons on loopback")
        if (self.public_tls_cert is None) != (self.public_tls_key is None):
            raise ValueError("public_tls_cert and public_tls_key are given together or not at all")
        if self.public_tls_cert is not None and not self.tls:
            raise ValueError("public_tls_cert needs tls_ca, tls_cert and tls_key, too: for nodes and etcd")
        return self

    @property
    def asks_for_keys(self) -> bool:
        return self.auth == "on" or (self.auth == "auto" and not is_loopback(self.listen))

    @property
    def key_rate(self) -> Rate | None:
        return Rate(self.key_rate_per_s, self.key_burst) if self.key_rate_per_s else None

    @property
    def user_rate(self) -> Rate | None:
        return Rate(self.user_rate_per_s, self.user_burst) if self.user_rate_per_s else None

    def public_tls_identity(self) -> "TlsIdentity | None":
        """None: the process's own. Raises TlsUnusable."""
        if self.tls_ca is None or self.public_tls_cert is None or self.public_tls_key is None:
            return None
        from cluster.tls import TlsIdentity

        return TlsIdentity(self.tls_ca, self.public_tls_cert, self.public_tls_key)

    @model_validator(mode="after")
    def _one_place_for_metrics(self) -> "RouterSettings":
        if self.metrics_listen and self.metrics_port is not None:
            raise ValueError("metrics_port and metrics_listen say the same thing: set one of them")
        return self

    def metrics_address(self) -> str:
        """HOST:PORT; empty: no operator's port."""
        return self.metrics_listen if self.metrics_port is None else f"127.0.0.1:{self.metrics_port}"

    def endpoints(self) -> list[str]:
        return [endpoint.strip() for endpoint in self.etcd_endpoints.split(",") if endpoint.strip()]
