"""A history survives being written down, a line a record."""

import json
from pathlib import Path
from random import Random

import pytest

from chaos.history import (
    Call,
    CampaignView,
    Coupon,
    Fault,
    History,
    Operation,
    Outcome,
    Overload,
    Phase,
    Trace,
    outcome_of_error,
)
from chaos.history_file import HistoryWriter, read_history, write_history
from tests.chaos.executions import random_execution


def test_what_was_written_is_read(tmp_path: Path) -> None:
    """Every field of every record comes back as it was, Hangul and missing answers included."""
    coupon = Coupon("봄날0가나다라마바", "spring", "민수", 1, 1_700_000_000_000_001)
    history = History(
        (
            Call(1, Operation.CREATE, "spring", 0.25, Outcome.OK, 0.5, total=9, per_user_limit=2, start_us=5, end_us=6),
            Call(2, Operation.ISSUE, "spring", 1.0, Outcome.OK, 1.5, "w1", "민수", "r", coupons=(coupon,)),
            Call(3, Operation.ISSUE, "spring", 1.0, Outcome.UNKNOWN, None, "w2", "b", reason="UNAVAILABLE"),
            Call(4, Operation.READ, "spring", 2.0, Outcome.OK, 2.1, campaign=CampaignView(9, 0, "ACTIVE")),
            Call(5, Operation.GET_COUPON, "", 3.0, Outcome.OK, 3.1, code=coupon.code, coupons=(coupon, coupon)),
            Call(6, Operation.ISSUE, "spring", 4.0, Outcome.OK, 4.5, coupons=(coupon,), already_issued=True),
        ),
        (Phase("before", True, 0.0, 9.5),),
        (
            Fault(
                "kill",
                3.0,
                4.0,
                (Trace.FENCED,),
                {0: (1, 2)},
                {0: (1, 3), 7: (2, 1)},
                {Trace.FENCED: 4},
                ("spring",),
                (Trace.WENT_BACK,),
            ),
        ),
        (Overload(5.0, 9.0, 100.0, 98.0, 300.0, 90.0, {0: (1, 2)}, {0: (1, 2)}, 0, {"ISSUED": 7}, ("flood",), 7, 8),),
    )
    path = tmp_path / "history.jsonl"
    write_history(path, history)
    assert read_history(path) == history
    assert history.faults[0].traces == {Trace.FENCED, Trace.EPOCH_CHANGED}
    assert len(path.read_text().splitlines()) == 9


def test_any_run_survives(tmp_path: Path) -> None:
    """Whatever the reference model does can be written and read."""
    history = random_execution(Random(7)).history
    write_history(tmp_path / "history.jsonl", history)
    assert read_history(tmp_path / "history.jsonl") == history


def test_it_only_grows(tmp_path: Path) -> None:
    """A second writer adds to what is there, and each record is in the file as soon as it was given."""
    path = tmp_path / "history.jsonl"
    for place in (1, 2):
        with HistoryWriter(path) as writer:
            writer.call(Call(place, Operation.ISSUE, "c", 1.0, Outcome.UNKNOWN))
            assert [json.loads(line)["call_id"] for line in path.read_text().splitlines()] == list(range(1, place + 1))


@pytest.mark.parametrize("line", ["", "{", "[]", '{"record":"call"}', '{"record":"song"}', '{"call_id":1}'])
def test_what_is_no_record_is_an_error(tmp_path: Path, line: str) -> None:
    """A damaged line is named, never skipped."""
    path = tmp_path / "history.jsonl"
    write_history(path, History((Call(1, Operation.ISSUE, "c", 1.0, Outcome.UNKNOWN),)))
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match="line 2"):
        read_history(path)


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [
        ("SOLD_OUT", Outcome.REFUSED),
        ("NO_OWNER", Outcome.REFUSED),
        ("OVERLOADED", Outcome.REFUSED),
        ("OUTCOME_UNKNOWN", Outcome.UNKNOWN),
        ("CORRUPT_JOURNAL", Outcome.UNKNOWN),
        ("", Outcome.UNKNOWN),
    ],
)
def test_only_a_definite_answer_is_a_refusal(reason: str, outcome: Outcome) -> None:
    """A failure that does not say that nothing was done may have done it."""
    assert outcome_of_error(reason) is outcome
