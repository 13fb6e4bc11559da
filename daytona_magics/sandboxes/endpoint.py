"""Which Daytona the cells run on, and why.

In this order: the setting ``endpoint``; ``DAYTONA_API_URL`` (the loopback URL of our own engine means the
embedded engine); ``DAYTONA_API_KEY`` in the process environment means the cloud; otherwise the embedded
engine. What ``%sandbox login`` was given counts before the environment. A key that stands only in a ``.env``
file is offered in a sentence and never used: the cloud bills, and a working directory is not always written
by the person who opens a notebook in it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from daytona_magics.config import SandboxConfig, level_at_least
from daytona_magics.engine import address, loopback, places
from daytona_magics.errors import EndpointError, IsolationUnavailable
from daytona_magics.sandboxes import keys

CLOUD_URL = "https://app.daytona.io/api"

Kind = Literal["embedded", "cloud", "self-hosted"]


@dataclass(frozen=True)
class Choice:
    """Where the settings point, before anything is started or contacted.

    Attributes:
        kind: "embedded", "cloud" or "self-hosted".
        reason: what decided it, for people.
        url: base URL of the API; "" for the embedded engine, whose port is not known yet.
        offer: a sentence about a key that was seen and not used; "" otherwise.
    """

    kind: Kind
    reason: str
    url: str = ""
    offer: str = ""


@dataclass(frozen=True)
class Endpoint:
    """A Daytona API that can be talked to. ``repr`` does not show the key.

    Attributes:
        target: region passed with every creation, "" for the endpoint's default.
        isolation: level of the embedded engine ("L3"), "" elsewhere.
        organization: id that goes with a token instead of a key, "" with a key.
    """

    kind: Kind
    api_url: str
    reason: str
    api_key: str = field(repr=False)
    target: str = ""
    isolation: str = ""
    organization: str = ""

    @property
    def title(self) -> str:
        """In: endpoint.title  Out: "embedded engine, isolation L3" """
        if self.kind == "embedded":
            return f"embedded engine, isolation {self.isolation}"
        place = (
            "Daytona cloud"
            if self.kind == "cloud"
            else f"self-hosted Daytona at {urlsplit(self.api_url).netloc}"
        )
        if self.organization:
            place += f", organization {self.organization}"
        return place + (f", region {self.target}" if self.target else "")

    @property
    def loopback(self) -> bool:
        """Whether it is on this very machine, so that no proxy may ever see its bearer."""
        return loopback.is_loopback(urlsplit(self.api_url).hostname)


def choose(
    config: SandboxConfig, environ: Mapping[str, str] | None = None, folder: Path | None = None
) -> Choice:
    """Decide where cells run, by the order in the module's docstring; starts nothing.

    Args:
        config: the settings.
        environ: the process environment; default ``os.environ``.
        folder: where a ``.env`` file is looked for; default the current folder.

    In:  choose(SandboxConfig(), {"DAYTONA_API_KEY": "..."})
    Out: Choice(kind='cloud', reason='DAYTONA_API_KEY is set', ...)
    """
    environ = keys.known(os.environ if environ is None else environ)
    wanted, url = config.endpoint, environ.get("DAYTONA_API_URL", "").rstrip("/")
    key = environ.get("DAYTONA_API_KEY") or environ.get("DAYTONA_JWT_TOKEN")
    typed = "given in this kernel" if keys.given("DAYTONA_API_KEY") else "is set"
    if wanted == "embedded":
        return Choice("embedded", "setting endpoint=embedded")
    if wanted == "cloud":
        return Choice("cloud", "setting endpoint=cloud", CLOUD_URL)
    if wanted != "auto":
        return _by_url(wanted, f"setting endpoint={wanted}")
    if url:
        where = "given in this kernel" if keys.given("DAYTONA_API_URL") else "is set"
        return _by_url(url, f"DAYTONA_API_URL {where}")
    if key:
        named = "DAYTONA_API_KEY" if environ.get("DAYTONA_API_KEY") else "DAYTONA_JWT_TOKEN"
        return Choice("cloud", f"{named} {typed}", CLOUD_URL)
    seen = _dotenv_with_key(folder or Path())
    offer = (
        f"{seen} holds a DAYTONA_API_KEY. It was not used, because the cloud bills: to run there, "
        f"`%sandbox login --env-file {seen}`."
        if seen
        else ""
    )
    return Choice("embedded", "no DAYTONA_API_URL or DAYTONA_API_KEY in the environment", offer=offer)


def _by_url(url: str, reason: str) -> Choice:
    if address.is_engine_url(url):
        return Choice("embedded", f"{reason} and is the embedded engine's")
    return Choice("cloud" if url == CLOUD_URL else "self-hosted", reason, url)


def _dotenv_with_key(folder: Path) -> str:
    for name in (".env.local", ".env"):
        try:
            with (folder / name).open(encoding="utf-8", errors="replace") as file:
                text = file.read(1 << 20)
        except OSError:
            continue
        if re.search(r"^\s*(?:export\s+)?DAYTONA_API_KEY\s*=\s*\S", text, re.MULTILINE):
            return name
    return ""


def connect(config: SandboxConfig, environ: Mapping[str, str] | None = None) -> Endpoint:
    """Turn the choice into an endpoint, starting the embedded engine when that is needed. Blocks up to 20 s.

    Raises:
        EndpointError: no key for the cloud, or the engine cannot be started.
        IsolationUnavailable: the engine's level is lower than the setting min_isolation.
    """
    environ = keys.known(os.environ if environ is None else environ)
    choice = choose(config, environ)
    target = config.target or environ.get("DAYTONA_TARGET", "")
    if choice.kind == "embedded":
        # Before any client for a loopback address exists: a proxy must never be sent the engine's bearer.
        loopback.add_no_proxy(os.environ)
        try:
            engine = address.ensure()
        except address.EngineStartError as error:
            raise EndpointError(
                f"the embedded engine cannot be started: {error}",
                hint="`%sandbox doctor` checks each part. The cell was not run on this machine instead.",
            ) from None
        check_level(engine.isolation, config.min_isolation)
        return Endpoint("embedded", engine.api_url, choice.reason, engine.api_key, target, engine.isolation)
    key, token = environ.get("DAYTONA_API_KEY", ""), environ.get("DAYTONA_JWT_TOKEN", "")
    organization = environ.get("DAYTONA_ORGANIZATION_ID", "")
    if not key and not token:
        raise EndpointError(
            f"{choice.url} needs an API key, and DAYTONA_API_KEY is not set in this kernel's environment",
            hint="%sandbox login  asks for it; without an account:  %sandbox config endpoint=embedded",
        )
    if not key and not organization:
        raise EndpointError(
            "DAYTONA_JWT_TOKEN needs DAYTONA_ORGANIZATION_ID beside it",
            hint="Set both in this kernel's environment, or a DAYTONA_API_KEY.",
        )
    made = Endpoint(
        choice.kind,
        choice.url,
        choice.reason,
        key or token,
        target,
        organization="" if key else organization,
    )
    if made.loopback:
        loopback.add_no_proxy(os.environ, urlsplit(made.api_url).hostname)
    return made


def key_missing(config: SandboxConfig, environ: Mapping[str, str] | None = None) -> bool:
    """Whether the settings name an endpoint that needs a key, and none is known."""
    environ = keys.known(os.environ if environ is None else environ)
    if environ.get("DAYTONA_API_KEY") or environ.get("DAYTONA_JWT_TOKEN"):
        return False
    return choose(config, environ).kind != "embedded"


def revive() -> str:
    """Start the embedded engine again if it died. Blocks up to 20 s.

    Returns:
        "" when it runs, else why it does not; the cell's own error follows from its connection.
    """
    try:
        address.ensure()
    except address.EngineStartError as error:
        return str(error)
    return ""


def engine_facts() -> dict[str, Any]:
    """What the running embedded engine tells about itself, {} without one. Blocks up to 5 s; starts nothing.

    In:  engine_facts()["open"]
    Out: ["the names of this machine's processes can be read", ...]
    """
    record = places.live_record()
    return (places.call(record, "GET", "/api/engine/status") if record else None) or {}


def check_level(level: str, wanted: str) -> None:
    """Refuse an isolation level below the setting min_isolation.

    Raises:
        IsolationUnavailable: it is lower; the message names both and what to do.
    """
    if level_at_least(level, wanted):
        return
    found = "cannot isolate on this machine" if level == "none" else f"isolates at level {level} only"
    raise IsolationUnavailable(
        f"the embedded engine {found}, and the setting min_isolation asks for {wanted}",
        hint=f"`%sandbox doctor` says why, and what to install or change.\n{_accepting(level)}",
    )


def _accepting(level: str) -> str:
    """How to run at the level there is, and what that means; what of it is done already is left out."""
    accept = f"`%sandbox config min_isolation={'L0' if level == 'none' else level}`"
    if level not in ("none", "L0"):
        risk = (
            "; cells can then send signals to your other processes: for a machine that is disposable"
            if level == "L0.5"
            else ""
        )
        return f"To run at {level} all the same: {accept}{risk}."
    if level == "none":
        steps = (
            "`python -m daytona_magics.engine stop`, then DAYTONA_MAGICS_ISOLATION=L0 in the environment of "
            f"this kernel (`%env DAYTONA_MAGICS_ISOLATION=L0`), then {accept}"
        )
    else:
        steps = f"{accept} accepts what the engine was told by DAYTONA_MAGICS_ISOLATION=L0"
    return f"UNSAFE, cells then reach everything you can; only where the machine is disposable: {steps}."
