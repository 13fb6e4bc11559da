"""Why pip will not get anything, said before it tries.

pip repeats a refused connection for many seconds and buries the reason. The way out of a sandbox says its
reason at once, so one request to the index finds out.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys

_PIP = re.compile(r"\s*(?:python[0-9.]* -m )?pip[0-9.]* (install\b[^;&|<>$`]*)$")
_TUNNEL = re.compile(r"Tunnel connection failed: \d+ (.*)")
#: Options with which pip asks other places, or none.
_ELSEWHERE = ("--no-index", "--index-url", "-i", "--find-links", "-f", "--proxy")
_SECONDS = 5.0


def words_of(command: str) -> list[str]:
    """Arguments of pip in a shell command that is a plain ``pip install``; [] for every other."""
    found = _PIP.match(command)
    try:
        return shlex.split(found.group(1)) if found else []
    except ValueError:
        return []  # a quote without its end: the shell says so


def refused(arguments: list[str]) -> str:
    """Why pip cannot ask the package index, in the words of the sandbox's way out; "" when it can.

    Args:
        arguments: of pip.
    """
    if arguments[:1] != ["install"] or any(a.partition("=")[0] in _ELSEWHERE for a in arguments):
        return ""
    wanted = [a for a in arguments[1:] if not a.startswith("-") and not os.path.exists(a)]
    why = _refusal(os.environ.get("PIP_INDEX_URL") or "https://pypi.org/simple/") if wanted else ""
    return "nothing was installed: %s" % why if why else ""


def without_index(command: list[str]) -> bool:
    """Run pip although it cannot ask: what is there already needs no index. False when it failed."""
    environment = dict(os.environ, PIP_RETRIES="0")
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False
    )
    if done.returncode == 0:
        sys.stdout.write(done.stdout.decode("utf-8", "replace"))
    return done.returncode == 0


def _refusal(url: str) -> str:
    """Why the way out refuses this address; empty when it does not, or when anything else is wrong."""
    import urllib.error
    import urllib.request

    request = urllib.request.Request(url, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=_SECONDS).close()
    except urllib.error.HTTPError as error:
        return error.headers.get("X-Daytona-Magics-Error") or ""
    except (OSError, ValueError) as error:
        found = _TUNNEL.search(str(getattr(error, "reason", error)))
        return found.group(1) if found and "refused" in found.group(1) else ""
    return ""
