"""Every run: the protocols as they are built, variations that hold as well, and planted bugs with what each breaks.

Knows the sizes; the models know the rules.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from tests.model import etcd_rules, file_rules
from tests.model.checker import Result, search
from tests.model.etcd_model import EtcdModel
from tests.model.file_model import FileModel
from tests.model.properties import Property


class Kind(StrEnum):
    BUILT = "as built"
    HOLDS = "variation"
    """Not what is built, and it holds: what is built has one net more than these sizes need."""
    BUG = "planted bug"


@dataclass(frozen=True, slots=True)
class Run:
    name: str
    kind: Kind
    size: etcd_rules.Size | file_rules.Size
    rules: etcd_rules.Rules | file_rules.Rules
    breaks: Property | None = None
    slow: bool = False
    """Too large for pytest."""

    def search(self) -> Result:
        match self.size, self.rules:
            case etcd_rules.Size() as size, etcd_rules.Rules() as rules:
                return search(EtcdModel(size, rules))
            case file_rules.Size() as size, file_rules.Rules() as rules:
                return search(FileModel(size, rules))
            case _:
                raise AssertionError("rules of the one model with a size of the other")


def runs() -> tuple[Run, ...]:
    found = (*_etcd(), *_etcd_bugs(), *_file(), *_file_bugs())
    assert len({run.name for run in found}) == len(found), "names are unique"
    return found


def _etcd() -> Iterator[Run]:
    size, built = etcd_rules.Size, etcd_rules.Rules()
    yield Run("etcd", Kind.BUILT, size(lives=3, owner_puts=3, users=2, total=2), built)
    yield Run("etcd-sold-out", Kind.BUILT, size(lives=2, owner_puts=3, users=3, total=2, pages=True), built)
    yield Run(
        "etcd-three-users", Kind.BUILT, size(lives=3, owner_puts=3, users=3, total=2, pages=True), built, slow=True
    )
    yield Run("etcd-four-owners", Kind.BUILT, size(lives=3, owner_puts=4, users=2, total=1), built, slow=True)
    yield Run("etcd-restore", Kind.BUILT, size(lives=2, owner_puts=2, users=2, total=2, restore=True), built)
    yield Run(
        "etcd-restore-large",
        Kind.BUILT,
        size(lives=2, owner_puts=3, users=2, total=2, pages=True, restore=True),
        built,
        slow=True,
    )
    standby = size(lives=2, owner_puts=3, users=2, total=2, standby=True)
    restore_standby = size(lives=2, owner_puts=2, users=2, total=2, restore=True, standby=True)
    yield Run("etcd-standby", Kind.BUILT, standby, built)
    yield Run("etcd-standby-restore", Kind.BUILT, restore_standby, built)
    yield Run(
        "etcd-standby-large",
        Kind.BUILT,
        size(lives=3, owner_puts=3, users=2, total=2, pages=True, standby=True),
        built,
        slow=True,
    )
    yield Run(
        "etcd-standby-restore-large",
        Kind.BUILT,
        size(lives=2, owner_puts=3, users=2, total=2, pages=True, restore=True, standby=True),
        built,
        slow=True,
    )
    one = size(lives=3, owner_puts=3, users=2, total=1)
    restore = size(lives=2, owner_puts=2, users=2, total=2, restore=True)
    never = etcd_rules.Rules(copy_compared="never")
    yield Run("etcd-copy-never-compared", Kind.HOLDS, restore_standby, never)
    yield Run("etcd-previous-not-compared", Kind.HOLDS, restore, etcd_rules.Rules(compares_previous=False))
    yield Run("etcd-open-unconfirmed", Kind.HOLDS, one, etcd_rules.Rules(open_confirms=False))
    yield Run("etcd-reads-do-not-wait", Kind.HOLDS, one, etcd_rules.Rules(reads_wait=False))


def _etcd_bugs() -> Iterator[Run]:
    size = etcd_rules.Size(lives=3, owner_puts=3, users=2, total=2)
    visible = etcd_rules.Size(lives=3, owner_puts=3, users=2, total=2, fencing_counts=False)
    three_users = etcd_rules.Size(lives=2, owner_puts=2, users=3, total=2)
    restore = etcd_rules.Size(lives=2, owner_puts=3, users=2, total=2, restore=True)

    restore_visible = etcd_rules.Size(lives=2, owner_puts=3, users=2, total=2, restore=True, fencing_counts=False)

    def bug(name: str, breaks: Property, rules: etcd_rules.Rules, size: etcd_rules.Size = size) -> Run:
        return Run(f"etcd-{name}", Kind.BUG, size, rules, breaks)

    rules = etcd_rules.Rules
    yield bug("no-epoch-in-txn", Property.FENCING, rules(fenced_by="nothing"))
    yield bug("no-epoch-in-txn-visible", Property.STALE_READ, rules(fenced_by="nothing"), visible)
    yield bug("create-revision", Property.FENCING, rules(fenced_by="create_revision"))
    yield bug("create-revision-visible", Property.STALE_READ, rules(fenced_by="create_revision"), visible)
    yield bug("unknown-taken-for-failed", Property.DENIED, rules(no_answer="failed"))
    yield bug("unknown-then-next-position", Property.GAP, rules(no_answer="next position"))
    yield bug("absence-taken-for-not-written", Property.DENIED, rules(absence="not written"))
    yield bug("presence-taken-for-mine", Property.DIVERGENCE, rules(presence="mine"))
    yield bug("no-to-a-repetition-settles", Property.DENIED, rules(definite_no="of a repetition"))
    yield bug("two-entries-in-flight", Property.GAP, rules(in_flight_max=2))
    yield bug("answer-before-commit", Property.LOST, rules(answers_after="sending"))
    yield bug("sold-out-early", Property.SOLD_OUT, rules(refusal_waits=False), three_users)
    yield bug("no-barrier", Property.STALE_READ, rules(barrier="none"))
    yield bug("barrier-joined", Property.STALE_READ, rules(barrier="joined"))
    yield bug("serializable-replay", Property.STALE_READ, rules(replay="serializable"))
    yield bug(
        "open-unconfirmed-and-reads-do-not-wait", Property.STALE_READ, rules(open_confirms=False, reads_wait=False)
    )
    yield bug("adopts-by-node-id", Property.FENCING, rules(adopts="node id"))
    yield bug("epoch-opened-twice", Property.FENCING, rules(epoch_opens_once=False))
    yield bug("handover-unfinished", Property.HANDOVER, rules(handover_finishes=False))
    yield bug("opened-while-given-away", Property.HANDOVER, rules(giving_away_spends=False))
    yield bug("incarnation-not-compared", Property.FENCING, rules(compares_incarnation=False), restore)
    standby = etcd_rules.Size(lives=2, owner_puts=2, users=2, total=2, standby=True)
    followed = etcd_rules.Size(lives=2, owner_puts=3, users=1, total=1, restore=True, standby=True)
    yield bug("copy-of-decisions", Property.COPY, rules(copy_left="what was decided"), standby)
    outlives = rules(copy_outlives_incarnation=True)
    yield Run("etcd-copy-outlives", Kind.BUG, followed, outlives, Property.COPY, slow=True)
    yield bug(
        "copy-outlives-uncompared-at-open",
        Property.DIVERGENCE,
        rules(copy_outlives_incarnation=True, copy_compared="not at the open"),
        followed,
    )
    yield bug(
        "copy-outlives-uncompared",
        Property.COPY,
        rules(copy_outlives_incarnation=True, copy_compared="never"),
        followed,
    )
    yield bug("incarnation-raised-late", Property.FENCING, rules(incarnation_raised="after"), restore)
    yield Run(
        "etcd-incarnation-raised-late-visible",
        Kind.BUG,
        restore_visible,
        rules(incarnation_raised="after"),
        Property.DUPLICATE,
        slow=True,
    )


def _file() -> Iterator[Run]:
    size, built = file_rules.Size, file_rules.Rules()
    yield Run("file", Kind.BUILT, size(epochs=3, users=2, total=1, sync_failures=1), built)
    yield Run(
        "file-large", Kind.BUILT, size(epochs=3, users=3, total=2, power_cuts=2, sync_failures=1), built, slow=True
    )
    standby = size(epochs=3, users=2, total=2, standbys=(3,))
    failing_standby = size(epochs=2, users=2, total=2, standbys=(2,), sync_failures=1)
    yield Run("file-standby", Kind.BUILT, standby, built)
    yield Run("file-standby-failing", Kind.BUILT, failing_standby, built)
    yield Run(
        "file-standby-large",
        Kind.BUILT,
        size(epochs=3, users=3, total=3, standbys=(2, 3), power_cuts=2, sync_failures=1),
        built,
        slow=True,
    )
    yield Run(
        "file-standby-four-epochs",
        Kind.BUILT,
        size(epochs=4, users=2, total=2, standbys=(4,), power_cuts=0),
        built,
        slow=True,
    )
    yield Run("file-four-epochs", Kind.BUILT, size(epochs=4, users=1, total=1), built, slow=True)
    uncounted = size(epochs=3, users=2, total=2, standbys=(3,), copy_counts="no")
    raced = size(epochs=4, users=1, total=1, standbys=(4,), copy_counts="no", power_cuts=0)
    rules = file_rules.Rules
    yield Run("file-copy-not-compared", Kind.HOLDS, failing_standby, rules(copy_compared=False))
    yield Run("file-copy-not-compared-large", Kind.HOLDS, standby, rules(copy_compared=False), slow=True)
    yield Run("file-copy-with-last-frame-thrown-away", Kind.HOLDS, uncounted, rules(copies_last=True), slow=True)
    yield Run("file-copy-beyond-seal-thrown-away", Kind.HOLDS, uncounted, rules(copies_sealed="whole"), slow=True)
    unopened = rules(follows="the last with a seal")
    yield Run("file-copy-by-unopened-seal-thrown-away", Kind.HOLDS, raced, unopened, slow=True)
    between = rules(looks="before the sync")
    yield Run("file-look-before-sync", Kind.HOLDS, size(epochs=3, users=2, total=1), between)


def _file_bugs() -> Iterator[Run]:
    size = file_rules.Size(epochs=3, users=2, total=2)
    failing = file_rules.Size(epochs=2, users=2, total=2, sync_failures=1)

    def bug(
        name: str, breaks: Property, rules: file_rules.Rules, size: file_rules.Size = size, *, slow: bool = False
    ) -> Run:
        return Run(f"file-{name}", Kind.BUG, size, rules, breaks, slow)

    rules = file_rules.Rules
    yield bug("reply-before-sync", Property.LOST, rules(answers_after="write"))
    yield bug("no-look", Property.LOST, rules(looks="never"))
    yield bug("look-before-write", Property.LOST, rules(looks="before the write"))
    yield bug("look-before-sync-that-fails", Property.LOST, rules(looks="before the sync"), failing)
    yield bug(
        "no-look-at-open", Property.FENCING, rules(looks_at_open=False), file_rules.Size(epochs=3, users=1, total=1)
    )
    yield bug("any-seal-obeyed", Property.FENCING, rules(obeyed_seal="any"))
    yield bug("unnamed-segment-read", Property.FENCING, rules(obeyed_seal="the top's, unnamed segments whole"))
    yield bug("replay-beyond-seal", Property.FENCING, rules(obeyed_seal="none"))
    yield bug("lowest-read-first", Property.CORRUPT, rules(reads="lowest first"))
    yield bug("read-before-created", Property.LOST, rules(reads="before creating"))
    yield bug("directory-not-synced", Property.LOST, rules(syncs_directory=False))
    yield bug("top-not-synced", Property.CORRUPT, rules(syncs_top=False))
    yield bug("cache-believed", Property.CORRUPT, rules(rereads_top=False), failing)
    yield bug("sync-tried-again", Property.LOST, rules(failed_sync="is tried again"), failing)
    yield bug("no-barrier", Property.STALE_READ, rules(barrier=False))
    # A standby does not outlive the power: what a power cut alone would prove wrong harms nobody.
    standby = file_rules.Size(epochs=3, users=2, total=2, standbys=(3,), copy_counts="as long as it lives")
    raced = file_rules.Size(epochs=4, users=1, total=1, standbys=(4,), copy_counts="as long as it lives", power_cuts=0)
    uncounted = file_rules.Size(epochs=3, users=2, total=2, standbys=(3,), copy_counts="no")
    unopened = rules(follows="the last with a seal")
    yield bug("copy-by-unopened-seal", Property.COPY, unopened, raced, slow=True)
    yield bug(
        "copy-by-unopened-seal-kept",
        Property.DIVERGENCE,
        rules(follows="the last with a seal", copy_compared=False),
        file_rules.Size(epochs=4, users=1, total=1, standbys=(4,), copy_counts="no", power_cuts=0),
        slow=True,
    )
    yield bug("copy-with-last-frame", Property.COPY, rules(copies_last=True), standby)
    yield bug("copy-beyond-seal", Property.COPY, rules(copies_sealed="whole"), standby)
    yield bug("copy-of-decisions", Property.COPY, rules(copy_left="what was decided"), standby)
    yield bug("copy-with-last-frame-kept", Property.DIVERGENCE, rules(copies_last=True, copy_compared=False), uncounted)
    yield bug(
        "copy-beyond-seal-kept", Property.DIVERGENCE, rules(copies_sealed="whole", copy_compared=False), uncounted
    )
    yield bug("warm-open-without-sync", Property.CORRUPT, rules(warm_open_syncs=False), standby)
