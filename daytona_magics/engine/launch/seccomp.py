"""The system call filter of a sandbox, written as classic BPF without any library.

Namespaces and Landlock take away what a sandbox could reach; the filter takes away what it has no use for:
calls that make new namespaces or mounts, look into other processes, load code into the kernel, push
characters into a terminal, or belong to the interfaces in which most kernel holes were found. Refused calls
fail with EPERM, or ENOSYS where programs know a fallback; calls newer than the table fail with ENOSYS.

Below L3 the filter also closes what Landlock does not know of. Landlock cannot refuse to connect to a unix
socket that has a path, so there are no unix sockets but connected pairs of stream sockets; nor to open a file
for neither reading nor writing, nor to watch one. At L1 the sandbox
shares the machine's network, System V objects and process numbers: only TCP is left of the network (Landlock
limits its ports, but knows neither other protocols nor connecting by sending), and no call takes another
process's number but those that send signals, which Landlock scopes.

The tables hold the numbers of x86_64 and aarch64. Another architecture gets no filter and therefore no
sandbox.
"""

import errno
import platform
import struct
from collections.abc import Sequence
from typing import NamedTuple

from .numbers import ARCHITECTURES, TOO_NEW, Architecture

_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06
_JUMP_EQUAL, _JUMP_GREATER_EQUAL, _JUMP_BITS = 0x15, 0x35, 0x45
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
#: Offsets in struct seccomp_data: number and architecture; the low half of argument n is at 16 + 8 n.
_NR, _ARCH = 0, 4

#: CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}.
_NEW_NAMESPACES = 0x7E020000
_TIOCSTI, _TIOCLINUX, _TIOCSETD = 0x5412, 0x541C, 0x5423
_SOL_SOCKET, _SO_LINGER = 1, 13
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_SOCK_STREAM, _SOCK_SEQPACKET, _SOCK_TYPE = 1, 5, 0xF
_IPPROTO_TCP = 6
_MSG_FASTOPEN = 0x20000000
_O_ACCMODE, _O_TRUNC = 3, 0o1000

_NOT_PERMITTED = [
    "ptrace",
    "syslog",
    "uselib",
    "ustat",
    "sysfs",
    "vhangup",
    "modify_ldt",
    "pivot_root",
    "_sysctl",
    "adjtimex",
    "chroot",
    "acct",
    "settimeofday",
    "mount",
    "umount2",
    "swapon",
    "swapoff",
    "reboot",
    "sethostname",
    "setdomainname",
    "iopl",
    "ioperm",
    "create_module",
    "init_module",
    "delete_module",
    "get_kernel_syms",
    "query_module",
    "quotactl",
    "nfsservctl",
    "lookup_dcookie",
    "clock_settime",
    "kexec_load",
    "add_key",
    "request_key",
    "keyctl",
    "unshare",
    "move_pages",
    "perf_event_open",
    "fanotify_init",
    "fanotify_mark",
    "name_to_handle_at",
    "open_by_handle_at",
    "clock_adjtime",
    "setns",
    "process_vm_readv",
    "process_vm_writev",
    "kcmp",
    "finit_module",
    "kexec_file_load",
    "bpf",
    "userfaultfd",
    "open_tree",
    "move_mount",
    "fsopen",
    "fsconfig",
    "fsmount",
    "fspick",
    "pidfd_getfd",
    "process_madvise",
    "mount_setattr",
    "quotactl_fd",
    "statmount",
    "listmount",
]
#: io_uring has poll- and thread-based fallbacks everywhere; clone3 hides its flags behind a pointer, and
#: the C library falls back to clone.
_NOT_THERE = ("io_uring_setup", "io_uring_enter", "io_uring_register", "clone3")
#: Objects named by numbers and names of the whole machine where there is no ipc namespace.
_SHARED_IPC = [
    "shmget",
    "shmat",
    "shmctl",
    "semget",
    "semop",
    "semctl",
    "semtimedop",
    "msgget",
    "msgsnd",
    "msgrcv",
    "msgctl",
    "mq_open",
    "mq_unlink",
]
#: Calls that may change another process of the same user; argument number of the process.
_OF_A_PROCESS = {
    "prlimit64": 0,
    "sched_setaffinity": 0,
    "sched_setscheduler": 0,
    "sched_setparam": 0,
    "sched_setattr": 0,
    "migrate_pages": 0,
    "setpriority": 1,
    "ioprio_set": 1,
}
#: Of these, the kind (argument 0) for which 0 names all processes of the user (PRIO_USER, IOPRIO_WHO_USER).
_WHOLE_USER = {"setpriority": 2, "ioprio_set": 3}
#: Calls that open files; argument number of the flags.
_OPENING = {"open": 1, "openat": 2}
#: Calls that can send and connect in one step; argument number of the flags.
_SENDING = {"sendto": 3, "sendmsg": 2, "sendmmsg": 3}


