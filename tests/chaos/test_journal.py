"""The checker's journal is what the re-read found."""

import pytest

from chaos.agreement import KINDS
from chaos.journal import Journal, JournaledCampaign, JournaledCoupon, JournalFault
from ops.audit import AuditedCampaign, AuditedCoupon, Kind, Violation


def _audited(issued: int, end_time_us: int = 0) -> AuditedCampaign:
    return AuditedCampaign("c", "봄날", 3, 10, 2, 1_000, end_time_us, issued, paused=True)


def test_what_was_read_again_is_taken_over() -> None:
    """Campaigns with their coupons and limits, an end of 0 as none, and the re-read's own violations."""
    audited = _audited(1)
    audited.coupons.append(AuditedCoupon("봄날0가나다라마바", "민수", 1, 1_500))
    violation = Violation(Kind.TWO_WRITERS, "0003/7", "", "two")
    journal = Journal.of_audit([audited], [violation])
    coupons = (JournaledCoupon("봄날0가나다라마바", "민수", 1, 1_500),)
    assert journal.campaigns == {"c": JournaledCampaign("c", 10, 2, 1_000, None, True, False, coupons)}
    assert journal.faults == (JournalFault("two_writers", "0003/7", "", "two"),)
    assert Journal.of_audit([_audited(0, end_time_us=9_000)], []).campaigns["c"].end_us == 9_000


def test_coupons_that_were_not_collected() -> None:
    """A re-read without coupons cannot be judged, and must not pass for one that lost them all."""
    with pytest.raises(ValueError, match="not collected"):
        Journal.of_audit([_audited(1)], [])


def test_every_kind_of_the_re_read_is_known() -> None:
    """The checker's table names only kinds that the re-read has."""
    assert KINDS.keys() <= {kind.value for kind in Kind}
