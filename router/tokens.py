"""Page tokens: opaque to clients, positions to us. Pure.

A token is URL-safe base64 (no padding) of: a letter for its kind, the position as text, and 6 bytes of BLAKE2b over
both and over what it was made for. The checksum keeps honest mistakes out (a token of another campaign, a cut one); it
is no secret, for a position gives away nothing.
"""

import binascii
import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass

from cluster.types import ShardId

_CHECKSUM_BYTES = 6
_SEQUENCE_MAX = 2**31 - 1


class InvalidToken(ValueError):
    """Not a token that this API made for this listing."""


@dataclass(frozen=True, slots=True)
class ListPosition:
    """Where ListCampaigns goes on."""

    shard: ShardId
    after_campaign_id: str
    """Campaigns of the shard with a greater id; empty: all of them."""


def coupons_token(campaign_id: str, after_sequence: int) -> str:
    """GetCampaign goes on behind this sequence."""
    return _encode(f"c{after_sequence}", campaign_id)


def parse_coupons_token(campaign_id: str, token: str) -> int:
    """Raises InvalidToken."""
    position = _decode(token, "c", campaign_id)
    if not (position.isascii() and position.isdigit()) or not 1 <= int(position) <= _SEQUENCE_MAX:
        raise InvalidToken("no sequence")
    return int(position)


def campaigns_token(position: ListPosition) -> str:
    return _encode(f"l{position.shard}/{position.after_campaign_id}", "")


def parse_campaigns_token(token: str, shards: int) -> ListPosition:
    """Raises InvalidToken."""
    shard, separator, after_campaign_id = _decode(token, "l", "").partition("/")
    if not separator or not (shard.isascii() and shard.isdigit()) or int(shard) >= shards:
        raise InvalidToken("no shard")
    return ListPosition(ShardId(int(shard)), after_campaign_id)


def _encode(text: str, made_for: str) -> str:
    raw = text.encode()
    return urlsafe_b64encode(raw + _checksum(raw, made_for)).rstrip(b"=").decode()


def _decode(token: str, kind: str, made_for: str) -> str:
    try:
        raw = urlsafe_b64decode(token + "=" * (-len(token) % 4))
        text = raw[:-_CHECKSUM_BYTES].decode()
    except (binascii.Error, ValueError) as error:
        raise InvalidToken("no base64") from error
    # Making the token again compares the checksum, and refuses the other spellings that base64 decoders tolerate.
    if not text.startswith(kind) or _encode(text, made_for) != token:
        raise InvalidToken("not made here")
    return text[1:]


def _checksum(raw: bytes, made_for: str) -> bytes:
    return hashlib.blake2b(raw + b"\0" + made_for.encode(), digest_size=_CHECKSUM_BYTES).digest()
