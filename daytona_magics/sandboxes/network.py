"""The network settings of the bound sandbox, and a look at what it reaches."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from daytona_magics.errors import SandboxError, SandboxUsageError
from daytona_magics.sandboxes import client as sdk
from daytona_magics.sandboxes import files
from daytona_magics.sandboxes.actions import refresh
from daytona_magics.sandboxes.binding import Binding
from daytona_magics.sandboxes.report import Reporter

if TYPE_CHECKING:
    from daytona import AsyncSandbox

#: Seconds the test of one destination may take.
PATIENCE = 15

#: Short words for names in an allow list: where packages come from, and where repositories are.
GROUPS: dict[str, tuple[str, ...]] = {
    "python": ("pypi.org", "pypi.python.org", "files.pythonhosted.org", "bootstrap.pypa.io", "astral.sh"),
    "npm": (
        *("registry.npmjs.org", "registry.npmjs.com", "npm.pkg.github.com", "nodejs.org", "nodesource.com"),
        *("yarnpkg.com", "*.yarnpkg.com", "bun.sh", "*.bun.sh", "unpkg.com", "jsdelivr.net"),
    ),
    "debian": ("*.debian.org", "*.ubuntu.com"),
    "git": (
        *("github.com", "*.github.com", "*.githubusercontent.com", "gitlab.com", "*.gitlab.com"),
        *("bitbucket.org", "dev.azure.com", "*.dev.azure.com", "*.visualstudio.com"),
    ),
    "maven": ("repo1.maven.org", "repo.maven.apache.org"),
    "composer": ("*.packagist.org", "packagist.com"),
}
#: The word for all of them.
ESSENTIAL = "essential"


def spelled_out(words: list[str]) -> list[str]:
    """An allow list with the names that its short words stand for, each once.

    In:  spelled_out(["debian", "example.org"])
    Out: ['*.debian.org', '*.ubuntu.com', 'example.org']

    Raises:
        SandboxUsageError: a word without a dot is nearly one of the short ones.
    """
    found: list[str] = []
    for word in words:
        groups = tuple(GROUPS) if word == ESSENTIAL else (word,)
        near = get_close_matches(word, [*GROUPS, ESSENTIAL], 1, 0.8) if "." not in word else []
        if near and near[0] != word:
            raise SandboxUsageError(f"{word!r} is no name: did you mean {near[0]}?")
        for group in groups:
            found += GROUPS.get(group, (group,))
    return list(dict.fromkeys(found))


# Runs in the sandbox, by whatever Python is there: one JSON line for each URL, with what a client would see.
_PROBE = """
import json, os, sys, time, urllib.error, urllib.request
wanted = sys.argv[1:] or [
    os.environ.get("PIP_INDEX_URL") or "https://pypi.org/simple/",
    os.environ.get("npm_config_registry") or "https://registry.npmjs.org/",
    "http://deb.debian.org/debian/",
    "https://github.com/",
]
for url in wanted:
    start, ok, said = time.monotonic(), True, ""
    try:
        request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "daytona-magics"})
        said = "answers %s" % urllib.request.urlopen(request, timeout=PATIENCE).status
    except urllib.error.HTTPError as error:
        said = error.headers.get("X-Daytona-Magics-Error", "")
        ok = not said
        said = said or "answers %s" % error.code
    except Exception as error:
        ok, said = False, str(getattr(error, "reason", error)).replace("Tunnel connection failed: ", "")
    took = time.monotonic() - start
    print(json.dumps({"url": url, "ok": ok, "said": said, "took": took}), flush=True)
""".replace("PATIENCE", str(PATIENCE))


@dataclass(frozen=True)
class Reached:
    """What became of one destination: ``took`` in seconds, ``said`` the answer or why there is none."""

    url: str
    ok: bool
    said: str
    took: float


async def settings(binding: Binding, tell: Reporter) -> AsyncSandbox:
    """The bound sandbox with its settings of now."""
    return await refresh(binding, tell)


async def change(binding: Binding, tell: Reporter, wanted: dict[str, Any]) -> AsyncSandbox:
    """Change the settings of the bound sandbox; in force when this returns.

    Args:
        wanted: arguments of the SDK's ``update_network_settings``.
    """
    async with binding.locked():
        sandbox = await refresh(binding, tell)
        await sdk.asked(sandbox.update_network_settings(**wanted), "changing the network settings")
        return sandbox


async def probe(binding: Binding, tell: Reporter, urls: list[str]) -> list[Reached]:
    """Ask for each URL from inside the sandbox; without any, for the places installers use.

    Raises:
        SandboxError: the test cannot run there.
    """
    command = shlex.join(["python3", "-c", _PROBE, *urls])
    limit = PATIENCE * (len(urls) or 4) + 30
    code, text = await files.execute(binding, tell, command, cwd=None, env={}, timeout=limit)
    found = []
    for line in text.splitlines()[:100]:
        try:
            said = json.loads(line)
            found.append(
                Reached(
                    str(said["url"])[:300], said["ok"] is True, str(said["said"])[:600], float(said["took"])
                )
            )
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    if not found:
        raise SandboxError(
            f"the test could not run in the sandbox (exit code {code})", hint="It needs python3 there."
        )
    return found
