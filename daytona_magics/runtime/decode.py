"""From the guest's bytes to events, believing nothing.

A sandbox may be hostile, and whoever owns it owns the guest's side of the line too. So every payload is
checked here, types and sizes, before anything else of the package sees it: what does not look like something
our guest would send is a :class:`~daytona_magics.errors.ProtocolError`, never interpreted or repaired.
"""

from __future__ import annotations

import base64
import json
import math
import re
from typing import Any, NoReturn

from daytona_magics.errors import ProtocolError
from daytona_magics.runtime.events import (
    Clear,
    Display,
    Done,
    Error,
    Event,
    Gap,
    Input,
    InputOver,
    Notice,
    Page,
    Result,
    Variables,
)
from daytona_magics.runtime.guest import frames
from daytona_magics.runtime.records import GuestInfo, Look

#: Largest message believed, bytes: a display bundle of 64 MiB and its envelope.
MAX_MESSAGE = 72 << 20
#: Largest control message believed, bytes (a status with thousands of executions fits).
MAX_CONTROL = 4 << 20
MAX_TEXT = 1 << 20
#: Longest question believed, characters.
MAX_PROMPT = 64 << 10
#: Most values in one message's JSON, and how deep they lie in each other: a value of two bytes takes 70 bytes
#: of memory once it is parsed.
MAX_VALUES, MAX_DEPTH = 1_000_000, 200
_SURROGATE = re.compile("[\ud800-\udfff]")
_STRING = re.compile(rb'"[^"]*"?')
_UNMARKED = bytes(byte for byte in range(256) if byte not in b"[]{},")
STATUSES = ("ok", "error", "interrupted", "timeout", "died")


def refuse(what: str) -> NoReturn:
    """Raise the ProtocolError that says what was wrong."""
    raise ProtocolError(
        f"the sandbox sent something our guest would not: {what}",
        hint="%sandbox restart starts the sandbox's side afresh.",
    )


def json_object(payload: bytes | bytearray, what: str) -> dict[str, Any]:
    """Parse a JSON object.

    In:  json_object(b'{"a": 1}', "example")
    Out: {'a': 1}
    """
    if too_much(payload):
        refuse(f"{what} has more values than are parsed")
    return _parsed(payload, what)


def _parsed(payload: bytes | bytearray, what: str) -> dict[str, Any]:
    try:
        # As text, because json reads bytes of half a surrogate pair as such.
        value = json.loads(payload.decode("utf-8"))
    except (ValueError, RecursionError):
        refuse(f"{what} is not JSON")
    if not isinstance(value, dict):
        refuse(f"{what} is not a JSON object")
    if b"\\ud" in payload or b"\\uD" in payload:
        return {_whole(key): _whole(item) for key, item in value.items()}
    return value


def _whole(value: Any) -> Any:
    """The value with halves of surrogate pairs replaced: the kernel could encode no message with one."""
    if isinstance(value, str):
        return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {_whole(key): _whole(item) for key, item in value.items()}
    return value


def too_much(payload: bytes | bytearray, most: int = MAX_VALUES) -> bool:
    """Whether a JSON text has too many values, or has them too deep, to be parsed; looks only at its marks.

    In:  too_much(b'{"a": [1, 2]}'), too_much(b"[" * 1000)
    Out: (False, True)
    """
    if len(payload) <= MAX_DEPTH:
        return False
    bare = payload.replace(b"\\\\", b"").replace(b'\\"', b"")
    if bare.count(b'"') > 2 * most:
        return True
    marks = _STRING.sub(b"", bare).translate(None, _UNMARKED)
    if marks.count(b",") + marks.count(b"[") + marks.count(b"{") > most:
        return True
    depth = 0
    for mark in marks.translate(None, b","):
        depth += 1 if mark in b"[{" else -1
        if depth > MAX_DEPTH:
            return True
    return False


def text(message: dict[str, Any], key: str, default: str | None = None, limit: int = MAX_TEXT) -> str:
    """A string member of a message; a missing one is ``default``, or refused when that is None."""
    value = message.get(key, default)
    if not isinstance(value, str):
        refuse(f"{key} is not a string")
    if len(value) > limit:
        refuse(f"{key} is longer than {limit} characters")
    return value


