"""What a run of the etcd model can vary: the protocol's decisions, and how much of a world there is."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Rules:
    """The protocol. The defaults are what is built; anything else is a planted bug."""

    fenced_by: Literal["mod_revision", "create_revision", "nothing"] = "mod_revision"
    compares_incarnation: bool = True
    """The append's Txn compares `cluster/incarnation`."""
    compares_previous: bool = True
    """The append's Txn compares the mod_revision of the entry before."""
    no_answer: Literal["unknown", "failed", "next position"] = "unknown"
    absence: Literal["proves nothing", "not written"] = "proves nothing"
    presence: Literal["compared", "mine"] = "compared"
    definite_no: Literal["of the only attempt", "of a repetition"] = "of the only attempt"
    """Which refusal of etcd ends in AppendRefused."""
    open_confirms: bool = True
    """The last page is read in one Txn with the epoch."""
    replay: Literal["linearizable", "serializable"] = "linearizable"
    copy_left: Literal["what is committed", "what was decided"] = "what is committed"
    """What an owner that lets go is a standby with. The first: it does so only when nothing is in flight."""
    copy_compared: Literal["at every reading", "not at the open", "never"] = "at every reading"
    """Whoever reads on behind a copy looks whether its last entry is there with the mod_revision that it had."""
    copy_outlives_incarnation: bool = False
    """A process whose life has ended, since the cluster incarnation was raised, gives the copy to its next one."""
    adopts: Literal["incarnation", "node id"] = "incarnation"
    epoch_opens_once: bool = True
    in_flight_max: int = 1
    answers_after: Literal["commit", "sending"] = "commit"
    refusal_waits: bool = True
    barrier: Literal["fresh", "joined", "none"] = "fresh"
    reads_wait: bool = True
    """A read that comes while an entry is in flight belongs to the next round."""
    handover_finishes: bool = True
    """The entry in flight is settled before the key is given away."""
    giving_away_spends: bool = True
    """An epoch that is being given away unopened is not opened any more."""
    incarnation_raised: Literal["before", "after"] = "before"
    """Before or after others can reach the restored etcd."""


@dataclass(frozen=True, slots=True)
class Size:
    lives: int
    owner_puts: int
    """Claims and handovers that etcd executes."""
    users: int
    total: int
    pages: bool = False
    """A replay may read a first page earlier than the last."""
    restore: bool = False
    """A snapshot may be taken at any time, and etcd restored from it at any time after."""
    standby: bool = False
    """Somebody may follow the journal, and whoever opens may begin with that copy."""
    fencing_counts: bool = True
    """FENCING is looked for; without, only what users can notice."""
