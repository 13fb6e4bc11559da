"""Environment variables for a cell, and the refusal to save a secret in a notebook.

``-e NAME`` copies a variable of the notebook's machine at run time, so the notebook never holds its value.
``-e NAME=VALUE`` is written down in the cell: a value that looks like a key or token is refused.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from daytona_magics.errors import SandboxUsageError
from daytona_magics.magics.parser import did_you_mean

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_PREFIXES = re.compile(
    r"(sk-|sk_live_|rk_live_|dtn_|ghp_|gho_|ghu_|ghs_|ghr_|github_pat_|glpat-|xox[abprs]-|AKIA|ASIA|AIza|ya29\.|"
    r"hf_|npm_|pypi-|e2b_|r8_|tvly-|whsec_|eyJ[A-Za-z0-9_-]+\.eyJ|-----BEGIN )"
)
_SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSW|CREDENTIAL|AUTH)", re.IGNORECASE)


def looks_secret(name: str, value: str) -> bool:
    """Guess whether a literal is a key or token, by a known prefix, or a telling name and a random value.

    In:  looks_secret("X", "ghp_0123456789abcdef0123"), looks_secret("MODE", "debug")
    Out: (True, False)
    """
    if _PREFIXES.match(value) and len(value) >= 12:
        return True
    dense = len(value) >= 16 and " " not in value and _entropy(value) > 3.0
    if dense and _SECRET_NAME.search(name):
        return True
    mixed = all(re.search(kind, value) for kind in ("[a-z]", "[A-Z]", "[0-9]"))
    return mixed and bool(re.fullmatch(r"[A-Za-z0-9+/_=-]{32,}", value)) and _entropy(value) > 3.5


def _entropy(text: str) -> float:
    counts = Counter(text).values()
    return -sum(n / len(text) * math.log2(n / len(text)) for n in counts)


def environment(items: Sequence[str] | None, host: Mapping[str, str] | None = None) -> dict[str, str]:
    """Turn the values of ``-e`` into variables.

    Args:
        items: ``NAME=VALUE`` or ``NAME`` strings.
        host: where bare names are looked up; default ``os.environ``.

    Raises:
        SandboxUsageError: a name is malformed or unset, or a literal looks like a secret.

    In:  environment(["A=1", "HOME"], {"HOME": "/root"})
    Out: {"A": "1", "HOME": "/root"}
    """
    host = os.environ if host is None else host
    made: dict[str, str] = {}
    for item in items or ():
        name, equals, value = item.partition("=")
        if not _NAME.match(name):
            raise SandboxUsageError(
                f"-e: {name!r} is not a variable name", hint="Write -e NAME=VALUE or -e NAME."
            )
        if not equals:
            if name not in host:
                raise SandboxUsageError(
                    f"-e {name}: there is no such variable on this machine{did_you_mean(name, list(host))}"
                )
            value = host[name]
        elif looks_secret(name, value):
            raise SandboxUsageError(
                f"-e {name}=…: the value looks like a key or token and would be saved in the notebook",
                hint=f"Set it in the environment of the notebook's machine and write  -e {name}",
            )
        made[name] = value
    return made
