"""What a failed call said, for a test."""

import grpc.aio

from ops import errors
from ops.errors import ApiError


def failure(error: grpc.aio.AioRpcError) -> ApiError:
    """The status and its google.rpc details."""
    return errors.of_call(error)
