"""API keys that somebody typed, or took from a file by name: in this process's memory and nowhere else.

Never in a setting (settings are shown), the environment (child processes inherit it), a file or a notebook.
A forked child of the kernel does not get them either.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from daytona_magics.errors import SandboxUsageError

#: Names that are taken from a file; anything else in it is none of ours.
NAMES = (
    "DAYTONA_API_KEY",
    "DAYTONA_API_URL",
    "DAYTONA_TARGET",
    "DAYTONA_JWT_TOKEN",
    "DAYTONA_ORGANIZATION_ID",
)

_given: dict[str, str] = {}


def fingerprint() -> str:
    """What changes whenever other values were given; tells nothing about them."""
    return str(hash(tuple(sorted(_given.items()))))


def remember(values: Mapping[str, str]) -> None:
    """Keep values for these names until the kernel ends."""
    _given.update({name: value for name, value in values.items() if name in NAMES and value})


def forget() -> bool:
    """Forget all that was given; says whether there was anything."""
    had = bool(_given)
    _given.clear()
    return had


def given(name: str) -> str:
    """What was given for a name, "" without."""
    return _given.get(name, "")


def known(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment's values for our names, with what was given before them."""
    return {**{name: environ[name] for name in NAMES if environ.get(name)}, **_given}


def from_file(path: Path) -> dict[str, str]:
    """The values of our names in a ``.env`` file: ``NAME=value``, one in a line, quotes taken off.

    Raises:
        SandboxUsageError: it cannot be read, or holds no key.
    """
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            text = file.read(1 << 20)
    except OSError as error:
        raise SandboxUsageError(f"--env-file {path}: {error.strerror or error}") from None
    found = {}
    for match in re.finditer(r"^[ \t]*(?:export[ \t]+)?(\w+)[ \t]*=[ \t]*(.*?)[ \t]*$", text, re.MULTILINE):
        name, value = match[1], match[2]
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        else:
            value = re.sub(r"\s+#.*", "", value)
        if name in NAMES and value:
            found[name] = value
    if "DAYTONA_API_KEY" not in found and "DAYTONA_JWT_TOKEN" not in found:
        raise SandboxUsageError(
            f"--env-file {path}: there is no DAYTONA_API_KEY in it",
            hint="Write  DAYTONA_API_KEY=…  on a line.",
        )
    return found


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_given.clear)
