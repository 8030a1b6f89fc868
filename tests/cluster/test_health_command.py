"""`seonchak health` with TLS: a healthcheck has its process's variables, and takes from them who it is."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from ops.layout import certs_dir
from ops.local import LocalCluster, LocalSpec
from tests.cluster.support import run
from tests.support.certs import certs_in

pytestmark = pytest.mark.cluster


def variables(certs: Path, name: str) -> dict[str, str]:
    files = {"CA": "ca.crt", "CERT": f"{name}.crt", "KEY": f"{name}.key"}
    return {f"SEONCHAK_TLS_{what}": str(certs / file) for what, file in files.items()}


async def health(*arguments: str, **env: str) -> tuple[int | None, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SEONCHAK_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ops", "health", *arguments, "--timeout", "20"),
        env=clean | env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return process.returncode, said.decode()


def test_health_speaks_tls(tmp_path: Path) -> None:
    """A node and a router, each asked as itself, and as an operator; the router without a key. Without TLS, with
    another CA, or with a certificate of another CA, nobody is heard, and the answer says that it is UNAVAILABLE."""

    async def test() -> None:
        others = certs_in(tmp_path / "others")
        spec = LocalSpec(
            tmp_path / "data", nodes=1, shards=4, tls=True, restart=False, router_env={"SEONCHAK_AUTH": "on"}
        )
        async with LocalCluster(spec) as cluster:
            certs = certs_dir(spec.data_dir)
            node, router = cluster.layout.nodes[0].address, cluster.router
            for name in ("node", "operator"):
                assert await health("--node", node, **variables(certs, name)) == (0, "serving\n")
            for name in ("router", "operator"):
                assert await health("--router", router, **variables(certs, name)) == (0, "serving\n")
            stolen = variables(others, "operator") | {"SEONCHAK_TLS_CA": str(certs / "ca.crt")}
            for flag, address, env in (
                ("--node", node, {}),
                ("--node", node, variables(others, "operator")),
                ("--node", node, stolen),
                ("--router", router, {}),
                ("--router", router, variables(others, "operator")),
            ):
                code, said = await health(flag, address, **env)
                assert code == 1, (flag, said)
                assert "error: UNAVAILABLE: " in said, said  # gRPC may have said something before

    run(test)
