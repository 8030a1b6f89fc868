"""`python -m tests.cluster.later node|router ...`: the product as a later version of it might be.

On the wire it says more than this version knows: fields in every message, kinds of frames, outcomes of calls, and it
keeps more in etcd's records. It knows journal format 2, whose entries are those of 1 with another number, and writes
the one that `cluster/format` allows.
"""

import json
from collections.abc import Callable
from itertools import count
from types import SimpleNamespace
from typing import Any, TypeVar

from google.protobuf.message import Message

import node.entries
import node.process
import node.replay
import node.shard
from cluster import records
from cluster.attach import Cluster, Expectation, attach
from cluster.records import Keyspace
from cluster.session import EtcdClient
from ops.command import main
from proto import journal_pb2, node_pb2, node_pb2_grpc

FORMAT_VERSION = 2

UNKNOWN_FIELDS = b"\xf8\x7c\x01" + b"\xf2\x7c\x05later"
"""Field 1999, a varint, and field 1998, bytes."""
OUTCOME_EVERY = 20
PING_EVERY = 2

Record = TypeVar("Record")
_frames = count(1)
_replies = count(1)


class LaterMessages:
    """What the generated gRPC code knows as the module of node.proto's messages."""

    def __getattr__(self, name: str) -> Any:
        message = getattr(node_pb2, name)
        return SimpleNamespace(FromString=message.FromString, SerializeToString=serialize)


def serialize(message: Message) -> bytes:
    later = type(message)()
    later.CopyFrom(message)
    if isinstance(later, node_pb2.NodeFrame):
        for reply in later.replies.replies:
            if reply.HasField("response") and not next(_replies) % OUTCOME_EVERY:
                reply.ClearField("response")  # and the outcome is one that only later versions know
    is_frame = isinstance(later, node_pb2.NodeFrame | node_pb2.RouterFrame)
    if is_frame and later.HasField("ping") and not next(_frames) % PING_EVERY:
        later.Clear()  # a kind of frame that only later versions know
    add_fields(later)
    return later.SerializeToString()


def add_fields(message: Message) -> None:
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for part in value if field.is_repeated else [value]:
            add_fields(part)
    message.MergeFromString(UNKNOWN_FIELDS)


def with_more(encode: Callable[[Record], bytes]) -> Callable[[Record], bytes]:
    """A record of etcd's with something in it that earlier versions do not know."""

    def later(record: Record) -> bytes:
        return json.dumps(json.loads(encode(record)) | {"version": "2.0.0", "zone": "b"}).encode()

    return later


class LaterEntries:
    """Entries of both formats."""

    write = 1
    """What cluster/format allows, at most FORMAT_VERSION."""

    def __init__(self) -> None:
        self._encode, self._decode = node.entries.encode, node.entries.decode

    def encode(self, *arguments: Any) -> bytes:
        entry = journal_pb2.Entry.FromString(self._encode(*arguments))
        entry.format_version = self.write
        return entry.SerializeToString()

    def decode(self, data: bytes) -> node.entries.Entry:
        entry = journal_pb2.Entry.FromString(data)
        if entry.format_version != FORMAT_VERSION:
            return self._decode(data)
        entry.format_version = 1
        return self._decode(entry.SerializeToString())


def become_later() -> None:
    entries = LaterEntries()

    async def attach_and_see(etcd: EtcdClient, keys: Keyspace, expected: Expectation) -> Cluster:
        cluster = await attach(etcd, keys, expected)
        entries.write = min(cluster.format_version, FORMAT_VERSION)
        return cluster

    changes: list[tuple[Any, str, Any]] = [
        (node_pb2_grpc, "proto_dot_node__pb2", LaterMessages()),
        (records.NodeRecord, "encode", with_more(records.NodeRecord.encode)),
        (records.OwnerRecord, "encode", with_more(records.OwnerRecord.encode)),
        (node.process, "FORMAT_VERSION", FORMAT_VERSION),
        (node.process, "attach", attach_and_see),
        (node.shard, "encode", entries.encode),
        (node.replay, "decode", entries.decode),
    ]
    for where, name, what in changes:
        assert hasattr(where, name), f"{where} has no {name} any more"
        setattr(where, name, what)


if __name__ == "__main__":
    become_later()
    main()
