"""Which server, and which event loop, a test of the API runs on."""

from collections.abc import Iterator

import pytest

from tests.router.rig import UNDERNEATH, underneath


@pytest.fixture(params=UNDERNEATH)
def on_every_server(request: pytest.FixtureRequest) -> Iterator[None]:
    """For tests of what the API says, whoever carries it: the router's own server on both loops, and grpc.aio."""
    yield from _on(request.param)


@pytest.fixture(params=[name for name in UNDERNEATH if name.startswith("own")])
def on_every_loop(request: pytest.FixtureRequest) -> Iterator[None]:
    """For tests of the router's own server alone."""
    yield from _on(request.param)


def _on(name: str) -> Iterator[None]:
    token = underneath.set(UNDERNEATH[name])
    yield
    underneath.reset(token)
