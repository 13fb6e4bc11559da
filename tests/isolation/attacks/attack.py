"""What an attack is; see the package."""

from typing import NamedTuple

ALWAYS, ROOT, KERNEL, NONE = "always", "root", "kernel", "none"

#: What a cell must never reach.
REACHES = ("home", "environment", "process", "loopback service", "unix socket", "writable path", "device")


class Attack(NamedTuple):
    """One attack; see the package for the fields."""

    name: str
    probe: int
    control: str
    code: str
    reaches: str = ""
