"""Coupon codes: unique, short, readable, self-routing."""

import hashlib
import multiprocessing
import unicodedata
from array import array
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.codes import (
    ALPHABET,
    CODE_CHARS_MAX,
    COUNTER_BITS,
    SHARD_BITS,
    CodeCodec,
    Home,
    Permutation,
    code_from_number,
    code_number,
    code_numbers,
    code_prefix,
    fingerprint,
)
from cluster.types import ShardId

OLD, NEW = bytes(range(32)), bytes(range(1, 33))
CODEC = CodeCodec({3: OLD, 4: NEW})

shards = st.integers(0, 2**SHARD_BITS - 1).map(ShardId)
counters = st.integers(0, 2**COUNTER_BITS - 1)
prefixes = st.text(st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3), max_size=3)
edges = st.sampled_from([0, 1, 2**27 - 1, 2**27, 2**COUNTER_BITS - 1])


def test_alphabet_never_changes() -> None:
    """The alphabet is 512 distinct syllables of KS X 1001, the same for ever: printed codes depend on it."""
    assert len(set(ALPHABET)) == 512
    assert all("가" <= syllable <= "힣" and len(syllable.encode("euc_kr")) == 2 for syllable in ALPHABET)
    digest = hashlib.sha256("".join(ALPHABET).encode()).hexdigest()
    assert digest == "b1c973bd9a0cca637ebc2db2b2d026019b979c0f70e37e127875f59f10b616c4"


def test_permutation_never_changes() -> None:
    """What a key makes of a counter is the same for ever: issued codes are read with it."""
    assert CODEC.encode("테스트", ShardId(7), 123_456) == "테스트4갬댑럴줍줄중"


@pytest.mark.parametrize("half_bits", range(1, 9))
def test_every_round_function_gives_a_bijection(half_bits: int) -> None:
    """The construction is a bijection, and `backward` its inverse: shown for every number of smaller domains."""
    permutation = Permutation(OLD, half_bits)
    domain = range(1 << 2 * half_bits)
    images = [permutation.forward(number) for number in domain]
    assert sorted(images) == list(domain)
    assert [permutation.backward(image) for image in images] == list(domain)


@given(prefixes, shards | st.sampled_from([ShardId(0), ShardId(4095)]), counters | edges)
@settings(deadline=None, max_examples=500)
def test_decode_undoes_encode(prefix: str, shard: ShardId, counter: int) -> None:
    """decode(encode(x)) is x, at the edges of the domain and anywhere in it."""
    code = CODEC.encode(prefix, shard, counter)
    assert CODEC.decode(code) == Home(shard, counter, 4)
    number = code_number(code)
    assert number == CODEC.number(shard, counter)
    assert code_from_number(prefix, number) == code


@given(prefixes, shards, counters)
@settings(deadline=None, max_examples=500)
def test_form(prefix: str, shard: ShardId, counter: int) -> None:
    """A code has at most 10 characters, Hangul and digits only, at least one of each, and is its own NFC."""
    code = CODEC.encode(prefix, shard, counter)
    hangul = [char for char in code if "가" <= char <= "힣"]
    digits = [char for char in code if char in "0123456789"]
    assert len(code) <= CODE_CHARS_MAX == 10
    assert len(hangul) + len(digits) == len(code)
    assert hangul
    assert digits == ["4"]
    assert unicodedata.normalize("NFC", code) == code


def test_older_generations_are_still_read() -> None:
    """A code of an older generation decodes with that generation's key, for as long as the codec has it."""
    code = CodeCodec({3: OLD}).encode("", ShardId(1), 2)
    assert code[0] == "3"
    assert CODEC.decode(code) == Home(ShardId(1), 2, 3)
    assert CodeCodec({4: NEW}).decode(code) is None


def test_wrong_key_decodes_to_nothing_useful() -> None:
    """Of 2,000 codes of one shard read with a wrong key, none gives its own shard and counter, nor any counter within
    1,000 of its own; and the shards that they give are spread like chance, which gives 3 codes or more to 56 of the
    4,096 shards on average."""
    wrong = CodeCodec({4: OLD})
    homes = [(counter, wrong.decode(CODEC.encode("", ShardId(9), counter))) for counter in range(2_000)]
    hits: dict[int, int] = {}
    for counter, home in homes:
        assert home is not None
        assert (home.shard, home.counter) != (9, counter)
        assert abs(home.counter - counter) > 1_000
        hits[home.shard] = hits.get(home.shard, 0) + 1
    assert 25 < sum(count >= 3 for count in hits.values()) < 100


