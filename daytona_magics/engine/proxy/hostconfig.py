"""Reading what the host's pip and npm are told: the same files and variables they read, in their order.

pip: ``pip.conf`` of the machine, of the user, of the environment, then ``PIP_CONFIG_FILE``; in each the
section ``[global]``, then ``[install]``; then ``PIP_…`` variables. npm: the machine's ``npmrc``, the user's
``.npmrc``, then ``npm_config_…`` variables. A file that cannot be read says nothing.
"""

from __future__ import annotations

import configparser
import netrc
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path


def pip_settings(environ: Mapping[str, str], home: Path, prefix: str = sys.prefix) -> dict[str, str]:
    """pip's options by their long names, as texts; lists are separated by white space.

    In:  pip_settings({"PIP_INDEX_URL": "https://pypi.example/simple"}, Path("/nowhere"))["index-url"]
    Out: 'https://pypi.example/simple'
    """
    found: dict[str, str] = {}
    for path in _pip_files(environ, home, prefix):
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeError, OSError):
            continue
        for section in ("global", "install"):
            if parser.has_section(section):
                found.update((_option(key), value) for key, value in parser.items(section))
    for name, value in environ.items():
        if name.startswith("PIP_") and name != "PIP_CONFIG_FILE" and value:
            found[_option(name[4:])] = value
    return found


def _option(name: str) -> str:
    name = name.lower().replace("_", "-").removeprefix("--")
    return {"default-timeout": "timeout", "pypi-url": "index-url"}.get(name, name)


def _pip_files(environ: Mapping[str, str], home: Path, prefix: str) -> Iterable[Path]:
    named = environ.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        return
    for folder in reversed((environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")):
        yield Path(folder, "pip", "pip.conf")
    yield Path("/etc/pip.conf")
    yield home / ".pip" / "pip.conf"
    config = environ.get("XDG_CONFIG_HOME")
    yield (Path(config) if config else home / ".config") / "pip" / "pip.conf"
    yield Path(prefix, "pip.conf")
    if named:
        yield Path(named)


def npm_settings(environ: Mapping[str, str], home: Path) -> dict[str, str]:
    """npm's options; keys as in an npmrc file, ``//host/:_authToken`` among them."""
    variables = {
        name[11:].lower().replace("_", "-"): value
        for name, value in environ.items()
        if name.lower().startswith("npm_config_") and value
    }
    files = [
        Path("/etc/npmrc"),
        Path("/usr/etc/npmrc"),
        Path("/usr/local/etc/npmrc"),
        Path(variables.get("globalconfig") or "/usr/local/etc/npmrc"),
        Path(variables.get("userconfig") or home / ".npmrc"),
    ]
    found: dict[str, str] = {}
    for path in files:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeError):
            continue
        for line in lines:
            key, equals, value = line.partition("=")
            if equals and not line.lstrip().startswith(("#", ";")):
                value = value.strip().strip("\"'")
                found[key.strip()] = re.sub(r"\$\{(\w+)\}", lambda m: environ.get(m[1], ""), value)
    found.update(variables)
    return found


def netrc_password(host: str, environ: Mapping[str, str], home: Path) -> tuple[str, str] | None:
    """User name and password of the user's netrc for ``host``, as pip looks them up; None without."""
    for path in [Path(environ["NETRC"])] if environ.get("NETRC") else [home / ".netrc", home / "_netrc"]:
        try:
            entry = netrc.netrc(str(path)).hosts.get(host)
        except (OSError, UnicodeError, netrc.NetrcParseError):
            continue
        if entry is not None:
            return entry[0] or "", entry[2] or ""
    return None
