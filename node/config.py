"""How a node is told what to do: SEONCHAK_* variables, or the flags of `seonchak node`."""

import socket
from pathlib import Path

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from cluster.tls_settings import TlsSettings


class NodeSettings(TlsSettings):
    """One node. Frozen; built once, in the entry point."""

    model_config = SettingsConfigDict(
        env_prefix="SEONCHAK_", frozen=True, extra="ignore", use_attribute_docstrings=True
    )

    node_id: str = Field(
        default_factory=lambda: socket.gethostname(),
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
    )
    """Unique in the cluster, the same after a restart. Not given: the machine's name; a container has its own."""
    listen: str = "127.0.0.1:0"
    """HOST:PORT of the NodeService; port 0: a free one."""
    advertise: str = ""
    """HOST:PORT under which routers and peers reach it; empty: as it listens, or the machine's name where it listens on
    every interface."""
    etcd_endpoints: str = "127.0.0.1:2379"
    """HOST:PORT, several with commas."""
    key_prefix: str = "seonchak/"
    """Of everything in etcd."""
    journal_dir: Path | None = None
    """Root of the `file` journal: one local directory that all nodes of this machine share."""
    lease_ttl_s: int = Field(default=3, ge=2)
    keepalive_s: float = Field(default=0.5, gt=0)
    claim_delay_s: float = Field(default=0.3, gt=0)
    """How long a node waits for the one that is preferred before it, when a shard has no owner."""
    hold_down_s: float = Field(default=2.0, ge=0)
    """How long a node that lost its place waits before it registers again."""
    settle_s: float = Field(default=2.0, ge=0)
    """How long a node has been there before it takes its shards from nodes that serve them: one that comes and goes
    moves nothing."""
    drain_s_max: float = Field(default=10.0, gt=0)
    """How long SIGTERM waits for successors to pull what this node owns."""
    shard_calls_max: int = Field(default=20_000, ge=1)
    """Calls in line for one shard; beyond it: overloaded."""
    standby_coupons_max: int = Field(default=5_000_000, ge=0)
    """Coupons kept in memory, some 200 bytes each, of shards that this node would own next, so that it takes them over
    at once; 0: none, and a takeover reads the shard's journal from the beginning."""
    etcd_quota_bytes: int = Field(default=2 << 30, ge=1)
    """What etcd was started with as --quota-backend-bytes; this is etcd's own default. From 3.6 on etcd says so itself,
    and this does not count."""
    etcd_space_check_s: float = Field(default=10.0, gt=0)
    """How often etcd's members are asked how large their database is."""
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
    def _lease_outlives_keepalives(self) -> "NodeSettings":
        if self.lease_ttl_s <= 3 * self.keepalive_s:
            raise ValueError("lease_ttl_s has to be more than 3 * keepalive_s")
        return self

    @model_validator(mode="after")
    def _listens_in_private(self) -> "NodeSettings":
        self.require_private("listen", self.listen)
        if self.metrics_address():
            self.require_private("metrics_listen", self.metrics_address())
        return self

    @model_validator(mode="after")
    def _one_place_for_metrics(self) -> "NodeSettings":
        if self.metrics_listen and self.metrics_port is not None:
            raise ValueError("metrics_port and metrics_listen say the same thing: set one of them")
        return self

    def metrics_address(self) -> str:
        """HOST:PORT; empty: no operator's port."""
        return self.metrics_listen if self.metrics_port is None else f"127.0.0.1:{self.metrics_port}"

    def address(self, port: int) -> str:
        """What others are told, when it listens on `port`."""
        host = self.listen.rpartition(":")[0]
        return self.advertise or f"{socket.gethostname() if host in ('0.0.0.0', '[::]') else host}:{port}"

    def endpoints(self) -> list[str]:
        return [endpoint.strip() for endpoint in self.etcd_endpoints.split(",") if endpoint.strip()]
