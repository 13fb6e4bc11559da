"""The host's logins for git servers, for one call at a time.

Where the person at this machine is logged in already, nothing is asked: the GitHub and GitLab command line
tools (``gh auth token``, ``glab config get token``), git's credential helpers (``git credential fill``), or
a variable such as GH_TOKEN. None of them gets a terminal, a window or a question to ask. A login is looked up
by the server's address and given for that server alone: http(s) only, and plain http only on loopback.

The repr of a :class:`Login` has no password. It lives in the kernel's memory as long as the call; what was
typed into the box is kept there until the kernel ends or ``%sandbox_git credentials --forget``.
"""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from daytona_magics.errors import GitError, SandboxUsageError

#: The source of a login that was typed.
TYPED = "what was typed"
#: Seconds one of the host's tools may take.
WITHIN = 10
#: Characters from which on what stands alone before an address's @ is taken for a token.
SHORTEST_TOKEN = 20
_HOST = re.compile(r"\w[\w.:%-]*|::[\w.:%]*")


@dataclass(frozen=True)
class Server:
    """A git server: ``scheme`` http or https, ``host`` with its port if it has one."""

    scheme: str
    host: str

    @property
    def name(self) -> str:
        return self.host.rpartition(":")[0] if ":" in self.host and "]" not in self.host else self.host

    def __str__(self) -> str:
        return self.host if self.scheme == "https" else f"{self.scheme}://{self.host}"


@dataclass(frozen=True)
class Login:
    """What a server wants to hear. ``source`` says where it is from, ``server`` for whom alone it is."""

    username: str
    password: str = field(repr=False)
    source: str = ""
    server: Server | None = None

    def secrets(self) -> tuple[str, ...]:
        """What must not be shown."""
        import base64

        pair = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
        return self.password, pair, pair.rstrip("=")


#: What was typed into the box, by server.
_typed: dict[Server, Login] = {}


