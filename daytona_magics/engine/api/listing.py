"""``GET /sandbox``: filters, order and pages."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from datetime import datetime, timezone

from multidict import MultiMapping

from daytona_magics.engine.api.models import whole
from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.store.records import SandboxRecord

DEFAULT_LIMIT, MAX_LIMIT = 100, 200

_SORT: dict[str, Callable[[SandboxRecord], str | float]] = {
    "name": lambda r: r.name,
    "cpu": lambda r: r.cpu,
    "memoryGib": lambda r: r.memory,
    "diskGib": lambda r: r.disk,
    "lastActivityAt": lambda r: r.last_activity_at,
    "createdAt": lambda r: r.created_at,
}

_AT_LEAST: dict[str, Callable[[SandboxRecord], int]] = {
    "Cpu": lambda r: r.cpu,
    "MemoryGiB": lambda r: r.memory,
    "DiskGiB": lambda r: r.disk,
    "Gpu": lambda r: 0,
}
_TIMES: dict[str, Callable[[SandboxRecord], float | None]] = {
    "createdAt": lambda r: r.created_at,
    "lastEvent": lambda r: r.last_activity_at,
    "autoDestroyAt": lambda r: r.destroy_at,
}


def page(records: list[SandboxRecord], query: MultiMapping[str]) -> tuple[list[SandboxRecord], str | None]:
    """The records a query asks for and the cursor of the next page (None on the last).

    A cursor holds the sort value and id of the last record of its page, so that sandboxes made or deleted
    between two pages neither repeat nor hide another.

    Raises:
        ApiError: 400 for a parameter that cannot be understood.
    """
    sort, order = query.get("sort", "createdAt"), query.get("order", "desc")
    if sort not in _SORT or order not in ("asc", "desc"):
        raise ApiError(400, f"cannot sort by {sort!r} {order!r}")
    limit = min(whole(query.get("limit", str(DEFAULT_LIMIT)), "limit", 1), MAX_LIMIT)
    key = _SORT[sort]
    found = [r for r in records if _matches(r, query)]
    found.sort(key=lambda r: (key(r), r.id), reverse=order == "desc")
    if cursor := query.get("cursor"):
        last = _decode(cursor, key)
        found = [r for r in found if ((key(r), r.id) < last if order == "desc" else (key(r), r.id) > last)]
    more = len(found) > limit
    found = found[:limit]
    return found, _encode((key(found[-1]), found[-1].id)) if more else None


def _matches(record: SandboxRecord, query: MultiMapping[str]) -> bool:
    for name in ("id", "name"):
        if not str(getattr(record, name)).lower().startswith(query.get(name, "").lower()):
            return False
    if text := query.get("labels"):
        try:
            labels = json.loads(text)
        except ValueError as error:
            raise ApiError(400, f"labels is not JSON: {error}") from error
        if not isinstance(labels, dict):
            raise ApiError(400, "labels must be a JSON object")
        if any(record.labels.get(k) != v for k, v in labels.items()):
            return False
    choices = {
        "states": record.state,
        "snapshots": record.snapshot,
        "regionIds": record.target,
        "sandboxClasses": "container",
    }
    for name, value in choices.items():
        wanted = [part for item in query.getall(name, []) for part in item.split(",") if part]
        if wanted and value not in wanted:
            return False
    flags = {"isPublic": record.public, "isRecoverable": record.recoverable}
    if any(name in query and (query[name].lower() == "true") != flag for name, flag in flags.items()):
        return False
    return _in_ranges(record, query)


def _in_ranges(record: SandboxRecord, query: MultiMapping[str]) -> bool:
    for name, number in _AT_LEAST.items():
        if f"min{name}" in query and number(record) < whole(query[f"min{name}"], f"min{name}"):
            return False
        if f"max{name}" in query and number(record) > whole(query[f"max{name}"], f"max{name}"):
            return False
    for name, moment in _TIMES.items():
        at = moment(record)
        if f"{name}After" in query and (at is None or at <= parse_time(query[f"{name}After"])):
            return False
        if f"{name}Before" in query and (at is None or at >= parse_time(query[f"{name}Before"])):
            return False
    return True


def parse_time(text: str) -> float:
    """Seconds since 1970 of an ISO 8601 time; zone ``Z``, ``+0100``, ``+01:00`` or none (UTC).

    Raises:
        ApiError: 400.
    """
    # A plus sign that was not escaped arrives as a space.
    match = re.fullmatch(r"(.+?)(?:\.(\d{1,9}))?(Z|[+\- ]\d\d:?\d\d)?", text)
    try:
        moment = datetime.strptime(match[1] if match else text, "%Y-%m-%dT%H:%M:%S")
    except ValueError as error:
        raise ApiError(400, f"{text!r} is not a time") from error
    fraction, zone = (match[2] or "0", match[3] or "Z") if match else ("0", "Z")
    offset = 0
    if zone != "Z":
        offset = (int(zone[1:3]) * 60 + int(zone[-2:])) * (-60 if zone[0] == "-" else 60)
    return moment.replace(tzinfo=timezone.utc).timestamp() - offset + float(f"0.{fraction}")


def _encode(last: tuple[str | float, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(last).encode()).decode()


def _decode(cursor: str, key: Callable[[SandboxRecord], str | float]) -> tuple[str | float, str]:
    try:
        value, last_id = json.loads(base64.urlsafe_b64decode(cursor.encode()))
        sample = key(SandboxRecord(id="", name="", state="", home=""))
        if isinstance(value, str) != isinstance(sample, str) or not isinstance(last_id, str):
            raise ValueError
    except ValueError as error:
        raise ApiError(400, "the cursor is not one of this list") from error
    return value, last_id