class Variant(NamedTuple):
    """What the filter must close because nothing else does.

    ``own_tree``: the sandbox has a tree of its own, so unix sockets and files in it are its own. ``network``:
    "own" (it has a network of its own), "tcp" (it shares the machine's, and Landlock limits the ports) or
    "none". ``own_numbers``: it has process numbers and System V objects of its own. ``truncate``: cutting
    files by path is limited otherwise.
    """

    own_tree: bool
    network: str
    own_numbers: bool
    truncate: bool


def variant(level: str, landlock_abi: int) -> Variant:
    """The variant for an isolation level at which Landlock is used up to ABI `landlock_abi`."""
    if level == "L3":
        return Variant(own_tree=True, network="own", own_numbers=True, truncate=True)
    truncate = landlock_abi >= 3
    if level == "L2":
        return Variant(own_tree=False, network="own", own_numbers=True, truncate=truncate)
    network = "tcp" if landlock_abi >= 4 else "none"
    return Variant(own_tree=False, network=network, own_numbers=False, truncate=truncate)


def supported() -> bool:
    """Is there a system call table for this machine?"""
    return platform.machine() in ARCHITECTURES


def program(level: str = "L3", landlock_abi: int = 0) -> bytes:
    """The filter for this machine as an array of struct sock_filter, ready for prctl(PR_SET_SECCOMP).

    Raises OSError (ENOSYS) on an architecture without a table.
    """
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no system call table for {machine}")
    return build(ARCHITECTURES[machine], variant(level, landlock_abi))


def build(architecture: Architecture, wanted: Variant) -> bytes:
    """The filter of one variant for one architecture."""
    code = _Code(architecture)
    code.add(_LOAD, _ARCH)
    code.must_be([architecture.audit], _KILL_PROCESS)
    code.add(_LOAD, _NR)
    # Too new, and on x86_64 the x32 numbers above 0x40000000 with it.
    code.add(_JUMP_GREATER_EQUAL, TOO_NEW, 0, 1)
    code.add(_RETURN, _ERRNO | errno.ENOSYS)
    refused = [*_NOT_PERMITTED]
    if not wanted.own_numbers:
        refused += _SHARED_IPC
    if not wanted.truncate:
        refused.append("truncate")
    code.refuse(refused, errno.EPERM)
    code.refuse(_NOT_THERE, errno.ENOSYS)
    if not wanted.own_tree:
        # On the host's own tree: Landlock does not limit watching, and what is told are names of files.
        code.refuse(["inotify_init", "inotify_init1"], errno.ENOSYS)
        code.refuse(["openat2"], errno.ENOSYS)  # Its flags are behind a pointer; programs fall back.
        for name, argument in _OPENING.items():
            if name in architecture.numbers:
                code.on(name, _open(architecture, argument, wanted))
    code.on("clone", _clone(architecture))
    code.on("ioctl", _ioctl(architecture))
    code.on("setsockopt", _setsockopt(architecture))
    code.on("socketpair", _socketpair(architecture, wanted))
    code.on("socket", _socket(architecture, wanted))
    if not wanted.own_numbers:
        for name, argument in _OF_A_PROCESS.items():
            block = _Code(architecture)
            if name in _WHOLE_USER:
                block.load_argument(0)
                block.must_not_be(_WHOLE_USER[name], _ERRNO | errno.EPERM)
            block.load_argument(argument)
            block.must_be([0], _ERRNO | errno.EPERM)
            code.on(name, block)
    if wanted.network == "tcp":
        for name, argument in _SENDING.items():
            block = _Code(architecture)
            block.load_argument(argument)
            block.must_not_have(_MSG_FASTOPEN, _ERRNO | errno.EOPNOTSUPP)
            code.on(name, block)
    code.add(_RETURN, _ALLOW)
    return code.packed()


def _open(architecture: Architecture, argument: int, wanted: Variant) -> "_Code":
    """Opening for neither reading nor writing (access mode 3) asks no right of Landlock, and gives controls.

    Where Landlock does not know of truncating, cutting off needs the right to write.
    """
    block = _Code(architecture)
    block.load_argument(argument)
    block.add(_AND, _O_ACCMODE)
    block.must_not_be(_O_ACCMODE, _ERRNO | errno.EPERM)
    if not wanted.truncate:
        block.load_argument(argument)
        block.add(_AND, _O_ACCMODE | _O_TRUNC)
        block.must_not_be(_O_TRUNC, _ERRNO | errno.EPERM)
    return block


def _clone(architecture: Architecture) -> "_Code":
    block = _Code(architecture)
    block.load_argument(0)
    block.must_not_have(_NEW_NAMESPACES, _ERRNO | errno.EPERM)
    return block


