"""The etcd of a one-machine cluster that does not run, for as long as a command needs it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from ops.child import Child
from ops.etcd import find_etcd, member_spec, start_member, wait_healthy
from ops.layout import Layout, etcd_tls

START_S_MAX = 60.0
STOP_S_MAX = 20.0


@asynccontextmanager
async def etcd_members(layout: Layout, data_dir: Path) -> AsyncIterator[None]:
    """They serve inside. Whoever calls holds the data directory's lock.

    Raises:
        EtcdNotFound, ChildFailed: it could not be started.
    """
    binary = find_etcd()
    tls = etcd_tls(layout, data_dir)
    children = [Child(member_spec(binary, member, layout.members, data_dir, tls)) for member in layout.members]
    try:
        for member, child in zip(layout.members, children, strict=True):
            await start_member(member, child, START_S_MAX)
        for member, child in zip(layout.members, children, strict=True):
            await wait_healthy(member, child, START_S_MAX, tls)
        yield
    finally:
        for child in children:
            if child.running:
                await child.stop(STOP_S_MAX)
