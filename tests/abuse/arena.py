"""A real cluster under attack, and what has to hold of it meanwhile.

Around each attack: the same processes live before and after it, their memory and what they write into their logs stay
within bounds (the figures go into the test's report), and a bystander, who issues coupons with a key of his own, is
given every one that he asks for, and soon.
"""

import asyncio
import json
import re
import resource
import ssl
import sys
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import grpc
import grpc.aio

from cluster.keys import KeyRole
from cluster.kv import Get, prefix_end
from cluster.records import Keyspace
from ops.child import Child
from ops.credentials import Credentials
from ops.errors import of_call
from ops.etcd_client import etcd_client
from ops.keys import create_key, revoke_key
from ops.layout import certs_dir
from ops.local import LocalCluster, LocalSpec
from ops.status import ClusterStatus, read_status
from proto import coupon_pb2 as pb
from proto.coupon_pb2_grpc import CouponServiceStub
from tests.abuse.raw import Target
from tests.support.memory import forget_peak, memory_mib

ATTACK_S_MAX = 60.0
"""A hang is a failure that shows where; nothing is measured by it."""
ISSUED_MIN = 3
"""So many coupons at the least the bystander is given, during each attack and right after it."""
SLOWEST_S_MAX = 5.0
"""Of his calls: some 0.8 s where two clusters are attacked at a time."""
LOG_KIB_MAX = 64
"""By so much the log of a process may grow during an attack: nobody fills a disk by coming wrong again and again."""
CAMPAIGN = "bystanders"

Record = Callable[[str, object], None]
"""pytest's record_property."""
T = TypeVar("T")


@dataclass(frozen=True)
class Variant:
    server: Literal["http2", "grpcio"]
    tls: bool

    def __str__(self) -> str:
        return f"{self.server}-{'tls' if self.tls else 'plain'}"


@dataclass
class Bystander:
    """Somebody who has nothing to do with it, on a connection of his own. Never asks twice for the same."""

    stub: CouponServiceStub
    who: Credentials
    issued: int = 0
    longest_s: float = 0.0
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """For ever. Raises when one call fails."""
        loop = asyncio.get_running_loop()
        while True:
            began_s = loop.time()
            request = pb.IssueCouponRequest(campaign_id=CAMPAIGN, user_id=f"bystander-{self.issued}")
            answer = await self.stub.IssueCoupon(request, timeout=20, metadata=self.who.metadata)
            # Not always for the first time: a router repeats what it does not know the outcome of.
            assert answer.coupon.user_id == request.user_id
            self.longest_s = max(self.longest_s, loop.time() - began_s)
            self.issued += 1
            self._news.set()

    async def gets(self, more: int) -> None:
        """Wait for so many further coupons."""
        wanted = self.issued + more
        while self.issued < wanted:
            self._news.clear()
            await self._news.wait()


