"""Starting the guest's daemon in a sandbox, by a few lines of shell that the platform executes.

They find a Python and start the daemon with it, and ask for an upload of the guest's file first when the
sandbox does not have it. What they print is read line by line; anything else is a shell's own noise.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import secrets
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from daytona_magics.errors import SandboxError
from daytona_magics.runtime.bundle import RUN, Bundle, bundle, run_soon

if TYPE_CHECKING:
    from daytona import AsyncSandbox

FOLDER = ".daytona-magics"
QUIET = "quiet"
NO_PYTHON = "this sandbox has no Python ≥ 3.8, which running cells needs"

#: What the daemon imports of the standard library, in the order of what takes longest.
_DAEMON_AHEAD = (
    "json, ast, traceback, tokenize, zlib, struct, fcntl, select, signal, mmap, array, termios, shlex"
)
#: Finds the guest's file and a Python, and starts the daemon; plain sh, because any shell may read it.
#: Answers in lines that start with "dm-"; anything else is a shell's or a Python's own noise. The daemon runs
#: without -I or -S: the workers forked from it have to look like an ordinary interpreter.
_SCRIPT = """
d="${{HOME:-$PWD}}/{folder}"; f="$d/{name}"; s={staged}
echo "dm-home ${{HOME:-$PWD}}"
[ -d "$d" ] || mkdir -p -m 700 "$d"
[ -z "{quiet}" ] || [ -d "$d/{quiet}" ] || {{ mkdir -p "$d/{quiet}"; ln -s "$d" "$d/{quiet}/{folder}"; }}
if [ -n "$s" ]; then mv -f "$d/$s" "$f"; fi
n=0; [ -f "$f" ] && n=$(wc -c < "$f")
if [ "$((n))" -ne {size} ]; then echo dm-upload; exit 0; fi
for p in python3 python python3.14 python3.13 python3.12 python3.11 python3.10 python3.9 python3.8; do
q=$(command -v $p 2>/dev/null)
case "$q" in /*) ;; *) continue;; esac
echo "dm-python $q"
"$q" -c '{run}' "$f" daemon < /dev/null && exit 0
done
exit 1
"""
#: The same while the guest's file is being uploaded, for where a relative path leads into the home.
_SCRIPT_SOON = """
d="${{HOME:-$PWD}}/{folder}"; f="$d/{name}"
echo "dm-home ${{HOME:-$PWD}}"
[ "$PWD" = "${{HOME:-$PWD}}" ] || {{ echo dm-upload; exit 0; }}
for p in python3 python python3.14 python3.13 python3.12 python3.11 python3.10 python3.9 python3.8; do
command -v $p > /dev/null 2>&1 || continue
$p -c 'import sys; print("dm-python", sys.executable); {run}' "$f" {size} daemon < /dev/null && exit 0
[ -f "$f" ] || {{ echo dm-upload; exit 0; }}
done
exit 1
"""


@dataclass(frozen=True)
class Started:
    """A running daemon and what attaches to it.

    Attributes:
        python: the interpreter the daemon runs under, an absolute path.
        path: the guest's file.
        home: the sandbox user's home.
        started: whether this call started the daemon.
    """

    python: str
    path: str
    home: str
    started: bool

    @property
    def line(self) -> str:
        """What is typed into the PTY's shell; the leading space keeps it out of histories."""
        words = shlex.join([self.python, "-ISc", RUN, self.path, "attach"])
        return f" exec {words}\n"


def recipe(guest: Bundle) -> dict[str, str]:
    """How the embedded engine has a guest started in a sandbox before anybody asks for it: a file that it
    writes to ``path`` (``data``, base64), and the ``command`` it runs then."""
    return {
        "path": f"{FOLDER}/{guest.name}",
        "data": base64.b64encode(guest.data).decode(),
        "command": _script(guest),
    }


async def start_daemon(sandbox: AsyncSandbox, quiet: bool = False, soon: bool = False) -> Started:
    """Make sure the guest's daemon runs in the sandbox, uploading the guest if it has none.

    Args:
        sandbox: the sandbox.
        quiet: have the folder made that serves as a home without start-up files.
        soon: the guest is being uploaded right now.

    Raises:
        SandboxError: the sandbox has no usable Python, or the guest said why it cannot run.
        Exception: whatever the SDK raises (see :func:`explain`).
    """
    guest = bundle()
    answer = await _execute(sandbox, guest, "", quiet, soon)
    if answer.upload:
        staged = f"{guest.name}.{secrets.token_hex(4)}"
        await sandbox.fs.upload_file(guest.data, f"{answer.home}/{FOLDER}/{staged}", timeout=60)
        answer = await _execute(sandbox, guest, staged, quiet)
    if answer.result is None:
        seen = f" ({answer.tail})" if answer.tail else ""
        raise SandboxError(
            NO_PYTHON + seen, hint="Use a snapshot or image that has one; the default snapshots do."
        )
    if answer.result.get("ok") is not True:
        raise SandboxError(f"the guest could not start: {answer.result.get('error', answer.tail)!s:.500}")
    return Started(
        python=answer.python,
        path=f"{answer.home}/{FOLDER}/{guest.name}",
        home=answer.home,
        started=answer.result.get("started") is True,
    )


@dataclass
class _Answer:
    home: str = ""
    python: str = ""
    upload: bool = False
    result: dict[str, Any] | None = None
    tail: str = ""


async def _execute(
    sandbox: AsyncSandbox, guest: Bundle, staged: str, quiet: bool, soon: bool = False
) -> _Answer:
    response = await sandbox.process.exec(_script(guest, staged, quiet, soon), timeout=30)
    return read_answer(str(response.result or "")[-65536:])


def _script(guest: Bundle, staged: str = "", quiet: bool = False, soon: bool = False) -> str:
    return (_SCRIPT_SOON if soon else _SCRIPT).format(
        folder=FOLDER,
        quiet=QUIET if quiet else "",
        name=guest.name,
        size=len(guest.data),
        staged=shlex.quote(staged),
        run=run_soon(_DAEMON_AHEAD) if soon else RUN,
    )


def read_answer(output: str) -> _Answer:
    """Read what the start script printed; of several Pythons tried, the last one counts.

    In:  read_answer("dm-home /root\\ndm-upload\\n").upload
    Out: True
    """
    answer = _Answer()
    noise = []
    for line in output.splitlines():
        word, _, rest = line.partition(" ")
        if word == "dm-home":
            answer.home = _path(rest)
        elif word == "dm-python":
            answer.python = _path(rest)
        elif word == "dm-upload":
            answer.upload = True
        elif line.startswith("{"):
            with contextlib.suppress(ValueError, RecursionError):
                value = json.loads(line)
                answer.result = value if isinstance(value, dict) else None
        elif line.strip():
            noise.append(line.strip())
    answer.tail = "; ".join(noise[-2:])[:300]
    if not answer.home:
        raise SandboxError(
            f"the sandbox's shell did not run the start script ({answer.tail or 'it said nothing'})"
        )
    return answer


def _path(value: str) -> str:
    if not re.fullmatch(r"/[^\x00-\x1f\x7f]{0,1000}", value):
        raise SandboxError("the sandbox named a folder that is no path")
    return value.rstrip("/") or "/"
