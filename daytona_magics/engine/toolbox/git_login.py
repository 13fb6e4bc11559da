"""How git learns a password, without anybody else learning it.

A password travels on a socket that only git's own processes inherit (descriptor 3), for as long as one
network command runs. A credential helper of one line asks there, naming the server that wants to know; this
program answers if it is the server the password was given for. So the password is in no command line, no
environment, no file, and no helper of the user's gets to store it. An address in the configuration that has
a password in it is, for the same reason, replaced by one without for the time of the command, by a
configuration file in memory (descriptor 4).
"""

import os
import socket
from typing import NamedTuple

from . import wire
from .git_names import Login, may_know
from .wire import ready

_READ = 64 << 10
#: Questions of a credential helper are a few lines.
_MAX_QUESTION = 64 << 10

# printf and read are part of the shell, so nothing here is a word of any command. "store" and "erase" do
# nothing: what was given for one call is not kept.
_HELPER = (
    '!f() { [ "$1" = get ] || exit 0; '
    '{ while IFS= read -r l && [ -n "$l" ]; do printf "%s\\n" "$l"; done; echo; } >&3; '
    'while IFS= read -r l <&3 && [ -n "$l" ]; do printf "%s\\n" "$l"; done; }; f'
)


class Access(NamedTuple):
    """What a network command needs: a login, and texts that must not appear in what is shown.

    ``rewrite``: (address as configured, address without its password), to use the second for the first.
    """

    login: Login | None = None
    secrets: tuple[str, ...] = ()
    rewrite: tuple[str, str] | None = None
    insecure: bool = False


OPEN = Access()


class Extras:
    """What a command that talks to a remote is given beside its words, while inside the ``with``."""

    def __init__(self, access: Access) -> None:
        self.options: list[str] = []
        self.env: dict[str, str] = {}
        self.fds: tuple[int, ...] = ()
        self.socket: socket.socket | None = None
        self._opened: list[int] = []
        self._access = access

    def __enter__(self) -> "Extras":
        access = self._access
        if access.insecure:
            self.env["GIT_SSL_NO_VERIFY"] = "true"
        nothing = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self._opened.append(nothing)
        helper, rewriting = nothing, nothing
        if access.login is not None:
            self.socket, far = socket.socketpair()
            self.socket.setblocking(False)
            helper = far.detach()
            self._opened.append(helper)
            # An empty helper forgets those of the configuration, which could store what they are told.
            self.options += ["-c", "credential.helper=", "-c", f"credential.helper={_HELPER}"]
        if access.rewrite is not None:
            rewriting = _config_in_memory(*access.rewrite)
            self._opened.append(rewriting)
            self.options += ["-c", "include.path=/proc/self/fd/4"]
        if len(self._opened) > 1:
            self.fds = (helper, rewriting)
        return self

    def given(self) -> None:
        """git has its descriptors; ours are no longer needed."""
        wire.close_fds(self._opened)
        self._opened, self.fds = [], ()

    def __exit__(self, *_: object) -> None:
        self.given()
        if self.socket is not None:
            self.socket.close()

    async def answer_helper(self) -> None:
        """Answer the credential helper's questions until there can be no more."""
        if self.socket is None or self._access.login is None:
            return
        buffer = b""
        while len(buffer) <= _MAX_QUESTION:
            await ready(self.socket.fileno())
            data = self.socket.recv(_READ)
            if not data:
                return
            buffer += data
            while b"\n\n" in buffer:
                question, _, buffer = buffer.partition(b"\n\n")
                self.socket.send(_answer(question, self._access.login))


def _answer(question: bytes, login: Login) -> bytes:
    """What a helper that asks about a server is told: the login, or nothing."""
    asked = dict(line.partition("=")[::2] for line in os.fsdecode(question).split("\n"))
    if not may_know(login, asked.get("protocol", "").lower(), asked.get("host", "").lower()):
        return b"\n"
    return os.fsencode(f"username={login.username}\npassword={login.password}\n\n")


def quoted(value: str) -> bytes:
    """`value` as a value in a configuration file."""
    escapes = (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\t", "\\t"), ("\b", "\\b"))
    for plain, escaped in escapes:
        value = value.replace(plain, escaped)
    return os.fsencode(f'"{value}"')


def _config_in_memory(configured: str, clean: str) -> int:
    """A file in memory that tells git to use address `clean` where `configured` is configured."""
    fd = os.memfd_create("config", os.MFD_CLOEXEC)
    rule = b"\n[url %b]\n\tinsteadOf = %b\n\tpushInsteadOf = %b\n"
    os.write(fd, rule % (quoted(clean), quoted(configured), quoted(configured)))
    return fd