class Arena:
    """Made by `arena`. `run` is how a test, which may be one of hypothesis', gets onto the loop of all this."""

    def __init__(self, cluster: LocalCluster, variant: Variant, record: Record, runner: asyncio.Runner) -> None:
        self.cluster = cluster
        self.variant = variant
        self.secrets: dict[str, str] = {}
        """What must not be written anywhere; by name."""
        self.told: list[str] = []
        """What callers were told: errors, and what came on raw sockets."""
        self.bystander: Bystander
        self.watch: asyncio.Task[None]
        self._record = record
        self._runner = runner
        self._pids = {child.name: child.pid for child in self.processes}

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(ATTACK_S_MAX):
                return await work

        return self._runner.run(bounded())

    # --- who is there -------------------------------------------------------------------------------------------------

    @property
    def processes(self) -> tuple[Child, ...]:
        return *self.cluster.routers, *self.cluster.nodes

    @property
    def data_dir(self) -> Path:
        return self.cluster.spec.data_dir

    @property
    def ca(self) -> bytes | None:
        return (certs_dir(self.data_dir) / "ca.crt").read_bytes() if self.variant.tls else None

    @property
    def public(self) -> Target:
        return Target(self.cluster.router, self._client_context("h2"))

    @property
    def node(self) -> Target:
        """With TLS: as a router, so that what is said gets as far as it can."""
        return self.node_called(self.cluster.layout.nodes[0].name)

    def node_called(self, name: str) -> Target:
        """As `node`, this one."""
        (address,) = (node.address for node in self.cluster.layout.nodes if node.name == name)
        return Target(address, self._client_context("h2", "router"))

    @property
    def operators(self) -> tuple[Target, ...]:
        """The operator's ports of a router and of a node."""
        layout = self.cluster.layout
        tls = self._client_context("http/1.1")
        return tuple(Target(place[0].metrics_address, tls) for place in (layout.routers, layout.nodes))

    def _client_context(self, protocol: str, shown: str = "") -> ssl.SSLContext | None:
        if not self.variant.tls:
            return None
        certs = certs_dir(self.data_dir)
        context = ssl.create_default_context(cafile=str(certs / "ca.crt"))
        context.check_hostname = False
        context.set_alpn_protocols([protocol])
        if shown:
            context.load_cert_chain(certs / f"{shown}.crt", certs / f"{shown}.key")
        return context

    async def status(self) -> ClusterStatus:
        return await read_status(self.cluster.layout.etcd_endpoints, Keyspace().prefix, 20, self.cluster.operator)

    # --- callers ------------------------------------------------------------------------------------------------------

    async def key(self, *roles: KeyRole) -> tuple[str, Credentials]:
        """A new key's id, and who shows it."""
        async with etcd_client(self.cluster.layout.etcd_endpoints, self.cluster.operator) as etcd:
            key_id, token = await create_key(etcd, Keyspace(), frozenset(roles), "abuse")
        self.secrets[f"key {key_id}"] = token.split("_", 2)[2]
        who = Credentials(self.ca, token)
        async with self.caller(who) as stub:
            while await self.reason(stub.GetCoupon(pb.GetCouponRequest(), metadata=who.metadata)) == "KEY_INVALID":
                await asyncio.sleep(0.02)  # the router has not heard of it yet; the test's timeout bounds this
        return key_id, who

    async def revoke(self, key_id: str) -> None:
        async with etcd_client(self.cluster.layout.etcd_endpoints, self.cluster.operator) as etcd:
            assert await revoke_key(etcd, Keyspace(), key_id)

    @asynccontextmanager
    async def caller(self, who: Credentials) -> AsyncIterator[CouponServiceStub]:
        """On a connection of its own."""
        async with who.aio_channel(self.cluster.router, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            yield CouponServiceStub(channel)

    async def reason(self, call: grpc.aio.UnaryUnaryCall[Any, Any]) -> str:
        """Why it was refused, or "" if it was not. The error's text is kept."""
        try:
            await call
        except grpc.aio.AioRpcError as error:
            self.told.append(f"{error!r} {of_call(error)}")
            return of_call(error).reason
        return ""

    # --- what has to hold ---------------------------------------------------------------------------------------------

    @contextmanager
    def attack(self, name: str, *, more_mib: int) -> Iterator[None]:
        """
        Args:
            more_mib: by so much at the most any process may have grown at the attack's worst moment.
        """
        for child in self.processes:
            forget_peak(child.pid)
        before = {child.name: memory_mib(child.pid, "VmRSS") for child in self.processes}
        logs = {child.name: self.log_bytes(child) for child in self.processes}
        self.bystander.longest_s = 0.0
        issued = self.bystander.issued
        try:
            yield
            self.run(self.served(ISSUED_MIN))
        except BaseException as error:
            error.add_note(f"attack: {name} at {self.variant}")
            raise
        figures = []
        for child in self.processes:
            assert (child.running, child.pid) == (True, self._pids[child.name]), f"{name} has ended {child.name}"
            peak = memory_mib(child.pid, "VmHWM")
            figures.append(f"{child.name} {before[child.name]}, {peak}, {memory_mib(child.pid, 'VmRSS')}")
            assert peak - before[child.name] <= more_mib, f"{name}: {figures[-1]} MiB"
            logged_kib = (self.log_bytes(child) - logs[child.name]) // 1_024
            assert logged_kib <= LOG_KIB_MAX, f"{name}: {child.name} wrote {logged_kib} KiB into its log"
            figures[-1] += f" and {logged_kib} KiB logged"
        slowest_s = self.bystander.longest_s
        assert slowest_s <= SLOWEST_S_MAX, f"{name}: a coupon came after {slowest_s:.2f} s"
        bystander = f"{self.bystander.issued - issued} coupons, the slowest {slowest_s:.2f} s"
        self.note(name, f"MiB before, peak, after: {'; '.join(figures)}; meanwhile {bystander}")

    def note(self, name: str, figures: str) -> None:
        """Into the test's report, and its output."""
        self._record(name, figures)
        sys.stdout.write(f"{self.variant} {name}: {figures}\n")

    async def served(self, more: int) -> None:
        """Returns when the bystander has so many further coupons. Raises what has happened to him."""
        waiting = asyncio.ensure_future(self.bystander.gets(more))
        await asyncio.wait((waiting, self.watch), return_when=asyncio.FIRST_COMPLETED)
        if self.watch.done():
            waiting.cancel()
            self.watch.result()

    def check_logs(self) -> None:
        """Nobody's program broke, and nothing had to be started again."""
        for child in self.processes:
            text = self.log(child)
            assert "operator_port" in text, f"the log of {child.name} is not where it was looked for"
            found = broken(text)
            assert not found, f"{child.name}: {found}"

    def log_bytes(self, child: Child) -> int:
        return child.spec.log_path.stat().st_size

    def log(self, child: Child) -> str:
        return child.spec.log_path.read_text(errors="replace")

    # --- secrets ------------------------------------------------------------------------------------------------------

    async def collect_secrets(self) -> None:
        """The code key and the private keys; API keys are there since they were made."""
        keys = Keyspace()
        async with etcd_client(self.cluster.layout.etcd_endpoints, self.cluster.operator) as etcd:
            found = await etcd.get(Get(keys.code_keys, prefix_end(keys.code_keys)))
        assert found.kvs
        for kv in found.kvs:
            value = bytes.fromhex(kv.value.decode())
            self.secrets[kv.key] = kv.value.decode()
            written = repr(value)[2:-1]
            self.secrets[f"{kv.key} as Python writes bytes"] = written
            self.secrets[f"{kv.key} as that stands in JSON"] = json.dumps(written)[1:-1]
            self.secrets[f"{kv.key} in base64"] = b64encode(value).decode()
        for path in certs_dir(self.data_dir).glob("*.key"):
            for number, line in enumerate(path.read_text().splitlines()[1:-1]):
                if len(line) >= 24:
                    self.secrets[f"{path.name}, line {number}"] = line

    def leaks(self, texts: dict[str, str]) -> list[tuple[str, str]]:
        """Which secret stands where."""
        assert all(len(secret) >= 24 for secret in self.secrets.values()), "too short to be looked for"
        return [
            (name, where) for name, secret in self.secrets.items() for where, text in texts.items() if secret in text
        ]


def broken(log: str) -> list[str]:
    """Lines of a log that only a bug writes: traces, and errors that a loop found nobody to tell."""
    signs = re.compile(r"Traceback|call_failed|never retrieved|never awaited|Exception ignored|Exception in|\bpanic\b")
    found = [line for line in log.splitlines() if signs.search(line)]
    for line in log.splitlines():
        if line.startswith("{"):
            event = json.loads(line)
            if "exception" in event and line not in found:
                found.append(line)
    return found


def descriptors() -> int:
    """How many this process may have from now on: as many as it is allowed. What it starts afterwards has them, too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


@contextmanager
def arena(data_dir: Path, variant: Variant, record: Record) -> Iterator[Arena]:
    """A cluster of 2 nodes and a router that asks for keys; at the end, its logs are looked through."""
    descriptors()
    with asyncio.Runner() as runner, ExitStack() as stack:
        here = stack.enter_context(_synchronous(runner, _arena(data_dir, variant, record, runner)))
        yield here
    here.check_logs()  # what they said while they ended, too


@asynccontextmanager
async def _arena(data_dir: Path, variant: Variant, record: Record, runner: asyncio.Runner) -> AsyncIterator[Arena]:
    spec = LocalSpec(
        data_dir,
        nodes=2,
        shards=4,
        tls=variant.tls,
        restart=False,
        router_env={"SEONCHAK_AUTH": "on", "SEONCHAK_SERVER": variant.server},
        node_env={"SEONCHAK_SETTLE_S": "0"},
    )
    async with LocalCluster(spec) as cluster:
        here = Arena(cluster, variant, record, runner)
        _, admin = await here.key(KeyRole.ADMIN)
        _, issuer = await here.key(KeyRole.ISSUE)
        async with here.caller(admin) as stub:
            for campaign_id in (CAMPAIGN, "long"):
                campaign = pb.Campaign(name="구경꾼", total=1_000_000)
                create = pb.CreateCampaignRequest(campaign_id=campaign_id, campaign=campaign)
                await stub.CreateCampaign(create, timeout=20, metadata=admin.metadata)
        async with here.caller(issuer) as stub:
            here.bystander = Bystander(stub, issuer)
            here.watch = asyncio.create_task(here.bystander.run(), name="bystander")
            yield here
            here.watch.cancel()
            await asyncio.wait([here.watch])
            if not here.watch.cancelled():
                here.watch.result()


@contextmanager
def _synchronous(runner: asyncio.Runner, context: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """The same, entered and left on the runner's loop, which turns in between only while something is run."""
    entered = runner.run(_entered(context))
    try:
        yield entered
    finally:
        runner.run(_left(context))


async def _entered(context: AbstractAsyncContextManager[T]) -> T:
    return await context.__aenter__()


async def _left(context: AbstractAsyncContextManager[T]) -> None:
    await context.__aexit__(None, None, None)
