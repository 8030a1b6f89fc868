from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Entry(_message.Message):
    __slots__ = ("format_version", "shard", "position", "cluster_incarnation", "revision", "writer", "decide_time_us", "events")
    FORMAT_VERSION_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_INCARNATION_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    WRITER_FIELD_NUMBER: _ClassVar[int]
    DECIDE_TIME_US_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    format_version: int
    shard: int
    position: int
    cluster_incarnation: int
    revision: int
    writer: str
    decide_time_us: int
    events: _containers.RepeatedCompositeFieldContainer[Event]
    def __init__(self, format_version: _Optional[int] = ..., shard: _Optional[int] = ..., position: _Optional[int] = ..., cluster_incarnation: _Optional[int] = ..., revision: _Optional[int] = ..., writer: _Optional[str] = ..., decide_time_us: _Optional[int] = ..., events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("created", "activated", "ended", "updated", "paused", "resumed", "cancelled", "granted")
    CREATED_FIELD_NUMBER: _ClassVar[int]
    ACTIVATED_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    UPDATED_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    created: CampaignCreated
    activated: CampaignActivated
    ended: CampaignEnded
    updated: CampaignUpdated
    paused: CampaignPaused
    resumed: CampaignResumed
    cancelled: CampaignCancelled
    granted: CouponsGranted
    def __init__(self, created: _Optional[_Union[CampaignCreated, _Mapping]] = ..., activated: _Optional[_Union[CampaignActivated, _Mapping]] = ..., ended: _Optional[_Union[CampaignEnded, _Mapping]] = ..., updated: _Optional[_Union[CampaignUpdated, _Mapping]] = ..., paused: _Optional[_Union[CampaignPaused, _Mapping]] = ..., resumed: _Optional[_Union[CampaignResumed, _Mapping]] = ..., cancelled: _Optional[_Union[CampaignCancelled, _Mapping]] = ..., granted: _Optional[_Union[CouponsGranted, _Mapping]] = ...) -> None: ...

class CampaignCreated(_message.Message):
    __slots__ = ("campaign_id", "name", "total", "per_user_limit", "start_time_us", "end_time_us", "create_time_us")
    CAMPAIGN_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    PER_USER_LIMIT_FIELD_NUMBER: _ClassVar[int]
    START_TIME_US_FIELD_NUMBER: _ClassVar[int]
    END_TIME_US_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_US_FIELD_NUMBER: _ClassVar[int]
    campaign_id: str
    name: str
    total: int
    per_user_limit: int
    start_time_us: int
    end_time_us: int
    create_time_us: int
    def __init__(self, campaign_id: _Optional[str] = ..., name: _Optional[str] = ..., total: _Optional[int] = ..., per_user_limit: _Optional[int] = ..., start_time_us: _Optional[int] = ..., end_time_us: _Optional[int] = ..., create_time_us: _Optional[int] = ...) -> None: ...

class CampaignActivated(_message.Message):
    __slots__ = ("campaign_id", "time_us")
    CAMPAIGN_ID_FIELD_NUMBER: _ClassVar[int]
    TIME_US_FIELD_NUMBER: _ClassVar[int]
    campaign_id: str
    time_us: int
    def __init__(self, campaign_id: _Optional[str] = ..., time_us: _Optional[int] = ...) -> None: ...

class CampaignEnded(_message.Message):
    __slots__ = ("campaign_id", "time_us")
    CAMPAIGN_ID_FIELD_NUMBER: _ClassVar[int]
    TIME_US_FIELD_NUMBER: _ClassVar[int]
    campaign_id: str
    time_us: int
    def __init__(self, campaign_id: _Optional[str] = ..., time_us: _Optional[int] = ...) -> None: ...

class CampaignUpdated(_message.Message):
    __slots__ = ("campaign_id", "request_id", "expected_version", "total", "end_time_us", "time_us", "asked_total", "asked_end_time_us")
    CAMPAIGN_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    END_TIME_US_FIELD_NUMBER: _ClassVar[int]
    TIME_US_FIELD_NUMBER: _ClassVar[int]
    ASKED_TOTAL_FIELD_NUMBER: _ClassVar[int]
    ASKED_END_TIME_US_FIELD_NUMBER: _ClassVar[int]
    campaign_id: str
    request_id: str
    expected_version: int
    total: int
    end_time_us: int
    time_us: int
    asked_total: int
    asked_end_time_us: int
    def __init__(self, campaign_id: _Optional[str] = ..., request_id: _Optional[str] = ..., expected_version: _Optional[int] = ..., total: _Optional[int] = ..., end_time_us: _Optional[int] = ..., time_us: _Optional[int] = ..., asked_total: _Optional[int] = ..., asked_end_time_us: _Optional[int] = ...) -> None: ...

class CampaignPaused(_message.Message):
    __slots__ = ("campaign_id", "request_id", "expected_version", "time_us")
    CAMPAIGN_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    TIME_US_FIELD_NUMBER: _ClassVar[int]
    campaign_id: str
    request_id: str
    expected_version: int
    time_us: int
    def __init__(self, campaign_id: _Optional[str] = ..., request_id: _Optional[str] = ..., expected_version: _Optional[int] = ..., time_us: _Optional[int] = ...) -> None: ...

class CampaignResumed(_message.Message):
    __slots__ = ("campaign_id", "request_id", "expected_version", "time_us")
    CAMPAIGN_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    TIME_US_FIELD_NUMBER: _ClassVar[int]
    campaign_id: str
    request_id: str
    expected_version: int
    time_us: int
    def __init__(self, campaign_id: _Optional[str] = ..., request_id: _Optional[str] = ..., expected_version: _Optional[int] = ..., time_us: _Optional[int] = ...) -> None: ...

class CampaignCancelled(_message.Message):
    __slots__ = ("campaign_id", "request_id", "expected_version", "time_us")
    CAMPAIGN_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    TIME_US_FIELD_NUMBER: _ClassVar[int]
    campaign_id: str
    request_id: str
    expected_version: int
    time_us: int
    def __init__(self, campaign_id: _Optional[str] = ..., request_id: _Optional[str] = ..., expected_version: _Optional[int] = ..., time_us: _Optional[int] = ...) -> None: ...

class CouponsGranted(_message.Message):
    __slots__ = ("campaign_id", "first_sequence", "first_counter", "user_ids", "request_ids", "codes", "time_deltas_us")
    CAMPAIGN_ID_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    FIRST_COUNTER_FIELD_NUMBER: _ClassVar[int]
    USER_IDS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_IDS_FIELD_NUMBER: _ClassVar[int]
    CODES_FIELD_NUMBER: _ClassVar[int]
    TIME_DELTAS_US_FIELD_NUMBER: _ClassVar[int]
    campaign_id: str
    first_sequence: int
    first_counter: int
    user_ids: _containers.RepeatedScalarFieldContainer[str]
    request_ids: _containers.RepeatedScalarFieldContainer[str]
    codes: _containers.RepeatedScalarFieldContainer[str]
    time_deltas_us: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, campaign_id: _Optional[str] = ..., first_sequence: _Optional[int] = ..., first_counter: _Optional[int] = ..., user_ids: _Optional[_Iterable[str]] = ..., request_ids: _Optional[_Iterable[str]] = ..., codes: _Optional[_Iterable[str]] = ..., time_deltas_us: _Optional[_Iterable[int]] = ...) -> None: ...