def integer(message: dict[str, Any], key: str, low: int = 0, high: int = 2**53) -> int:
    """An integer member of a message within bounds."""
    value = message.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        refuse(f"{key} is not an integer from {low} to {high}")
    return value


def boolean(message: dict[str, Any], key: str) -> bool:
    """A boolean member of a message; a missing one is False."""
    value = message.get(key, False)
    if not isinstance(value, bool):
        refuse(f"{key} is not true or false")
    return value


def mapping(message: dict[str, Any], key: str) -> dict[str, Any]:
    """An object member of a message; a missing one is empty."""
    value = message.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        refuse(f"{key} is not an object")
    return value


def _maybe_integer(message: dict[str, Any], key: str) -> int | None:
    return None if message.get(key) is None else integer(message, key, -(2**31), 2**31)


def hello(message: dict[str, Any], started: bool) -> GuestInfo:
    """Check a guest's first words."""
    protocol = integer(message, "protocol")
    if protocol != frames.PROTOCOL:
        raise ProtocolError(
            f"the guest in the sandbox speaks protocol {protocol}, this package speaks {frames.PROTOCOL}",
            hint="Another version of daytona-magics started it; %sandbox restart ends it.",
        )
    return GuestInfo(
        protocol=protocol,
        version=text(message, "version", limit=100),
        python=text(message, "python", limit=100),
        boot=text(message, "boot", limit=200),
        pid=integer(message, "pid"),
        started=started,
    )


def status(message: dict[str, Any]) -> dict[str, Any]:
    """Check the answer to ``status``: two lists of records of plain values and lists of texts."""
    checked: dict[str, Any] = {}
    for key in ("contexts", "executions"):
        records = message.get(key, [])
        if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
            refuse(f"{key} is not a list of objects")
        for record in records:
            for name, value in record.items():
                texts = isinstance(value, list) and all(isinstance(one, str) for one in value)
                if not texts and not isinstance(value, str | int | float | None):
                    refuse(f"{name} in {key} is not a plain value")
        checked[key] = records
    return checked


def look(message: dict[str, Any]) -> Look:
    """Check an execution's entry in ``status``, or the answer to ``look``, which has the end of its text."""
    started, code = message.get("started"), message.get("exit_code")
    if started is not None and not _finite(started):
        refuse("started is not a time")
    if message.get("state") not in ("queued", "running", "done"):
        refuse("an execution has an unknown state")
    if not _finite(message.get("seconds", 0.0)):
        refuse("seconds is not a number")
    if message.get("status", "") not in ("", *STATUSES):
        refuse("an execution has an unknown status")
    name = text(message, "id", limit=64)
    if not name.isalnum() or not name.isascii():
        refuse("an execution's id is none")
    return Look(
        id=name,
        context=text(message, "context", limit=200),
        language=text(message, "language", limit=40),
        name=text(message, "name", limit=1000),
        state=message["state"],
        job=boolean(message, "job"),
        started=started,
        seconds=max(0.0, float(message.get("seconds", 0.0))),
        printed=integer(message, "printed"),
        kept=integer(message, "kept"),
        lost=integer(message, "lost"),
        dropped=boolean(message, "dropped"),
        status=text(message, "status", "", 20),
        exit_code=None if code is None else integer(message, "exit_code", -(2**31), 2**31),
        tail=text(message, "tail", ""),
        tail_bytes=integer(message, "tail_bytes", 0, MAX_TEXT) if "tail_bytes" in message else 0,
    )


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def gap(payload: bytes) -> Gap:
    """A GAP frame's payload. In: gap(b'{"bytes": 10, "frames": 2}') Out: Gap(bytes=10, frames=2)"""
    message = json_object(payload, "a gap")
    return Gap(
        bytes=integer(message, "bytes"),
        frames=integer(message, "frames", 1, 2**32),
        kept=boolean(message, "kept"),
    )


