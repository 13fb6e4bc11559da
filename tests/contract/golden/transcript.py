r"""What goes over a connection, byte for byte, as text that a person can read and a test can compare.

A transcript is a list of steps, a line or more each:

    = POST .../files/bulk-download        a connection begins
    > POST /toolbox/{sandbox}/... \r\n    bytes of the client         < HTTP/1.1 200 OK\r\n   of the server
    >text {"code": "1"}                   a WebSocket frame of it     <binary \x01\x01\x01out\n
    <close 1000 {"exitCode": 0}           a close frame with its code and reason
    * stop                                something done over another connection

A line ends where a line of the bytes ends, and what is not printable ASCII is escaped as in Python. What
differs from run to run stands as ``{name}``. Two things are left out because they are up to the HTTP library:
how a body is cut into chunks, and frames of control that say nothing (ping, pong).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
NAMES = {TEXT: "text", BINARY: "binary", CLOSE: "close"}
OPCODES = {name: opcode for opcode, name in NAMES.items()}


@dataclass
class Step:
    """One step: ``=``, ``*``, ``<``, ``>`` or a frame such as ``<text``, and its bytes."""

    kind: str
    data: bytes


@dataclass
class Connection:
    """The steps of one connection; ``name`` says what it is for."""

    name: str
    steps: list[Step]


_ESCAPED = {9: "\\t", 10: "\\n", 13: "\\r", 92: "\\\\"}


def escape(data: bytes) -> str:
    """Printable ASCII as it is, the rest escaped."""
    return "".join(
        chr(byte) if 32 <= byte < 127 and byte != 92 else _ESCAPED.get(byte, f"\\x{byte:02x}")
        for byte in data
    )


def unescape(text: str) -> bytes:
    """The reverse of `escape`."""
    return text.encode("ascii").decode("unicode_escape").encode("latin-1")


def dump(steps: list[Step]) -> str:
    """The text of a transcript."""
    lines = []
    for step in steps:
        if step.kind in "=*":
            lines.append(f"{step.kind} {step.data.decode()}")
        elif step.kind in "<>":
            lines += [f"{step.kind} {escape(part)}" for part in step.data.splitlines(keepends=True)]
        elif step.kind.endswith("close"):
            code = int.from_bytes(step.data[:2], "big") if step.data else ""
            lines.append(f"{step.kind} {code} {escape(step.data[2:])}".rstrip())
        else:
            lines.append(f"{step.kind} {escape(step.data)}")
    return "\n".join(lines) + "\n"


def load(name: str) -> list[Step]:
    """The steps of the transcript ``name``."""
    steps: list[Step] = []
    for line in (FOLDER / f"{name}.txt").read_text().splitlines():
        kind, _, text = line.partition(" ")
        if kind in ("=", "*"):
            steps.append(Step(kind, text.encode()))
        elif kind.endswith("close"):
            code, _, reason = text.partition(" ")
            steps.append(Step(kind, int(code).to_bytes(2, "big") + unescape(reason) if code else b""))
        elif kind in ("<", ">") and steps and steps[-1].kind == kind:
            steps[-1].data += unescape(text)
        else:
            steps.append(Step(kind, unescape(text)))
    return steps


def connections(steps: list[Step]) -> list[Connection]:
    """The steps of each connection."""
    found: list[Connection] = []
    for step in steps:
        if step.kind == "=":
            found.append(Connection(step.data.decode(), []))
        elif found:
            found[-1].steps.append(step)
    return found


def frame(opcode: int, payload: bytes, mask: bytes = b"") -> bytes:
    """A whole WebSocket frame, its length in the shortest form; a client's has a ``mask`` of four bytes."""
    masked = 0x80 if mask else 0
    size = len(payload)
    if size < 126:
        head = bytes([0x80 | opcode, masked | size])
    elif size < 1 << 16:
        head = bytes([0x80 | opcode, masked | 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([0x80 | opcode, masked | 127]) + size.to_bytes(8, "big")
    if mask:
        payload = bytes(byte ^ mask[n % 4] for n, byte in enumerate(payload))
    return head + mask + payload


def unchunked(data: bytes) -> bytes | None:
    """A chunked body put together, or None when it is not complete."""
    body, at = b"", 0
    while (end := data.find(b"\r\n", at)) >= 0:
        size = int(data[at:end].split(b";")[0], 16)
        if len(data) < end + 2 + size + 2:
            return None
        body += data[end + 2 : end + 2 + size]
        at = end + 2 + size + 2
        if size == 0:
            return body
    return None


def chunked(body: bytes) -> bytes:
    """``body`` in chunks, a line each."""
    parts = [*body.splitlines(keepends=True), b""]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)


def header(head: bytes, name: str) -> str | None:
    """A header's value in the head of a request or an answer."""
    found = re.search(rb"(?im)^%s: *(.*?)\r$" % re.escape(name.encode()), head)
    return found[1].decode("latin-1") if found else None


def body_of(message: bytes) -> bytes | None:
    """The body of an HTTP message whose head is complete, or None as long as bytes are missing."""
    head, _, rest = message.partition(b"\r\n\r\n")
    head += b"\r\n"
    if (header(head, "Transfer-Encoding") or "").lower() == "chunked":
        return unchunked(rest)
    size = int(header(head, "Content-Length") or 0)
    return rest[:size] if len(rest) >= size else None
