"""Where the notebook works in its sandbox: folder, git branch, what is not committed or pushed, its page.

All of it comes from the sandbox, so it is text to be shown and nothing else; only an address at github.com is
made into a link, out of parts that were checked.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from urllib.parse import quote

from daytona_magics.errors import SandboxError
from daytona_magics.runtime.channel import Channel
from daytona_magics.sandboxes import client as sdk
from daytona_magics.sandboxes.binding import Binding
from daytona_magics.sandboxes.report import state_of

#: Seconds the look may take; characters of git's answer that are read.
WITHIN, LIMIT = 5, 100_000
_GITHUB = re.compile(
    r"(?:https://(?:[^/@\s]+@)?github\.com/|(?:ssh://)?git@github\.com[:/])([\w.-]+)/([\w.-]+?)(?:\.git)?/?"
)


@dataclass(frozen=True)
class Worktree:
    """What :func:`look` found; texts are "" where there is nothing.

    Attributes:
        folder: the folder cells are in.
        branch: of the repository the folder is in.
        sync: in words, against what is committed and against the remote branch.
        page: address of the branch at GitHub.
    """

    folder: str
    branch: str = ""
    sync: str = ""
    page: str = ""


async def look(binding: Binding) -> Worktree | None:
    """Look, if the notebook's sandbox is started and connected; it is not woken for this.

    Returns:
        None when there is nothing to be seen, for whatever reason.
    """
    channel, box = binding.channel, binding.sandbox
    if channel is None or channel.closed or box is None or state_of(box) != "started":
        return None
    try:
        where = shlex.quote(there := await folder(channel, binding))
        command = (
            f"git -C {where} status --porcelain=v2 --branch 2>/dev/null | head -c {LIMIT}; "
            f"echo; git -C {where} remote get-url origin 2>/dev/null | head -c 1000"
        )
        answer = await box.process.exec(f"sh -c {shlex.quote(command)}", timeout=WITHIN)
    except (SandboxError, sdk.error_class()):
        return None
    return parse(there, str(answer.result or ""))


async def folder(channel: Channel, binding: Binding) -> str:
    """The folder the notebook's cells are in."""
    if found := await folders(channel, binding.context):
        return found[0]
    return str(await sdk.asked(binding.bound().get_work_dir(), "asking for the folder"))


async def folders(channel: Channel, context: str) -> list[str]:
    """The folders the cells of a context are in, Python's and the shell's: that of the newest cell first."""
    found: list[tuple[int, str]] = []
    for one in (await channel.status())["contexts"]:
        where, last = one.get("directory"), one.get("last")
        keeps = one.get("name") == context and one.get("language") in ("python", "bash")
        if keeps and isinstance(where, str) and where:
            found.append((last if isinstance(last, int) else 0, where))
    return list(dict.fromkeys(where for _, where in sorted(found, key=lambda one: -one[0])))


def parse(folder: str, text: str) -> Worktree:
    """Read git's answer: its status, then a line with the address of the remote.

    In:  parse("/w", "# branch.head main\\n# branch.ab +1 -0\\n? new.txt\\n\\ngit@github.com:me/it.git")
    Out: Worktree('/w', 'main', '1 not committed, 1 not pushed', 'https://github.com/me/it/tree/main')
    """
    lines = text.rstrip("\n").split("\n")
    head = {
        line.split(" ", 2)[1]: line.split(" ", 2)[2]
        for line in lines
        if line.startswith("# branch.") and line.count(" ") >= 2
    }
    branch = head.get("branch.head", "")
    if not branch:
        return Worktree(folder)
    changed = sum(line[:2] in ("1 ", "2 ", "u ", "? ") for line in lines)
    said = [f"{changed} not committed"] if changed else ["all committed"]
    ahead = re.fullmatch(r"\+(\d{1,9}) -(\d{1,9})", head.get("branch.ab", ""))
    if ahead is None:
        said.append("no remote branch")
    else:
        said += [f"{ahead[1]} not pushed"] if ahead[1] != "0" else []
        said += [f"{ahead[2]} to pull"] if ahead[2] != "0" else []
        if ahead[1] == ahead[2] == "0":
            said.append("in step with the remote branch")
    remote = _GITHUB.fullmatch(lines[-1].strip())
    page = ""
    if remote and ".." not in (remote[1], remote[2]):
        page = f"https://github.com/{remote[1]}/{remote[2]}/tree/{quote(branch, safe='/')}"
    return Worktree(folder, branch, ", ".join(said), page)
