"""What a caller may name in a git operation: branches, revisions, remotes, addresses, configuration keys.

Names end up as words of a command, so nothing that git could take for an option, for another transport
(``ext::…`` runs a program) or for a second line of its credential protocol gets through. Credentials inside
an address are taken out of it here, because the words of a command can be read in the process list.
"""

import base64
import re
from typing import NamedTuple
from urllib.parse import quote, unquote

from .agent import Refused

#: Transports git may use, whatever a configuration says: everything else can run programs.
PROTOCOLS = "file:git:http:https:ssh"

_REF_FORBIDDEN = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|//|@\{")
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*(\.[^\n\0]+)?\.[A-Za-z][A-Za-z0-9-]*\Z")
_REMOTE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]*\Z")
_HELPER = re.compile(r"[A-Za-z0-9+.-]+::")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_HTTP = re.compile(r"(https?)://(?:([^/?#]*)@)?([^/?#@]*)", re.IGNORECASE)
_USERINFO = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^/\s'\"@]*(?:@[^/\s'\"@]*)*@")


class Login(NamedTuple):
    """Who may be logged in where: ``scheme`` and ``host`` (with its port) of the one server they are for."""

    scheme: str
    host: str
    username: str
    password: str

    def secrets(self) -> tuple[str, ...]:
        """Every spelling in which the password could come back in an output."""
        if not self.password:
            return ()
        basic = base64.b64encode(f"{self.username}:{self.password}".encode("utf-8", "surrogateescape"))
        return (self.password, quote(self.password, safe=""), basic.decode())


def bad_request(message: str) -> Refused:
    """The refusal of something the caller got wrong."""
    return Refused(400, "BAD_REQUEST", message)


def branch(name: object) -> str:
    """`name` if it can be a branch. Raises Refused 400 otherwise."""
    value = str(name)
    parts = value.split("/")
    if (
        not value
        or value in ("@", "HEAD")
        or value.startswith("-")
        or value.endswith((".", "/"))
        or _REF_FORBIDDEN.search(value)
        or any(not part or part.startswith(".") or part.endswith(".lock") for part in parts)
    ):
        raise bad_request(f"{value!r} is not a valid name of a branch")
    return value


def revision(name: object) -> str:
    """`name` if it can name a revision (``HEAD~1``, a hash, a tag, …). Raises Refused 400 otherwise."""
    value = str(name)
    if not value or value.startswith("-") or re.search(r"[\x00-\x1f\x7f]", value):
        raise bad_request(f"{value!r} is not a valid revision")
    return value


def remote(name: object) -> str:
    """`name` if it can be the name of a remote. Raises Refused 400 otherwise."""
    value = str(name)
    if not _REMOTE.match(value) or ".." in value or value.endswith((".lock", "/", ".")) or "//" in value:
        raise bad_request(f"{value!r} is not a valid name of a remote")
    return value


def config_key(key: object) -> str:
    """`key` if it is ``section.name`` or ``section.subsection.name``.

    Raises Refused 400, also for a key that carries a password (``url.https://user:token@…``): keys are words
    of a command.
    """
    value = str(key)
    if not _KEY.match(value):
        raise bad_request(f"{scrub(value)!r} is not a configuration key such as user.name")
    if _USERINFO.sub(r"\1", value) != value and re.search(r"://[^/@]*:[^/@]*@", value):
        raise bad_request(
            "a password in a configuration key would be visible to others; "
            "use the credentials call to store it instead"
        )
    return value


def address(url: object) -> str:
    """`url` if git may be given it: one of the allowed transports, or a path. Raises Refused 400."""
    value = str(url)
    if not value or value.startswith("-") or re.search(r"[\x00-\x1f\x7f]", value):
        raise bad_request(f"{scrub(value)!r} is not a valid repository URL")
    if re.match(r"(git|ssh)://[^/@]*:[^/@]*@", value):
        raise bad_request("only http and https take a password in an address")
    found = _SCHEME.match(value)
    if _HELPER.match(value) or (found and found[1].lower() not in PROTOCOLS.split(":")):
        allowed = PROTOCOLS.replace(":", ", ")
        raise bad_request(f"{scrub(value)!r} names a transport that is not allowed; allowed are {allowed}")
    return value


def take_login(url: str) -> tuple[str, str, str]:
    """An http(s) address without what is before its ``@``, and the user name and password from there."""
    found = _HTTP.match(url)
    if found is None or not found[2]:
        return url, "", ""
    username, _, password = found[2].partition(":")
    clean = f"{found[1]}://{found[3]}{url[found.end() :]}"
    return clean, unquote(username), unquote(password)


def login(url: str, username: str, password: str) -> Login | None:
    """The login for `url`; None when there is nothing to say or it is not an http(s) address.

    Servers that take tokens ignore the user name, but want one.
    Raises Refused 400 for a line break, which the credential protocol cannot carry.
    """
    found = _HTTP.match(url)
    if found is None or not (username or password):
        return None
    if re.search(r"[\n\r\0]", username + password):
        raise bad_request("a user name and a password are one line each")
    return Login(found[1].lower(), unquote(found[3]).lower(), username or "git", password)


def may_know(known: Login, scheme: str, host: str) -> bool:
    """Whether a server that asks for a login may be given `known`.

    Only the server it was given for; and, since that is where http addresses commonly lead, the same name
    with https. A redirection to any other server finds no login.
    """
    if (scheme, host) == (known.scheme, known.host):
        return True
    return (known.scheme, scheme) == ("http", "https") and ":" not in host and host == known.host


def hide_password(url: str) -> str:
    """A remote's address for a listing: with its user name, without its password."""
    found = _HTTP.match(url)
    if found is None or not found[2] or ":" not in found[2]:
        return url
    return f"{found[1]}://{found[2].partition(':')[0]}@{found[3]}{url[found.end() :]}"


def scrub(text: str, secrets: tuple[str, ...] = ()) -> str:
    """`text` without what stands before the ``@`` of an address, and without `secrets`."""
    for secret in secrets:
        if len(secret) > 2:
            text = text.replace(secret, "***")
    return _USERINFO.sub(r"\1***@", text)
