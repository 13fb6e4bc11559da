"""What the launcher asks of the zygote for one sandbox."""

import os
from dataclasses import asdict
from typing import Any, NamedTuple

from ..toolbox import wire
from . import levels, tree, visible
from .sandbox import LaunchError, SandboxSpec


class Way(NamedTuple):
    """How sandboxes are made here: the level, the launcher, and the Landlock version in use (0: none)."""

    level: str
    launcher: str
    landlock_abi: int


def spawn(spec: SandboxSpec, way: Way, ports: tuple[int, int] | None) -> dict[str, Any]:
    """The message that starts a sandbox; `ports` is its block where it shares the machine's ports.

    Raises LaunchError for a specification that cannot be isolated.
    """
    if way.level != "L0":
        if os.geteuid() == 0 and not spec.uid:
            raise LaunchError("an engine that runs as root needs a host uid of its own for each sandbox")
        if os.geteuid() != 0 and spec.uid not in (None, os.geteuid()):
            raise LaunchError("only an engine that runs as root can give a sandbox another uid")
    if not spec.id or "/" in spec.id or "\0" in spec.id:
        raise LaunchError(f"{spec.id!r} cannot be a sandbox's id")
    return {
        "v": wire.VERSION,
        "op": "spawn",
        "id": spec.id,
        **way._asdict(),
        "home": str(spec.home),
        "system": _system(spec, way),
        "uid": spec.uid if os.geteuid() == 0 else None,
        "hostname": spec.hostname[:63],
        "env": _environment(spec, way, ports),
        "limits": asdict(spec.limits),
        "proxy_port": spec.proxy_port,
        "ports": ports,
    }


def _system(spec: SandboxSpec, way: Way) -> dict[str, str] | None:
    if spec.system is None or spec.layers is None or way.level not in levels.OWN_TREE:
        return None
    return {"uppers": str(spec.system), "layers": str(spec.layers)}


def _environment(spec: SandboxSpec, way: Way, ports: tuple[int, int] | None) -> dict[str, str]:
    """The environment of everything in a sandbox; the toolbox adds HOME and SHELL."""
    found = dict(os.environ) if way.level == "L0" else {}
    found.pop("HOME", None)
    home = tree.HOME if way.level in levels.OWN_TREE else str(spec.home)
    found.update(visible.base_environment(spec.id, home))
    if way.level not in ("L0", *levels.OWN_TREE):
        found["TMPDIR"] = f"{spec.home}/.tmp"
        # zsh puts here-documents there and knows no TMPDIR.
        found["TMPPREFIX"] = f"{spec.home}/.tmp/zsh"
        # git ends when its configuration is there and cannot be read.
        found["GIT_CONFIG_NOSYSTEM"] = "1"
    if ports is not None:
        found["PORT"] = str(ports[0])
    return {**found, **spec.env}
