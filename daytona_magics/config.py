"""Settings of the magics: one traitlets class, so that every usual way of configuring IPython works.

``%config SandboxConfig.auto_stop = 30``, ``c.SandboxConfig.auto_stop = 30`` in ``ipython_config.py``,
``ipython --SandboxConfig.auto_stop=30`` and ``%sandbox config auto_stop=30`` all set the same trait.
Every help text states its unit. Nothing secret is ever a trait: keys stay in the environment.
"""

from __future__ import annotations

import os
from textwrap import dedent
from typing import Any

from traitlets import Bool, Enum, Float, Int, TraitError, Unicode, default, validate
from traitlets.config import Config, Configurable

#: The isolation ladder, lowest first; a level satisfies every level at or below it.
LEVELS = ("L0", "L0.5", "L1", "L2", "L3")
#: The attribute of a shell that says where its cells run; set by the magics, read by the layers below them.
MODE_ATTRIBUTE = "_daytona_magics_whole"


def _help(text: str) -> str:
    return " ".join(dedent(text).split())


class SandboxConfig(Configurable):  # type: ignore[misc]
    """How sandboxes are found, created, kept and shown."""

    endpoint = Unicode(
        "auto",
        help=_help("""Where sandboxes live: "auto" (DAYTONA_API_URL, then DAYTONA_API_KEY, else the embedded
        engine), "embedded", "cloud", or the URL of a Daytona API."""),
    ).tag(config=True)
    target = Unicode(
        "",
        help=_help("""Region to create sandboxes in; empty: DAYTONA_TARGET, else the endpoint's default."""),
    ).tag(config=True)
    snapshot = Unicode(
        "", help=_help("""Snapshot a sandbox is made from on first use; empty: the endpoint's default.""")
    ).tag(config=True)
    min_isolation = Enum(
        LEVELS,
        default_value="L1",
        help=_help("""Lowest isolation level of the embedded engine that cells may run at (L0 < L0.5 < L1 <
        L2 < L3). "L0" is no isolation at all: ask for it only where the machine itself is disposable."""),
    ).tag(config=True)
    auto_stop = Int(
        15, help=_help("""Minutes without activity after which a new sandbox stops itself; 0: never.""")
    ).tag(config=True)
    auto_delete = Int(
        7 * 24 * 60,
        help=_help("""Minutes a stopped sandbox is kept before it is deleted; 0: deleted when it stops,
        -1: never."""),
    ).tag(config=True)
    auto_delete_batch = Int(
        60,
        help=_help("""Minutes a stopped sandbox is kept when nobody sits at the notebook (nbclient,
        papermill, jupyter execute)."""),
    ).tag(config=True)
    on_exit = Enum(
        ("stop", "keep", "delete"),
        default_value="stop",
        help=_help("""What happens to the sandbox when the kernel is shut down (never when it is restarted):
        stop it, keep it until auto_stop, or delete it."""),
    ).tag(config=True)
    on_restart = Enum(
        ("keep", "reset"),
        default_value="keep",
        help=_help("""After a kernel restart: keep the sandbox's variables, or start with new workers."""),
    ).tag(config=True)
    timeout = Float(
        0.0, help=_help("""Seconds a cell may run when it has no --timeout of its own; 0: no limit.""")
    ).tag(config=True)
    create_timeout = Float(
        60.0, help=_help("""Seconds to wait for a sandbox to be created or started; 0: no limit.""")
    ).tag(config=True)
    reconnect_for = Float(
        60.0, help=_help("""Seconds the connection to a sandbox is tried again before a cell gives up.""")
    ).tag(config=True)
    heartbeat = Float(
        60.0, help=_help("""Seconds between two signs of activity sent while a cell runs.""")
    ).tag(config=True)
    show_limit = Float(
        8.0,
        help=_help("""MiB of a cell's text, and of its displays, that are shown; what is more is kept in the
        sandbox (%sandbox logs). 0: no limit."""),
    ).tag(config=True)
    pace = Enum(
        ("auto", "on", "off"),
        default_value="auto",
        help=_help("""Show output no faster than a Jupyter server passes on: when there is one (auto), always,
        or never. A server drops what comes faster."""),
    ).tag(config=True)
    pace_rate = Int(800, help=_help("""kB of text per second that are shown where output is paced.""")).tag(
        config=True
    )
    display = Enum(
        ("auto", "live", "static"),
        help=_help("""How widgets are shown: "live", "static" (only the record that a notebook keeps: text
        and HTML, no comms), or "auto" (live where somebody sits at a notebook; static under nbconvert,
        nbclient and papermill, in a terminal, in a plain program). Until it is set: the environment variable
        DAYTONA_MAGICS_DISPLAY, else auto."""),
    ).tag(config=True)
    tooltips = Bool(
        False,
        help=_help("""Shift-Tab in a sandbox cell shows the sandbox's names. Off by default: it needs a cover
        over the kernel's own inspection, because Jupyter has no hook for it."""),
    ).tag(config=True)
    trust = Bool(
        False,
        help=_help("""Show HTML, SVG and JavaScript from a sandbox as they come, with full access to the
        notebook page. Off: HTML is sanitised or framed, JavaScript dropped."""),
    ).tag(config=True)

    @default("display")  # type: ignore[untyped-decorator]
    def _display_of_the_environment(self) -> str:
        wanted = os.environ.get("DAYTONA_MAGICS_DISPLAY") or "auto"
        if wanted not in ("auto", "live", "static"):
            raise TraitError(f"DAYTONA_MAGICS_DISPLAY is auto, live or static, not {wanted!r}")
        return wanted

    @validate("auto_stop", "auto_delete_batch")  # type: ignore[untyped-decorator]
    def _not_negative(self, proposal: Any) -> int:
        if proposal.value < 0:
            raise TraitError(f"{proposal.trait.name} is a number of minutes, 0 or more, not {proposal.value}")
        return int(proposal.value)

    @validate("auto_delete")  # type: ignore[untyped-decorator]
    def _minus_one_or_more(self, proposal: Any) -> int:
        if proposal.value < -1:
            raise TraitError(f"auto_delete is a number of minutes, or -1 for never, not {proposal.value}")
        return int(proposal.value)

    @validate("show_limit")  # type: ignore[untyped-decorator]
    def _mebibytes(self, proposal: Any) -> float:
        if not 0 <= proposal.value <= 1024:
            raise TraitError(f"show_limit is a number of MiB, 0 (no limit) to 1024, not {proposal.value}")
        return float(proposal.value)

    @validate("pace_rate")  # type: ignore[untyped-decorator]
    def _kilobytes(self, proposal: Any) -> int:
        if not 1 <= proposal.value <= 1_000_000:
            raise TraitError(f"pace_rate is a number of kB per second, 1 or more, not {proposal.value}")
        return int(proposal.value)

    @validate("timeout", "create_timeout", "reconnect_for", "heartbeat")  # type: ignore[untyped-decorator]
    def _seconds(self, proposal: Any) -> float:
        if not 0 <= proposal.value < float("inf"):
            raise TraitError(f"{proposal.trait.name} is a number of seconds, 0 or more, not {proposal.value}")
        return float(proposal.value)

    @validate("endpoint")  # type: ignore[untyped-decorator]
    def _known_endpoint(self, proposal: Any) -> str:
        value = str(proposal.value).strip()
        if value in ("auto", "embedded", "cloud") or value.startswith(("http://", "https://")):
            return value.rstrip("/")
        raise TraitError(f'endpoint is "auto", "embedded", "cloud" or a URL, not {value!r}')


def make_config(parent: Any) -> tuple[SandboxConfig, str]:
    """Make the settings as a child of ``parent`` (a shell), surviving a bad value in its configuration.

    IPython keeps a value that failed validation in ``shell.config`` and hands it to every later
    construction; the section is dropped here so that one typo does not make the extension unloadable.

    Returns:
        the settings, and a sentence about what was ignored ("" when nothing was).
    """
    try:
        return SandboxConfig(parent=parent), ""
    except TraitError as error:
        config: Config = getattr(parent, "config", Config())
        config.pop("SandboxConfig", None)
        return SandboxConfig(parent=parent), f"ignored the SandboxConfig settings: {error}"


def level_at_least(level: str, wanted: str) -> bool:
    """Say whether isolation ``level`` satisfies ``wanted``; an unknown level satisfies nothing but L0.

    In:  level_at_least("L0.5", "L1"), level_at_least("L2", "L1")
    Out: (False, True)
    """
    have = LEVELS.index(level) if level in LEVELS else 0
    return have >= LEVELS.index(wanted)
