"""What the engine believes of a toolbox's answers: the types they become and the checks they pass.

An answer was made inside a sandbox. Sizes are bounded, types exact, texts made valid Unicode; anything else
raises `WireError`, which `protocol_errors` turns into a `ToolboxError` for the client.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .wire import WireError

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
#: Longest name and path of a file that are believed, in characters; the kernel's are 255 and 4,096 bytes.
MAX_NAME, MAX_PATH = 1 << 10, 16 << 10
_CODE = re.compile(r"[A-Z][A-Z0-9_]{0,63}\Z")


class ToolboxError(Exception):
    """An operation inside a sandbox failed.

    Attributes: ``status`` (HTTP status), ``code`` (Daytona's error code) and ``message`` (one sentence); they
    become the HTTP error body with source DAYTONA_DAEMON.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class ToolboxGone(ToolboxError):
    """The sandbox ended before or while the operation ran."""

    def __init__(self, message: str = "the sandbox ended while this operation was running") -> None:
        super().__init__(410, "GONE", message)


@dataclass(frozen=True)
class ExecuteResult:
    """How a command ended: its exit code (128 + n after signal n, -1 if it could not start) and output.

    ``pid`` is what its first process had inside; 0 if it could not start.
    """

    exit_code: int
    output: bytes
    pid: int = 0


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One file as the platform describes it.

    ``mode`` is like ``-rw-r--r--``, ``permissions`` like ``0644``,
    ``mod_time`` RFC 3339 in UTC, ``size`` bytes.
    """

    name: str
    path: str
    is_dir: bool
    size: int
    mode: str
    permissions: str
    mod_time: str
    owner: str
    group: str


@dataclass(frozen=True)
class PtyExit:
    """How a terminal's program ended; ``reason`` is empty or says which signal ended it."""

    exit_code: int
    reason: str


def printable(value: str) -> str:
    """`value` with undecodable bytes shown as ``\\xff``, so that it can be written as UTF-8 anywhere."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def text(message: Mapping[str, Any], key: str, limit: int = 65536) -> str:
    value = message.get(key)
    if not isinstance(value, str) or len(value) > limit:
        raise WireError(f"{key!r} is missing or not a text")
    try:
        return printable(value)
    except UnicodeEncodeError as error:
        raise WireError(f"{key!r} is not valid text") from error


def integer(message: Mapping[str, Any], key: str, low: int, high: int) -> int:
    value = message.get(key)
    if type(value) is not int or not low <= value <= high:
        raise WireError(f"{key!r} is missing or out of range")
    return value


def check_env(env: Mapping[str, str] | None) -> dict[str, str]:
    """The environment as a dict. Raises ToolboxError 400 for a name no shell would accept."""
    for name, value in (env or {}).items():
        if not _ENV_NAME.match(name) or "\0" in value:
            raise ToolboxError(400, "BAD_REQUEST", f"{name!r} is not a valid environment variable")
    return dict(env or {})


def check_path(path: str) -> str:
    if "\0" in path:
        raise ToolboxError(400, "INVALID_FILE_PATH", "a path cannot contain a NUL character")
    if not path:
        raise ToolboxError(400, "INVALID_FILE_PATH", "a path is required")
    return path


def remote_error(error: Any) -> ToolboxError:
    """The ToolboxError described by an ``error`` answer, as far as the answer can be believed."""
    if not isinstance(error, dict):
        raise WireError("an error answer has no description")
    code = text(error, "code", 64)
    if not _CODE.match(code):
        raise WireError("an error answer has an impossible code")
    return ToolboxError(integer(error, "status", 400, 599), code, text(error, "message"))


@contextlib.contextmanager
def protocol_errors() -> Iterator[None]:
    """Turn a broken protocol into an error that can be shown to a client."""
    try:
        yield
    except WireError as error:
        message = f"the sandbox gave an answer that makes no sense: {error}"
        raise ToolboxError(502, "INTERNAL_SERVER_ERROR", message) from error


def file_info(entry: Any) -> FileInfo:
    if not isinstance(entry, dict) or type(entry.get("is_dir")) is not bool:
        raise WireError("a file's description is incomplete")
    return FileInfo(
        name=text(entry, "name", MAX_NAME),
        path=text(entry, "path", MAX_PATH),
        is_dir=entry["is_dir"],
        size=integer(entry, "size", 0, 1 << 63),
        mode=text(entry, "mode", 32),
        permissions=text(entry, "permissions", 8),
        mod_time=text(entry, "mod_time", 40),
        owner=text(entry, "owner", 256),
        group=text(entry, "group", 256),
    )
