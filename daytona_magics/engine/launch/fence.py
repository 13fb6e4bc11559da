"""Below L3: the Landlock domain of a sandbox, at the paths and ports of the host itself.

Readable is what L3 would show, at the same places, with the configuration of Jupyter, pip and conda left out,
and beyond that the files of /etc that L3 writes anew, and /proc. Writable is the sandbox's home alone. TCP
ports are limited where the sandbox shares the machine's network.
"""

import os
from collections.abc import Sequence
from typing import Any

from . import landlock
from .levels import OWN_NETWORK

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


def close_files_and_ports(request: dict[str, Any], config: dict[str, Any]) -> None:
    """Enter the domain. Raises OSError."""
    shared = request["level"] not in OWN_NETWORK
    with landlock.Ruleset(request["landlock_abi"], ports=shared) as rules:
        hidden = hidden_places(config["masks"])
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


def hidden_places(masks: Sequence[str]) -> frozenset[str]:
    """Real paths of what must not be readable: masked places that exist, or that lie in a prefix itself.

    Granting around places in a prefix itself costs a few rules and keeps a pip.conf hidden that is put there
    while the sandbox runs. Package folders have thousands of entries and no configuration.
    """
    prefixes = {os.path.dirname(path) for path in masks if path.endswith("/.condarc")}
    always = {prefix for prefix in prefixes if not prefix.endswith("-packages")}
    return frozenset(
        os.path.realpath(path) for path in masks if os.path.dirname(path) in always or os.path.lexists(path)
    )
