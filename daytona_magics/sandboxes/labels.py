"""Labels carry the truth about whose a sandbox is; nothing about it is kept in files here.

``set_labels`` of the platform replaces the whole set, and the SDK keeps a label of its own there, so every
change reads, merges and writes.
"""

from __future__ import annotations

import re
import secrets
from typing import Any

from daytona_magics import __version__
from daytona_magics.sandboxes.identity import Identity

CREATED_BY = "created-by"
CREATOR = "daytona-magics"
KERNEL = "daytona-magics/kernel"
CONTEXT = "daytona-magics/context"
NOTEBOOK = "daytona-magics/notebook"
HOST = "daytona-magics/host"
VERSION = "daytona-magics/version"
ISOLATION = "daytona-magics/isolation"
#: Set, to a word of their own, for sandboxes a kernel uses beside the one it is bound to.
GROUP = "daytona-magics/group"
#: Which folder holds the locks of the living kernels; see :func:`.identity.place`.
PLACE = "daytona-magics/place"
#: "15>120": minutes of auto-stop before a job raised it, and since.
AUTO_STOP = "daytona-magics/auto-stop"
#: A random word for each creation: by it a sandbox is known as the one that was just asked for.
CREATION = "daytona-magics/creation"


def ours(identity: Identity, context: str) -> dict[str, str]:
    """The labels that tie a sandbox to a kernel."""
    made = {
        CREATED_BY: CREATOR,
        KERNEL: identity.kernel,
        CONTEXT: context,
        HOST: identity.host,
        PLACE: identity.place,
        VERSION: __version__,
    }
    if identity.notebook:
        made[NOTEBOOK] = identity.notebook
    return made


def guest_of(identity: Identity, context: str) -> dict[str, str]:
    """The labels for a sandbox that another program made: found again after a restart, never reaped."""
    return {KERNEL: identity.kernel, CONTEXT: context, HOST: identity.host}


async def merge(sandbox: Any, changes: dict[str, str]) -> dict[str, str]:
    """Add labels to those a sandbox has now; writes only when something changes."""
    await sandbox.refresh_data()
    wanted = {**sandbox.labels, **changes}
    if wanted != sandbox.labels:
        await sandbox.set_labels(wanted)
    return wanted


def make_name(title: str) -> str:
    """A readable name that no other sandbox has.

    In:  make_name("My analysis")
    Out: "my-analysis-3f9c2a"
    """
    stem = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:32] or "sandbox"
    return f"{stem}-{secrets.token_hex(3)}"
