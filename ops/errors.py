"""A failed call as its caller needs it: what the status and its google.rpc details say, as one value."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, cast

import grpc
from google.rpc import error_details_pb2, status_pb2

DOMAIN = "seonchak"
_DETAILS_KEY = "grpc-status-details-bin"


@dataclass(frozen=True, slots=True)
class ApiError:
    reason: str
    """ErrorInfo's reason (SOLD_OUT, ...); where there is none, the status code's name."""
    status: str
    """The gRPC status code's name."""
    message: str
    metadata: dict[str, str]
    """ErrorInfo's metadata."""
    fields: dict[str, str]
    """BadRequest: what is wrong, by field."""
    retry_after_s: float | None
    """RetryInfo's delay."""

    def __str__(self) -> str:
        parts = [f"{self.reason}: {self.message}"]
        parts += [f"{field}: {what}" for field, what in self.fields.items() if what not in self.message]
        if self.retry_after_s is not None:
            parts.append(f"try again in {self.retry_after_s:.3g} s")
        return "; ".join(parts)

    def as_json(self) -> dict[str, Any]:
        return {"error": asdict(self)}


def of_status(status: status_pb2.Status) -> ApiError:
    """From google.rpc.Status, as IssueCoupons gives it for one item."""
    code_name = next((code.name for code in grpc.StatusCode if code.value[0] == status.code), str(status.code))
    reason, metadata, fields, retry_after_s = code_name, {}, {}, None
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo.FromString(detail.value)
            if info.domain == DOMAIN:
                reason, metadata = info.reason, dict(info.metadata)
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            request = error_details_pb2.BadRequest.FromString(detail.value)
            fields = {violation.field: violation.description for violation in request.field_violations}
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            delay = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
            retry_after_s = delay.seconds + delay.nanos / 1e9
    return ApiError(reason, code_name, status.message, metadata, fields, retry_after_s)


@lru_cache(maxsize=1024)
def _of_details(code: grpc.StatusCode, message: str, details: bytes) -> ApiError:
    """Remembered, since a load sees the same refusal thousands of times."""
    status = status_pb2.Status.FromString(details)
    # The details repeat code and message; gRPC's own count, since a proxy may have changed them.
    status.code, status.message = code.value[0], message
    return of_status(status)


def of_call(error: grpc.RpcError) -> ApiError:
    """From a failed call, of grpc or of grpc.aio."""
    assert isinstance(error, grpc.aio.AioRpcError | grpc.Call), "an RpcError of a call that was made"
    code, message = error.code(), error.details() or ""
    metadata = cast(Iterable[tuple[str, str | bytes]], error.trailing_metadata() or ())
    for key, value in metadata:
        if key == _DETAILS_KEY and isinstance(value, bytes):
            return _of_details(code, message, value)
    return ApiError(code.name, code.name, message, {}, {}, None)
