"""API keys: what a caller shows, what of it stands in etcd, and whether the two fit. No I/O.

A key is `sck_ID_SECRET`. ID names it, in lists and logs; SECRET is shown once, when the key is made, and kept
nowhere.
"""

import hashlib
import hmac
import json
import re
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

_PREFIX = "sck"
"""So that whoever looks through code and logs for what should not be there knows one."""
_ID = re.compile("[0-9a-f]{12}")
_ID_BYTES, _SECRET_BYTES, _SALT_BYTES = 6, 32, 16


class KeyRole(StrEnum):
    ADMIN = "admin"
    """Campaigns: makes, changes, reads them."""
    ISSUE = "issue"
    """Coupons: IssueCoupon, IssueCoupons, GetCoupon."""
    READ = "read"
    """Gets, lists and watches."""


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What stands in etcd. Who reads it learns no key."""

    roles: frozenset[KeyRole]
    salt: bytes
    digest: bytes
    note: str
    """What a person wrote to it."""
    created: str
    """RFC 3339"""

    def fits(self, secret: str) -> bool:
        return hmac.compare_digest(_digest(self.salt, secret), self.digest)

    def encode(self) -> bytes:
        raw = {"roles": sorted(self.roles), "salt": self.salt.hex(), "digest": self.digest.hex()}
        return json.dumps(raw | {"note": self.note, "created": self.created}, ensure_ascii=False).encode()

    @classmethod
    def decode(cls, value: bytes) -> "KeyRecord":
        raw = json.loads(value)
        # A role that a later version has added lets nobody do anything here.
        roles = frozenset(KeyRole(role) for role in raw["roles"] if role in _ROLES)
        return cls(roles, bytes.fromhex(raw["salt"]), bytes.fromhex(raw["digest"]), raw["note"], raw["created"])


_ROLES = frozenset(role.value for role in KeyRole)


@dataclass(frozen=True, slots=True)
class ShownKey:
    """A key as its caller shows it."""

    id: str
    secret: str = field(repr=False)

    def __str__(self) -> str:
        """Of no use to anybody who should not have it."""
        return self.id

    def token(self) -> str:
        """The key itself."""
        return f"{_PREFIX}_{self.id}_{self.secret}"

    @classmethod
    def parse(cls, token: str) -> "ShownKey | None":
        """None: this is no key."""
        prefix, _, rest = token.partition("_")
        key_id, _, secret = rest.partition("_")
        return cls(key_id, secret) if prefix == _PREFIX and _ID.fullmatch(key_id) and secret else None


def make_key(roles: frozenset[KeyRole], note: str) -> tuple[ShownKey, KeyRecord]:
    assert roles, "a key for nothing"
    key = ShownKey(secrets.token_hex(_ID_BYTES), secrets.token_urlsafe(_SECRET_BYTES))
    salt = secrets.token_bytes(_SALT_BYTES)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return key, KeyRecord(roles, salt, _digest(salt, key.secret), note, created)


def _digest(salt: bytes, secret: str) -> bytes:
    # A slow function is for passwords, which can be guessed. 256 random bits cannot, however fast a guess is, and a
    # router must not spend milliseconds on whoever shows it something.
    return hmac.digest(salt, secret.encode(), hashlib.sha256)
