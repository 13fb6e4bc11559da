"""What the panel shows of sandboxes, as plain values for the page: no requests, no widget.

Names, labels, reasons and commands come from an endpoint or a sandbox. They leave here as texts of a limited
length without control characters, and the page shows them as text.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from daytona_magics.errors import printable
from daytona_magics.notebook.card import Card, duration
from daytona_magics.sandboxes import glances, labels, reaping, states, tags
from daytona_magics.sandboxes.report import state_of

if TYPE_CHECKING:
    from daytona_magics.runtime.records import Look
    from daytona_magics.sandboxes.binding import Binding

#: Characters of a text; labels of a sandbox; executions and sandboxes that are shown.
LONGEST, MOST_LABELS, MOST_RUNS, MOST_BOXES = 300, 12, 100, 2000

_WORDS = {
    "started": "Running.",
    "stopped": "Stopped: variables are lost, files kept. The next cell starts it again.",
    "paused": "Paused: variables and processes are kept. The next cell wakes it.",
    "archived": "Archived: files are kept where they use no disk. Starting it takes longer.",
    "creating": "Being created.",
    "starting": "Starting.",
    "stopping": "Stopping: its processes are being ended.",
    "pausing": "Being paused.",
    "resuming": "Waking up.",
    "archiving": "Its files are being archived.",
    "restoring": "Its files are being brought back.",
    "resizing": "Being given another size.",
    "destroying": "Being deleted.",
    "destroyed": "Deleted, with all its files.",
}
_CAN = {
    "started": ("stop", "pause", "reset", "keep"),
    "stopped": ("start", "archive", "keep"),
    "paused": ("start", "stop"),
    "archived": ("start",),
}


def short(value: object, most: int = LONGEST) -> str:
    """A text of one line and a limited length, without control characters."""
    text = printable(value, line=True)
    return text if len(text) <= most else text[: most - 1] + "…"


def words(box: Any) -> str:
    """The state of a sandbox as a sentence."""
    state = state_of(box)
    if state in ("error", "build_failed"):
        why = short(box.error_reason or "the endpoint gives no reason")
        return f"Failed: {why}." if not why.endswith(".") else f"Failed: {why}"
    return _WORDS.get(state, f"In state {short(state, 40)}.")


def can(box: Any) -> list[str]:
    """What can be done to a sandbox in its state of now."""
    state = state_of(box)
    found = list(_CAN.get(state, ()))
    if state in ("error", "build_failed") and box.recoverable:
        found.append("recover")
    return found if state in ("destroyed", "destroying") else [*found, "delete"]


def times(box: Any) -> list[dict[str, Any]]:
    """What happens to a sandbox by itself: what, when in seconds since 1970 (None: not known yet), a text.

    ``about``: the platform does not tell when a sandbox stopped, so its last change stands for that.
    """
    state = state_of(box)
    active, changed = glances.moment(box.last_activity_at), glances.moment(box.updated_at)
    found = [
        _after("stops", box.auto_stop_interval, "without activity", active if state == "started" else None),
        _after(
            "pauses",
            getattr(box, "auto_pause_interval", None),
            "without activity",
            active if state == "started" else None,
        ),
        _after(
            "archived", box.auto_archive_interval, "after it stopped", changed if state == "stopped" else None
        ),
        _deletion(box, changed if state in ("stopped", "archived") else None),
    ]
    end = glances.moment(getattr(box, "auto_destroy_at", None))
    if end is not None:
        found.append({"what": "ends", "at": end, "text": "deleted then, whatever it does", "about": False})
    return [one for one in found if one is not None]


def _after(what: str, minutes: Any, text: str, since: float | None) -> dict[str, Any] | None:
    if not minutes or minutes < 0:
        return (
            {"what": what, "at": None, "text": "never by itself", "about": False} if what == "stops" else None
        )
    return {
        "what": what,
        "at": None if since is None else since + float(minutes) * 60,
        "text": f"{duration(minutes)} {text}",
        "about": what == "archived",
    }


def _deletion(box: Any, since: float | None) -> dict[str, Any] | None:
    minutes = box.auto_delete_interval
    if minutes == 0:
        return {"what": "deleted", "at": None, "text": "as soon as it stops", "about": False}
    if minutes is None or minutes < 0:
        return {"what": "deleted", "at": None, "text": "never by itself", "about": False}
    found = _after("deleted", minutes, "after it stopped", since)
    return {**found, "about": True} if found else None


def bound(binding: Binding, box: Any) -> dict[str, Any]:
    """The notebook's own sandbox."""
    endpoint = binding.endpoint
    level = short(box.labels.get(labels.ISOLATION, ""), 10)
    embedded = endpoint is not None and endpoint.kind == "embedded"
    where = short(endpoint.title) if endpoint is not None else ""
    if level and embedded:
        where = f"embedded engine, isolation {level}"
    size = f"{box.cpu:g} CPU, {box.memory:g} GiB memory, {box.disk:g} GiB disk" if box.cpu else ""
    return {
        "id": short(box.id, 100),
        "name": short(box.name),
        "state": short(state_of(box), 40),
        "words": words(box),
        "where": where,
        "embedded": embedded,
        "context": short(binding.context),
        "size": size,
        "times": times(box),
        "can": can(box),
        "labels": own_labels(box.labels),
    }


