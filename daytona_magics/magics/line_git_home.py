"""``%sandbox_git fetch --to FOLDER``: what was made in the sandbox, for a repository of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from daytona_magics.errors import SandboxUsageError
from daytona_magics.magics.line_git import no_body, within
from daytona_magics.magics.line_git_source import notebook_folder
from daytona_magics.notebook.status import note

if TYPE_CHECKING:
    from daytona_magics.git.bringing import Patch


def bring(shell: Any, options: Any) -> Patch | None:
    """Bring commits as a branch, show a patch, or apply the one that was shown."""
    from daytona_magics.git import bringing, home

    no_body(options, "fetch")
    alone = [
        options.remote is not None,
        options.prune,
        options.token_env is not None,
        options.user is not None,
    ]
    if any(alone):
        raise SandboxUsageError("--to brings what is in the sandbox: leave out remote, --prune and logins")
    if sum((options.branch is not None, options.patch, options.apply)) > 1:
        raise SandboxUsageError("--branch, --patch and --apply: one of them")
    there = home.of(notebook_folder() if options.to == "." else Path(options.to).expanduser().absolute())
    if options.patch:
        made = within(
            options, "fetch", lambda found, tell: bringing.patch(found, tell, there), "asking for the patch"
        )
        if made and not options.quiet:
            does = f"`%sandbox_git fetch --to {options.to} --apply` does it"
            note(f"nothing in {there.top.name} was changed yet; {does}")
        return made
    if options.apply:

        async def change(found: Any, tell: Any) -> str:
            return bringing.apply(found.sandbox, there)

        note(within(options, "fetch", change, "applying the patch"))
        return None
    brought = within(
        options,
        "fetch",
        lambda found, tell: bringing.branch(found, tell, there, options.branch),
        "bringing commits",
    )
    if not options.quiet:
        note(str(brought))
    return None
