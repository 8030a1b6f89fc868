"""Who is on the other side of a mutual TLS connection: the role that its certificate names, as seonchak://ROLE/NAME."""

from collections.abc import Iterable, Mapping
from enum import StrEnum

_SCHEME = "seonchak://"


class Role(StrEnum):
    ROUTER = "router"
    NODE = "node"
    OPERATOR = "operator"
    """A person, or what works for one: may ask a node how it is, and have it drained."""


_ROLES = {role.value: role for role in Role}


def uri_of(role: Role, name: str) -> str:
    """What stands in the certificate, as a URI among its subject's alternative names."""
    return f"{_SCHEME}{role.value}/{name}"


def role_of(auth_context: Mapping[str, Iterable[bytes]]) -> Role | None:
    """The role of a gRPC call's peer; None: its certificate names none, or not one alone."""
    role, _, name = uri_in(auth_context).removeprefix(_SCHEME).partition("/")
    return _ROLES.get(role) if name else None


def uri_in(auth_context: Mapping[str, Iterable[bytes]]) -> str:
    """What the certificate of a gRPC call's peer says: role and name; empty: nothing, or more than one."""
    named = [uri.decode() for uri in auth_context.get("peer_uri", ()) if uri.startswith(_SCHEME.encode())]
    return named[0] if len(named) == 1 else ""
