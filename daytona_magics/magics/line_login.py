"""``%sandbox login``, and the prompt for a key that is missing: once per kernel, masked, kept in memory."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Any

from daytona_magics import sandboxes
from daytona_magics.errors import EndpointError, SandboxInterrupted
from daytona_magics.notebook.status import note, wait
from daytona_magics.sandboxes import actions, endpoint, keys


def login(shell: Any, options: Any) -> None:
    """``%sandbox login [--env-file PATH] [--forget]``"""
    binding = sandboxes.current()
    if options.forget:
        had = keys.forget()
        note("The key is forgotten." if had else "No key was given in this kernel.")
        return
    if options.env_file is not None:
        found = keys.from_file(Path(options.env_file).expanduser())
    else:
        where = endpoint.choose(binding.config)
        url = where.url or endpoint.CLOUD_URL
        found = {"DAYTONA_API_KEY": _ask(shell, url)}
        if where.kind == "embedded":
            found["DAYTONA_API_URL"] = url
    _use(binding, found)


def ask_if_missing(shell: Any) -> None:
    """Where cells shall run on an endpoint that needs a key, and none is known: ask for it now.

    Where nobody can be asked, nothing happens: the error about the missing key follows.
    """
    binding = sandboxes.current()
    if not endpoint.key_missing(binding.config) or not can_ask(shell):
        return
    _use(binding, {"DAYTONA_API_KEY": _ask(shell, endpoint.choose(binding.config).url)})


def can_ask(shell: Any) -> bool:
    """Whether somebody sits at this kernel who can be asked."""
    kernel = getattr(shell, "kernel", None)
    return kernel is None or bool(getattr(kernel, "_allow_stdin", False))


def _ask(shell: Any, url: str) -> str:
    if not can_ask(shell):
        raise EndpointError(
            f"{url} needs an API key, and nobody can be asked for it here",
            hint="Set DAYTONA_API_KEY in the environment of this kernel, or:  %sandbox login --env-file PATH",
        )
    try:
        key = getpass.getpass(f"API key for {url}: ").strip()
    except KeyboardInterrupt:
        raise SandboxInterrupted("no key was given") from None
    if not key:
        raise EndpointError("no key was given", hint="Without an account:  %sandbox config endpoint=embedded")
    return key


def _use(binding: Any, found: dict[str, str]) -> None:
    """Try the key before it is kept: a wrong one must be asked for again."""
    before = keys.known({})
    keys.remember(found)
    try:
        wait(lambda tell: actions.listed(binding, tell, {}, mine=True), "trying the key")
    except BaseException:
        keys.forget()
        keys.remember(before)
        raise
    where = binding.endpoint.title if binding.endpoint else ""
    note(f"The key works for {where}. It is kept in this kernel's memory only.")
