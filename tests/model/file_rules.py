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
    power_cuts: int = 1
    sync_failures: int = 0
