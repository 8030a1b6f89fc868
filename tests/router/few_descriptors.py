"""A router in a process of its own that may have few descriptors: a limit that was lowered cannot be raised again.

Says a JSON object a line: where it listens, and how many connections it takes. Told so by a line on stdin, it gives all
shards to a second node, and says when it has reached that; by another line, it ends.
"""

import asyncio
import json
import resource
import sys

import uvloop

from router.config import RouterSettings
from router.process import server_settings
from tests.router.fake_node import running_node
from tests.router.rig import listening, rig, underneath


async def main() -> None:
    settings = server_settings(RouterSettings())
    async with running_node() as first, running_node() as second, rig() as router:
        router.own(first)
        await router.link_up("c")
        async with listening(router, settings) as (_, address):
            say(address=address, connections_max=settings.connections_max)
            await told()
            router.own(second)
            while not second.calls:
                await router.issue()
            say(reached=second.address)
            await told()


async def told() -> None:
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


def say(**facts: object) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    limit = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    assert underneath.get().server.__name__ == "ApiServer"
    uvloop.run(main())
