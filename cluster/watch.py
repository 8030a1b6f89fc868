"""What a range of keys holds, and everything that happens to it afterwards: list, then watch.

Never leaves out a change without saying so: after a compaction, or when the store's revision went back, the range is
listed anew and the listing handed on as a Snapshot, which replaces whatever was known.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import structlog

from cluster.endpoints import Endpoint, Endpoints, RevisionWentBack
from cluster.kv import (
    TOO_MANY_REQUESTS,
    Compacted,
    EtcdRefused,
    EtcdUnavailable,
    Event,
    Get,
    KeyValue,
    RangeResult,
    WatchBatch,
)
from cluster.types import Revision

log = structlog.get_logger()

PAGE_LIMIT = 24
"""Keys in a page: of the largest values that are written anywhere (128 KiB) so many stay well under 4 MiB."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that the range held at `revision`. It replaces everything that the watch has delivered before."""

    kvs: tuple[KeyValue, ...]
    revision: Revision
    went_back: bool = False
    """The store's revision went back (restored from a snapshot): epochs and revisions known before are void."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Everything that happened in the range since what was delivered before, up to `revision`, in order; not empty."""

    events: tuple[Event, ...]
    revision: Revision


async def list_range(
    endpoints: Endpoints, start: str, end: str, *, limit: int = PAGE_LIMIT, believe: bool = True
) -> RangeResult:
    """All of [start, end) at one revision, read in pages of `limit` keys. Begins again when that revision is compacted.

    `believe` False: accepts a store that has stepped back.

    Raises:
        RevisionWentBack: unless `believe` is False.
    """

    async def page_of(get: Get) -> RangeResult:
        return await endpoints.read(lambda rpc: rpc.get(get), believe=believe)

    while True:
        era = endpoints.era
        kvs: list[KeyValue] = []
        try:
            page = await page_of(Get(start, end, limit))
            revision = page.revision
            kvs += page.kvs
            while page.more:
                page = await page_of(Get(page.kvs[-1].key + "\0", end, limit, revision=revision))
                kvs += page.kvs
        except Compacted:
            log.info("etcd_listing_overtaken", start=start, keys=len(kvs))
            continue
        if believe:
            endpoints.require_era(era)  # else its pages may come from two stores
        return RangeResult(tuple(kvs), more=False, revision=revision)


async def watch_range(
    endpoints: Endpoints, start: str, end: str, *, limit: int = PAGE_LIMIT
) -> AsyncGenerator[Snapshot | Changes, None]:
    """A Snapshot of [start, end), then Changes for ever; another Snapshot whenever the thread was lost.

    Breaks, silent endpoints and an etcd that is away are outlasted without a word. Close it (`contextlib.aclosing`).

    Raises:
        EtcdRefused: etcd denies permission.
    """
    era, went_back = endpoints.era, False
    while True:
        try:
            listing = await list_range(endpoints, start, end, limit=limit, believe=not went_back)
            if went_back:
                endpoints.begin_again(listing.revision, era=era)
            era = endpoints.era
            yield Snapshot(listing.kvs, listing.revision, went_back)
            went_back = False
            async with aclosing(_changes(endpoints, start, end, listing.revision, era)) as changes:
                async for change in changes:
                    yield change
        except Compacted as compacted:
            log.info("etcd_watch_compacted", start=start, why=str(compacted))
        except RevisionWentBack:
            went_back = True


async def _changes(
    endpoints: Endpoints, start: str, end: str, delivered: Revision, era: int
) -> AsyncGenerator[Changes, None]:
    """Everything after the revision `delivered`, from one stream after another.

    Raises:
        Compacted, RevisionWentBack: the thread is lost.
    """
    failures = 0
    while True:
        endpoint = endpoints.current
        first = Revision(delivered + 1)
        try:
            async with aclosing(_stream(endpoints, endpoint, start, end, first, era)) as batches:
                async for batch in batches:
                    failures = 0
                    endpoints.heard(endpoint)
                    endpoints.saw(batch.revision, era=era)
                    if batch.events:
                        assert delivered < batch.events[0].kv.mod_revision, "a change came twice"
                        delivered = batch.revision
                        yield Changes(batch.events, batch.revision)
                    else:
                        delivered = max(delivered, batch.revision)
        except EtcdUnavailable as error:
            endpoints.leave(endpoint, error)
            failures += 1
            await asyncio.sleep(endpoints.pause_s(failures))


async def _stream(
    endpoints: Endpoints, endpoint: Endpoint, start: str, end: str, first: Revision, era: int
) -> AsyncGenerator[WatchBatch, None]:
    """One stream from one endpoint, which has to prove itself while it has nothing to tell.

    A frozen member, or one cut off from the others, sends nothing, exactly like a range in which nothing happens. So an
    endpoint that has answered no linearizable question for `answer_max_s` is asked one, over the same connection: its
    answer shows the connection, the member and its quorum alive, and that the revision has not gone back.

    Raises:
        EtcdUnavailable: the stream broke, or the proof did not come.
        Compacted, RevisionWentBack
    """
    loop = asyncio.get_running_loop()
    batches = endpoint.rpc.watch(start, end, first)
    coming = asyncio.create_task(_next(batches))
    proof: asyncio.Task[None] | None = None
    try:
        while True:
            endpoints.require_era(era)
            waiting = {coming} if proof is None else {coming, proof}
            done, _ = await asyncio.wait(waiting, timeout=endpoints.answer_max_s, return_when=asyncio.FIRST_COMPLETED)
            if coming in done:
                batch = coming.result()
                coming = asyncio.create_task(_next(batches))
                yield batch
            elif proof is not None and proof in done:
                proof.result()
                proof = None
            elif proof is None and loop.time() - endpoint.proved_s >= endpoints.answer_max_s:
                proof = asyncio.create_task(_prove(endpoints, endpoint, start))
    finally:
        running = [coming] if proof is None else [coming, proof]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await batches.aclose()


async def _next(batches: AsyncGenerator[WatchBatch, None]) -> WatchBatch:
    return await anext(batches)


async def _prove(endpoints: Endpoints, endpoint: Endpoint, key: str) -> None:
    try:
        await endpoints.once_believed(lambda rpc: rpc.get(Get(key, keys_only=True)), at=endpoint)
    except EtcdRefused as refused:
        if refused.reason != TOO_MANY_REQUESTS:  # busy is alive
            raise
