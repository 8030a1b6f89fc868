"""What must hold, by name: a run of a model ends with one of these broken, or with none."""

from enum import StrEnum


class Property(StrEnum):
    OVER_ISSUE = "more grants in the journal than there are coupons"
    SEQUENCE = "the journal's sequence numbers are not 1, 2, 3, ..."
    GAP = "a position of the journal is empty and a later one is not"
    DUPLICATE = "one user has two coupons"
    LOST = "an acknowledged coupon is not in the journal"
    RETRY = "one user heard two different answers"
    SOLD_OUT = "sold out was said with fewer than all coupons durable"
    DENIED = "a caller heard that nothing was done, and it was done"
    STALE_READ = "a read lacks what was acknowledged before it came"
    FENCING = "an entry of a lower epoch, or of another writer, came into the journal after an open had returned"
    DIVERGENCE = "an owner's memory is not what the journal begins with"
    COPY = "what a standby holds is not what the journal begins with"
    HANDOVER = "an owner's own handover fenced the entry that it had in flight"
    CORRUPT = "a seal counts bytes that are not there: the shard would stop"