def test_one_wrong_syllable_leads_elsewhere() -> None:
    """Any other syllable in any place of a code gives another number, and none of them the same shard and counter."""
    code = CODEC.encode("봄", ShardId(9), 77)
    for place in range(2, len(code)):
        for syllable in ALPHABET[::37]:
            if syllable != code[place]:
                assert CODEC.decode(code[:place] + syllable + code[place + 1 :]) != Home(ShardId(9), 77, 4)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "4",
        "가나다라마바",
        "가나다라마바사",
        "4가나다라마",
        "4가나다라마바가",
        "４가나다라마바",
        "٤가나다라마바",
        "-4가나다라마바",
        "봄여름가4가나다라마바",
        "ab4가나다라마바",
        "4가나다라마힣",
        "4abcdef",
        unicodedata.normalize("NFD", "4가나다라마바"),
    ],
)
def test_what_has_not_the_form_of_a_code_is_none(text: str) -> None:
    """No digit, a digit elsewhere, a syllable outside the alphabet, a prefix that is too long or not Hangul: None."""
    assert code_number(text) is None
    assert CODEC.decode(text) is None


@given(st.text(max_size=12) | st.text("0123456789가나다라힣각", max_size=12))
@settings(deadline=None)
def test_any_text_is_read_without_an_exception(text: str) -> None:
    """Whatever a client sends as a code either is None or writes itself the same way again."""
    number = code_number(text)
    assert number is None or code_from_number(text[:-7], number) == text


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("테스트캠페인", "테스트"),
        ("2026 봄 sale 여름", "봄여름"),
        ("봄", "봄"),
        ("Black Friday", ""),
        ("ㅋㅋㅋ 春", ""),
        (unicodedata.normalize("NFD", "한글날"), "한글날"),
    ],
)
def test_prefix(name: str, prefix: str) -> None:
    """A code begins with the first Hangul syllables of the campaign's name, as many as there are up to three."""
    assert code_prefix(name) == prefix


def test_code_numbers() -> None:
    """Many codes at once are read as one by one; one that differs from the rest in form is refused."""
    codes = [CODEC.encode("봄", ShardId(1), counter) for counter in range(100)]
    assert code_numbers("봄", codes) == [code_number(code) for code in codes]
    shorter = CODEC.encode("", ShardId(1), 5)
    older = CodeCodec({3: OLD}).encode("봄", ShardId(1), 5)
    for bad in (shorter, older, "봄4가나다라마힣", "봄4가나다라마", "봄4가나다라마바사", "깨4가나다라마바"):
        with pytest.raises(ValueError, match="code"):
            code_numbers("봄", [codes[0], bad])
        with pytest.raises(ValueError, match="code"):
            code_numbers("봄", [*codes, bad])


@pytest.mark.parametrize("keys", [{}, {10: OLD}, {-1: OLD}, {0: OLD[1:]}, {0: OLD, 1: b""}])
def test_keys_are_checked(keys: dict[int, bytes]) -> None:
    """No key, a generation that is not one digit, or a key that is not 32 bytes: no codec."""
    with pytest.raises(ValueError, match="code"):
        CodeCodec(keys)


def test_fingerprint() -> None:
    """Fingerprints tell keys apart and do not show them."""
    assert fingerprint(OLD) != fingerprint(NEW)
    assert len(fingerprint(OLD)) == 16
    assert fingerprint(OLD) not in OLD.hex()


CODES_PER_SHARD = 78_125


def _numbers_of(generation_and_shard: tuple[int, int]) -> "array[int]":
    """The codes of one shard and one generation, read back to numbers so that they fit in 8 bytes each."""
    generation, shard = generation_and_shard
    codec = CodeCodec({generation: bytes([generation]) * 32})
    codes = [codec.encode("테스트", ShardId(shard), counter) for counter in range(CODES_PER_SHARD)]
    assert len(set(codes)) == CODES_PER_SHARD
    return array("Q", code_numbers("테스트", codes))


def _repeated(batches: Iterable[Iterable[int]]) -> tuple[int, int]:
    """How many numbers there are, and how many of them are there again. Exact, in 8 bytes a number: numbers that are
    equal fall into one of 64 buckets, which are then looked at one by one."""
    buckets = [array("Q") for _ in range(64)]
    for batch in batches:
        for number in batch:
            buckets[number & 63].append(number)
    return sum(map(len, buckets)), sum(len(bucket) - len(set(bucket)) for bucket in buckets)


def test_ten_million_codes_without_a_collision() -> None:
    """10,000,000 codes of 64 shards in each of 2 generations, all with one prefix: no two are equal."""
    shards_of_generations = [(generation, shard) for generation in (0, 1) for shard in range(64)]
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        assert _repeated(pool.map(_numbers_of, shards_of_generations)) == (10_000_000, 0)


def test_a_collision_would_be_seen() -> None:
    """The check for collisions finds a single number that comes twice."""
    assert _repeated([range(1_000), range(999, 2_000)]) == (2_001, 1)