def server_of(url: str) -> Server | None:
    """The server of an address; None where logins are no matter of ours (ssh, a folder).

    In:  server_of("https://ada@git.example.org/x.git")
    Out: Server('https', 'git.example.org')
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if parts.scheme.lower() not in ("http", "https") or not host or not _HOST.fullmatch(host):
        return None
    shown = f"[{host}]" if ":" in host else host
    return Server(parts.scheme.lower(), f"{shown}:{port}" if port else shown)


def user_of(url: str) -> str:
    """The user name an address has before its ``@``; "" without."""
    try:
        return unquote(urlsplit(url).username or "")
    except ValueError:
        return ""


def check(server: Server) -> None:
    """Refuse to send a password unencrypted over a network.

    Raises:
        GitError: it would be.
    """
    if server.scheme == "http" and not _is_loopback(server.name.strip("[]")):
        raise GitError(
            f"a login for {server} would cross the network unencrypted, so none was sent",
            code="GIT_AUTH_FAILED",
            hint=f"Use https:  %sandbox_git remote add origin https://{server.host}/...",
        )


def _is_loopback(name: str) -> bool:
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def find(server: Server, username: str = "") -> Login | None:
    """A login this machine has for a server, without asking anybody.

    Args:
        username: only of this user, where the address names one.
    """
    if server in _typed:
        return _typed[server]
    for source in (_gh, _glab, _helper, _variable):
        found = source(server, username)
        if found is not None:
            return found
    return None


def remember(server: Server, login: Login) -> None:
    """What was typed works: keep it for this kernel."""
    _typed[server] = login


def forget() -> int:
    """Forget everything that was typed; returns how many logins that were."""
    count = len(_typed)
    _typed.clear()
    return count


def from_variable(name: str, user: str | None) -> Login:
    """The login whose password is in an environment variable of this machine."""
    value = os.environ.get(name, "")
    if not value.strip():
        raise SandboxUsageError(
            f"--token-env {name}: there is no such variable on this machine, or it is empty"
        )
    return Login(user or "x-access-token", value.strip(), f"variable {name}")


def _tool(words: list[str], stdin: str = "", env: dict[str, str] | None = None) -> str:
    """What one of the host's tools prints; "" when it is not there, fails or takes too long.

    It runs in a session of its own, which has no terminal it could ask at, and in a folder that has no
    repository's settings in it.
    """
    program = shutil.which(words[0])
    if program is None:
        return ""
    home = Path.home()
    quiet = {
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "",
        "SSH_ASKPASS": "",
        "GCM_INTERACTIVE": "never",
        "GH_PROMPT_DISABLED": "1",
        "GIT_CEILING_DIRECTORIES": str(home.parent),
    }
    kept = {name: value for name, value in os.environ.items() if name not in ("GIT_DIR", "DISPLAY")}
    try:
        done = subprocess.run(
            [program, *words[1:]],
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=WITHIN,
            cwd="/",
            env={**kept, **quiet, **(env or {})},
            start_new_session=True,
            check=False,
        )
    except (OSError, subprocess.SubprocessError, ValueError):
        # No error of a tool is shown: it may repeat what it was told.
        return ""
    return done.stdout if done.returncode == 0 else ""


def _line(text: str) -> str:
    """The one line a tool said; "" for anything else."""
    text = text.strip()
    return text if text and "\n" not in text and text.isprintable() else ""


def _gh(server: Server, username: str) -> Login | None:
    if server.scheme != "https":
        return None
    token = _line(_tool(["gh", "auth", "token", "--hostname", server.host]))
    return Login("x-access-token", token, "gh") if token else None


def _glab(server: Server, username: str) -> Login | None:
    if server.scheme != "https":
        return None
    token = _line(_tool(["glab", "config", "get", "token", "--host", server.host]))
    return Login("oauth2", token, "glab") if token else None


def _helper(server: Server, username: str) -> Login | None:
    asked = f"protocol={server.scheme}\nhost={server.host}\n" + (f"username={username}\n" if username else "")
    # Only what helpers know: an empty program to ask with, and no terminal.
    said = _tool(["git", "-c", "core.askPass=", "credential", "fill"], asked + "\n")
    found = dict(line.partition("=")[::2] for line in said.splitlines())
    # A helper may answer for another place than it was asked for.
    if (found.get("protocol"), found.get("host")) != (server.scheme, server.host) or not found.get(
        "password"
    ):
        return None
    return Login(found.get("username") or "git", found["password"], "git's credential helper")


_VARIABLES = {
    "github.com": (("GH_TOKEN", "GITHUB_TOKEN"), "x-access-token"),
    "gitlab.com": (("GITLAB_TOKEN",), "oauth2"),
}


def _variable(server: Server, username: str) -> Login | None:
    names, user = _VARIABLES.get(server.host, ((), ""))
    for name in names if server.scheme == "https" else ():
        if os.environ.get(name, "").strip():
            return Login(user, os.environ[name].strip(), f"variable {name}")
    return None


def apart(url: str) -> tuple[str, Login | None]:
    """An address without the login that stands in it, and that login; a user's name alone stays where it is.

    In:  apart("https://ada:pw@host/x"), apart("https://ada@host/x")
    Out: (('https://host/x', Login('ada', ...)), ('https://ada@host/x', None))
    """
    password, user = unquote(password_of(url)), user_of(url)
    # Forges take a token in place of the name, too.
    if not password and len(user) < SHORTEST_TOKEN:
        return url, None
    parts = urlsplit(url)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    source = "the address of origin"
    return bare, Login(user or "x-access-token", password, source) if password else Login(
        "x-access-token", user, source
    )


#: Asks the person: called with the server and a user name, returns the login, None when nobody can be asked.
Ask = Callable[[Server, str], Login | None]


def password_of(url: str) -> str:
    """The password an address has before its ``@``; "" without."""
    try:
        return urlsplit(url).password or ""
    except ValueError:
        return ""
