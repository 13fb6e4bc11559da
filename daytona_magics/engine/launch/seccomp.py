"""The system call filter of a sandbox, written as classic BPF without any library.

Namespaces take away what a sandbox could reach; the filter takes away what it has no use for: calls that
make new namespaces or mounts, look into other processes, load code into the kernel, push characters into a
terminal, or belong to the interfaces in which most kernel holes were found. Refused calls fail with EPERM,
or ENOSYS where programs know a fallback; calls newer than the table fail with ENOSYS.

The table holds x86_64 numbers. Another architecture gets no filter and therefore no sandbox.
"""

import errno
import platform
import struct

_AUDIT_ARCH_X86_64 = 0xC000003E
_LOAD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _JUMP_BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
#: Offsets in struct seccomp_data: number, architecture, low halves of the first and second argument.
_NR, _ARCH, _ARG0, _ARG1, _ARG2 = 0, 4, 16, 24, 32

_CLONE, _SOCKET, _SOCKETPAIR, _IOCTL = 56, 41, 53, 16
#: CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}.
_NEW_NAMESPACES = 0x7E020000
_TIOCSTI, _TIOCLINUX, _TIOCSETD = 0x5412, 0x541C, 0x5423
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
#: First number that the table does not know (open_tree_attr and later).
_TOO_NEW = 467

_NOT_PERMITTED = {
    "ptrace": 101,
    "syslog": 103,
    "uselib": 134,
    "ustat": 136,
    "sysfs": 139,
    "vhangup": 153,
    "modify_ldt": 154,
    "pivot_root": 155,
    "_sysctl": 156,
    "adjtimex": 159,
    "chroot": 161,
    "acct": 163,
    "settimeofday": 164,
    "mount": 165,
    "umount2": 166,
    "swapon": 167,
    "swapoff": 168,
    "reboot": 169,
    "sethostname": 170,
    "setdomainname": 171,
    "iopl": 172,
    "ioperm": 173,
    "create_module": 174,
    "init_module": 175,
    "delete_module": 176,
    "get_kernel_syms": 177,
    "query_module": 178,
    "quotactl": 179,
    "nfsservctl": 180,
    "lookup_dcookie": 212,
    "clock_settime": 227,
    "kexec_load": 246,
    "add_key": 248,
    "request_key": 249,
    "keyctl": 250,
    "unshare": 272,
    "move_pages": 279,
    "perf_event_open": 298,
    "fanotify_init": 300,
    "fanotify_mark": 301,
    "name_to_handle_at": 303,
    "open_by_handle_at": 304,
    "clock_adjtime": 305,
    "setns": 308,
    "process_vm_readv": 310,
    "process_vm_writev": 311,
    "kcmp": 312,
    "finit_module": 313,
    "kexec_file_load": 320,
    "bpf": 321,
    "userfaultfd": 323,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "pidfd_getfd": 438,
    "process_madvise": 440,
    "mount_setattr": 442,
    "quotactl_fd": 443,
    "statmount": 457,
    "listmount": 458,
}
#: io_uring has poll- and thread-based fallbacks everywhere; clone3 hides its flags behind a pointer, and
#: the C library falls back to clone.
_NOT_THERE = {"io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "clone3": 435}


def supported() -> bool:
    """Is there a system call table for this machine?"""
    return platform.machine() == "x86_64"


def program() -> bytes:
    """The filter as an array of struct sock_filter, ready for prctl(PR_SET_SECCOMP).

    Raises OSError (ENOSYS) on an architecture without a table.
    """
    if not supported():
        raise OSError(errno.ENOSYS, f"no system call table for {platform.machine()}")
    code: list[tuple[int, int, int, int]] = []

    def add(operation: int, value: int, if_true: int = 0, if_false: int = 0) -> None:
        code.append((operation, if_true, if_false, value))

    def refuse(error: int) -> None:
        add(_RETURN, _ERRNO | error)

    add(_LOAD, _ARCH)
    add(_JUMP_EQUAL, _AUDIT_ARCH_X86_64, 1, 0)
    add(_RETURN, _KILL_PROCESS)
    add(_LOAD, _NR)
    # Too new, and the x32 numbers above 0x40000000 with it.
    add(_JUMP_GREATER_EQUAL, _TOO_NEW, 0, 1)
    refuse(errno.ENOSYS)
    for error, numbers in ((errno.EPERM, _NOT_PERMITTED), (errno.ENOSYS, _NOT_THERE)):
        for number in sorted(numbers.values()):
            add(_JUMP_EQUAL, number, 0, 1)
            refuse(error)
    add(_JUMP_EQUAL, _CLONE, 0, 4)
    add(_LOAD, _ARG0)
    add(_JUMP_BITS, _NEW_NAMESPACES, 0, 1)
    refuse(errno.EPERM)
    add(_RETURN, _ALLOW)
    # The kernel looks at 32 bits of an ioctl's number, so the low half is all there is to compare.
    add(_JUMP_EQUAL, _IOCTL, 0, 6)
    add(_LOAD, _ARG1)
    add(_JUMP_EQUAL, _TIOCSTI, 2, 0)
    add(_JUMP_EQUAL, _TIOCLINUX, 1, 0)
    add(_JUMP_EQUAL, _TIOCSETD, 0, 1)
    refuse(errno.EPERM)
    add(_RETURN, _ALLOW)
    add(_JUMP_EQUAL, _SOCKETPAIR, 0, 4)
    add(_LOAD, _ARG0)
    add(_JUMP_EQUAL, _AF_UNIX, 1, 0)
    refuse(errno.EAFNOSUPPORT)
    add(_RETURN, _ALLOW)
    add(_JUMP_EQUAL, _SOCKET, 0, 9)
    add(_LOAD, _ARG0)
    add(_JUMP_EQUAL, _AF_UNIX, 6, 0)
    add(_JUMP_EQUAL, _AF_INET, 5, 0)
    add(_JUMP_EQUAL, _AF_INET6, 4, 0)
    add(_JUMP_EQUAL, _AF_NETLINK, 0, 2)
    # Of netlink only the routing protocol (0), which getaddrinfo and getifaddrs need.
    add(_LOAD, _ARG2)
    add(_JUMP_EQUAL, 0, 1, 0)
    refuse(errno.EAFNOSUPPORT)
    add(_RETURN, _ALLOW)
    add(_RETURN, _ALLOW)
    return b"".join(struct.pack("<HBBI", operation, yes, no, value) for operation, yes, no, value in code)
