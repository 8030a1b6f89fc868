"""The checker believes nothing of the product, and does nothing but compute."""

import pytest

from tests.core.test_purity import FORBIDDEN, reached_from

CHECKER = ("chaos.checker", "chaos.restored", "chaos.report", "chaos.chart")


@pytest.mark.parametrize("module", CHECKER)
def test_the_checker_is_pure(module: str) -> None:
    """What it imports, and what that imports, is neither node nor router, and knows no clock, socket or file."""
    reached = reached_from(module)
    assert "chaos.history" in reached
    assert not {name for name in reached if name.split(".")[0] in ("node", "router")}
    outside = {name.split(".")[0] for names in reached.values() for name in names}
    assert not outside & (FORBIDDEN | {"pathlib", "structlog"})
