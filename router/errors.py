"""What the API answers when it does not do what it was asked: one table from reason to status, and google.rpc details.

Knows no transport: a server turns `ApiError.status()` into whatever its protocol calls an error.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TypeAlias

from google.rpc import code_pb2, error_details_pb2, status_pb2

from proto import coupon_pb2, node_pb2

ERROR_DOMAIN = "seonchak"

CODES: Mapping[int, int] = {
    coupon_pb2.NOT_STARTED: code_pb2.FAILED_PRECONDITION,
    coupon_pb2.SOLD_OUT: code_pb2.FAILED_PRECONDITION,
    coupon_pb2.ENDED: code_pb2.FAILED_PRECONDITION,
    coupon_pb2.PAUSED: code_pb2.FAILED_PRECONDITION,
    coupon_pb2.CANCELLED: code_pb2.FAILED_PRECONDITION,
    coupon_pb2.LIMIT_REACHED: code_pb2.FAILED_PRECONDITION,
    coupon_pb2.INVALID_FIELD: code_pb2.INVALID_ARGUMENT,
    coupon_pb2.CAMPAIGN_NOT_FOUND: code_pb2.NOT_FOUND,
    coupon_pb2.COUPON_NOT_FOUND: code_pb2.NOT_FOUND,
    coupon_pb2.CAMPAIGN_EXISTS: code_pb2.ALREADY_EXISTS,
    coupon_pb2.ETAG_MISMATCH: code_pb2.ABORTED,
    coupon_pb2.REQUEST_ID_REUSED: code_pb2.ALREADY_EXISTS,
    coupon_pb2.OVERLOADED: code_pb2.RESOURCE_EXHAUSTED,
    coupon_pb2.NO_OWNER: code_pb2.UNAVAILABLE,
    coupon_pb2.OUTCOME_UNKNOWN: code_pb2.DEADLINE_EXCEEDED,
    coupon_pb2.CORRUPT_JOURNAL: code_pb2.DATA_LOSS,
    coupon_pb2.NOT_IN_TIME: code_pb2.DEADLINE_EXCEEDED,
    coupon_pb2.ROUTER_STOPPING: code_pb2.UNAVAILABLE,
    coupon_pb2.STORAGE_NEARLY_FULL: code_pb2.RESOURCE_EXHAUSTED,
    coupon_pb2.KEY_INVALID: code_pb2.UNAUTHENTICATED,
    coupon_pb2.ROLE_MISSING: code_pb2.PERMISSION_DENIED,
    coupon_pb2.KEYS_UNKNOWN: code_pb2.UNAVAILABLE,
    coupon_pb2.RATE_LIMITED: code_pb2.RESOURCE_EXHAUSTED,
    coupon_pb2.AUDIT_UNWRITABLE: code_pb2.UNAVAILABLE,
}
"""The one table: ErrorReason -> google.rpc.Code, as coupon.proto documents it."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One wrong field of a request."""

    field: str
    """Its path, as in a FieldMask; empty: the message itself."""
    description: str


Facts: TypeAlias = tuple[int, int, str, tuple[Violation, ...], tuple[tuple[str, str], ...], float | None]
"""code, reason, message, violations, metadata, retry_after_s"""


