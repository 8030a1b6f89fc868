import datetime

from google.protobuf import field_mask_pb2 as _field_mask_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ErrorReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_REASON_UNSPECIFIED: _ClassVar[ErrorReason]
    NOT_STARTED: _ClassVar[ErrorReason]
    SOLD_OUT: _ClassVar[ErrorReason]
    ENDED: _ClassVar[ErrorReason]
    PAUSED: _ClassVar[ErrorReason]
    CANCELLED: _ClassVar[ErrorReason]
    LIMIT_REACHED: _ClassVar[ErrorReason]
    INVALID_FIELD: _ClassVar[ErrorReason]
    CAMPAIGN_NOT_FOUND: _ClassVar[ErrorReason]
    COUPON_NOT_FOUND: _ClassVar[ErrorReason]
    CAMPAIGN_EXISTS: _ClassVar[ErrorReason]
    ETAG_MISMATCH: _ClassVar[ErrorReason]
    REQUEST_ID_REUSED: _ClassVar[ErrorReason]
    OVERLOADED: _ClassVar[ErrorReason]
    NO_OWNER: _ClassVar[ErrorReason]
    OUTCOME_UNKNOWN: _ClassVar[ErrorReason]
    CORRUPT_JOURNAL: _ClassVar[ErrorReason]
    NOT_IN_TIME: _ClassVar[ErrorReason]
    ROUTER_STOPPING: _ClassVar[ErrorReason]
    STORAGE_NEARLY_FULL: _ClassVar[ErrorReason]
    KEY_INVALID: _ClassVar[ErrorReason]
    ROLE_MISSING: _ClassVar[ErrorReason]
    KEYS_UNKNOWN: _ClassVar[ErrorReason]
    RATE_LIMITED: _ClassVar[ErrorReason]
    AUDIT_UNWRITABLE: _ClassVar[ErrorReason]
ERROR_REASON_UNSPECIFIED: ErrorReason
NOT_STARTED: ErrorReason
SOLD_OUT: ErrorReason
ENDED: ErrorReason
PAUSED: ErrorReason
CANCELLED: ErrorReason
LIMIT_REACHED: ErrorReason
INVALID_FIELD: ErrorReason
CAMPAIGN_NOT_FOUND: ErrorReason
COUPON_NOT_FOUND: ErrorReason
CAMPAIGN_EXISTS: ErrorReason
ETAG_MISMATCH: ErrorReason
REQUEST_ID_REUSED: ErrorReason
OVERLOADED: ErrorReason
NO_OWNER: ErrorReason
OUTCOME_UNKNOWN: ErrorReason
CORRUPT_JOURNAL: ErrorReason
NOT_IN_TIME: ErrorReason
ROUTER_STOPPING: ErrorReason
STORAGE_NEARLY_FULL: ErrorReason
KEY_INVALID: ErrorReason
ROLE_MISSING: ErrorReason
KEYS_UNKNOWN: ErrorReason
RATE_LIMITED: ErrorReason
AUDIT_UNWRITABLE: ErrorReason