def _ioctl(architecture: Architecture) -> "_Code":
    """The kernel looks at 32 bits of an ioctl's number, so the low half is all there is to compare."""
    block = _Code(architecture)
    block.load_argument(1)
    for number in (_TIOCSTI, _TIOCLINUX, _TIOCSETD):
        block.must_not_be(number, _ERRNO | errno.EPERM)
    return block


def _setsockopt(architecture: Architecture) -> "_Code":
    """SO_LINGER is taken and not obeyed: who closes such a socket last waits, and that can be the engine."""
    option = _Code(architecture)
    option.load_argument(2)
    option.must_not_be(_SO_LINGER, _ERRNO | 0)
    block = _Code(architecture)
    block.load_argument(1)
    block.when(_SOL_SOCKET, option)
    return block


def _socketpair(architecture: Architecture, wanted: Variant) -> "_Code":
    block = _Code(architecture)
    block.load_argument(0)
    block.must_be([_AF_UNIX], _ERRNO | errno.EAFNOSUPPORT)
    if not wanted.own_tree:
        # A datagram socket of a pair can still send to any path; a stream socket of a pair is connected.
        block.load_argument(1)
        block.add(_AND, _SOCK_TYPE)
        block.must_be([_SOCK_STREAM, _SOCK_SEQPACKET], _ERRNO | errno.EPERM)
    return block


def _socket(architecture: Architecture, wanted: Variant) -> "_Code":
    families = [_AF_UNIX] if wanted.own_tree else []
    block = _Code(architecture)
    block.load_argument(0)
    if not wanted.own_tree:
        block.must_not_be(_AF_UNIX, _ERRNO | errno.EPERM)
    if wanted.network == "own":
        # Of netlink only the routing protocol (0), which getaddrinfo and getifaddrs need.
        routing = _Code(architecture)
        routing.load_argument(2)
        routing.must_be([0], _ERRNO | errno.EAFNOSUPPORT)
        block.when(_AF_NETLINK, routing)
        families += [_AF_INET, _AF_INET6]
    elif wanted.network == "tcp":
        tcp = _Code(architecture)
        tcp.load_argument(1)
        tcp.add(_AND, _SOCK_TYPE)
        tcp.must_be([_SOCK_STREAM], _ERRNO | errno.EPERM)
        tcp.load_argument(2)
        tcp.must_be([0, _IPPROTO_TCP], _ERRNO | errno.EPERM)
        block.when(_AF_INET, tcp)
        block.when(_AF_INET6, tcp)
    if families:
        block.must_be(families, _ERRNO | errno.EAFNOSUPPORT)
    else:
        block.add(_RETURN, _ERRNO | errno.EAFNOSUPPORT)
    return block


class _Code:
    """Instructions in the making: tests that return an error one after the other, then what follows."""

    def __init__(self, architecture: Architecture) -> None:
        self._numbers = architecture.numbers
        self.lines: list[tuple[int, int, int, int]] = []

    def add(self, operation: int, value: int, if_true: int = 0, if_false: int = 0) -> None:
        self.lines.append((operation, if_true, if_false, value))

    def load_argument(self, number: int) -> None:
        """Load the low half of argument `number`."""
        self.add(_LOAD, 16 + 8 * number)

    def must_be(self, values: Sequence[int], otherwise: int) -> None:
        """Return `otherwise` unless what is loaded is one of `values`."""
        for index, value in enumerate(values):
            self.add(_JUMP_EQUAL, value, len(values) - index, 0)
        self.add(_RETURN, otherwise)

    def must_not_be(self, value: int, else_: int) -> None:
        self.add(_JUMP_EQUAL, value, 0, 1)
        self.add(_RETURN, else_)

    def must_not_have(self, bits: int, else_: int) -> None:
        self.add(_JUMP_BITS, bits, 0, 1)
        self.add(_RETURN, else_)

    def when(self, value: int, block: "_Code") -> None:
        """Do `block` and allow, if `value` is loaded; else go on."""
        self.add(_JUMP_EQUAL, value, 0, len(block.lines) + 1)
        self.lines += block.lines
        self.add(_RETURN, _ALLOW)

    def on(self, name: str, block: "_Code") -> None:
        """For the call `name`, do `block` and allow."""
        self.when(self._numbers[name], block)

    def refuse(self, names: Sequence[str], error: int) -> None:
        """Refuse the calls of these names that this architecture has."""
        for number in sorted(self._numbers[name] for name in names if name in self._numbers):
            self.must_not_be(number, _ERRNO | error)

    def packed(self) -> bytes:
        return b"".join(
            struct.pack("<HBBI", operation, yes, no, value) for operation, yes, no, value in self.lines
        )
