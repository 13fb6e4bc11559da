"""The two small records that go in and out of a :class:`~daytona_magics.runtime.channel.Channel`."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field


def new_id() -> str:
    """A fresh execution id (32 hex digits). In: len(new_id()) Out: 32"""
    return uuid.uuid4().hex


@dataclass(frozen=True)
class ExecRequest:
    """One cell to run.

    Attributes:
        id: what makes the execution unique; the guest runs an id at most once. See :func:`new_id`.
        context: name of the worker whose variables the cell sees.
        language: "python" or "bash".
        code: the body.
        name: the file name tracebacks show.
        cwd: folder to run in; None leaves the context's own.
        env: environment variables for this cell.
        timeout: seconds after which the guest stops it, waiting for input included; 0 for none.
        number: the cell's ``In[number]`` in the notebook; 0 when it has none.
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
