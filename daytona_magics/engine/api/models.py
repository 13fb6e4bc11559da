"""Sandboxes as JSON: what a creator may ask for, and what every answer says."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.store.records import SandboxRecord

DEFAULT_SNAPSHOT = "daytona-small"
SNAPSHOTS = {
    "daytona-small": (1, 1, 3),
    "daytona-medium": (2, 4, 8),
    "daytona-large": (4, 8, 10),
}
"""Snapshots that can be named, with their (cpu, memory GiB, disk GiB); all are this machine's own Python.

Named, they give these sizes as far as the machine has them; a sandbox that names none gets a share of it.
"""

SIZES = ("cpu", "memory", "disk")
MAX_AUTO_ARCHIVE = 43200
ORGANIZATION = "local"
REGION = "local"

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_NAME = re.compile(r"[^\x00-\x1f\x7f/]{1,128}\Z")
# Accepted and remembered as they are, for answers and for what later versions enforce.
_KEPT: dict[str, type] = {
    "domainAllowList": str,
    "networkAllowList": str,
    "networkBlockAll": bool,
    "otelEndpointOverride": str,
    "outboundProxyUrl": str,
    "queueTimeout": int,
    "kvm": bool,
    "spot": bool,
    "linkedSandbox": str,
}
_OTHERS: dict[str, type] = {"name": str, "snapshot": str, "user": str, "target": str, "public": bool}
_WORDS = {int: "a whole number", str: "a text", bool: "true or false"}


def rfc3339(seconds: float | None) -> str | None:
    """Wall-clock seconds as text in UTC with milliseconds; None stays None."""
    if seconds is None:
        return None
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def sandbox_json(record: SandboxRecord, toolbox_url: str, daemon_version: str) -> dict[str, Any]:
    """The whole sandbox, as ``GET /sandbox/{id}`` answers."""
    options = record.options
    return {
        **list_item_json(record, toolbox_url, daemon_version),
        "env": record.env,
        "kvm": False,
        "volumes": [],
        "otelEndpointOverride": options.get("otelEndpointOverride"),
        "outboundProxyUrl": options.get("outboundProxyUrl"),
        "linkedSandboxId": options.get("linkedSandbox"),
    }


def list_item_json(record: SandboxRecord, toolbox_url: str, daemon_version: str) -> dict[str, Any]:
    """The sandbox as ``GET /sandbox`` lists it: without its environment."""
    options = record.options
    return {
        "id": record.id,
        "organizationId": ORGANIZATION,
        "name": record.name,
        "target": record.target,
        "runnerId": "local",
        "sandboxClass": "container",
        "state": record.state,
        "desiredState": record.desired_state,
        "errorReason": record.error_reason,
        "recoverable": record.recoverable,
        "snapshot": record.snapshot,
        "user": record.user,
        "public": record.public,
        "networkBlockAll": bool(options.get("networkBlockAll", False)),
        "networkAllowList": options.get("networkAllowList"),
        "domainAllowList": options.get("domainAllowList"),
        "cpu": record.cpu,
        "gpu": 0,
        "spot": False,
        "memory": record.memory,
        "disk": record.disk,
        "labels": record.labels,
        "backupState": "Completed" if record.state == "archived" else "None",
        "autoStopInterval": record.auto_stop_interval,
        "autoPauseInterval": record.auto_pause_interval,
        "autoArchiveInterval": record.auto_archive_interval,
        "autoDeleteInterval": record.auto_delete_interval,
        "autoDestroyAt": rfc3339(record.destroy_at),
        "queueTimeout": options.get("queueTimeout"),
        "createdAt": rfc3339(record.created_at),
        "updatedAt": rfc3339(record.updated_at),
        "lastActivityAt": rfc3339(record.last_activity_at),
        "daemonVersion": daemon_version,
        "toolboxProxyUrl": toolbox_url,
    }


def parse_labels(value: object) -> dict[str, str]:
    """Labels of a request body.

    Raises:
        ApiError: 400 when they are not texts by name.
    """
    return _texts(value, "labels")


def whole(value: object, name: str, low: int | None = None) -> int:
    """An integer of a request, not below ``low``.

    Raises:
        ApiError: 400.
    """
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,9}", value):
        value = int(value)
    if type(value) is not int or (low is not None and value < low) or abs(value) >= 1_000_000_000:
        least = "" if low is None else f" of at least {low}"
        raise ApiError(400, f"{name} must be a whole number{least}")
    return value


def parse_create(body: Mapping[str, Any]) -> SandboxRecord:
    """The record a creation asks for; id, home and uid are still empty.

    Raises:
        ApiError: 400 for what is wrong or cannot be had on one machine, in one honest sentence.
    """
    for key, kind in (_KEPT | _OTHERS).items():
        if body.get(key) is not None and type(body[key]) is not kind:
            raise ApiError(400, f"{key} must be {_WORDS[kind]}")
    _refuse(body)
    snapshot = body.get("snapshot") or DEFAULT_SNAPSHOT
    name = check_name(body.get("name"))
    env = _texts(body.get("env") or {}, "env")
    for variable, value in env.items():
        if not _ENV_NAME.match(variable) or "\0" in value:
            raise ApiError(400, f"{variable!r} is not a valid environment variable")
    ttl = whole(body.get("ttlMinutes") or 0, "ttlMinutes", 0)
    if body.get("queueTimeout") is not None:
        whole(body["queueTimeout"], "queueTimeout", 1)
    stop, pause = idle_intervals(body)
    record = SandboxRecord(
        id="",
        name=name,
        state="creating",
        home="",
        snapshot=snapshot,
        public=body.get("public") is True,
        # Programs written for the cloud name its regions; this machine is the only one here.
        target=REGION,
        # 0: the engine decides.
        cpu=whole(body.get("cpu") or 0, "cpu", 0),
        memory=whole(body.get("memory") or 0, "memory", 0),
        disk=whole(body.get("disk") or 0, "disk", 0),
        env=env,
        labels=parse_labels(body.get("labels") or {}),
        options={key: body[key] for key in _KEPT if body.get(key) is not None},
        auto_stop_interval=stop,
        auto_pause_interval=pause,
        auto_archive_interval=archive_interval(_interval(body, "autoArchiveInterval", 10080, 0)),
        auto_delete_interval=_interval(body, "autoDeleteInterval", -1, None),
        destroy_at=time.time() + ttl * 60 if ttl else None,
    )
    check_intervals(record)
    if record.options.get("linkedSandbox") and record.auto_delete_interval != 0:
        raise ApiError(400, "a linked sandbox must be ephemeral: its autoDeleteInterval must be 0")
    return record


def check_name(name: object) -> str:
    """The name a request gives to a sandbox; empty when it gives none.

    Raises:
        ApiError: 400.
    """
    if name is None or name == "":
        return ""
    if not isinstance(name, str) or not _NAME.match(name):
        raise ApiError(400, "the name of a sandbox is 1 to 128 printable characters without '/'")
    return name


def idle_intervals(body: Mapping[str, Any]) -> tuple[int, int]:
    """Minutes without activity until a new sandbox is stopped, and until it is paused; 0: never.

    Where nothing is said it is stopped after 15 minutes, unless it is to be paused.

    In:  idle_intervals({"autoPauseInterval": 60})
    Out: (0, 60)
    """
    pause = _interval(body, "autoPauseInterval", 0, 0)
    return _interval(body, "autoStopInterval", 0 if pause else 15, 0), pause


def check_intervals(record: SandboxRecord) -> None:
    """Do the intervals of a sandbox go together?

    Raises:
        ApiError: 400.
    """
    if record.auto_pause_interval and record.auto_stop_interval:
        raise ApiError(400, "only one of autoStopInterval and autoPauseInterval can be other than 0")
    if record.auto_pause_interval and record.auto_delete_interval == 0:
        raise ApiError(400, "an ephemeral sandbox cannot be paused automatically")


def archive_interval(minutes: int) -> int:
    """An auto-archive interval with the platform's meaning of 0: the maximum."""
    return min(minutes, MAX_AUTO_ARCHIVE) or MAX_AUTO_ARCHIVE


