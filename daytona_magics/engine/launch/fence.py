"""Below L3: the Landlock domain of a sandbox, at the paths and ports of the host itself.

Readable is what L3 would show, at the same places, with the configuration of Jupyter, pip and conda left out,
and beyond that the files of /etc that L3 writes anew, and /proc. Writable is the sandbox's home alone. TCP
ports are limited where the sandbox shares the machine's network.
"""

import os
from typing import Any

from . import landlock
from .levels import OWN_NETWORK

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


def close_files_and_ports(request: dict[str, Any], config: dict[str, Any]) -> None:
    """Enter the domain. Raises OSError."""
    shared = request["level"] not in OWN_NETWORK
    with landlock.Ruleset(request["landlock_abi"], ports=shared) as rules:
        hidden = _hidden(config["masks"])
        for source, _ in config["binds"]:
            rules.allow_reading(source, hidden)
        for path in config["beyond"]:
            rules.allow(path, landlock.READ)
        rules.allow("/proc", landlock.READ_FILE | landlock.READ_DIR)
        for name in _DEVICES:
            rules.allow(f"/dev/{name}", landlock.USE_DEVICE)
        rules.allow(request["home"], landlock.OWN)
        if shared:
            if request["proxy_port"] is not None:
                rules.allow_port(request["proxy_port"])
            first, count = request["ports"] or (0, 0)
            for port in range(first, first + count):
                rules.allow_port(port, bind=True)
        rules.enter()


def _hidden(masks: list[str]) -> frozenset[str]:
    """Real paths of what must not be readable: masked places that exist, or that lie in a prefix itself."""
    found = {os.path.realpath(path) for path in masks if os.path.lexists(path)}
    prefixes = {os.path.dirname(path) for path in masks if os.path.basename(path) == "pip.conf"}
    found.update(os.path.realpath(path) for path in masks if os.path.dirname(path) in prefixes)
    return frozenset(found)
