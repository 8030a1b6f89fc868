"""Coupon codes: where a coupon was issued, encrypted into a few syllables. Knows no campaign and remembers nothing.

A code is, in NFC, at most 10 characters:

    up to 3 Hangul syllables of the campaign's name   people recognise them; they tell nothing
    one digit                                         the code generation: which key
    6 syllables of ALPHABET                           54 bits, most significant first

The 54 bits are a keyed permutation of (shard, 12 bits; the shard's issue counter, 42 bits). A permutation never gives
two numbers the same code, so codes are unique without a look-up as long as no counter is used twice within a
generation; without the key nobody finds a valid code better than by guessing; and with it a router reads from a code
alone which shard to ask.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import product
from struct import Struct

from cluster.types import ShardId

KEY_BYTES = 32
GENERATIONS_MAX = 10
SHARD_BITS = 12
COUNTER_BITS = 42
PREFIX_CHARS_MAX = 3
CODE_CHARS_MAX = PREFIX_CHARS_MAX + 1 + 6

_SYLLABLE_BITS = 9
_SYLLABLES = 6
_NUMBER_BITS = _SYLLABLE_BITS * _SYLLABLES
assert _NUMBER_BITS == SHARD_BITS + COUNTER_BITS


def _alphabet() -> tuple[str, ...]:
    """The 512 syllables of a code, each at the place of its value. Changing them changes what printed codes mean.

    Built from ten plain initials (no doubled and no aspirated one: ㄱ and ㅋ look and sound alike), seven vowels
    (no ㅔ, which sounds like ㅐ, and none like ㅑ, which is ㅏ and one more short stroke) and a final or none, the
    simplest finals first. Only syllables of KS X 1001 count: every Korean font has them, and so has every text message
    that is sent as EUC-KR. The first 512 in this order.
    """
    initials, vowels = (
        (0, 2, 3, 5, 6, 7, 9, 11, 12, 18),
        (0, 1, 4, 8, 13, 18, 20),
    )  # ㄱㄴㄷㄹㅁㅂㅅㅇㅈㅎ, ㅏㅐㅓㅗㅜㅡㅣ
    finals = (0, 4, 8, 16, 21, 1, 17, 19)  # none, ㄴㄹㅁㅇㄱㅂㅅ
    syllables = (chr(0xAC00 + (i * 21 + v) * 28 + f) for f, i, v in product(finals, initials, vowels))
    # A syllable of KS X 1001 has two bytes; any other one is spelt out in eight.
    return tuple(s for s in syllables if len(s.encode("euc_kr")) == 2)[: 1 << _SYLLABLE_BITS]


ALPHABET = _alphabet()
assert len(set(ALPHABET)) == 1 << _SYLLABLE_BITS
_value = {syllable: value for value, syllable in enumerate(ALPHABET)}.__getitem__


_block = Struct(f">{KEY_BYTES + 1}sI").pack
"""What a round hashes: key, number of the round, one half."""
_first_word = Struct(">I60x").unpack


@dataclass(frozen=True, slots=True)
class Home:
    """Where a code was issued, read from the code itself."""

    shard: ShardId
    counter: int
    generation: int


class Permutation:
    """A permutation of the numbers of 2 * `half_bits` bits that looks random to whoever lacks the key.

    A Feistel network: each round keeps one half and XORs a keyed function of it into the other, so that every round,
    and hence the whole, can be undone: it is a bijection whatever the function is. The function is BLAKE2b of
    (key, round, half) in one block. A message of one fixed length needs no HMAC and no keyed mode, which would hash a
    second block; the plain hash is half of the cost of a code.

    Six rounds: fewer have generic attacks that need no more codes than a large campaign hands out, even if the round
    function is perfect. For six, Patarin ("Security of Random Feistel Schemes with 5 or More Rounds", 2004) shows
    indistinguishability, chosen codes included, while fewer than about 2**half_bits (134 million) are known.
    """

    ROUNDS = 6

    def __init__(self, key: bytes, half_bits: int) -> None:
        assert len(key) == KEY_BYTES
        assert 1 <= half_bits <= 32
        self._half_bits = half_bits
        self._mask = (1 << half_bits) - 1
        self._round_keys = tuple(key + bytes([round_]) for round_ in range(self.ROUNDS))

    def forward(self, number: int) -> int:
        mask = self._mask
        left, right = number >> self._half_bits, number & mask
        for round_key in self._round_keys:
            (mixed,) = _first_word(blake2b(_block(round_key, right)).digest())
            left, right = right, left ^ (mixed & mask)
        return left << self._half_bits | right

    def backward(self, number: int) -> int:
        mask = self._mask
        left, right = number >> self._half_bits, number & mask
        for round_key in reversed(self._round_keys):
            (mixed,) = _first_word(blake2b(_block(round_key, left)).digest())
            left, right = right ^ (mixed & mask), left
        return left << self._half_bits | right


class CodeCodec:
    """Makes codes with the key of the highest generation; reads those of every generation that it has a key for."""

    def __init__(self, keys: Mapping[int, bytes]) -> None:
        """
        Args:
            keys: for each code generation, 0 to 9, its secret of 32 bytes. At least one.

        Raises:
            ValueError: keys that are not so.
        """
        if not keys or not all(0 <= generation < GENERATIONS_MAX for generation in keys):
            raise ValueError(f"code generations must be 0 to {GENERATIONS_MAX - 1}, at least one")
        if any(len(key) != KEY_BYTES for key in keys.values()):
            raise ValueError(f"a code key has {KEY_BYTES} bytes")
        self.generation = max(keys)
        self._permutations = {generation: Permutation(key, _NUMBER_BITS // 2) for generation, key in keys.items()}
        self._forward = self._permutations[self.generation].forward
        self._high_bits = self.generation << _NUMBER_BITS

    def number(self, shard: ShardId, counter: int) -> int:
        """The code of the `counter`-th coupon of a shard, as a number: see `code_from_number`."""
        assert 0 <= shard < 1 << SHARD_BITS, "shard out of range"
        assert 0 <= counter < 1 << COUNTER_BITS, "counter out of range"
        return self._high_bits | self._forward(shard << COUNTER_BITS | counter)

    def encode(self, prefix: str, shard: ShardId, counter: int) -> str:
        """The code of the `counter`-th coupon of a shard. `prefix`: `code_prefix` of the campaign's name."""
        return code_from_number(prefix, self.number(shard, counter))

    def decode(self, code: str) -> Home | None:
        """Where a code would have been issued; None if it does not have the form of a code or its generation has no
        key. Any six syllables decrypt to something: only the ledger, which compares the whole code, knows whether it
        was ever issued."""
        number = code_number(code)
        if number is None:
            return None
        generation = number >> _NUMBER_BITS
        permutation = self._permutations.get(generation)
        if permutation is None:
            return None
        plain = permutation.backward(number & (1 << _NUMBER_BITS) - 1)
        return Home(ShardId(plain >> COUNTER_BITS), plain & (1 << COUNTER_BITS) - 1, generation)


