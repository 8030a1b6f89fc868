"""A node process: attaches to the cluster, serves until SIGTERM, hands everything over, ends."""

import asyncio
import random
import signal
from collections.abc import Callable
from contextlib import closing
from functools import partial

import grpc.aio
import structlog
from grpc_health.v1 import health_pb2_grpc

from cluster.attach import Cluster, Expectation, attach
from cluster.certificates import Certificates
from cluster.clock import Clock, SystemClock
from cluster.config import ConfigMismatch
from cluster.etcd import GrpcEtcd
from cluster.identity import identity_of
from cluster.metrics import EtcdTimes, Process, Source, registry_of
from cluster.operator_port import OperatorPort
from cluster.records import Keyspace
from cluster.session import EtcdClient
from cluster.tls import TlsIdentity
from cluster.types import NodeId
from node.callers import OnlyCallers
from node.config import NodeSettings
from node.entries import FORMAT_VERSION
from node.health import NodeHealth
from node.journal.base import Journal
from node.journal.disk import Disk, RealDisk
from node.journal.etcd import EtcdJournal
from node.journal.file import FileJournal
from node.life import Parts, Timing
from node.member import Member
from node.metered_disk import MeteredDisk, SyncTimes
from node.metrics import NodeMetrics
from node.observer import UNOBSERVED
from node.peers import GrpcPeers
from node.server import MESSAGE_BYTES_MAX, NodeServer
from node.space import EtcdSpace
from node.view import NodeView
from proto import node_pb2_grpc

log = structlog.get_logger()

STOP_GRACE_S = 1.0
"""How long streams may still carry replies after the last shard was handed over."""


async def run_node(
    settings: NodeSettings,
    on_ready: Callable[[str], None],
    *,
    clock: Clock | None = None,
    wrap_disk: Callable[[Disk], Disk] = lambda disk: disk,
) -> None:
    """Serve until SIGTERM or SIGINT; then hand over and return.

    Args:
        on_ready: called once, with HOST:PORT, when the node is registered.
        clock: None: the machine's.
        wrap_disk: what the `file` journal gets for the machine's disk.

    Raises:
        ConfigMismatch, NodeIdInUse, TlsUnusable: nothing was served.
    """
    rng = random.Random()
    clock = clock or SystemClock()
    keys = Keyspace(settings.key_prefix)
    tls = settings.tls_identity()
    dial = partial(GrpcEtcd, tls=tls)
    etcd = EtcdClient(settings.endpoints(), dial, rng=rng, answer_max_s=settings.etcd_answer_s_max)
    try:
        cluster = await attach(etcd, keys, _expectation(settings))
        if cluster.format_version > FORMAT_VERSION:
            raise ConfigMismatch(f"the journal format is {cluster.format_version}, this node knows {FORMAT_VERSION}")
        if cluster.config.journal == "etcd":
            journal = EtcdJournal(etcd, keys, rng=rng)
            await _serve(settings, tls, cluster, keys, etcd, journal, clock, rng, on_ready, ())
            return
        if settings.journal_dir is None:
            raise ConfigMismatch("the cluster's journal is `file`: this node needs journal_dir")
        with closing(RealDisk()) as disk:
            times = SyncTimes()
            files = FileJournal(settings.journal_dir, MeteredDisk(wrap_disk(disk), times))
            await _serve(settings, tls, cluster, keys, etcd, files, clock, rng, on_ready, (times,))
    finally:
        await etcd.close()


async def _serve(
    settings: NodeSettings,
    tls: TlsIdentity | None,
    cluster: Cluster,
    keys: Keyspace,
    etcd: EtcdClient,
    journal: Journal,
    clock: Clock,
    rng: random.Random,
    on_ready: Callable[[str], None],
    sources: tuple[Source, ...],
) -> None:
    metrics = NodeMetrics(clock.wall_us)
    server = grpc.aio.server(
        options=[
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
            ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
        ],
        interceptors=[] if tls is None else [OnlyCallers()],
    )
    if tls is None:
        bound = server.add_insecure_port(settings.listen)
    else:
        bound = server.add_secure_port(settings.listen, tls.server_credentials(mutual=True))
    address = settings.address(bound)
    identity = identity_of(cluster.config)
    space = EtcdSpace(etcd, quota_bytes=settings.etcd_quota_bytes, check_s=settings.etcd_space_check_s)
    parts = Parts(
        node_id=NodeId(settings.node_id),
        address=address,
        config=cluster.config,
        keys=keys,
        etcd=etcd,
        journal=journal,
        codec=cluster.codec,
        peers=GrpcPeers(identity, tls=tls, handover_s_max=settings.drain_s_max, rng=rng),
        clock=clock,
        rng=rng,
        timing=Timing(
            lease_ttl_s=settings.lease_ttl_s,
            keepalive_s=settings.keepalive_s,
            claim_delay_s=settings.claim_delay_s,
            hold_down_s=settings.hold_down_s,
            drain_s_max=settings.drain_s_max,
            settle_s=settings.settle_s,
        ),
        shard_calls_max=settings.shard_calls_max,
        standby_coupons_max=settings.standby_coupons_max,
        has_room=space.has_room,
        observer=metrics if settings.metrics_address() else UNOBSERVED,
    )
    health = NodeHealth()
    member = Member(parts, health.refresh)
    add_services(server, NodeServer(member, identity), health)
    port = await _operator_port(settings, tls, cluster, etcd, member, metrics, (space, *sources))
    await server.start()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, member.drain)
    registered = False

    def on_registered() -> None:
        nonlocal registered
        if not registered:
            registered = True
            on_ready(address)

    try:
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(space.watch(), name="etcd-space")
            await member.run(on_registered)
            watching.cancel()
    except BaseExceptionGroup as failures:
        # Whoever starts a node looks at the kind of failure, of which there is one.
        raise failures.exceptions[0] from None
    finally:
        health.shut_down()
        await server.stop(STOP_GRACE_S)
        if port is not None:
            await port.close()


def add_services(server: grpc.aio.Server, node: NodeServer, health: NodeHealth) -> None:
    """All that a node serves."""
    node_pb2_grpc.add_NodeServiceServicer_to_server(node, server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)


async def _operator_port(
    settings: NodeSettings,
    tls: TlsIdentity | None,
    cluster: Cluster,
    etcd: EtcdClient,
    member: Member,
    metrics: NodeMetrics,
    sources: tuple[Source, ...],
) -> OperatorPort | None:
    """Raises RuntimeError: its address cannot be bound."""
    if not settings.metrics_address():
        return None
    times = EtcdTimes()
    etcd.endpoints.observer = times
    config = cluster.config
    registry = registry_of(
        Process("node", settings.node_id, config.cluster_id, config.shards, config.journal),
        times,
        Certificates(tls),
        metrics,
        NodeView(member, metrics, lease_ttl_s=settings.lease_ttl_s, shard_calls_max=settings.shard_calls_max),
        *sources,
    )
    port = OperatorPort(registry, member.not_ready, tls)
    log.info("operator_port", address=await port.start(settings.metrics_address()))
    return port


def _expectation(settings: NodeSettings) -> Expectation:
    return Expectation(settings.expect_cluster_id, settings.expect_shards, settings.expect_code_key_fingerprint)
