"""git's configuration: part of the toolbox program.

A value can be a secret (``http.extraHeader``, an address with a token in it), and the words of a command can
be read in the process list. So git writes a stand-in into a copy of the file, this program puts the value in
its place, and the copy replaces the file: under git's own lock, so that no other git changes it meanwhile.
"""

# ruff: noqa: ASYNC240 - a sandbox's disk is local, and the toolbox has no threads to wait in.

import contextlib
import errno
import os
import re
import shutil
from typing import Any

from . import git_names as names
from .agent import Refused
from .git_login import quoted
from .git_read import Parts
from .git_run import Git

SCOPES = ("global", "local", "system")


def scope_of(request: dict[str, Any]) -> str:
    """The scope a request names; global when it names none. Raises Refused 400."""
    scope = str(request.get("scope") or "global")
    if scope not in SCOPES:
        raise names.bad_request(f"a scope is one of {', '.join(SCOPES)}, not {scope!r}")
    if scope == "local" and not request.get("path"):
        raise names.bad_request("local configuration needs the path of a repository")
    return scope


async def _file(git: Git, scope: str) -> str:
    """The file of `scope` that git would write."""
    if scope == "local":
        return os.path.join(git.folder, await git.text("rev-parse", "--git-path", "config"))
    if scope == "system":
        return git.variable("GIT_CONFIG_SYSTEM") or "/etc/gitconfig"
    home = git.variable("HOME")
    own = os.path.join(home, ".gitconfig")
    base = git.variable("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    other = os.path.join(base, "git", "config")
    default = other if not os.path.exists(own) and os.path.exists(other) else own
    return git.variable("GIT_CONFIG_GLOBAL") or default


async def write(git: Git, scope: str, key: str, value: str) -> None:
    """Set `key` to `value`, replacing all it had.

    Raises Refused 409 when another git is writing the file, 403 when it cannot be written.
    """
    if "\0" in value:
        raise names.bad_request("a value is a text without NUL")
    path = os.path.realpath(await _file(git, scope))
    copy = f"{path}.lock"
    try:
        fd = os.open(copy, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        raise Refused(409, "CONFLICT", f"{path} is locked: another git is writing it") from None
    try:
        os.close(fd)
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(path, copy)
            shutil.copymode(path, copy)
        stand_in = f"stand-in-{os.urandom(16).hex()}"
        await git.run("config", "--file", copy, "--replace-all", key, stand_in)
        _replace(copy, stand_in.encode(), quoted(value))
        os.rename(copy, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(copy)
        raise


def _replace(path: str, old: bytes, new: bytes) -> None:
    with open(path, "rb+") as file:
        text = file.read()
        if text.count(old) != 1:
            raise OSError(errno.EIO, "git did not write the value", path)
        file.seek(0)
        file.write(text.replace(old, new))
        file.truncate()


async def set_config(git: Git, request: dict[str, Any], parts: Parts) -> dict[str, Any]:
    """op git.set_config: {path?, scope, values: {key: value}} → {}."""
    scope = scope_of(request)
    values = {names.config_key(key): str(value) for key, value in request["values"].items()}
    for key, value in values.items():
        await write(git, scope, key, value)
    return {}


async def get_config(git: Git, request: dict[str, Any], parts: Parts) -> dict[str, Any]:
    """op git.get_config: {path?, scope, key} → {value}; null when it is not set."""
    scope = scope_of(request)
    key = names.config_key(request["key"])
    done = await git.run("config", f"--{scope}", "--null", "--get", key, codes=(0, 1))
    return {"value": os.fsdecode(done.out.removesuffix(b"\0")) if done.code == 0 else None}


async def credentials(git: Git, request: dict[str, Any], parts: Parts) -> dict[str, Any]:
    """op git.credentials: {username, password, host, protocol} → {}. Kept in ``~/.git-credentials``."""
    fields = {
        "protocol": request.get("protocol") or "https",
        "host": request.get("host") or "github.com",
        "username": request["username"],
        "password": request["password"],
    }
    for name, value in fields.items():
        if not value or re.search(r"[\n\r\0]", value):
            raise names.bad_request(f"{name} must be one line of text")
    if not re.fullmatch(r"https?", fields["protocol"]) or re.search(r"[/@\s]", fields["host"]):
        raise names.bad_request("credentials are for a protocol, http or https, and a host, without a path")
    await write(git, "global", "credential.helper", "store")
    told = "".join(f"{name}={value}\n" for name, value in fields.items())
    # Exactly this helper, whatever else a configuration names.
    helpers = ("-c", "credential.helper=", "-c", "credential.helper=store")
    await git.run(*helpers, "credential", "approve", stdin=os.fsencode(f"{told}\n"))
    return {}
