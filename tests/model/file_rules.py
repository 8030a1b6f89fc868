"""What a run of the file model can vary: the protocol's decisions, and how much of a world there is."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Rules:
    """The protocol. The defaults are what is built; anything else is a planted bug, or a variation that also holds."""

    obeyed_seal: Literal["the top's", "any", "the top's, unnamed segments whole", "none"] = "the top's"
    reads: Literal["highest first", "lowest first", "before creating"] = "highest first"
    syncs_directory: bool = True
    syncs_top: bool = True
    """The top's last frame is synced before the seal is written."""
    rereads_top: bool = True
    """That frame is read again, from the disk."""
    follows: Literal["the last with a frame behind its seal", "the last with a seal"] = (
        "the last with a frame behind its seal"
    )
    """Which segment a standby believes, with its seal."""
    copies_last: bool = False
    """A standby also takes the last frame of that segment."""
    copies_sealed: Literal["to the seal", "whole"] = "to the seal"
    """How much a standby takes of the segments below."""
    copy_left: Literal["what is committed", "what was decided"] = "what is committed"
    """What an owner that lets go is a standby with. The first: it does so only when nothing is in flight."""
    copy_compared: bool = True
    """With the seal, whenever a standby reads on and when it opens: a segment of which the copy holds something must be
    named, and no shorter."""
    warm_open_syncs: bool = True
    """The top's last frame is also synced by who has seen it before as a standby."""
    looks_at_open: bool = True
    """For a higher epoch, when the seal is synced."""
    looks: Literal["after the sync", "before the sync", "before the write", "never"] = "after the sync"
    """For a higher epoch, in an append."""
    answers_after: Literal["sync", "write"] = "sync"
    failed_sync: Literal["finishes", "is tried again"] = "finishes"
    barrier: bool = True


@dataclass(frozen=True, slots=True)
class Size:
    epochs: int
    users: int
    total: int
    standbys: tuple[int, ...] = ()
    """The epochs whose openers may have followed before."""
    copy_counts: Literal["after a power cut as well", "as long as it lives", "no"] = "after a power cut as well"
    """When COPY is looked for. A power cut ends the standby, too, so the first is more than need be; the last finds
    what an open with a wrong copy breaks."""
    power_cuts: int = 1
    sync_failures: int = 0
