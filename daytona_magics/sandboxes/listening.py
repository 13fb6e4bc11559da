"""Who listens on a port of the sandbox, and whether it speaks HTTP: asked from inside.

From outside a preview's proxy answers for a server that is not there, and every platform words that
differently; and only inside it can be seen which program holds a port. What comes back is a sandbox's word.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from daytona_magics.errors import SandboxError, printable
from daytona_magics.sandboxes import files
from daytona_magics.sandboxes.report import Silent

if TYPE_CHECKING:
    from daytona_magics.sandboxes.binding import Binding

#: Seconds that one request to the server may take, and characters of a program's command that are kept.
ANSWER_WITHIN, MAX_COMMAND = 10.0, 200

# Runs in the sandbox, by whatever Python is there, and prints one JSON line. With a port it asks that port
# for HTTP until there is an answer or the seconds are over; any answer counts, also 404 and 500.
_PROBE = """
import json, os, re, socket, sys, time
port, seconds, patience = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
def listeners():
    held = {}
    for table in ("tcp", "tcp6"):
        try:
            rows = open("/proc/self/net/" + table).read().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            fields = row.split()
            if fields[3] == "0A":
                held[fields[9]] = int(fields[1].rpartition(":")[2], 16)
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            for fd in os.listdir("/proc/%s/fd" % pid):
                match = re.match(r"socket:\\[(\\d+)\\]$", os.readlink("/proc/%s/fd/%s" % (pid, fd)))
                if match and match[1] in held and held[match[1]] not in found:
                    words = open("/proc/%s/cmdline" % pid, "rb").read().decode("utf-8", "replace")
                    found[held[match[1]]] = [int(pid), words.replace("\\0", " ").strip()[:200]]
        except OSError:
            continue
    return found
def ask():
    for host in ("127.0.0.1", "::1"):
        try:
            line = socket.create_connection((host, port), patience)
        except OSError:
            continue
        with line:
            try:
                line.settimeout(patience)
                head = b"GET / HTTP/1.1\\r\\nHost: localhost:%d\\r\\nConnection: close\\r\\n\\r\\n"
                line.sendall(head % port)
                got = b""
                while len(got) < 13 and not got.startswith(b"\\x15"):
                    piece = line.recv(64)
                    if not piece:
                        break
                    got += piece
            except OSError:
                return None, "silent"
        match = re.match(rb"HTTP/1\\.[01] ([1-5]\\d\\d)", got)
        if match:
            return int(match[1]), "http"
        return None, "tls" if got[:1] == b"\\x15" else "other" if got else "silent"
    return None, "closed"
said = {"status": None, "speaks": "closed"}
until = time.monotonic() + seconds
while port:
    said["status"], said["speaks"] = ask()
    if said["status"] or time.monotonic() >= until:
        break
    time.sleep(0.05)
said["ports"] = [[number, *who] for number, who in sorted(listeners().items())][:500]
print(json.dumps(said))
"""


@dataclass(frozen=True)
class Listener:
    """A program that listens. ``command`` is the sandbox's word for it."""

    port: int
    pid: int
    command: str

    def __str__(self) -> str:
        return f"process {self.pid} ({self.command})" if self.command else f"process {self.pid}"


@dataclass(frozen=True)
class Answer:
    """What a port said.

    Attributes:
        status: of the HTTP answer, None without one.
        speaks: "http", "tls", "other", "silent" (no answer in time) or "closed".
        listeners: every program of the sandbox that listens, by port.
    """

    status: int | None
    speaks: str
    listeners: dict[int, Listener]


async def ask(
    binding: Binding, port: int, *, seconds: float = 0.0, patience: float = ANSWER_WITHIN
) -> Answer:
    """Ask a port for HTTP, from inside the sandbox, until it answers or ``seconds`` are over.

    Args:
        port: 0 asks nobody, and only says who listens.
        patience: seconds that one request may take.

    Raises:
        SandboxError: the question cannot be put there.
    """
    command = shlex.join(["python3", "-I", "-c", _PROBE, str(port), f"{seconds:g}", f"{patience:g}"])
    limit = seconds + patience + 30
    code, text = await files.execute(binding, Silent(), command, cwd=None, env={}, timeout=limit)
    try:
        return _checked(json.loads(text.strip().splitlines()[-1]))
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        raise SandboxError(
            f"the sandbox does not say what listens there (exit code {code})", hint="It needs python3 there."
        ) from None


def _checked(said: Any) -> Answer:
    status, speaks = said["status"], said["speaks"]
    if status is not None and not (type(status) is int and 100 <= status < 600):
        raise ValueError("no status")
    if speaks not in ("http", "tls", "other", "silent", "closed"):
        raise ValueError("no word for what it speaks")
    found = {}
    for port, pid, command in said["ports"][:500]:
        if type(port) is not int or type(pid) is not int or not 0 < port < 65536:
            raise ValueError("no port")
        found[port] = Listener(port, pid, printable(command, line=True)[:MAX_COMMAND])
    return Answer(status, speaks, found)
