"""What an agent's instructions must say so that its work lands in the sandbox and in git.

An agent that runs in the kernel is usually told the folder it works in, on a line ``Current working
directory:``. Its commands run in the sandbox, so that line must name the folder there; and where the folder
is in a repository, the agent is to commit and to leave pushing to the notebook, which has the login.
"""

from __future__ import annotations

import re

from daytona_magics.git import branching, repository
from daytona_magics.git.views import line_of
from daytona_magics.sandboxes.binding import Binding
from daytona_magics.sandboxes.report import Silent

_LINE = re.compile(r"^[ \t]*Current working directory:.*$", re.MULTILINE | re.IGNORECASE)


async def system_prompt(tie: Binding, base: str) -> str:
    """Instructions for an agent whose commands run in the bound sandbox; it is created if there is none.

    Args:
        base: the agent's own instructions. Its line ``Current working directory:`` is replaced; where it has
            none, one is added at the end.
    """
    await tie.ready(Silent())
    box = tie.bound()
    folder = await repository.folder(tie, box)
    found, _ = await repository.around(tie, box, folder)
    where = f"Current working directory: {line_of(folder)} (in Daytona sandbox {str(box.id)[:12]})"
    lines = [] if found is None else [_git(tie, found.path)]
    prompt, count = _LINE.subn(lambda _: where, base)
    if not count:
        lines.insert(0, where)
    return "\n\n".join(filter(None, [prompt.rstrip(), "\n".join(lines)])) + "\n"


def _git(tie: Binding, path: str) -> str:
    own = branching.own(tie.bound())
    own = own if own is not None and own.path == path else None
    branch = f" on branch {line_of(own.branch)}" if own is not None else ""
    pushed = (
        "it is pushed from outside after each step" if own is not None and own.sync else "nobody asked for it"
    )
    return f"When a piece of work is done, commit it with git{branch}. Do not push: {pushed}."
