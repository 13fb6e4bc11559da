"""The levels of isolation: their order, what each is made of, and what stays open at each.

L3    user, mount, pid, net, ipc, uts and cgroup namespaces; system call filter
L2    the same without mounts; Landlock instead
L1    Landlock and the filter; as root also a uid of its own
L0.5  L1 on a kernel whose Landlock cannot stop signals to processes of the same user
L0    nothing
"""

#: From the lowest to the highest.
LEVELS = ("L0", "L0.5", "L1", "L2", "L3")
#: Levels at which a sandbox has its own ... ; at the others it shares the machine's.
OWN_TREE = frozenset({"L3"})
OWN_PROCESSES = OWN_NETWORK = frozenset({"L3", "L2"})


def isolated(level: str) -> bool:
    """Is anything isolated at all?"""
    return level != "L0"


def with_shared_network(level: str) -> bool:
    """Is it an isolated level at which sandboxes share the machine's network?"""
    return level in ("L1", "L0.5")


def notes(level: str, ports: int, closed_python: str) -> tuple[str, ...]:
    """What a person should know of sandboxes at `level`, who would otherwise look for a fault.

    `ports`: how many ports a sandbox has where it shares the machine's; `closed_python`: the interpreter, if
    sandboxes cannot go to it.
    """
    found = []
    if with_shared_network(level):
        found.append(
            f"a server in a sandbox can listen on {ports} ports, the first of which is in its variable PORT;"
            " any other, 8000 say, is refused (Permission denied)"
        )
    if closed_python:
        found.append(
            f"sandboxes cannot go to {closed_python}, because a folder above it is closed to others; they use"
            " python3 of their PATH, without this environment's packages, and pip may be missing there: make"
            " the environment, and the Python below it, where everybody may read, in /opt say"
        )
    return tuple(found)


def opened(level: str, *, landlock_abi: int, own_uids: bool) -> tuple[str, ...]:
    """What is open at `level`, one short phrase per thing; nothing at L3 but the kernel itself.

    `landlock_abi` is the version in use; `own_uids` whether each sandbox has a uid of its own.
    """
    if level == "L3":
        return ()
    if level == "L0":
        return ("everything this account can do on this machine",)
    found = [
        "names and command lines of this machine's processes can be read",
        "whether a file exists, its size and its times can be seen",
        "names of this machine's accounts can be read",
        "this machine's network addresses and connections can be read",
    ]
    if not own_uids:
        found.append("modes and times of files of this account can be changed, though not what is in them")
    if with_shared_network(level):
        found.append("this machine's name can be read")
        if landlock_abi >= 4:
            found.append(
                "any address can be reached on the port numbers of the egress proxy and of the sandbox's own"
                " services, and these services can be reached by everybody who reaches this machine"
            )
    if level == "L0.5":
        found.append("processes of this account can be ended")
    return tuple(found)
