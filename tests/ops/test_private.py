"""Without TLS nobody listens to the network by accident: neither process, on neither of its ports."""

from typing import Any

import pytest

from node.config import NodeSettings
from router.config import RouterSettings

SETTINGS = [NodeSettings, RouterSettings]
TLS = {"tls_ca": "a", "tls_cert": "b", "tls_key": "c"}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("port", ["listen", "metrics_listen"])
@pytest.mark.parametrize("address", ["0.0.0.0:1", "[::]:1", "10.0.0.5:1", "db.internal:1", ":1"])
def test_what_others_can_reach(settings: type[NodeSettings | RouterSettings], port: str, address: str) -> None:
    """It is refused by the setting's name, unless there is TLS or it was said that there need not be."""
    with pytest.raises(ValueError, match=f"{port} is .* no TLS"):
        settings.model_validate({port: address})
    for given in (TLS, {"insecure": True}):
        settings.model_validate({port: address, **given})


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize(
    "given", [{}, {"metrics_port": 9464}, {"metrics_listen": "127.0.0.1:9464"}, {"metrics_listen": "[::1]:9464"}]
)
def test_what_nobody_else_can_reach(settings: type[NodeSettings | RouterSettings], given: dict[str, Any]) -> None:
    settings.model_validate(given)