def _refuse(body: Mapping[str, Any]) -> None:
    """Refuse what one machine cannot honestly do."""
    cloud = "the Daytona cloud can (set DAYTONA_API_KEY)"
    user = body.get("user")
    if body.get("buildInfo"):
        raise ApiError(400, f"the embedded engine cannot build or pull container images; {cloud}")
    if (snapshot := body.get("snapshot")) and snapshot not in SNAPSHOTS:
        known = ", ".join(SNAPSHOTS)
        raise ApiError(400, f"the embedded engine has no snapshot {snapshot!r}, only {known}; {cloud}")
    if body.get("gpu") or body.get("gpuType"):
        raise ApiError(400, f"the embedded engine cannot give a GPU to a sandbox; {cloud}")
    if body.get("volumes"):
        raise ApiError(400, f"the embedded engine of this version cannot mount volumes; {cloud}")
    if body.get("secrets"):
        raise ApiError(400, f"the embedded engine of this version cannot mount secrets; {cloud}")
    if body.get("spot"):
        raise ApiError(400, f"only sandboxes with a GPU can be spot, and there is none here; {cloud}")
    if body.get("kvm"):
        raise ApiError(400, f"the embedded engine cannot give /dev/kvm to a sandbox; {cloud}")
    if user not in (None, "", "daytona"):
        raise ApiError(400, f"a sandbox of the embedded engine runs as user daytona, not {user!r}; {cloud}")


def _interval(body: Mapping[str, Any], name: str, default: int, low: int | None) -> int:
    value = body.get(name)
    return default if value is None else whole(value, name, low)


def _texts(value: object, name: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise ApiError(400, f"{name} must be an object whose values are texts")
    return dict(value)
