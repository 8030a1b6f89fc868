"""The issued coupons of one campaign, as columns. Knows who has which coupon, and never forgets or changes one.

A coupon takes about 150 bytes with a short user id, plus the bytes of its request id: no objects are kept but the user
id's string and its dictionary entry. Everything grows with what is issued, nothing is reserved for what might be.
"""

from array import array
from collections.abc import Sequence
from itertools import accumulate, repeat

from node.events import require


class CouponTable:
    """Row i is the coupon with sequence i + 1."""

    def __init__(self, per_user_limit: int) -> None:
        self._per_user_limit = per_user_limit
        self._user_ids: list[str] = []
        self._request_ids = bytearray()  # UTF-8, one after the other
        self._request_id_ends = array("Q")
        self._numbers = array("Q")
        self._times_us = array("q")
        self._last_of_user: dict[str, int] = {}
        # For each coupon its user's coupon before it (0: none); so a user's coupons are a chain, latest first. Stays
        # empty where the limit is 1.
        self._previous = array("I")

    def __len__(self) -> int:
        return len(self._numbers)

    def find(self, user_id: str, request_id: str) -> tuple[int, int]:
        """The sequence of the coupon that this request was granted (0: none), and, if none, how many coupons the user
        has. Takes time in proportion to these, which are at most per_user_limit."""
        sequence = self._last_of_user.get(user_id, 0)
        held = 0
        while sequence:
            if self.request_id(sequence) == request_id:
                return sequence, 0
            held += 1
            sequence = self._previous[sequence - 1] if self._previous else 0
        return 0, held

    def sequences_of(self, user_id: str) -> list[int]:
        """The user's coupons, in order of sequence."""
        sequences = []
        sequence = self._last_of_user.get(user_id, 0)
        while sequence:
            sequences.append(sequence)
            sequence = self._previous[sequence - 1] if self._previous else 0
        return sequences[::-1]

    def user_id(self, sequence: int) -> str:
        return self._user_ids[sequence - 1]

    def request_id(self, sequence: int) -> str:
        start = self._request_id_ends[sequence - 2] if sequence > 1 else 0
        return self._request_ids[start : self._request_id_ends[sequence - 1]].decode()

    def number(self, sequence: int) -> int:
        """`code_number` of the coupon's code."""
        return self._numbers[sequence - 1]

    def time_us(self, sequence: int) -> int:
        return self._times_us[sequence - 1]

    def append(
        self, user_ids: Sequence[str], request_ids: Sequence[str], numbers: Sequence[int], times_us: Sequence[int]
    ) -> None:
        """Add coupons with the next sequences; the columns are of equal length.

        Raises:
            LedgerViolation: a user would have more than per_user_limit, or one request two coupons.
        """
        first = len(self) + 1
        self._user_ids += user_ids
        self._append_request_ids(request_ids)
        self._numbers.extend(numbers)
        self._times_us.extend(times_us)
        if self._per_user_limit == 1:
            users = len(self._last_of_user)
            self._last_of_user.update(zip(user_ids, range(first, first + len(user_ids)), strict=True))
            require(len(self._last_of_user) == users + len(user_ids), "a user has one coupon where the limit is 1")
            return
        for sequence, (user_id, request_id) in enumerate(zip(user_ids, request_ids, strict=True), first):
            granted, held = self.find(user_id, request_id)
            require(request_id != "", "a request has an id where the limit is more than 1")
            require(granted == 0, "a request gets one coupon")
            require(held < self._per_user_limit, "a user has at most per_user_limit coupons")
            self._previous.append(self._last_of_user.get(user_id, 0))
            self._last_of_user[user_id] = sequence

    def _append_request_ids(self, request_ids: Sequence[str]) -> None:
        base = len(self._request_ids)
        if not any(request_ids):
            self._request_id_ends.extend(repeat(base, len(request_ids)))
            return
        texts = [request_id.encode() for request_id in request_ids]
        self._request_ids += b"".join(texts)
        self._request_id_ends.extend([base + end for end in accumulate(map(len, texts))])

    def check_invariants(self) -> None:
        """Takes time in proportion to the coupons."""
        rows = len(self)
        assert rows == len(self._user_ids) == len(self._request_id_ends) == len(self._times_us), "ragged columns"
        assert len(set(self._numbers)) == rows, "a code twice"
        assert set(self._last_of_user) == set(self._user_ids), "a user without coupons, or the other way round"
        for user_id in self._last_of_user:
            sequences = self.sequences_of(user_id)
            assert len(sequences) <= self._per_user_limit, "more than per_user_limit"
            assert all(self.user_id(sequence) == user_id for sequence in sequences), "a coupon of another user"
            assert len({self.request_id(sequence) for sequence in sequences}) == len(sequences), "a request twice"
