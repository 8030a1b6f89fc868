"""Real processes say how they are: over HTTP for operators, over gRPC for load balancers."""

import asyncio
import urllib.error
import urllib.request
from pathlib import Path

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from node.health import SERVICE_NAME as NODE_SERVICE
from ops.local import LocalCluster, LocalSpec
from router.api import SERVICE_NAME as ROUTER_SERVICE

pytestmark = pytest.mark.cluster
TEST_S_MAX = 90.0


async def get(address: str, path: str) -> tuple[int, str]:
    def ask() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    return await asyncio.to_thread(ask)


async def state(address: str, service: str) -> str:
    async with grpc.aio.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=10)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def test_processes_say_how_they_are(tmp_path: Path) -> None:
    """All are ready; without nodes the router lives and is not ready, and says why; with them it is again. Over gRPC it
    says the same of its service, and of the whole server that it serves."""

    async def main() -> None:
        spec = LocalSpec(tmp_path / "data", nodes=2, routers=1, shards=4, journal="file", restart=False)
        async with asyncio.timeout(TEST_S_MAX), LocalCluster(spec) as cluster:
            layout = cluster.layout
            for place in (*layout.nodes, *layout.routers):
                assert await get(place.metrics_address, "/healthz") == (200, "ok\n")
                while await get(place.metrics_address, "/readyz") != (200, "ok\n"):
                    await asyncio.sleep(0.1)
            assert [await state(place.address, NODE_SERVICE) for place in layout.nodes] == ["SERVING", "SERVING"]
            assert await state(cluster.router, ROUTER_SERVICE) == "SERVING"
            for index in range(2):
                await cluster.kill_node(index)
            router = layout.routers[0].metrics_address
            while await get(router, "/readyz") != (503, "4 of 4 shards have no owner\n"):
                await asyncio.sleep(0.1)
            assert await get(router, "/healthz") == (200, "ok\n")
            while await state(cluster.router, ROUTER_SERVICE) != "NOT_SERVING":
                await asyncio.sleep(0.1)
            assert await state(cluster.router, "") == "SERVING"
            await cluster.start_node(0)
            while await get(router, "/readyz") != (200, "ok\n"):
                await asyncio.sleep(0.1)
            assert await state(cluster.router, ROUTER_SERVICE) == "SERVING"

    asyncio.run(main())
