"""The table of errors."""

import re
from pathlib import Path

import pytest
from google.rpc import code_pb2

import proto
from proto import coupon_pb2, node_pb2
from router import errors
from router.errors import CODES, ApiError, Violation
from tests.router.rig import Details

PROTO = (Path(proto.__file__).parent / "coupon.proto").read_text()


@pytest.mark.parametrize("reason", [number for number in coupon_pb2.ErrorReason.values() if number])
def test_every_reason_has_the_status_that_the_contract_documents(reason: int) -> None:
    """coupon.proto's comment above each reason begins with its status; the table says the same."""
    name = coupon_pb2.ErrorReason.Name(reason)
    documented = re.search(rf"// ([A-Z_]+)[:.][^\n]*\n(?:  //[^\n]*\n)*?  {name} = {reason};", PROTO)
    assert documented is not None, name
    assert code_pb2.Code.Name(CODES[reason]) == documented[1]


def test_details_name_domain_reason_fields_and_delay() -> None:
    """A status carries ErrorInfo always, BadRequest and RetryInfo where there is something to say."""
    error = ApiError(
        coupon_pb2.OVERLOADED,
        "later",
        violations=[Violation("a.b", "is wrong")],
        metadata={"k": "v"},
        retry_after_s=1.25,
    )
    assert Details.of(error.status()) == Details(code_pb2.RESOURCE_EXHAUSTED, "OVERLOADED", {"k": "v"}, ("a.b",), 1.25)
    assert Details.of(errors.not_in_time().status()) == Details(code_pb2.DEADLINE_EXCEEDED, "NOT_IN_TIME", {})


def test_a_reason_of_a_later_version_is_unknown() -> None:
    """A newer node's reason that is not in our table is UNKNOWN, and keeps its number."""
    refusal = node_pb2.Refusal(reason=99, message="new")  # type: ignore[arg-type]
    assert Details.of(errors.refused(refusal).status()) == Details(code_pb2.UNKNOWN, "REASON_99", {})
