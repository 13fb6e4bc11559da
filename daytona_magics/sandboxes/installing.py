"""Installing a program in the sandbox: a command, a check whether it is there now, and another way to get it.

Installers are pipelines (`curl ... | bash`) whose first half fails unnoticed, and the network of a new
sandbox may need a moment. So commands run with bash's pipefail; one that fails with the words of a broken
network is tried again after :data:`PAUSES`; one that fails otherwise, or is refused by the sandbox's own
settings, is not. The check alone decides whether the program is there.
"""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from daytona_magics.errors import SandboxError
from daytona_magics.sandboxes import files
from daytona_magics.sandboxes.report import Silent
from daytona_magics.sandboxes.serving import lines

if TYPE_CHECKING:
    from daytona_magics.sandboxes.binding import Binding
    from daytona_magics.sandboxes.report import Reporter

#: Seconds for one try of a command, for one check, and between two tries.
TIMEOUT, CHECK_WITHIN = 300.0, 30.0
PAUSES = (5.0, 10.0)
#: Lines of an output that an error shows; characters of the check's first line that are kept.
SHOWN, SAID = 15, 200
#: How curl, wget, apt, pip, npm, git and the C library say that the network failed.
_NETWORK = re.compile(
    r"could not resolve|couldn't resolve|temporary failure|name or service not known|no address associated"
    r"|connection (?:timed out|refused|reset|aborted|broken)|network is unreachable|no route to host"
    r"|failed to connect|read timed out|operation timed out|ssl_error_syscall|tls handshake|gnutls_handshake"
    r"|curl: \((?:5|6|7|18|28|35|52|55|56)\)|\b(?:EAI_AGAIN|ENOTFOUND|ETIMEDOUT|ECONNRESET|ECONNREFUSED)\b"
    r"|\b50[234] (?:bad gateway|service unavailable|gateway time)",
    re.IGNORECASE,
)
#: How the embedded engine's proxy says that the settings forbid it: trying again changes nothing.
_FORBIDDEN = re.compile(r"is refused:|response 403", re.IGNORECASE)


@dataclass(frozen=True)
class Plan:
    """What somebody asks for.

    Attributes:
        command, fallback: shell commands; the second is run when the first has not brought it.
        verify: shell command that succeeds when the program is there; "" to believe the exit code.
        timeout: seconds one try may take.
    """

    command: str
    verify: str = ""
    fallback: str = ""
    cwd: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    timeout: float = TIMEOUT


@dataclass(frozen=True)
class Installed:
    """How it came there.

    Attributes:
        by: the command that brought it; "" when it was there before.
        tries: how many times that command was run.
        version: first line the check printed.
    """

    by: str
    tries: int
    version: str


def broken_network(text: str) -> bool:
    """Whether an output tells of a network that failed, which may be better in a moment.

    In:  broken_network("curl: (6) Could not resolve host: x"), broken_network("E: unable to locate package")
    Out: (True, False)
    """
    return bool(_NETWORK.search(text)) and not _FORBIDDEN.search(text)


async def install(binding: Binding, tell: Reporter, plan: Plan) -> Installed:
    """Have a program in the sandbox; nothing is run when the check says that it is there.

    Raises:
        SandboxError: it is not there in the end; the message has the last lines of each command.
    """
    version = await _checked(binding, tell, plan)
    if version is not None:
        return Installed("", 0, version)
    problems = []
    for command in filter(None, (plan.command, plan.fallback)):
        tries, problem = await _tried(binding, tell, plan, command)
        if not problem:
            version = await _checked(binding, tell, plan) if plan.verify else ""
            if version is not None:
                return Installed(command, tries, version)
            problem = f"{command}\nended well, but `{plan.verify}` still fails"
        problems.append(problem)
    hint = "" if plan.fallback else "--fallback COMMAND  tries another way."
    raise SandboxError("it could not be installed: " + "\n".join(problems), hint=hint)


async def _tried(binding: Binding, tell: Reporter, plan: Plan, command: str) -> tuple[int, str]:
    """Run a command, again when the network failed; the number of tries, and what is wrong in the end."""
    for tries, pause in enumerate((*PAUSES, None), 1):
        tell.progress(f"running {_short(command)}" + (f" (try {tries})" if tries > 1 else ""))
        code, text = await _run(binding, command, plan, plan.timeout)
        if code == 0:
            return tries, ""
        again = broken_network(text)
        if pause is None or not again:
            break
        tell.progress(f"the network of the sandbox failed; trying again in {pause:g} s")
        await asyncio.sleep(pause)
    often = f" {tries} times, the network failed" if again and tries > 1 else ""
    shown = "".join(f"\n  | {line}" for line in lines(text, SHOWN))
    return tries, f"{command}\nfailed{often} (exit code {code}){shown}"


async def _checked(binding: Binding, tell: Reporter, plan: Plan) -> str | None:
    """The first line of a check that succeeds; None when it fails or there is none."""
    if not plan.verify:
        return None
    tell.progress(f"checking: {_short(plan.verify)}")
    code, text = await _run(binding, plan.verify, plan, CHECK_WITHIN)
    return "".join(lines(text, 10_000)[:1])[:SAID] if code == 0 else None


async def _run(binding: Binding, command: str, plan: Plan, timeout: float) -> tuple[int, str]:
    script = shlex.join(["bash", "-c", f"set -o pipefail\n{command}"])
    env = {**binding.env, **plan.env}
    return await files.execute(binding, Silent(), script, cwd=plan.cwd, env=env, timeout=timeout)


def _short(command: str) -> str:
    return command if len(command) <= 60 else f"{command[:57]}..."