def event(payload: bytes | bytearray) -> Event | None:
    """The event in a MESSAGE payload; None for "started" and for kinds a newer guest may add.

    In:  event(b'{"msg": "notice", "text": "waiting"}')
    Out: Notice(text='waiting')
    """
    if too_much(payload):
        # Our own guest sends this as well, when a cell shows a figure of millions of points.
        return Notice(
            f"an output was not shown: it has more than {MAX_VALUES:,} values, or nests them deeper than "
            f"{MAX_DEPTH}"
        )
    message = _parsed(payload, "a message")
    kind = text(message, "msg", limit=40)
    if kind == "display":
        return Display(
            data=_bundle(message),
            metadata=mapping(message, "metadata"),
            transient=_transient(message),
            update=boolean(message, "update"),
            size=len(payload),
        )
    if kind == "result":
        return Result(data=_bundle(message), metadata=mapping(message, "metadata"), size=len(payload))
    if kind == "error":
        return _error(message, len(payload))
    if kind == "variables":
        return _variables(message, len(payload))
    if kind == "notice":
        return Notice(text(message, "text"))
    if kind == "input":
        number = integer(message, "number", 1, 2**53)
        return Input(number, text(message, "prompt", "", MAX_PROMPT), boolean(message, "password"))
    if kind == "input_over":
        return InputOver(integer(message, "number", 1, 2**53))
    if kind == "page":
        return Page(text(message, "text"))
    if kind == "clear":
        return Clear(boolean(message, "wait"))
    if kind == "done":
        return _done(message)
    return None


def _bundle(message: dict[str, Any]) -> dict[str, Any]:
    data = mapping(message, "data")
    if len(data) > 100:
        refuse("a bundle of more than 100 mimetypes")
    for mimetype, value in data.items():
        if not 0 < len(mimetype) <= 200 or not mimetype.isprintable():
            refuse("a mimetype that is none")
        if not isinstance(value, str) and not mimetype.endswith("json"):
            refuse(f"{mimetype} is not a string")
    return data


def _transient(message: dict[str, Any]) -> dict[str, Any]:
    identity = mapping(message, "transient").get("display_id")
    if identity is None:
        return {}
    if not isinstance(identity, str) or len(identity) > 200:
        refuse("display_id is not a short string")
    return {"display_id": identity}


def _variables(message: dict[str, Any], size: int) -> Variables:
    path = text(message, "path", "", 4096)
    if "\0" in path or bool(path) == bool(message.get("data")):
        refuse("variables are data or a path")
    try:
        data = base64.b64decode(text(message, "data", "", MAX_MESSAGE), validate=True)
    except ValueError:
        refuse("variables are not base64")
    piped = integer(message, "piped", 0, 1 << 62) if "piped" in message else 0
    if piped and not path:
        refuse("variables are piped to nowhere")
    return Variables(data, path, piped, size)


def _error(message: dict[str, Any], size: int) -> Error:
    lines = message.get("traceback", [])
    if not isinstance(lines, list) or len(lines) > 10_000 or not all(isinstance(line, str) for line in lines):
        refuse("traceback is not a list of lines")
    return Error(
        text(message, "ename", limit=1000),
        text(message, "evalue", "", MAX_MESSAGE),
        tuple(lines),
        size,
        boolean(message, "passing"),
    )


def _done(message: dict[str, Any]) -> Done:
    status = message.get("status")
    if status not in STATUSES:
        refuse("done has an unknown status")
    seconds, limit = message.get("seconds", 0.0), message.get("limit", 0.0)
    for number in (seconds, limit):
        if not isinstance(number, int | float) or isinstance(number, bool) or not math.isfinite(number):
            refuse("seconds is not a number")
    return Done(
        status=status,
        exit_code=_maybe_integer(message, "exit_code"),
        signal=_maybe_integer(message, "signal"),
        seconds=max(0.0, float(seconds)),
        worker=text(message, "worker", "kept", limit=20),
        text=text(message, "text", ""),
        limit=max(0.0, float(limit)),
    )
