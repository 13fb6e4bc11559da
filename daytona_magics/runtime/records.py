"""The small records that go in and out of a :class:`~daytona_magics.runtime.channel.Channel`."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: Members of a request that are told even when empty: the guest decides what that means.
_ALWAYS = frozenset(("id", "context", "language", "code"))
_random = random.Random()

if hasattr(os, "register_at_fork"):
    # Else a forked child would make the ids of its parent.
    os.register_at_fork(after_in_child=_random.seed)


def new_id() -> str:
    """A fresh execution id (32 hex digits). In: len(new_id()) Out: 32

    No secret, only never the same. The system's own random numbers would make the thread wait for its turn.
    """
    return f"{_random.getrandbits(128):032x}"


@dataclass(frozen=True)
class ExecRequest:
    """One cell to run.

    Attributes:
        id: what makes the execution unique; the guest runs an id at most once. See :func:`new_id`.
        context: name of the worker whose variables the cell sees.
        language: "python", "fresh" (a Python of its own), "bash", or a program for this cell alone: "node",
            "ts", "ruby", "R", "perl", or "program", which ``interpreter`` names.
        code: the body.
        name: the file name tracebacks show.
        cwd: folder to run in; None leaves the context's own.
        env: environment variables for this cell.
        timeout: seconds after which the guest stops it, waiting for input included; 0 for none.
        number: the cell's ``In[number]`` in the notebook; 0 when it has none.
        job: run it beside the context's cells, in a context that ends with it, and keep its output.
        argv: the program's words; for "fresh" the whole ``sys.argv``.
        interpreter: the program's name and words; "{}" among them is the cell's file, "-" at the end makes
            the cell its standard input, else the file comes last.
        stdin: ask for input also where it cannot be seen that a program waits for it.
        variables: what it brings and gives back (see :mod:`~daytona_magics.runtime.guest.variables`).
    """

    id: str
    context: str
    language: str
    code: str
    name: str = "Cell"
    cwd: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 0.0
    number: int = 0
    job: bool = False
    variables: Mapping[str, Any] | None = None
    argv: tuple[str, ...] = ()
    interpreter: tuple[str, ...] = ()
    stdin: bool = False

    def fields(self) -> dict[str, Any]:
        """As the guest is told: what it would take to be so anyway is left out."""
        told = {name: value for name, value in vars(self).items() if value or name in _ALWAYS}
        if self.env:
            told["env"] = dict(self.env)
        return told


@dataclass(frozen=True)
class Look:
    """What the guest says of one execution, checked.

    Attributes:
        id, context, language, name, job: as of its :class:`ExecRequest`.
        state: "queued", "running" or "done".
        started: seconds since 1970 by the sandbox's clock, None before.
        seconds: it has run.
        printed: bytes of text it wrote.
        kept: bytes of its output that are kept in the sandbox, with what is around them.
        lost: bytes from the middle of a long output that were more than the sandbox keeps.
        dropped: whether its output made room for newer output.
        status: how it ended (see :class:`~daytona_magics.runtime.events.Done`), "" before.
        exit_code: of a bash cell that has ended.
        tail: the end of its text, as far as it was asked for. Not sanitised.
        tail_bytes: how many bytes of its text that is.
    """

    id: str
    context: str
    language: str
    name: str
    state: str
    job: bool = False
    started: float | None = None
    seconds: float = 0.0
    printed: int = 0
    kept: int = 0
    lost: int = 0
    dropped: bool = False
    status: str = ""
    exit_code: int | None = None
    tail: str = ""
    tail_bytes: int = 0


@dataclass(frozen=True)
class GuestInfo:
    """What the guest said about itself. A new ``boot`` means new workers: earlier variables are gone.

    Attributes:
        started: whether this channel started the daemon (False: it was already running).
    """

    protocol: int
    version: str
    python: str
    boot: str
    pid: int
    started: bool = False
