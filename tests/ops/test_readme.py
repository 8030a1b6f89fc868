"""The README's tables say what the code does."""

import re
from pathlib import Path

import pytest
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from node.config import NodeSettings
from proto import coupon_pb2
from router.config import RouterSettings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PROTO = (ROOT / "proto" / "coupon.proto").read_text()


def test_the_error_table_is_the_contract() -> None:
    """Every reason of coupon.proto, with the status that its comment begins with, and no other."""
    table = dict(re.findall(r"^\| `([A-Z_]+)` \| ([A-Z_]+) \|", README, re.MULTILINE))
    enum = PROTO[PROTO.index("enum ErrorReason") :]
    pairs = re.findall(r"// ([A-Z_]+)[.:][^\n]*\n(?:  //[^\n]*\n)*  ([A-Z_]+) = \d+;", enum)
    documented = {name: status for status, name in pairs}
    assert set(documented) == set(coupon_pb2.ErrorReason.keys()) - {"ERROR_REASON_UNSPECIFIED"}
    assert table == documented


@pytest.mark.parametrize(("whose", "settings"), [("node", NodeSettings), ("router", RouterSettings)])
def test_the_configuration_table_is_the_settings(whose: str, settings: type[BaseSettings]) -> None:
    """Every setting of the process with its default, and no other."""
    rows = re.findall(r"^\| `([a-z_]+)` \| (node|router|both) \| (.+?) \|", README, re.MULTILINE)
    table = {name: default.strip("`") for name, of, default in rows if of in (whose, "both")}
    words = {PydanticUndefined: ("the machine's name",), "": ("none", "as it listens"), None: ("none",)}
    assert set(table) == set(settings.model_fields)
    for name, field in settings.model_fields.items():
        assert table[name] in words.get(field.default, (str(field.default),)), name