class Campaign(_message.Message):
    __slots__ = ("campaign_id", "name", "total", "issued", "per_user_limit", "start_time", "end_time", "state", "etag", "create_time", "activate_time", "complete_time")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Campaign.State]
        WAITING: _ClassVar[Campaign.State]
        ACTIVE: _ClassVar[Campaign.State]
        PAUSED: _ClassVar[Campaign.State]
        COMPLETED: _ClassVar[Campaign.State]
        ENDED: _ClassVar[Campaign.State]
        CANCELLED: _ClassVar[Campaign.State]
    STATE_UNSPECIFIED: Campaign.State
    WAITING: Campaign.State
    ACTIVE: Campaign.State
    PAUSED: Campaign.State
    COMPLETED: Campaign.State
    ENDED: Campaign.State
    CANCELLED: Campaign.State
    CAMPAIGN_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    ISSUED_FIELD_NUMBER: _ClassVar[int]
    PER_USER_LIMIT_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    ACTIVATE_TIME_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_TIME_FIELD_NUMBER: _ClassVar[int]
    campaign_id: str
    name: str
    total: int
    issued: int
    per_user_limit: int
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    state: Campaign.State
    etag: str
    create_time: _timestamp_pb2.Timestamp
    activate_time: _timestamp_pb2.Timestamp
    complete_time: _timestamp_pb2.Timestamp
    def __init__(self, campaign_id: _Optional[str] = ..., name: _Optional[str] = ..., total: _Optional[int] = ..., issued: _Optional[int] = ..., per_user_limit: _Optional[int] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., state: _Optional[_Union[Campaign.State, str]] = ..., etag: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., activate_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., complete_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Coupon(_message.Message):
    __slots__ = ("code", "campaign_id", "user_id", "sequence", "issue_time", "request_id")
    CODE_FIELD_NUMBER: _ClassVar[int]
    CAMPAIGN_ID_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ISSUE_TIME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    code: str
    campaign_id: str
    user_id: str
    sequence: int
    issue_time: _timestamp_pb2.Timestamp
    request_id: str
    def __init__(self, code: _Optional[str] = ..., campaign_id: _Optional[str] = ..., user_id: _Optional[str] = ..., sequence: _Optional[int] = ..., issue_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class CreateCampaignRequest(_message.Message):
    __slots__ = ("campaign_id", "campaign")
    CAMPAIGN_ID_FIELD_NUMBER: _ClassVar[int]
    CAMPAIGN_FIELD_NUMBER: _ClassVar[int]
    campaign_id: str
    campaign: Campaign
    def __init__(self, campaign_id: _Optional[str] = ..., campaign: _Optional[_Union[Campaign, _Mapping]] = ...) -> None: ...

class GetCampaignRequest(_message.Message):
    __slots__ = ("campaign_id", "page_size", "page_token")
    CAMPAIGN_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    campaign_id: str
    page_size: int
    page_token: str
    def __init__(self, campaign_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class GetCampaignResponse(_message.Message):
    __slots__ = ("campaign", "coupons", "next_page_token")
    CAMPAIGN_FIELD_NUMBER: _ClassVar[int]
    COUPONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    campaign: Campaign
    coupons: _containers.RepeatedCompositeFieldContainer[Coupon]
    next_page_token: str
    def __init__(self, campaign: _Optional[_Union[Campaign, _Mapping]] = ..., coupons: _Optional[_Iterable[_Union[Coupon, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ListCampaignsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListCampaignsResponse(_message.Message):
    __slots__ = ("campaigns", "next_page_token", "unreachable")
    CAMPAIGNS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    UNREACHABLE_FIELD_NUMBER: _ClassVar[int]
    campaigns: _containers.RepeatedCompositeFieldContainer[Campaign]
    next_page_token: str
    unreachable: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, campaigns: _Optional[_Iterable[_Union[Campaign, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., unreachable: _Optional[_Iterable[str]] = ...) -> None: ...

class UpdateCampaignRequest(_message.Message):
    __slots__ = ("campaign", "update_mask", "request_id", "etag")
    CAMPAIGN_FIELD_NUMBER: _ClassVar[int]
    UPDATE_MASK_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    campaign: Campaign
    update_mask: _field_mask_pb2.FieldMask
    request_id: str
    etag: str
    def __init__(self, campaign: _Optional[_Union[Campaign, _Mapping]] = ..., update_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ..., request_id: _Optional[str] = ..., etag: _Optional[str] = ...) -> None: ...

class IssueCouponRequest(_message.Message):
    __slots__ = ("campaign_id", "user_id", "request_id")
    CAMPAIGN_ID_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    campaign_id: str
    user_id: str
    request_id: str
    def __init__(self, campaign_id: _Optional[str] = ..., user_id: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class IssueCouponResponse(_message.Message):
    __slots__ = ("coupon", "already_issued")
    COUPON_FIELD_NUMBER: _ClassVar[int]
    ALREADY_ISSUED_FIELD_NUMBER: _ClassVar[int]
    coupon: Coupon
    already_issued: bool
    def __init__(self, coupon: _Optional[_Union[Coupon, _Mapping]] = ..., already_issued: bool = ...) -> None: ...

class IssueCouponsRequest(_message.Message):
    __slots__ = ("items",)
    class Item(_message.Message):
        __slots__ = ("index", "request")
        INDEX_FIELD_NUMBER: _ClassVar[int]
        REQUEST_FIELD_NUMBER: _ClassVar[int]
        index: int
        request: IssueCouponRequest
        def __init__(self, index: _Optional[int] = ..., request: _Optional[_Union[IssueCouponRequest, _Mapping]] = ...) -> None: ...
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[IssueCouponsRequest.Item]
    def __init__(self, items: _Optional[_Iterable[_Union[IssueCouponsRequest.Item, _Mapping]]] = ...) -> None: ...

class IssueCouponsResponse(_message.Message):
    __slots__ = ("results",)
    class Result(_message.Message):
        __slots__ = ("index", "response", "status")
        INDEX_FIELD_NUMBER: _ClassVar[int]
        RESPONSE_FIELD_NUMBER: _ClassVar[int]
        STATUS_FIELD_NUMBER: _ClassVar[int]
        index: int
        response: IssueCouponResponse
        status: _status_pb2.Status
        def __init__(self, index: _Optional[int] = ..., response: _Optional[_Union[IssueCouponResponse, _Mapping]] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[IssueCouponsResponse.Result]
    def __init__(self, results: _Optional[_Iterable[_Union[IssueCouponsResponse.Result, _Mapping]]] = ...) -> None: ...

class WatchCampaignRequest(_message.Message):
    __slots__ = ("campaign_id",)
    CAMPAIGN_ID_FIELD_NUMBER: _ClassVar[int]
    campaign_id: str
    def __init__(self, campaign_id: _Optional[str] = ...) -> None: ...

class WatchCampaignResponse(_message.Message):
    __slots__ = ("campaign",)
    CAMPAIGN_FIELD_NUMBER: _ClassVar[int]
    campaign: Campaign
    def __init__(self, campaign: _Optional[_Union[Campaign, _Mapping]] = ...) -> None: ...

class GetCouponRequest(_message.Message):
    __slots__ = ("code", "campaign_user")
    class CampaignUser(_message.Message):
        __slots__ = ("campaign_id", "user_id")
        CAMPAIGN_ID_FIELD_NUMBER: _ClassVar[int]
        USER_ID_FIELD_NUMBER: _ClassVar[int]
        campaign_id: str
        user_id: str
        def __init__(self, campaign_id: _Optional[str] = ..., user_id: _Optional[str] = ...) -> None: ...
    CODE_FIELD_NUMBER: _ClassVar[int]
    CAMPAIGN_USER_FIELD_NUMBER: _ClassVar[int]
    code: str
    campaign_user: GetCouponRequest.CampaignUser
    def __init__(self, code: _Optional[str] = ..., campaign_user: _Optional[_Union[GetCouponRequest.CampaignUser, _Mapping]] = ...) -> None: ...

class GetCouponResponse(_message.Message):
    __slots__ = ("coupons",)
    COUPONS_FIELD_NUMBER: _ClassVar[int]
    coupons: _containers.RepeatedCompositeFieldContainer[Coupon]
    def __init__(self, coupons: _Optional[_Iterable[_Union[Coupon, _Mapping]]] = ...) -> None: ...

class PauseCampaignRequest(_message.Message):
    __slots__ = ("campaign_id", "request_id", "etag")
    CAMPAIGN_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    campaign_id: str
    request_id: str
    etag: str
    def __init__(self, campaign_id: _Optional[str] = ..., request_id: _Optional[str] = ..., etag: _Optional[str] = ...) -> None: ...

class ResumeCampaignRequest(_message.Message):
    __slots__ = ("campaign_id", "request_id", "etag")
    CAMPAIGN_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    campaign_id: str
    request_id: str
    etag: str
    def __init__(self, campaign_id: _Optional[str] = ..., request_id: _Optional[str] = ..., etag: _Optional[str] = ...) -> None: ...

class CancelCampaignRequest(_message.Message):
    __slots__ = ("campaign_id", "request_id", "etag")
    CAMPAIGN_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    campaign_id: str
    request_id: str
    etag: str
    def __init__(self, campaign_id: _Optional[str] = ..., request_id: _Optional[str] = ..., etag: _Optional[str] = ...) -> None: ...
