"""Journals made by hand from proto/journal.proto, for tests of the second reader. No code of the node is used."""

from dataclasses import dataclass, field

from cluster.codes import CodeCodec, code_prefix
from cluster.config import shard_of
from cluster.types import ShardId
from proto import journal_pb2
from proto.journal_pb2 import CampaignActivated, CampaignCreated, CouponsGranted, Entry, Event

SHARDS = 4
KEY = bytes(range(32))
CODEC = CodeCodec({0: KEY})
START_US = 1_000_000_000
NAME = "봄날 coupons"


def campaign_in(shard: int, number: int = 0) -> str:
    """A campaign id that hashes to `shard`."""
    found = (f"c-{n}" for n in range(10_000) if shard_of(f"c-{n}", SHARDS) == shard)
    return [next(found) for _ in range(number + 1)][number]


@dataclass
class Writer:
    """Writes a shard's entries as a correct owner would; a test then breaks one thing."""

    shard: int
    campaign_id: str
    entries: list[Entry] = field(default_factory=list)
    now_us: int = START_US
    counter: int = 0
    sequence: int = 1
    epoch: tuple[int, int] = (1, 7)
    node: str = "node-0/1f"

    def entry(self, *events: Event) -> Entry:
        """The next entry, a millisecond after the one before."""
        self.now_us += 1_000
        entry = Entry(
            format_version=1,
            shard=self.shard,
            position=len(self.entries),
            cluster_incarnation=self.epoch[0],
            revision=self.epoch[1],
            writer=self.node,
            decide_time_us=self.now_us,
            events=events,
        )
        self.entries.append(entry)
        return entry

    def create(self, total: int = 5, per_user_limit: int = 1, end_us: int = 0) -> Entry:
        created = CampaignCreated(
            campaign_id=self.campaign_id,
            name=NAME,
            total=total,
            per_user_limit=per_user_limit,
            start_time_us=START_US,
            end_time_us=end_us,
            create_time_us=START_US,
        )
        return self.entry(Event(created=created))

    def activate(self) -> Entry:
        return self.entry(Event(activated=CampaignActivated(campaign_id=self.campaign_id, time_us=self.now_us + 1_000)))

    def grant(self, *users: str, requests: tuple[str, ...] = ()) -> CouponsGranted:
        """An entry with a run of grants; returns the run itself, inside the entry, to be broken."""
        counters = range(self.counter, self.counter + len(users))
        granted = CouponsGranted(
            campaign_id=self.campaign_id,
            first_sequence=self.sequence,
            first_counter=self.counter,
            user_ids=users,
            request_ids=requests,
            codes=[CODEC.encode(code_prefix(NAME), ShardId(self.shard), counter) for counter in counters],
            time_deltas_us=[self.now_us + 1_000] + [1] * (len(users) - 1),
        )
        self.sequence += len(users)
        self.counter += len(users)
        self.entry(Event(granted=granted))
        self.now_us += len(users)
        return self.entries[-1].events[0].granted

    def happens(self, kind: str, **fields: object) -> Entry:
        """An entry with an event that has a time_us: paused, resumed, cancelled, ended, updated."""
        message = getattr(journal_pb2, f"Campaign{kind.capitalize()}")
        event = Event()
        getattr(event, kind).CopyFrom(message(campaign_id=self.campaign_id, time_us=self.now_us + 1_000, **fields))
        return self.entry(event)


def good(shard: int = 2) -> Writer:
    """A journal with nothing wrong: two grants, a pause, a raised total, a handover, sold out."""
    writer = Writer(shard, campaign_in(shard))
    writer.create(total=3)
    writer.activate()
    writer.grant("ann", "bob")
    writer.happens("paused", request_id="p")
    writer.happens("resumed", request_id="q")
    writer.happens("updated", request_id="u", total=4, asked_total=4, asked_end_time_us=-1)
    writer.epoch, writer.node = (1, 9), "node-1/2f"
    writer.grant("cho")
    writer.grant("dan")
    return writer
