"""Requests as hypothesis makes them: mostly what a client could mean, with something wrong.

Values follow the schema of the body where there is one and the names of fields; every place can hold
something else instead: another type, a number out of all ranges, text that is no text. Bodies are then also
broken as bytes (cut off, nested too deep, keys twice, not UTF-8), and sent under wrong headers.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, quote_from_bytes

from hypothesis import strategies as st

from tests.fuzz.surface import Operation

TEXTS = (
    *("", " ", "x", "box", "default", "main", "master", "entrypoint", "true", "-1", "0", "1e999", "NaN"),
    *("\0", "a\0b", "\ud800", "é", "\U0001f600", "\r\nX-Evil: 1", "%00", "%2e%2e%2f", "\x7f", "\u202e"),
    *("x" * 300, "y" * 5000, "{}", "[]", "null", "undefined", "__proto__", "' OR 1=1 --", "$(id)", "`id`"),
    *("-rf", "--help", "--upload-pack=id", "9" * 400, "2026-01-01T00:00:00Z", "9999-99-99", "16", "3.5"),
)
PATHS = (
    *("file", "dir", "dir/sub", ".", "..", "/", "~", "repo", "missing/x", "/etc/passwd", "/proc/self/mem"),
    *(
        "../../etc/shadow",
        "/dev/zero",
        "/dev/null",
        "fifo",
        "link",
        "loop",
        "z" * 255,
        "z" * 256,
        "d/" * 2000,
    ),
    *("/proc/self/fd/0", "/proc/kmsg", "/sys", "file/", "//", "a\0b", "\udcff", "*", "[", "**/*", "{a,b}"),
)
COMMANDS = (
    *(
        "true",
        "echo x",
        "exit 3",
        "printf '\\0\\377'",
        "cd /",
        "cat missing",
        "kill -9 $$",
        "(",
        "'",
        "echo '",
    ),
    *("head -c 100000 /dev/zero", "\0", "exec 0<&-", "exec 1>&-", "ls -la", "set -e", "x" * 3000, "\ud800"),
)
CODES = (
    *("print(1)", "1/0", "import os; os._exit(3)", "(", "\0", "exit()", "x" * 3000, "print('\\ud800')"),
    *("import sys; sys.stdout.buffer.write(b'\\xff')", "raise SystemExit('x' * 10000)", "\ud800", ""),
    *("import sys; sys.setrecursionlimit(10**6)", "raise ExceptionGroup('a', [ValueError()])"),
)
NUMBERS = (
    0,
    1,
    -1,
    2,
    80,
    3000,
    22222,
    65535,
    65536,
    2**31,
    2**63,
    2**64,
    -(2**63),
    10**30,
    0.5,
    1e300,
    -0.0,
)
ADDRESSES = (
    "http://127.0.0.1:1/x",
    "file:///etc",
    "ssh://-oProxyCommand=id/x",
    "http://u:p@[",
    "ext::id",
    "x",
)
#: Fields that are looked for by (part of) their name, first match.
_BY_NAME: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("timeout", (0, 1, 2, 3)),
    ("command", COMMANDS),
    ("code", CODES),
    ("url", ADDRESSES),
    ("cwd", PATHS),
    ("path", PATHS),
    ("files", PATHS),
    ("source", PATHS),
    ("destination", PATHS),
    ("language", ("python", "javascript", "typescript", "cobol")),
)
_TYPES = (
    *("application/json",) * 8,
    *("", "text/plain", "application/json; charset=utf-16", "application/json; charset=nonsense"),
    *("application/x-www-form-urlencoded", "multipart/form-data", "multipart/form-data; boundary="),
    *("multipart/form-data; boundary=B", "multipart/mixed; boundary=B", "nonsense", "a/b; c=\udcff"),
)
_WEBSOCKET = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}
_HEADERS: tuple[dict[str, str], ...] = (
    *({},) * 12,
    {"Content-Encoding": "gzip"},
    {"Content-Encoding": "deflate"},
    {"Content-Encoding": "br"},
    {"Content-Encoding": "zstd"},
    {"Content-Encoding": "nonsense"},
    {"Accept": "text/html"},
    {"Accept": "nonsense"},
    {"Range": "bytes=5-1"},
    {"Range": "bytes=-99999999999999999999"},
    {"Cookie": "a=" + "b" * 3000},
    {"X-Request-Id": "a b\tc"},
    {"X-Daytona-Skip-Last-Activity-Update": "x"},
    {"Sec-WebSocket-Protocol": "X-Daytona-Pty-Envs~!!!, ,,"},
    {"Expect": "100-continue"},
    {"If-None-Match": "*"},
    {"Transfer-Encoding": "chunked"},
    {**_WEBSOCKET},
    {**_WEBSOCKET, "Sec-WebSocket-Key": "short"},
    {**_WEBSOCKET, "Sec-WebSocket-Version": "99"},
    {**_WEBSOCKET, "Sec-WebSocket-Protocol": "X-Daytona-Pty-Envs~eyJBIjogN30"},
    {**_WEBSOCKET, "Sec-WebSocket-Extensions": "permessage-deflate; server_max_window_bits=99"},
)


@dataclass(frozen=True)
class Request:
    """One request, ready to be sent."""

    operation: Operation
    target: str
    headers: dict[str, str] = field(hash=False)
    body: bytes

    def __str__(self) -> str:
        return f"{self.operation.method} {self.target[:200]} {self.headers} {self.body[:200]!r}"


texts = st.sampled_from(TEXTS) | st.text(max_size=30)
anything = st.recursive(
    st.none() | st.booleans() | st.sampled_from(NUMBERS) | texts | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


def _values(name: str, otherwise: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """What a field of this name usually holds."""
    for part, values in _BY_NAME:
        if part in name.lower():
            return st.sampled_from(values)
    return otherwise


def of_schema(schema: dict[str, Any], defs: dict[str, Any], name: str = "", depth: int = 0) -> Any:
    """Values of a JSON schema; one in ten places holds something else."""
    right = _right(schema, defs, name, depth)
    return st.integers(0, 9).flatmap(lambda dice: anything if dice == 0 else right)


def _right(schema: dict[str, Any], defs: dict[str, Any], name: str, depth: int) -> Any:
    if "$ref" in schema:
        return _right(defs[schema["$ref"].rpartition("/")[2]], defs, name, depth)
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema and depth < 5:
            return st.one_of([_right(one, defs, name, depth + 1) for one in schema[several]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kind = schema.get("type")
    if kind == "object" or "properties" in schema:
        return _object(schema, defs, depth)
    if kind == "array":
        items = schema.get("items")
        inner = of_schema(items, defs, name, depth + 1) if isinstance(items, dict) else anything
        return st.lists(inner, max_size=3)
    if kind in ("integer", "number"):
        return _values(name, st.sampled_from(NUMBERS) | st.integers(-5, 5000))
    if kind == "boolean":
        return st.booleans()
    if kind == "null":
        return st.none()
    return _values(name, texts)


def _object(schema: dict[str, Any], defs: dict[str, Any], depth: int) -> Any:
    if depth > 4:
        return st.just({})
    properties = {
        name: of_schema(inner, defs, name, depth + 1)
        for name, inner in schema.get("properties", {}).items()
        if name != "additional_properties"
    }
    needed = {name: made for name, made in properties.items() if name in schema.get("required", ())}
    optional = {name: made for name, made in properties.items() if name not in needed}
    if not properties:
        return st.dictionaries(texts, texts | anything, max_size=3)
    return st.fixed_dictionaries(needed, optional=optional)


def _bytes_of(value: Any, damage: int) -> bytes:
    """`value` as JSON, damaged in one of several ways."""
    text = json.dumps(value)
    match damage:
        case 1:
            return text[:-1].encode()
        case 2:
            return b"[" * 100_000
        case 3:
            return b'{"a":' * 3000 + b"1" + b"}" * 3000
        case 4:
            return text.encode() + b"\xff"
        case 5:
            return ('{"command": "true", "command": 5, "timeout": ' + "9" * 5000 + "}").encode()
        case 6:
            return json.dumps(value, ensure_ascii=False).encode("utf-16", "surrogatepass")
        case 7:
            return b"\xef\xbb\xbf" + text.encode()
        case 8:
            return b'--B\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\nx'
        case 9:
            return (
                b'--B\r\nContent-Disposition: form-data; name="files[0].path"\r\n\r\nfile\r\n--B\r\n'
                b'Content-Disposition: form-data; name="files[0].file"; filename="\xff"\r\n'
                b"Content-Transfer-Encoding: base64\r\n\r\n!!!\r\n--B--\r\n"
            )
        case 10:
            return gzip.compress(b" " * 30_000_000 + text.encode())
        case 11:
            return zlib.compress(text.encode())[:-3]
    return text.encode()


def _in_path(value: str) -> str:
    return quote_from_bytes(value.encode("utf-8", "surrogatepass"), safe="")


@st.composite
def requests(draw: Any, operations: list[Operation], sandbox: str, names: tuple[str, ...]) -> Request:
    """A request to one of ``operations``.

    Args:
        sandbox: id of a started sandbox, which most requests are for.
        names: things that exist in it (sessions, terminals, contexts).
    """
    operation = draw(st.sampled_from(operations))

    def parameter(match: re.Match[str]) -> str:
        if match[1] == "sandbox" and draw(st.integers(0, 9)):
            return sandbox
        if match[1] == "rest":
            return "/".join(_in_path(draw(texts)) for _ in range(2))
        return _in_path(draw(st.sampled_from(names) | texts)) or "x"

    target = re.sub(r"\{(\w+)[^}]*\}", parameter, operation.path)
    asked = []
    for name in (*operation.query, *draw(st.lists(st.sampled_from(("path", "limit", "x")), max_size=1))):
        for _ in range(draw(st.sampled_from((1, 1, 1, 0, 2)))):
            value = str(draw(_values(name, st.sampled_from((*TEXTS, *NUMBERS)) | texts)))
            asked.append(f"{quote(name)}={_in_path(value)[:8000]}")
    if asked:
        target += "?" + "&".join(asked)
    # The limit of a request line, which is a matter of its own.
    target = re.sub(r"%.?$", "", target[:8000])
    headers = {"Content-Type": draw(st.sampled_from(_TYPES)), **draw(st.sampled_from(_HEADERS))}
    body = b""
    if operation.method in ("POST", "PUT", "PATCH", "DELETE"):
        schema = operation.body
        value = draw(of_schema(schema, schema.get("$defs", {})) if schema else anything)
        damage = draw(st.sampled_from((0,) * 14 + tuple(range(1, 12))))
        if damage in (8, 9):
            headers["Content-Type"] = "multipart/form-data; boundary=B"
        if damage in (10, 11):
            headers["Content-Encoding"] = "gzip" if damage == 10 else "deflate"
        body = _bytes_of(value, damage)
    return Request(operation, target, headers, body)
