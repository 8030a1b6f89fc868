from proto import coupon_pb2 as _coupon_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Method(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    METHOD_UNSPECIFIED: _ClassVar[Method]
    ISSUE_COUPON: _ClassVar[Method]
    CREATE_CAMPAIGN: _ClassVar[Method]
    GET_CAMPAIGN: _ClassVar[Method]
    LIST_CAMPAIGNS: _ClassVar[Method]
    UPDATE_CAMPAIGN: _ClassVar[Method]
    GET_COUPON: _ClassVar[Method]
    PAUSE_CAMPAIGN: _ClassVar[Method]
    RESUME_CAMPAIGN: _ClassVar[Method]
    CANCEL_CAMPAIGN: _ClassVar[Method]
METHOD_UNSPECIFIED: Method
ISSUE_COUPON: Method
CREATE_CAMPAIGN: Method
GET_CAMPAIGN: Method
LIST_CAMPAIGNS: Method
UPDATE_CAMPAIGN: Method
GET_COUPON: Method
PAUSE_CAMPAIGN: Method
RESUME_CAMPAIGN: Method
CANCEL_CAMPAIGN: Method

class ClusterIdentity(_message.Message):
    __slots__ = ("cluster_id", "shards", "hash_version", "code_key_fingerprint", "wire_version")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    HASH_VERSION_FIELD_NUMBER: _ClassVar[int]
    CODE_KEY_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    WIRE_VERSION_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    shards: int
    hash_version: int
    code_key_fingerprint: str
    wire_version: int
    def __init__(self, cluster_id: _Optional[str] = ..., shards: _Optional[int] = ..., hash_version: _Optional[int] = ..., code_key_fingerprint: _Optional[str] = ..., wire_version: _Optional[int] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("identity", "router_id")
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    ROUTER_ID_FIELD_NUMBER: _ClassVar[int]
    identity: ClusterIdentity
    router_id: str
    def __init__(self, identity: _Optional[_Union[ClusterIdentity, _Mapping]] = ..., router_id: _Optional[str] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("identity", "incarnation")
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    identity: ClusterIdentity
    incarnation: str
    def __init__(self, identity: _Optional[_Union[ClusterIdentity, _Mapping]] = ..., incarnation: _Optional[str] = ...) -> None: ...

class Ping(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RouterFrame(_message.Message):
    __slots__ = ("hello", "calls", "ping")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    calls: Calls
    ping: Ping
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., calls: _Optional[_Union[Calls, _Mapping]] = ..., ping: _Optional[_Union[Ping, _Mapping]] = ...) -> None: ...

class NodeFrame(_message.Message):
    __slots__ = ("welcome", "replies", "ping")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    REPLIES_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    replies: Replies
    ping: Ping
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., replies: _Optional[_Union[Replies, _Mapping]] = ..., ping: _Optional[_Union[Ping, _Mapping]] = ...) -> None: ...

class Calls(_message.Message):
    __slots__ = ("calls",)
    CALLS_FIELD_NUMBER: _ClassVar[int]
    calls: _containers.RepeatedCompositeFieldContainer[Call]
    def __init__(self, calls: _Optional[_Iterable[_Union[Call, _Mapping]]] = ...) -> None: ...

class Call(_message.Message):
    __slots__ = ("call_id", "shard", "method", "timeout_ms", "request")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    call_id: int
    shard: int
    method: Method
    timeout_ms: int
    request: bytes
    def __init__(self, call_id: _Optional[int] = ..., shard: _Optional[int] = ..., method: _Optional[_Union[Method, str]] = ..., timeout_ms: _Optional[int] = ..., request: _Optional[bytes] = ...) -> None: ...

class Replies(_message.Message):
    __slots__ = ("replies",)
    REPLIES_FIELD_NUMBER: _ClassVar[int]
    replies: _containers.RepeatedCompositeFieldContainer[Reply]
    def __init__(self, replies: _Optional[_Iterable[_Union[Reply, _Mapping]]] = ...) -> None: ...

class Reply(_message.Message):
    __slots__ = ("call_id", "response", "refusal", "not_owner", "unknown", "overloaded", "expired")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    NOT_OWNER_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    OVERLOADED_FIELD_NUMBER: _ClassVar[int]
    EXPIRED_FIELD_NUMBER: _ClassVar[int]
    call_id: int
    response: bytes
    refusal: Refusal
    not_owner: NotOwner
    unknown: Unknown
    overloaded: Overloaded
    expired: Expired
    def __init__(self, call_id: _Optional[int] = ..., response: _Optional[bytes] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ..., not_owner: _Optional[_Union[NotOwner, _Mapping]] = ..., unknown: _Optional[_Union[Unknown, _Mapping]] = ..., overloaded: _Optional[_Union[Overloaded, _Mapping]] = ..., expired: _Optional[_Union[Expired, _Mapping]] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("reason", "message", "metadata", "field")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    reason: _coupon_pb2.ErrorReason
    message: str
    metadata: _containers.ScalarMap[str, str]
    field: str
    def __init__(self, reason: _Optional[_Union[_coupon_pb2.ErrorReason, str]] = ..., message: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ..., field: _Optional[str] = ...) -> None: ...

class NotOwner(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Unknown(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Overloaded(_message.Message):
    __slots__ = ("retry_after_ms",)
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    retry_after_ms: int
    def __init__(self, retry_after_ms: _Optional[int] = ...) -> None: ...

class Expired(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("identity", "shard", "campaign_id")
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    CAMPAIGN_ID_FIELD_NUMBER: _ClassVar[int]
    identity: ClusterIdentity
    shard: int
    campaign_id: str
    def __init__(self, identity: _Optional[_Union[ClusterIdentity, _Mapping]] = ..., shard: _Optional[int] = ..., campaign_id: _Optional[str] = ...) -> None: ...

class HandoverRequest(_message.Message):
    __slots__ = ("identity", "shard", "incarnation", "revision")
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    identity: ClusterIdentity
    shard: int
    incarnation: str
    revision: int
    def __init__(self, identity: _Optional[_Union[ClusterIdentity, _Mapping]] = ..., shard: _Optional[int] = ..., incarnation: _Optional[str] = ..., revision: _Optional[int] = ...) -> None: ...

class HandoverResponse(_message.Message):
    __slots__ = ("revision",)
    REVISION_FIELD_NUMBER: _ClassVar[int]
    revision: int
    def __init__(self, revision: _Optional[int] = ...) -> None: ...

class PresenceRequest(_message.Message):
    __slots__ = ("identity", "incarnation")
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    identity: ClusterIdentity
    incarnation: str
    def __init__(self, identity: _Optional[_Union[ClusterIdentity, _Mapping]] = ..., incarnation: _Optional[str] = ...) -> None: ...

class PresenceResponse(_message.Message):
    __slots__ = ("incarnation",)
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    incarnation: str
    def __init__(self, incarnation: _Optional[str] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("identity", "incarnation")
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    identity: ClusterIdentity
    incarnation: str
    def __init__(self, identity: _Optional[_Union[ClusterIdentity, _Mapping]] = ..., incarnation: _Optional[str] = ...) -> None: ...

class DrainResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("incarnation", "shards", "standbys")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    STANDBYS_FIELD_NUMBER: _ClassVar[int]
    incarnation: str
    shards: _containers.RepeatedCompositeFieldContainer[ShardStatus]
    standbys: _containers.RepeatedCompositeFieldContainer[StandbyStatus]
    def __init__(self, incarnation: _Optional[str] = ..., shards: _Optional[_Iterable[_Union[ShardStatus, _Mapping]]] = ..., standbys: _Optional[_Iterable[_Union[StandbyStatus, _Mapping]]] = ...) -> None: ...

class StandbyStatus(_message.Message):
    __slots__ = ("shard", "warm", "position", "coupons")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    WARM_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    COUPONS_FIELD_NUMBER: _ClassVar[int]
    shard: int
    warm: bool
    position: int
    coupons: int
    def __init__(self, shard: _Optional[int] = ..., warm: bool = ..., position: _Optional[int] = ..., coupons: _Optional[int] = ...) -> None: ...

class ShardStatus(_message.Message):
    __slots__ = ("shard", "state", "cluster_incarnation", "revision", "position", "campaigns", "coupons", "queued", "error")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[ShardStatus.State]
        OPENING: _ClassVar[ShardStatus.State]
        SERVING: _ClassVar[ShardStatus.State]
        HANDING_OVER: _ClassVar[ShardStatus.State]
        CORRUPT: _ClassVar[ShardStatus.State]
    STATE_UNSPECIFIED: ShardStatus.State
    OPENING: ShardStatus.State
    SERVING: ShardStatus.State
    HANDING_OVER: ShardStatus.State
    CORRUPT: ShardStatus.State
    SHARD_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_INCARNATION_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    CAMPAIGNS_FIELD_NUMBER: _ClassVar[int]
    COUPONS_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    shard: int
    state: ShardStatus.State
    cluster_incarnation: int
    revision: int
    position: int
    campaigns: int
    coupons: int
    queued: int
    error: str
    def __init__(self, shard: _Optional[int] = ..., state: _Optional[_Union[ShardStatus.State, str]] = ..., cluster_incarnation: _Optional[int] = ..., revision: _Optional[int] = ..., position: _Optional[int] = ..., campaigns: _Optional[int] = ..., coupons: _Optional[int] = ..., queued: _Optional[int] = ..., error: _Optional[str] = ...) -> None: ...
