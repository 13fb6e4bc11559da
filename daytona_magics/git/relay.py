"""A git command that talks to a server, for which the git API has no call (fetch, deleting a branch there).

The login must not be in a command line, an environment or a file of the sandbox. So the command is run by a
small program of the guest's, which is told the login as the answer to a question: over the channel, into its
memory. git asks a credential helper, the helper asks that program over a socket only they have, and it
answers if it is the server the login is for. No other helper is asked or told anything.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from daytona_magics.errors import GitError, SandboxError
from daytona_magics.git import failures
from daytona_magics.git.logins import Login
from daytona_magics.git.repository import Answer, Repository, options
from daytona_magics.notebook.collecting import collect
from daytona_magics.runtime import events
from daytona_magics.runtime.records import ExecRequest, new_id
from daytona_magics.sandboxes.report import Reporter

#: Seconds a transfer may take.
WITHIN = 3600
#: The context these programs run in, beside the notebook's own.
CONTEXT = "git"
_PROMPT = "login"

#: argv: a JSON object {git: words, protocol, host}. Standard library of Python 3.8.
_PROGRAM = r"""
import getpass, json, os, socket, subprocess, sys, threading
job = json.loads(sys.argv[1])
login = json.loads(getpass.getpass("login"))
near, far = socket.socketpair()
helper = (
    "import os,sys\n"
    "n=int(sys.argv[1])\n"
    "if sys.argv[2]=='get':\n"
    " os.write(n,(sys.stdin.read().strip()+'\\n\\n').encode('utf-8','surrogateescape'))\n"
    " a=b''\n"
    " while not a.endswith(b'\\n\\n'):\n"
    "  d=os.read(n,65536)\n"
    "  if not d: break\n"
    "  a+=d\n"
    " sys.stdout.buffer.write(a.strip()+b'\\n')\n"
)
def quoted(text):
    return "'" + text.replace("'", "'\\''") + "'"
command = "!%s -I -S -c %s %d" % (quoted(sys.executable), quoted(helper), far.fileno())
def serve():
    buffer = b""
    while len(buffer) < 65536:
        data = near.recv(65536)
        if not data:
            return
        buffer += data
        while b"\n\n" in buffer:
            question, _, buffer = buffer.partition(b"\n\n")
            asked = dict(line.partition("=")[::2] for line in question.decode("utf-8", "replace").split("\n"))
            known = asked.get("protocol") == job["protocol"] and asked.get("host") == job["host"]
            said = "username=%s\npassword=%s" % (login["username"], login["password"]) if known else "quit=0"
            near.sendall(said.encode() + b"\n\n")
threading.Thread(target=serve, daemon=True).start()
keep = ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM", "GIT_EXEC_PATH", "GIT_SSL_CAINFO",
        "GIT_SSL_CAPATH")
env = {k: v for k, v in os.environ.items() if not k.startswith("GIT_") or k in keep}
env.update(LC_ALL="C", GIT_TERMINAL_PROMPT="0", GIT_ASKPASS="", GIT_EDITOR=":",
           GIT_ALLOW_PROTOCOL="http:https", GIT_HTTP_LOW_SPEED_LIMIT="1", GIT_HTTP_LOW_SPEED_TIME="120")
words = ["git", "-c", "credential.helper=", "-c", "credential.helper=" + command, *job["git"]]
done = subprocess.run(words, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                      stderr=subprocess.PIPE, pass_fds=[far.fileno()])
out = {"code": done.returncode, "out": done.stdout[-65536:].decode("utf-8", "replace"),
       "said": done.stderr[-65536:].decode("utf-8", "replace")}
print(json.dumps(out))
"""


async def run(
    repository: Repository, tell: Reporter, login: Login, words: Sequence[str], *, doing: str
) -> Answer:
    """Run ``git WORDS`` in the repository, with a login for its server.

    Raises:
        GitError: it failed; what is said never holds the login.
    """
    server = login.server
    if server is None:
        raise GitError("a login is for http and https addresses only", code="GIT_AUTH_FAILED")
    channel = await repository.tie.ready(tell)
    git = [*options(), "-C", repository.path, *words]
    job = json.dumps({"git": git, "protocol": server.scheme, "host": server.host})
    request = ExecRequest(
        new_id(), CONTEXT, "fresh", _PROGRAM, name="git", argv=("git", job), timeout=float(WITHIN)
    )
    asked: list[int] = []

    def answer(question: events.Input) -> str | None:
        # One question, and only ours: a login is not told to whoever asks.
        if asked or question.prompt != _PROMPT or not question.password:
            return None
        asked.append(question.number)
        return json.dumps({"username": login.username, "password": login.password})

    tell.progress(doing)
    outcome, _ = await collect(repository.tie, channel, request, answer=answer)
    channel.forget_soon(request.id)
    if outcome.error is not None:
        said = failures.clean(str(outcome.error), login.secrets())
        raise SandboxError(f"{doing}: the sandbox could not run git: {said}")
    found = _read(outcome.stdout, login)
    if found.code:
        raise failures.failed(doing, f"{found.said}\n{found.out}", secrets=login.secrets())
    return found


def _read(text: str, login: Login) -> Answer:
    try:
        found: Any = json.loads(text)
        code, out, said = int(found["code"]), str(found["out"]), str(found["said"])
    except (ValueError, KeyError, TypeError):
        raise SandboxError("git's answer makes no sense", hint="%sandbox exec git --version") from None
    secrets = login.secrets()
    return Answer(code, failures.clean(out, secrets), failures.clean(said, secrets))
