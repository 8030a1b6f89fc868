"""A router process: attaches to the cluster, serves until SIGTERM, answers what it has, ends."""

import asyncio
import random
import resource
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import structlog

from cluster.attach import Cluster, Expectation, attach
from cluster.audit_log import AuditLog, audit_log
from cluster.certificates import Certificates
from cluster.etcd import GrpcEtcd
from cluster.identity import identity_of
from cluster.metrics import EtcdTimes, Process, Source, registry_of
from cluster.operator_port import OperatorPort
from cluster.records import Keyspace
from cluster.session import EtcdClient
from cluster.tls import TlsIdentity
from proto import node_pb2
from router.access import Access
from router.aio_server import AioServer
from router.config import RouterSettings
from router.dispatch import Dispatcher, DispatchSettings
from router.grpc_nodes import GrpcNodes
from router.health import Readiness
from router.link import LinkSettings, NodeLink
from router.metrics import RouterMetrics, RouterView
from router.observer import UNOBSERVED
from router.server import ApiServer, ServerSettings, connections_within
from router.service import CouponService, ServiceSettings
from router.topology import TopologyFollower

log = structlog.get_logger()


async def run_router(settings: RouterSettings, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then stop in order and return.

    Args:
        on_ready: called once, with HOST:PORT, when calls are taken.

    Raises:
        ConfigMismatch, TlsUnusable: nothing was served.
        TimeoutError: etcd did not answer.
        RuntimeError: the address cannot be bound.
    """
    rng = random.Random()
    keys = Keyspace(settings.key_prefix)
    tls, public_tls = settings.tls_identity(), settings.public_tls_identity()
    dial = partial(GrpcEtcd, tls=tls)
    etcd = EtcdClient(settings.endpoints(), dial, rng=rng, answer_max_s=settings.etcd_answer_s_max)
    try:
        with audit_log(settings.audit_log) as audit:
            cluster = await attach(etcd, keys, _expectation(settings))
            await _serve(settings, tls, public_tls, audit, cluster, keys, etcd, rng, on_ready)
    finally:
        await etcd.close()


async def _serve(
    settings: RouterSettings,
    tls: TlsIdentity | None,
    public_tls: TlsIdentity | None,
    audit: AuditLog,
    cluster: Cluster,
    keys: Keyspace,
    etcd: EtcdClient,
    rng: random.Random,
    on_ready: Callable[[str], None],
) -> None:
    shards = cluster.config.shards
    limits = DispatchSettings(settings.calls_max, settings.node_calls_max, settings.call_bytes_max)
    metrics = RouterMetrics()
    observer = metrics if settings.metrics_address() else UNOBSERVED
    dispatcher = Dispatcher(shards, limits, rng, observer)
    service = CouponService(
        dispatcher,
        shards=shards,
        codec=cluster.codec,
        settings=ServiceSettings(settings.default_timeout_s, settings.stream_items_max),
        # Campaign ids that nobody chose come from it, and must not repeat.
        rng=random.SystemRandom(),
        observer=observer,
        user_rate=settings.user_rate,
    )
    access = None
    if settings.asks_for_keys:
        access = Access(
            etcd,
            keys,
            age_s_max=settings.key_cache_max_age_s,
            clock=asyncio.get_running_loop().time,
            audit=audit,
            rate=settings.key_rate,
            observer=observer,
        )
    make_server = AioServer if settings.server == "grpcio" else ApiServer
    limited = server_settings(settings)
    server = make_server(service, limited, public_tls or tls, access, audit)
    address = server.listen(settings.listen)
    hello = node_pb2.Hello(identity=identity_of(cluster.config), router_id=settings.router_id)
    transport = GrpcNodes(tls)

    def make_link(node: str) -> NodeLink:
        return NodeLink(node, hello=hello, source=dispatcher, transport=transport, settings=LinkSettings(), rng=rng)

    stop = asyncio.Event()

    def not_ready() -> str:
        if stop.is_set():
            return "stopping"
        if not topology.ready.is_set():
            return "etcd has not said who owns what"
        unowned = dispatcher.unowned()
        return f"{len(unowned)} of {shards} shards have no owner" if unowned else ""

    readiness = Readiness(server.health, not_ready)
    topology = TopologyFollower(etcd, keys, dispatcher, make_link, readiness.refresh)
    sources = (Certificates(tls, public_tls), metrics, RouterView(dispatcher, audit))
    port = await _operator_port(settings, tls, cluster, etcd, sources, not_ready)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with asyncio.TaskGroup() as tasks:
        following = [tasks.create_task(topology.run(), name="topology")]
        if access is not None:
            following.append(tasks.create_task(access.run(), name="access"))
        ready = tasks.create_task(_all_ready(topology, access), name="ready")
        stopping = tasks.create_task(stop.wait(), name="stop")
        await asyncio.wait((ready, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set():
            await server.start()
            log.info(
                "router_ready",
                address=address,
                router=settings.router_id,
                shards=shards,
                connections_max=limited.connections_max,
            )
            on_ready(address)
            await stop.wait()
        log.info("router_stopping", calls=dispatcher.in_flight)
        await server.stop()
        ready.cancel()
        for task in following:
            task.cancel()
    if port is not None:
        await port.close()
    log.info("router_stopped")


def server_settings(settings: RouterSettings) -> ServerSettings:
    """With no more connections than this process has descriptors for."""
    asked = ServerSettings(settings.rpcs_max, settings.drain_s_max)
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY or connections_within(descriptors) >= asked.connections_max:
        return asked
    connections_max = connections_within(descriptors)
    log.warning("few_descriptors", descriptors=descriptors, connections_max=connections_max)
    return replace(asked, connections_max=connections_max)


async def _operator_port(
    settings: RouterSettings,
    tls: TlsIdentity | None,
    cluster: Cluster,
    etcd: EtcdClient,
    sources: tuple[Source, ...],
    not_ready: Callable[[], str],
) -> OperatorPort | None:
    """Raises RuntimeError: its address cannot be bound."""
    if not settings.metrics_address():
        return None
    times = EtcdTimes()
    etcd.endpoints.observer = times
    config = cluster.config
    process = Process("router", settings.router_id, config.cluster_id, config.shards, config.journal)
    port = OperatorPort(registry_of(process, times, *sources), not_ready, tls)
    log.info("operator_port", address=await port.start(settings.metrics_address()))
    return port


async def _all_ready(topology: TopologyFollower, access: Access | None) -> None:
    await topology.ready.wait()
    if access is not None:
        await access.ready.wait()


def _expectation(settings: RouterSettings) -> Expectation:
    return Expectation(settings.expect_cluster_id, settings.expect_shards, settings.expect_code_key_fingerprint)