def code_prefix(name: str) -> str:
    """The first Hangul syllables of a campaign's name, at most 3; "" if it has none."""
    return "".join([char for char in unicodedata.normalize("NFC", name) if _is_hangul(char)][:PREFIX_CHARS_MAX])


def code_number(code: str) -> int | None:
    """A code without its prefix, as a number below 10 * 2**54; None if it does not have the form of a code."""
    try:
        a, b, c, d, e, f = map(_value, code[-_SYLLABLES:])
    except (KeyError, ValueError):
        return None
    generation = "0123456789".find(code[-_SYLLABLES - 1 : -_SYLLABLES] or "?")
    prefix = code[: -_SYLLABLES - 1]
    if generation < 0 or len(prefix) > PREFIX_CHARS_MAX or not all(map(_is_hangul, prefix)):
        return None
    return generation << _NUMBER_BITS | a << 45 | b << 36 | c << 27 | d << 18 | e << 9 | f


def code_numbers(prefix: str, codes: Sequence[str]) -> list[int]:
    """The `code_number` of each of many codes of one campaign and one generation, several times as fast as one by one.

    Raises:
        ValueError: a code has not the form of a code, or another prefix or generation than the first.
    """
    first = code_number(codes[0])
    head = codes[0][:-_SYLLABLES]
    if first is None or head[:-1] != prefix:
        raise ValueError(f"{codes[0]!r} is not a code that begins with {prefix!r}")
    if len(codes) == 1:
        return [first]
    width = len(head) + _SYLLABLES
    if any(len(code) != width or not code.startswith(head) for code in codes):
        raise ValueError(f"codes of one run that do not all begin with {head!r}")
    text = "".join(codes)
    columns = (map(_value, text[column::width]) for column in range(len(head), width))
    high = first >> _NUMBER_BITS << _NUMBER_BITS
    try:
        return [
            high | a << 45 | b << 36 | c << 27 | d << 18 | e << 9 | f for a, b, c, d, e, f in zip(*columns, strict=True)
        ]
    except KeyError as unknown:
        raise ValueError(f"{unknown.args[0]!r} is not a syllable of a code") from None


def code_from_number(prefix: str, number: int) -> str:
    """The code with this prefix and `code_number`. Needs no key."""
    assert 0 <= number < GENERATIONS_MAX << _NUMBER_BITS, "not a code number"
    s = ALPHABET
    return (
        f"{prefix}{number >> 54}{s[number >> 45 & 511]}{s[number >> 36 & 511]}{s[number >> 27 & 511]}"
        f"{s[number >> 18 & 511]}{s[number >> 9 & 511]}{s[number & 511]}"
    )


def fingerprint(key: bytes) -> str:
    """Tells keys apart without betraying them: 16 hexadecimal digits."""
    return blake2b(key, digest_size=8, person=b"seonchak-codekey").hexdigest()


def _is_hangul(char: str) -> bool:
    return "가" <= char <= "힣"