class ApiError(Exception):
    """A call's answer that is not its response.

    Args:
        reason: an ErrorReason. One that is not in the table (a node of a later version gave it) is UNKNOWN.
        violations: for BadRequest.
        retry_after_s: for RetryInfo; None: no RetryInfo.
    """

    def __init__(
        self,
        reason: int,
        message: str,
        *,
        violations: Sequence[Violation] = (),
        metadata: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = CODES.get(reason, code_pb2.UNKNOWN)
        self.reason = reason
        self.message = message
        self.violations = tuple(violations)
        self.metadata = dict(metadata or {})
        self.retry_after_s = retry_after_s

    @cached_property
    def facts(self) -> Facts:
        """All that a caller is told of it; equal for equal errors."""
        metadata = tuple(sorted(self.metadata.items())) if self.metadata else ()
        return self.code, self.reason, self.message, self.violations, metadata, self.retry_after_s

    def status(self) -> status_pb2.Status:
        """Shared among equal errors: not to be changed."""
        return status_of(self.facts)


@lru_cache(maxsize=1024)
def status_of(facts: Facts) -> status_pb2.Status:
    """After a launch nearly every answer is the same SOLD_OUT: making it anew would be a large part of its cost."""
    code, reason, message, violations, metadata, retry_after_s = facts
    status = status_pb2.Status(code=code, message=message)
    info = error_details_pb2.ErrorInfo(reason=reason_name(reason), domain=ERROR_DOMAIN, metadata=dict(metadata))
    status.details.add().Pack(info)
    if violations:
        bad_request = error_details_pb2.BadRequest()
        for violation in violations:
            bad_request.field_violations.add(field=violation.field, description=violation.description)
        status.details.add().Pack(bad_request)
    if retry_after_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMicroseconds(round(retry_after_s * 1_000_000))
        status.details.add().Pack(retry)
    return status


def reason_name(reason: int) -> str:
    try:
        return coupon_pb2.ErrorReason.Name(reason)
    except ValueError:
        return f"REASON_{reason}"


def invalid(*violations: Violation) -> ApiError:
    """INVALID_ARGUMENT that names every wrong field at once."""
    text = "; ".join(f"{violation.field or 'message'}: {violation.description}" for violation in violations)
    return ApiError(coupon_pb2.INVALID_FIELD, text, violations=violations)


def refused(refusal: node_pb2.Refusal) -> ApiError:
    """A node's final no."""
    violations = [Violation(refusal.field, refusal.message)] if refusal.reason == coupon_pb2.INVALID_FIELD else []
    return ApiError(refusal.reason, refusal.message, violations=violations, metadata=refusal.metadata)


def overloaded(retry_after_s: float) -> ApiError:
    """Rounded to the hundredth of a second, so that a server finds most of them among those that it has written."""
    return ApiError(
        coupon_pb2.OVERLOADED,
        "too much is in flight; nothing was done, try again later",
        retry_after_s=round(retry_after_s, 2),
    )


def no_owner(retry_after_s: float) -> ApiError:
    return ApiError(
        coupon_pb2.NO_OWNER,
        "no node serves the campaign's shard at present; nothing was done, try again",
        retry_after_s=retry_after_s,
    )


def outcome_unknown() -> ApiError:
    return ApiError(
        coupon_pb2.OUTCOME_UNKNOWN,
        "the time was up before the outcome was known; repeat the call with the same ids to learn it",
    )


def not_in_time() -> ApiError:
    return ApiError(coupon_pb2.NOT_IN_TIME, "the time was up before the call was decided; nothing was done")


def stopping() -> ApiError:
    return ApiError(
        coupon_pb2.ROUTER_STOPPING, "this router is stopping; ask another one, or this one again", retry_after_s=0.5
    )


def key_invalid() -> ApiError:
    return ApiError(coupon_pb2.KEY_INVALID, "this call needs a valid API key, as `authorization: Bearer KEY`")


def role_missing(method: str, roles: Iterable[str]) -> ApiError:
    return ApiError(coupon_pb2.ROLE_MISSING, f"{method} needs a key with the role {' or '.join(sorted(roles))}")


def keys_unknown() -> ApiError:
    return ApiError(
        coupon_pb2.KEYS_UNKNOWN,
        "this router has not heard from etcd which keys are valid; nothing was done, ask another one or try again",
        retry_after_s=1.0,
    )


def audit_unwritable() -> ApiError:
    return ApiError(
        coupon_pb2.AUDIT_UNWRITABLE,
        "this router cannot write its audit log; nothing was done, ask another one or try again",
        retry_after_s=1.0,
    )


def rate_limited(whose: str, retry_after_s: float) -> ApiError:
    """Rounded up to the hundredth of a second: like `overloaded`, and never too early."""
    return ApiError(
        coupon_pb2.RATE_LIMITED,
        f"too many calls of this {whose}; nothing was done, try again later",
        retry_after_s=math.ceil(retry_after_s * 100) / 100,
    )
