"""The attacks: small programs that run inside a sandbox and try to reach the host.

Each says LEAK when it got what it wanted and SAFE when the kernel refused; any exception but OSError is a
mistake in the program itself and fails the test at every level. ``facts`` are what the attacker is told about
the host (an attacker may know everything but must still not get there). Whether a process the attacker was
told of died is seen from the outside, and is a LEAK whatever the attack says.

``control`` says what must happen without isolation (L0), which proves that the attack works:
ALWAYS: it succeeds; ROOT: it succeeds if the engine is root, an ordinary user is refused by the plain
kernel; KERNEL: it succeeds, unless this machine's kernel, by its make or settings, refuses it to a plain
process too, and then it is in `refusals`; NONE: refused at L0 too, because the toolbox and not the
isolation takes care of it.

``reaches`` names what of the host an attack is after, for the things that nothing in a sandbox may ever
reach (REACHES): each has attacks that succeed at L0 whatever the kernel, and the one who runs them.

``probe`` is the number in the list of probes that ``tests/coverage/levels.toml`` accounts for.
"""

from . import files, kernel, memory, network, privileges, processes
from .attack import ALWAYS, KERNEL, NONE, REACHES, ROOT, Attack
from .refusals import KERNEL_REFUSES, kernel_refuses

__all__ = [
    "ALWAYS",
    "AREAS",
    "KERNEL",
    "KERNEL_REFUSES",
    "NONE",
    "REACHES",
    "ROOT",
    "TABLE",
    "Attack",
    "kernel_refuses",
]

#: What the attacks are about -> the attacks.
AREAS: dict[str, list[Attack]] = {
    "files": files.TABLE,
    "processes": processes.TABLE,
    "network and sockets": network.TABLE,
    "privileges": privileges.TABLE,
    "devices and kernel": kernel.TABLE,
    "shared memory and names": memory.TABLE,
}
TABLE = [attack for table in AREAS.values() for attack in table]