def own_labels(given: Mapping[str, str] | None) -> list[list[str]]:
    """The labels that a person gave."""
    known = [[short(k, 60), short(v, 60)] for k, v in sorted((given or {}).items()) if not tags.reserved(k)]
    more = len(known) - MOST_LABELS
    return known[:MOST_LABELS] + ([["…", f"{more} more"]] if more > 0 else [])


def row(binding: Binding, box: Any) -> dict[str, Any]:
    """A sandbox in the list of all. Looks at kernels' locks, so it is for a thread of its own."""
    return {
        "id": short(box.id, 100),
        "name": short(box.name),
        "state": short(state_of(box), 40),
        "owner": reaping.owner(binding, box),
        "orphan": reaping.orphan(binding, box),
        "foreign": states.theirs(binding, box),
        "bound": binding.sandbox is not None and binding.sandbox.id == box.id,
        "created": glances.moment(box.created_at),
        "labels": own_labels(box.labels),
        "can": [one for one in can(box) if one in ("start", "stop", "delete", "recover")],
    }


def contexts(
    binding: Binding, found: Iterable[Mapping[str, Any]], runs: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The interpreters of a sandbox, this kernel's first; those of jobs are shown with the jobs."""
    jobs = {one["id"] for one in runs if one["job"]}
    rows = [
        {
            "name": short(one.get("name", ""), 80),
            "language": short(one.get("language", ""), 40),
            "alive": one.get("worker_pid") is not None,
            "busy": short(one.get("busy") or "", 64),
            "queued": len(queued) if isinstance(queued := one.get("queued"), list) else 0,
            "mine": one.get("name") == binding.context,
        }
        for one in found
        if str(one.get("name", "")).rpartition(" ")[2] not in jobs
    ]
    return sorted(rows, key=lambda one: (not one["mine"], str(one["name"])))[:MOST_RUNS]


def run(look: Look) -> dict[str, Any]:
    """An execution: a cell, or a job."""
    ended = {"ok": "ok", "": "ended", "interrupted": "stopped"}.get(look.status, "failed")
    return {
        "id": look.id,
        "name": short(look.name, 120),
        "job": look.job,
        "language": short(look.language, 40),
        "context": short(look.context, 80),
        "state": look.state if look.state != "done" else ended,
        "started": look.started if look.started is not None and 0 <= look.started < 2**40 else None,
        "seconds": round(look.seconds, 1),
        "printed": look.printed,
        "kept": bool(look.kept) and not look.dropped,
    }


def card(view: Mapping[str, Any], inside: Mapping[str, Any]) -> Card:
    """The record that stays in the notebook."""
    box = view.get("box")
    seen = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(view.get("now") or time.time()))
    if not box:
        foot = view.get("words") or "The first `%%sandbox` cell creates one."
        return Card("No sandbox", [("seen", seen)], foot=[foot])
    running = [one["name"] for one in inside.get("runs", ()) if one["state"] in ("running", "queued")]
    facts: list[tuple[str, object]] = [
        ("", box["words"]),
        ("runs on", box["where"]),
        ("id", box["id"]),
        ("size", box["size"]),
        ("context", box["context"]),
        *((one["what"], _when(one)) for one in box["times"]),
        ("labels", ", ".join(f"{key}={value}" for key, value in box["labels"])),
        ("running", ", ".join(running)),
        ("ports", ", ".join(str(port) for port in inside.get("ports", ()))),
        ("seen", seen),
    ]
    return Card(box["name"], facts, state=box["state"])


def _when(one: Mapping[str, Any]) -> str:
    if one["at"] is None:
        return str(one["text"])
    at = time.strftime("%Y-%m-%d %H:%M", time.localtime(one["at"]))
    return f"{one['text']}, now {'about ' if one['about'] else ''}at {at}"
