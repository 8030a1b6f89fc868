"""Keeps a router's view of the cluster: who owns which shard, to the dispatcher; a link to every node.

While etcd is away the last view stands: calls go where they went, and the owners know whether they still own.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Protocol

import structlog

from cluster.records import Keyspace
from cluster.topology import Topology
from cluster.types import ShardId
from cluster.watch import Changes, Snapshot
from router.dispatch import Dispatcher
from router.link import NodeLink

log = structlog.get_logger()


class Watches(Protocol):
    """The part of `cluster.session.EtcdClient` that is needed here."""

    def watch(self, start: str, end: str) -> AsyncGenerator[Snapshot | Changes, None]: ...


class TopologyFollower:
    def __init__(
        self,
        watches: Watches,
        keys: Keyspace,
        dispatcher: Dispatcher,
        make_link: Callable[[str], NodeLink],
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            make_link: for the HOST:PORT of a node.
            on_change: called when the dispatcher has learned who owns what.
        """
        self._watches = watches
        self._keys = keys
        self._topology = Topology(keys)
        self._dispatcher = dispatcher
        self._make_link = make_link
        self._on_change = on_change
        self._links: dict[str, NodeLink] = {}
        self.ready = asyncio.Event()
        """Set when the first view is complete."""

    async def run(self) -> None:
        """Follows for ever, and runs the links."""
        async with asyncio.TaskGroup() as links, aclosing(self._watches.watch(*self._keys.topology)) as updates:
            async for update in updates:
                shards = self._learn(update)
                self._keep_links(links)
                for shard in shards:
                    self._dispatcher.set_owner(shard, self._topology.owners.get(shard))
                self.ready.set()
                self._on_change()

    def _learn(self, update: Snapshot | Changes) -> set[ShardId]:
        """The shards whose owner may be another one now."""
        match update:
            case Snapshot():
                before = set(self._topology.owners)
                self._topology.reset(update.kvs)
                return before | set(self._topology.owners)
            case Changes():
                for event in update.events:
                    self._topology.apply(event)
                keys = (event.kv.key for event in update.events)
                return {self._keys.shard_of_owner(key) for key in keys if key.startswith(self._keys.shards)}

    def _keep_links(self, links: asyncio.TaskGroup) -> None:
        nodes = {node.record.address for node in self._topology.nodes.values()}
        # A node that has lost its registration, and still owns, still answers.
        wanted = nodes | {owner.record.address for owner in self._topology.owners.values()}
        for address in sorted(self._links.keys() - wanted):
            log.info("node_left", node=address)
            self._links.pop(address).retire()
        for address in sorted(wanted - self._links.keys()):
            log.info("node_joined", node=address)
            link = self._links[address] = self._make_link(address)
            links.create_task(link.run(), name=f"link {address}")
