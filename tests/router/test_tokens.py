"""Page tokens."""

import pytest

from cluster.types import ShardId
from router.tokens import (
    InvalidToken,
    ListPosition,
    campaigns_token,
    coupons_token,
    parse_campaigns_token,
    parse_coupons_token,
)

TOKEN = coupons_token("c", 1_000)


@pytest.mark.parametrize("sequence", [1, 9, 1_000, 2**31 - 1])
def test_coupons_token_comes_back(sequence: int) -> None:
    """A token is the position that it was made of."""
    assert parse_coupons_token("c", coupons_token("c", sequence)) == sequence


@pytest.mark.parametrize("after", ["", "a", "a" * 64, "x-9"])
def test_campaigns_token_comes_back(after: str) -> None:
    """A token is the position that it was made of."""
    position = ListPosition(ShardId(63), after)
    assert parse_campaigns_token(campaigns_token(position), 64) == position


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "한글",
        "====",
        "\0",
        TOKEN[:-1],
        TOKEN + "A",
        TOKEN + "=",
        TOKEN + "\n",
        " " + TOKEN,
        TOKEN.swapcase(),
        coupons_token("d", 1_000),
        campaigns_token(ListPosition(ShardId(1), "c")),
        coupons_token("c", 0),
        coupons_token("c", 2**31),
        coupons_token("c", -1),
    ],
)
def test_other_tokens_are_refused(token: str) -> None:
    """Cut, changed, padded, of another campaign, of another method, out of range: none is taken for a position."""
    with pytest.raises(InvalidToken):
        parse_coupons_token("c", token)


def test_every_changed_character_is_noticed() -> None:
    """No single character of a token can be another one."""
    for index, right in enumerate(TOKEN):
        wrong = TOKEN[:index] + ("A" if right != "A" else "B") + TOKEN[index + 1 :]
        with pytest.raises(InvalidToken):
            parse_coupons_token("c", wrong)


def test_a_shard_that_there_is_not_is_refused() -> None:
    """A token of a larger cluster names no shard here."""
    with pytest.raises(InvalidToken):
        parse_campaigns_token(campaigns_token(ListPosition(ShardId(64), "")), 64)
