"""A history on disk: JSON, one line a record, only ever appended.

jq -c 'select(.record == "call" and .reason == "SOLD_OUT") | [.call_id, .invoked_s, .answered_s]' history.jsonl
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from chaos.history import Call, CampaignView, Coupon, Epochs, Fault, History, Operation, Outcome, Overload, Phase, Trace


class HistoryWriter:
    """Appends records to a file, as a context manager. Every record is on its way to the file when a method returns,
    so that a run that dies leaves what it knew."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO | None = None

    def __enter__(self) -> Self:
        self._file = self._path.open("a", encoding="utf-8", buffering=1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None, "left without being entered"
        self._file.close()
        self._file = None

    def call(self, call: Call) -> None:
        self._append("call", call)

    def phase(self, phase: Phase) -> None:
        self._append("phase", phase)

    def fault(self, fault: Fault) -> None:
        self._append("fault", fault)

    def overload(self, overload: Overload) -> None:
        self._append("overload", overload)

    def _append(self, record: str, value: Call | Phase | Fault | Overload) -> None:
        assert self._file is not None, "a history is written inside its context"
        line = {"record": record, **_plain(value)}
        self._file.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")


def write_history(path: Path, history: History) -> None:
    """Append a whole history."""
    with HistoryWriter(path) as writer:
        for phase in history.phases:
            writer.phase(phase)
        for fault in history.faults:
            writer.fault(fault)
        for overload in history.overloads:
            writer.overload(overload)
        for call in history.calls:
            writer.call(call)


def read_history(path: Path) -> History:
    """Raises ValueError, with the line's number, for a line that is no record."""
    calls: list[Call] = []
    phases: list[Phase] = []
    faults: list[Fault] = []
    overloads: list[Overload] = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
                match record.pop("record"):
                    case "call":
                        calls.append(_call(record))
                    case "phase":
                        phases.append(Phase(**record))
                    case "fault":
                        faults.append(_fault(record))
                    case "overload":
                        overloads.append(_overload(record))
                    case other:
                        raise ValueError(f"no such record: {other!r}")
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{path.name}, line {number}: {error!r}") from error
    return History(tuple(calls), tuple(phases), tuple(faults), tuple(overloads))


def _plain(value: Any) -> dict[str, Any]:
    """Fields as JSON's values, without those that say nothing."""
    return {
        name.name: plain
        for name in fields(value)
        if (plain := _plain_field(getattr(value, name.name))) not in (None, "", [], {})
    }


def _plain_field(value: Any) -> Any:
    match value:
        case Coupon() | CampaignView():
            return _plain(value)
        case tuple():
            return [_plain_field(part) for part in value]
        case Mapping():
            return {str(key): _plain_field(part) for key, part in value.items()}
        case _:
            return value


def _call(record: dict[str, Any]) -> Call:
    record["operation"] = Operation(record["operation"])
    record["outcome"] = Outcome(record["outcome"])
    record.setdefault("campaign_id", "")
    record["coupons"] = tuple(Coupon(**coupon) for coupon in record.get("coupons", ()))
    if "campaign" in record:
        record["campaign"] = CampaignView(**record["campaign"])
    return Call(**record)


def _fault(record: dict[str, Any]) -> Fault:
    record["required"] = tuple(map(Trace, record.get("required", ())))
    record["forbidden"] = tuple(map(Trace, record.get("forbidden", ())))
    record["campaign_ids"] = tuple(record.get("campaign_ids", ()))
    record["counted"] = {Trace(name): count for name, count in record.get("counted", {}).items()}
    return Fault(**_with_epochs(record))


def _overload(record: dict[str, Any]) -> Overload:
    record["campaign_ids"] = tuple(record.get("campaign_ids", ()))
    return Overload(**_with_epochs(record))


def _with_epochs(record: dict[str, Any]) -> dict[str, Any]:
    return record | {name: _epochs(record.get(name, {}).items()) for name in ("epochs_before", "epochs_after")}


def _epochs(items: Iterable[tuple[str, list[int]]]) -> Epochs:
    return {int(shard): (incarnation, revision) for shard, (incarnation, revision) in items}
