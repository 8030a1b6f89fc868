"""API keys: what fits, what does not, and what is never shown."""

from dataclasses import replace

import pytest

from cluster.keys import KeyRecord, KeyRole, ShownKey, make_key


def test_a_key_fits_its_record_alone() -> None:
    """Through etcd and back; another secret, and the same secret under another salt, do not fit."""
    key, record = make_key(frozenset((KeyRole.ISSUE, KeyRole.READ)), "가게")
    assert KeyRecord.decode(record.encode()) == record
    shown = ShownKey.parse(key.token())
    assert shown == key
    assert record.fits(key.secret)
    assert not record.fits(key.secret + "x")
    assert not record.fits(key.secret[:-1])
    assert not record.fits("")
    assert not replace(record, salt=bytes(16)).fits(key.secret)
    other, _ = make_key(frozenset((KeyRole.ISSUE,)), "")
    assert not record.fits(other.secret)
    assert other.id != key.id


def test_a_secret_is_long_and_not_shown() -> None:
    """256 bits; neither the record nor what a log would show of either has it."""
    key, record = make_key(frozenset((KeyRole.ADMIN,)), "")
    assert len(key.secret) >= 43
    for text in (repr(key), str(key), f"{key}", repr(record), record.encode().decode()):
        assert key.secret not in text


@pytest.mark.parametrize(
    "token",
    ["", "sck", "sck_", "sck_0123456789ab", "sck_0123456789ab_", "sck_0123456789AB_x", "x_0123456789ab_x"],
)
def test_what_is_no_key(token: str) -> None:
    assert ShownKey.parse(token) is None


def test_a_role_of_a_later_version() -> None:
    """It allows nothing here, and the others stand."""
    _, record = make_key(frozenset((KeyRole.READ,)), "")
    later = record.encode().replace(b'"read"', b'"read", "king"')
    assert KeyRecord.decode(later).roles == {KeyRole.READ}
